//! Backups in a folder.
//!
//! Invariant: a name leads to a whole content or to nothing, also after power loss:
//! files are written under another name, synced, and moved to their place.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io::{self, Read, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    checked::PIECE_BYTES,
    store::{Store, StoreError},
};

/// A backup holds the server's signing key and its users' messages.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Begins the names of files that are not complete.
const UNFINISHED: &str = ".new-";
/// Bytes after which a file that is being written is synced: one sync of all at its
/// end would hold up those of a server on the same disk.
const SYNC_BYTES: usize = 8 << 20;
/// Held by whoever uses the place.
const LOCK: &str = ".lock";

/// See the module.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Opens it for one user at a time.
    pub fn open(path: &Path, create: bool) -> Result<Self, StoreError> {
        let name = || path.display().to_string();
        if create {
            let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path);
            made.map_err(StoreError::io(name(), "made"))?;
        }
        let mut options = File::options();
        let options = options.create(true).truncate(false).write(true).mode(FILE_MODE);
        let lock = options.open(path.join(LOCK)).map_err(StoreError::io(name(), "opened"))?;
        lock.try_lock()
            .map_err(|_| StoreError::Unsuitable(format!("{} is in use by another process", name())))?;
        let folder = Self { path: path.to_owned(), _lock: lock };
        if create {
            clean(path)?;
        }
        Ok(folder)
    }

    fn collect(&self, folder: &Path, found: &mut BTreeMap<String, u64>) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.collect(&entry.path(), found)?;
            } else if !entry.file_name().to_string_lossy().starts_with('.') {
                let path = entry.path();
                let name = path.strip_prefix(&self.path).ok().and_then(Path::to_str);
                if let Some(name) = name {
                    found.insert(name.to_owned(), entry.metadata()?.len());
                }
            }
        }
        Ok(())
    }
}

/// Removes what a crash left behind.
fn clean(folder: &Path) -> Result<(), StoreError> {
    let failed = || StoreError::io(folder.display().to_string(), "cleaned");
    for entry in fs::read_dir(folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if entry.file_type().map_err(failed())?.is_dir() {
            clean(&entry.path())?;
        } else if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_file(entry.path()).map_err(failed())?;
        }
    }
    Ok(())
}

fn write(target: &Path, content: &mut dyn Read) -> io::Result<()> {
    let folder = target.parent().ok_or_else(|| io::Error::other("no folder"))?;
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = folder.join(format!("{UNFINISHED}{name}"));
    let written = copy_synced(content, &unfinished).and_then(|()| fs::rename(&unfinished, target));
    if written.is_err() {
        drop(fs::remove_file(&unfinished));
    }
    written
}

/// Writes a new file, as it goes.
pub fn copy_synced(content: &mut dyn Read, target: &Path) -> io::Result<()> {
    let mut options = File::options();
    let mut file = options.create(true).truncate(true).write(true).mode(FILE_MODE).open(target)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut unsynced = 0;
    loop {
        let read = content.read(&mut piece)?;
        if read == 0 {
            return file.sync_all();
        }
        file.write_all(&piece[..read])?;
        unsynced += read;
        if unsynced >= SYNC_BYTES {
            file.sync_data()?;
            unsynced = 0;
        }
    }
}

/// Makes the names in a folder, and in those below it, survive power loss.
pub fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

impl Store for Folder {
    fn list(&self, prefix: &str) -> Result<BTreeMap<String, u64>, StoreError> {
        let mut found = BTreeMap::new();
        let listed = self.collect(&self.path.join(prefix), &mut found);
        listed.map_err(StoreError::io(self.path.join(prefix).display().to_string(), "listed"))?;
        Ok(found)
    }

    fn read(&self, name: &str) -> Result<Box<dyn Read + '_>, StoreError> {
        let path = self.path.join(name);
        let file = File::open(&path).map_err(StoreError::io(path.display().to_string(), "read"))?;
        Ok(Box::new(file))
    }

    fn put(&self, name: &str, content: &mut dyn Read) -> Result<(), StoreError> {
        let path = self.path.join(name);
        write(&path, content).map_err(StoreError::io(path.display().to_string(), "written"))
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io(path.display().to_string(), "removed")(error))
            }
            _ => Ok(()),
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        sync_folders(&self.path).map_err(StoreError::io(self.path.display().to_string(), "synced"))
    }
}
