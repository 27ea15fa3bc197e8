//! Files that are complete or not there: written under a name that nobody
//! reads, synced, and moved to their place.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

const PREFIX: &str = "new-";

/// Removed when dropped without being persisted.
#[derive(Debug)]
pub(crate) struct Temporary {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl Temporary {
    pub(crate) fn create(folder: &Path) -> io::Result<Self> {
        let path = folder.join(format!("{PREFIX}{}", crate::secrets::alphanumeric(16)));
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok(Self { file, path, kept: false })
    }

    /// Syncs, moves to `target` and syncs the folder.
    pub(crate) fn persist(mut self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        let folder = target.parent().ok_or_else(|| io::Error::other("no folder"))?;
        if !folder.exists() {
            fs::create_dir_all(folder)?;
            folder.parent().map_or(Ok(()), |above| File::open(above)?.sync_all())?;
        }
        fs::rename(&self.path, target)?;
        self.kept = true;
        File::open(folder)?.sync_all()
    }
}

impl Write for Temporary {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Whether a file of this name is not complete.
pub(crate) fn is_temporary(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(PREFIX)
}

/// Removes what a crash left behind.
pub(crate) fn clean(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_temporary(&entry.file_name()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
