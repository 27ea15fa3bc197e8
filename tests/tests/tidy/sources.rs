//! The Rust sources of the project.

use std::{
    fs,
    path::{Path, PathBuf},
};

use causeway_tests::program::checkout;

/// A file and its text.
pub struct Source {
    /// Relative to the checkout.
    pub path: PathBuf,
    /// All of it.
    pub text: String,
}

impl Source {
    /// The text without the unit tests at the foot of the file.
    pub fn without_tests(&self) -> &str {
        self.text.find("\n#[cfg(test)]\nmod tests {").map_or(&self.text, |foot| &self.text[..foot])
    }
}

/// Every `.rs` file of the workspace's members, sorted by path.
pub fn all() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["server", "federation", "tests", "appservice"] {
        collect(&checkout().join(folder), &mut found);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 10, "the sources were not found");
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != "node_modules" {
            collect(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = fs::read_to_string(&path).expect("sources are readable UTF-8");
            let path = path.strip_prefix(checkout()).expect("found below the checkout").to_owned();
            found.push(Source { path, text });
        }
    }
}
