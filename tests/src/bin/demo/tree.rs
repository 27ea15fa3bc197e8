//! A directory tree as items: small texts as values, the rest as files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use causeway_tests::result::{Doing, Result, ensure};
use serde_json::{Value, json};

/// A text whose value is longer than this is shared as a file, in bytes of JSON.
const TEXT_BYTES_MAX: usize = 40 << 10;
/// Larger files are left out, in bytes.
const FILE_BYTES_MAX: u64 = 20 << 20;
/// Files that are shared at most.
const FILES_MAX: usize = 5_000;
/// The bound of an item's key, in bytes.
const KEY_BYTES_MAX: usize = 255;
/// Folders that hold nothing of a person's.
const NOT_INTO: [&str; 5] = ["target", "node_modules", "demo-data", "data", "__pycache__"];
/// What is shared of the project itself.
const OWN: [&str; 5] = ["server", "federation", "tests", "scripts", "deploy"];

/// One file.
#[derive(Debug)]
pub struct File {
    /// Its path below the folder: the item's key.
    pub key: String,
    /// What is in it.
    pub content: Vec<u8>,
}

/// What was read, and what was not.
#[derive(Debug)]
pub struct Tree {
    /// Where.
    pub folder: PathBuf,
    /// Sorted by key.
    pub files: Vec<File>,
    /// Files that were left out: too large, unreadable, or with a name that no key may be.
    pub left_out: usize,
}

impl File {
    /// The value of a text that is small enough to be one.
    pub fn text(&self) -> Option<Value> {
        let text = std::str::from_utf8(&self.content).ok()?;
        let value = json!({ "text": text });
        (value.to_string().len() <= TEXT_BYTES_MAX).then_some(value)
    }
}

/// Reads `folder`, or the project's documents and sources in `checkout`.
pub fn read(folder: Option<&Path>, checkout: &Path) -> Result<Tree> {
    let mut tree = Tree {
        folder: folder.unwrap_or(checkout).canonicalize().doing("the folder")?,
        files: Vec::new(),
        left_out: 0,
    };
    let root = tree.folder.clone();
    if folder.is_some() {
        walk(&root, &root, &mut tree)?;
    } else {
        for entry in fs::read_dir(&root)?.flatten().filter(|entry| entry.path().is_file()) {
            add(&root, &entry.path(), &mut tree);
        }
        for part in OWN.iter().map(|part| root.join(part)).filter(|part| part.is_dir()) {
            walk(&root, &part, &mut tree)?;
        }
    }
    ensure(!tree.files.is_empty(), || format!("nothing to share in {}", root.display()))?;
    tree.files.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(tree)
}

fn walk(root: &Path, folder: &Path, tree: &mut Tree) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder).doing(folder.display())?.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && !name.starts_with('.') && !NOT_INTO.contains(&name.as_str()) {
            walk(root, &entry.path(), tree)?;
        } else if kind.is_file() {
            add(root, &entry.path(), tree);
        }
    }
    Ok(())
}

fn add(root: &Path, path: &Path, tree: &mut Tree) {
    let key = path.strip_prefix(root).ok().and_then(Path::to_str).filter(|key| may_be_key(key));
    let small = fs::metadata(path).is_ok_and(|metadata| metadata.len() <= FILE_BYTES_MAX);
    match (key, small && tree.files.len() < FILES_MAX, fs::read(path)) {
        (Some(key), true, Ok(content)) => tree.files.push(File { key: key.to_owned(), content }),
        _ => tree.left_out += 1,
    }
}

fn may_be_key(key: &str) -> bool {
    !key.is_empty() && key.len() <= KEY_BYTES_MAX && !key.starts_with('@') && !key.contains(char::is_control)
}
