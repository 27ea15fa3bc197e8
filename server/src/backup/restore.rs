//! Putting a backup back into an empty folder.
//!
//! Invariants: a folder that was not finished is refused by the server; one that was
//! says that its data are old, which the server notices at its next start.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use causeway_storage::{RESTORING_FILE, restored::RESTORED_FILE};
use thiserror::Error;

use super::{
    checked::Checked,
    folder::{copy_synced, sync_folders},
    manifest::Manifest,
    store::{self, OBJECTS, Store, StoreError},
};

const MODE: u32 = 0o700;

/// Why nothing was restored.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The place of backups.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is something already.
    #[error("{} is not empty: a backup is restored into an empty folder only", .0.display())]
    NotEmpty(PathBuf),
    /// A file can't be written, or is damaged in the backup.
    #[error("{path} can't be restored")]
    File {
        /// Which, by its path in the data folder.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Contents are not in the backup.
    #[error("the backup is damaged: it lacks {count} of its files, {path} among them")]
    Lacking {
        /// One of them.
        path: String,
        /// How many.
        count: usize,
    },
}

/// Writes the files of `manifest`, and that they are old.
pub fn restore(
    store: &dyn Store,
    id: &str,
    manifest: &Manifest,
    data_folder: &Path,
) -> Result<(), RestoreError> {
    let failed = |path: &str| {
        let path = path.to_owned();
        move |source| RestoreError::File { path, source }
    };
    let own = data_folder.display().to_string();
    lacks_nothing(store, manifest)?;
    DirBuilder::new().recursive(true).mode(MODE).create(data_folder).map_err(failed(&own))?;
    if fs::read_dir(data_folder).map_err(failed(&own))?.next().is_some() {
        return Err(RestoreError::NotEmpty(data_folder.to_owned()));
    }
    fs::set_permissions(data_folder, fs::Permissions::from_mode(MODE)).map_err(failed(&own))?;
    let unfinished = data_folder.join(RESTORING_FILE);
    copy_synced(&mut id.as_bytes(), &unfinished).map_err(failed(RESTORING_FILE))?;
    sync_folders(data_folder).map_err(failed(&own))?;
    for (path, entry) in &manifest.files {
        let target = data_folder.join(path);
        if let Some(folder) = target.parent() {
            DirBuilder::new().recursive(true).mode(MODE).create(folder).map_err(failed(path))?;
        }
        let content = store.read(&store::object(&entry.sha256))?;
        let mut content = Checked::new(content, &entry.sha256, entry.bytes);
        copy_synced(&mut content, &target).map_err(failed(path))?;
    }
    let told = format!("{id} of {}", manifest.server_name);
    copy_synced(&mut told.as_bytes(), &data_folder.join(RESTORED_FILE)).map_err(failed(RESTORED_FILE))?;
    sync_folders(data_folder).map_err(failed(&own))?;
    fs::remove_file(unfinished).map_err(failed(RESTORING_FILE))?;
    File::open(data_folder).and_then(|folder| folder.sync_all()).map_err(failed(&own))
}

/// Refuses a backup some of whose contents are missing or too short, before anything is written.
fn lacks_nothing(store: &dyn Store, manifest: &Manifest) -> Result<(), RestoreError> {
    let there = store.list(OBJECTS)?;
    let mut lacking = manifest
        .files
        .iter()
        .filter(|(_, entry)| there.get(&store::object(&entry.sha256)) != Some(&entry.bytes))
        .map(|(path, _)| path);
    match lacking.next() {
        None => Ok(()),
        Some(path) => Err(RestoreError::Lacking { path: path.clone(), count: 1 + lacking.count() }),
    }
}
