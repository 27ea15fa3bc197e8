//! Where backups are kept: files under names, whole or not there.
//!
//! - `causeway-backup.json`: that this is such a place, and whose.
//! - `objects/ab/cdef…`: contents by their SHA-256, each once.
//! - `backups/NUMBER-TIME.json`: the list of one backup's files, written last: a
//!   backup that was not finished has none, and is nothing but contents that the next
//!   one finds there already, or removes.

use std::{collections::BTreeMap, io, io::Read};

use thiserror::Error;

use super::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError};

/// Lists of files.
pub const BACKUPS: &str = "backups/";
/// Contents.
pub const OBJECTS: &str = "objects/";
/// Says whose backups these are.
pub const MARK: &str = "causeway-backup.json";

/// Why a place of backups can't be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It can't be read or written.
    #[error("{name} can't be {done}")]
    Io {
        /// What.
        name: String,
        /// What was to be done.
        done: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A list of files is not one.
    #[error("the backup {id}")]
    Manifest {
        /// Which backup.
        id: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// Not a place of backups, or somebody else's.
    #[error("{0}")]
    Unsuitable(String),
}

impl StoreError {
    /// Something could not be done with a file.
    pub fn io(name: impl Into<String>, done: &'static str) -> impl FnOnce(io::Error) -> Self {
        let name = name.into();
        move |source| Self::Io { name, done, source }
    }

    /// Whether a content was not the one that it was said to be.
    pub fn is_wrong_content(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::InvalidData)
    }
}

/// A place of backups. Names are relative, with `/` between parts.
pub trait Store {
    /// What has a name that begins so, with its length.
    fn list(&self, prefix: &str) -> Result<BTreeMap<String, u64>, StoreError>;

    /// A content.
    fn read(&self, name: &str) -> Result<Box<dyn Read + '_>, StoreError>;

    /// Keeps all that `content` gives under a name; nothing, if it fails before its end.
    fn put(&self, name: &str, content: &mut dyn Read) -> Result<(), StoreError>;

    /// Removes it; that there is none is no error.
    fn delete(&self, name: &str) -> Result<(), StoreError>;

    /// Everything that was put survives power loss from here on.
    fn sync(&self) -> Result<(), StoreError>;
}

/// Where a content lies.
pub fn object(sha256: &str) -> String {
    let (first, rest) = sha256.split_at_checked(2).unwrap_or(("", sha256));
    format!("{OBJECTS}{first}/{rest}")
}

/// The ids of all finished backups, oldest first.
pub fn backups(store: &dyn Store) -> Result<Vec<String>, StoreError> {
    let names = store.list(BACKUPS)?;
    let ids = names.keys().filter_map(|name| name.strip_prefix(BACKUPS)?.strip_suffix(".json"));
    Ok(ids.map(str::to_owned).collect())
}

/// The list of a backup's files.
pub fn manifest(store: &dyn Store, id: &str) -> Result<Manifest, StoreError> {
    let name = format!("{BACKUPS}{id}.json");
    let mut text = Vec::new();
    let read = store.read(&name)?.take(MANIFEST_BYTES_MAX).read_to_end(&mut text);
    read.map_err(StoreError::io(&name, "read"))?;
    Manifest::parse(&text).map_err(|source| StoreError::Manifest { id: id.to_owned(), source })
}

/// The id of the wanted backup, or of the last one.
pub fn choose(store: &dyn Store, wanted: Option<&str>) -> Result<String, StoreError> {
    let mut ids = backups(store)?;
    match wanted {
        None => ids.pop().ok_or_else(|| StoreError::Unsuitable("there is no finished backup".to_owned())),
        Some(wanted) => ids.into_iter().find(|id| id == wanted).ok_or_else(|| {
            StoreError::Unsuitable(format!("there is no finished backup {wanted} (see backup --list)"))
        }),
    }
}
