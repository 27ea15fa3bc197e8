//! A directory tree as items: small texts as values, the rest as files.
//!
//! Sizes are looked at before anything is read. Only the texts stay in memory, and
//! these are bounded together; a file is read when it is uploaded.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use causeway_tests::result::{Doing, Failure, Result, ensure};
use serde_json::{Value, json};

/// A text whose value is longer than this is shared as a file, in bytes of JSON.
const TEXT_BYTES_MAX: usize = 40 << 10;
/// Texts beyond this much together are shared as files, in bytes of JSON.
const TEXTS_BYTES_MAX: usize = 64 << 20;
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
    /// Its bytes when it was looked at.
    pub size: u64,
    /// Its text, where it is shared as a value.
    pub text: Option<String>,
    path: PathBuf,
}

/// What was read, and what was not.
#[derive(Debug)]
pub struct Tree {
    /// Where.
    pub folder: PathBuf,
    /// Sorted by key.
    pub files: Vec<File>,
    /// What was left out: too large or too many, unreadable, hidden folders and those
    /// of tools, links, names that no key may be. A folder counts once.
    pub left_out: usize,
    /// Bytes of JSON that the texts take.
    text_bytes: usize,
}

impl File {
    /// The value of a text that is shared as one.
    pub fn value(&self) -> Option<Value> {
        self.text.as_ref().map(|text| json!({ "text": text }))
    }

    /// What is in it now, if it has not become too large.
    pub fn read(&self) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let file = fs::File::open(&self.path).doing(self.path.display())?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content).doing(self.path.display())?;
        if u64::try_from(content.len())? > FILE_BYTES_MAX {
            return Err(Failure::new(format!("{} grew beyond what is shared", self.path.display())));
        }
        Ok(content)
    }
}

/// Reads `folder`, or the project's documents and sources in `checkout`.
pub fn read(folder: Option<&Path>, checkout: &Path) -> Result<Tree> {
    let mut tree = Tree {
        folder: folder.unwrap_or(checkout).canonicalize().doing("the folder")?,
        files: Vec::new(),
        left_out: 0,
        text_bytes: 0,
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
        let is_foreign = name.starts_with('.') || NOT_INTO.contains(&name.as_str());
        if kind.is_file() {
            add(root, &entry.path(), tree);
        } else if !kind.is_dir() || is_foreign || walk(root, &entry.path(), tree).is_err() {
            tree.left_out += 1;
        }
    }
    Ok(())
}

fn add(root: &Path, path: &Path, tree: &mut Tree) {
    let key = path.strip_prefix(root).ok().and_then(Path::to_str).filter(|key| may_be_key(key));
    let size = fs::metadata(path).ok().map(|metadata| metadata.len()).filter(|size| *size <= FILE_BYTES_MAX);
    let (Some(key), Some(size), true) = (key, size, tree.files.len() < FILES_MAX) else {
        tree.left_out += 1;
        return;
    };
    let mut file = File { key: key.to_owned(), size, text: None, path: path.to_owned() };
    let may_be_text = usize::try_from(size).is_ok_and(|size| size <= TEXT_BYTES_MAX);
    if may_be_text {
        let Ok(content) = file.read() else {
            tree.left_out += 1;
            return;
        };
        file.text = String::from_utf8(content).ok();
        let bytes = file.value().map_or(0, |value| value.to_string().len());
        if bytes > TEXT_BYTES_MAX || tree.text_bytes + bytes > TEXTS_BYTES_MAX {
            file.text = None;
        } else {
            tree.text_bytes += bytes;
        }
    } else if fs::File::open(path).is_err() {
        tree.left_out += 1;
        return;
    }
    tree.files.push(file);
}

fn may_be_key(key: &str) -> bool {
    !key.is_empty() && key.len() <= KEY_BYTES_MAX && !key.starts_with('@') && !key.contains(char::is_control)
}
