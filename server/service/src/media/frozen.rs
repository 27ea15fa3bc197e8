//! The database and the files beside it, frozen for a backup.
//!
//! Invariant: what is frozen has the content of every row of media in it. Rows are
//! written after their content, and nothing deletes a content meanwhile: whoever
//! does holds `contents` alone. Thumbnails are left out: they are made again.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::PoisonError,
};

use super::{FOLDER, MediaStore, thumbnails};
use crate::{error::MatrixError, new_file};

/// In the data folder, while a backup is made of it.
const FROZEN: &str = "frozen";
/// It holds the server's signing key and its users' tokens.
const MODE: u32 = 0o700;

impl MediaStore {
    /// Freezes everything as it is now, in place of what was frozen before; where it
    /// lies. Files are linked, not copied.
    ///
    /// # Errors
    /// 500 `M_UNKNOWN` with what the system said: only the operator asks for this.
    pub fn freeze(&self) -> Result<PathBuf, MatrixError> {
        let told = |error: &dyn std::error::Error| {
            MatrixError::new(500, "M_UNKNOWN", format!("The data can't be frozen: {error}"))
        };
        self.thaw()?;
        let folder = self.database.folder().join(FROZEN);
        DirBuilder::new().mode(MODE).create(&folder).map_err(|error| told(&error))?;
        let _shared = self.contents.read().unwrap_or_else(PoisonError::into_inner);
        self.database.checkpoint(&folder).map_err(|error| told(&error))?;
        link_all(&self.database.folder().join(FOLDER), &folder.join(FOLDER)).map_err(|error| told(&error))?;
        Ok(folder)
    }

    /// Removes what was frozen; that there is nothing is no error.
    pub fn thaw(&self) -> Result<(), MatrixError> {
        clean(self.database.folder()).map_err(|error| MatrixError::internal(&error))
    }
}

/// Removes what a backup left in the data folder.
pub(super) fn clean(data_folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(data_folder.join(FROZEN)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Contents lie one folder deep.
fn link_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            if entry.file_name() != thumbnails::FOLDER {
                link_all(&entry.path(), &target)?;
            }
        } else if !new_file::is_temporary(&entry.file_name()) {
            link(&entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Files are never changed once they are in their place, so a link is as good as a
/// copy; only some file systems have none.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        // An upload that was given up in the meantime.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => fs::copy(from, to).map(drop),
    }
}
