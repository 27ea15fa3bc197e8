//! What one backup is made of: a list of files with their sizes and hashes.
//!
//! On disk it is JSON with its own hash beside it, so that a list that was cut off or
//! altered is not taken for one. Paths in it come from a place that others may write
//! to: they are checked before anything is written by them.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use causeway_service::clock::Clock;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use super::checked::sha256_of;

/// What this program writes, and the only one that it reads.
const FORMAT: u32 = 1;
/// The largest list, in bytes: about five million files.
pub const MANIFEST_BYTES_MAX: u64 = 1 << 30;
/// Top folders and files that a data folder has.
const ROOTS: [&str; 3] = ["db", "media", "schema"];

/// Why a list of files can't be used.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Not what this program writes.
    #[error("it is no list of files of a backup")]
    Malformed(#[source] serde_json::Error),
    /// Its hash is another one.
    #[error("its hash is not the one that it names: it is damaged")]
    Hash,
    /// Of a later program.
    #[error("it has format {0}, and this program knows only {FORMAT}")]
    Format(u32),
    /// A path that leads elsewhere.
    #[error("it names a file that no data folder has: {0:?}")]
    Path(String),
}

/// A backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// Whose data they are.
    pub server_name: String,
    /// The version of the program that made it.
    pub program: String,
    /// When it was begun, in milliseconds since the epoch.
    pub created_ms: u64,
    /// The files by their paths in the data folder.
    pub files: BTreeMap<String, FileEntry>,
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its content, in hex: under this name it is kept.
    pub sha256: String,
    /// What told that it had not changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
}

/// What a file system says of a file that never changes: the same, the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its number.
    pub inode: u64,
    /// When it was last written, in nanoseconds since the epoch.
    pub modified_ns: i64,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    sha256: String,
    backup: Box<RawValue>,
}

/// What every format has.
#[derive(Deserialize)]
struct Any {
    format: u32,
}

impl Manifest {
    /// A backup without files.
    pub fn new(server_name: &str, clock: &Clock) -> Self {
        Self {
            format: FORMAT,
            server_name: server_name.to_owned(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            created_ms: clock.now_ms(),
            files: BTreeMap::new(),
        }
    }

    /// As it is kept.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let backup = serde_json::value::to_raw_value(self)?;
        let sha256 = sha256_of(backup.get().as_bytes());
        serde_json::to_string(&Sealed { sha256, backup })
    }

    /// Reads it back.
    ///
    /// # Errors
    /// It is damaged, of a later program, or names what no data folder has.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        let sealed: Sealed = serde_json::from_slice(text).map_err(ManifestError::Malformed)?;
        if sha256_of(sealed.backup.get().as_bytes()) != sealed.sha256 {
            return Err(ManifestError::Hash);
        }
        let any: Any = serde_json::from_str(sealed.backup.get()).map_err(ManifestError::Malformed)?;
        if any.format != FORMAT {
            return Err(ManifestError::Format(any.format));
        }
        let manifest: Self = serde_json::from_str(sealed.backup.get()).map_err(ManifestError::Malformed)?;
        match manifest.files.iter().find(|(path, entry)| !is_inside(path) || !is_sha256(&entry.sha256)) {
            Some((path, _)) => Err(ManifestError::Path(path.clone())),
            None => Ok(manifest),
        }
    }

    /// The length of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|entry| entry.bytes).sum()
    }
}

/// Whether a path is one that a data folder has, and leads nowhere else.
fn is_inside(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    let known = |part: Option<Component<'_>>| matches!(part, Some(Component::Normal(first)) if ROOTS.iter().any(|root| first == *root));
    known(parts.next()) && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(path: &str) -> Manifest {
        let mut manifest = Manifest::new("a.example", &Clock::manual(7));
        let entry = FileEntry { bytes: 3, sha256: "ab".repeat(32), seen: None };
        manifest.files.insert(path.to_owned(), entry);
        manifest
    }

    #[test]
    fn it_comes_back_and_every_altered_byte_is_noticed() {
        let written = manifest("db/000007.sst");
        let text = written.to_json().expect("JSON");
        assert_eq!(Manifest::parse(text.as_bytes()).expect("reads"), written);
        for at in 0..text.len() {
            let mut altered = text.clone().into_bytes();
            altered[at] ^= 1;
            assert!(Manifest::parse(&altered).is_err(), "byte {at}");
            assert!(Manifest::parse(&text.as_bytes()[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["/etc/passwd", "../x", "db/../../x", "admin.sock", "", "lock", "db/./../../y"] {
            let text = manifest(path).to_json().expect("JSON");
            assert!(matches!(Manifest::parse(text.as_bytes()), Err(ManifestError::Path(_))), "{path}");
        }
    }

    #[test]
    fn a_later_format_is_refused() {
        let mut later = manifest("schema");
        later.format = 2;
        let text = later.to_json().expect("JSON");
        assert!(matches!(Manifest::parse(text.as_bytes()), Err(ManifestError::Format(2))));
    }
}
