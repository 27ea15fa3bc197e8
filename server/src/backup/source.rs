//! The files that go into a backup: of a running server what it froze, of a stopped
//! one the data folder itself, which nobody can open meanwhile.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use causeway_storage::{Held, OpenError};
use reqwest::Method;
use thiserror::Error;

use crate::admin::{Call, CallError, ask};

const FROZEN: [&str; 4] = ["_causeway", "admin", "v1", "frozen"];
/// In the data folder: held while a backup is made of it.
const LOCK: &str = "backup.lock";
/// Folders of `media` and files of `db` that are made again, and what is not complete.
const LEFT_OUT: [&str; 3] = ["thumbnails", "LOCK", "LOG"];
const LEFT_OUT_BEGINNINGS: [&str; 2] = ["new-", "LOG.old"];

/// Why there is nothing to copy.
#[derive(Debug, Error)]
pub enum SourceError {
    /// Another backup is being made.
    #[error("another backup of {} is under way", .0.display())]
    Busy(PathBuf),
    /// The folder can't be read.
    #[error("data folder {}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The server said no.
    #[error("the running server does not freeze its data")]
    Refused(#[source] CallError),
    /// No server answers, and the folder can't be read either.
    #[error("no server answers ({socket}), and the folder can't be read")]
    Held {
        /// Why none answers.
        socket: String,
        /// Why it can't be read.
        #[source]
        source: OpenError,
    },
}

/// What is copied; it does not change while this lives.
#[derive(Debug)]
pub struct Source {
    /// Files lie here as in a data folder.
    pub folder: PathBuf,
    /// Whether a server runs beside it.
    pub is_running: bool,
    data_folder: PathBuf,
    _held: Option<Held>,
    _lock: File,
}

impl Source {
    /// Has the running server freeze its data, or takes the folder of a stopped one.
    pub fn open(data_folder: &Path, runtime: &tokio::runtime::Runtime) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Io { path: data_folder.to_owned(), source };
        let mut options = File::options();
        let lock = options.create(true).truncate(false).write(true).mode(0o600);
        let lock = lock.open(data_folder.join(LOCK)).map_err(failed)?;
        lock.try_lock().map_err(|_| SourceError::Busy(data_folder.to_owned()))?;
        let call = Call::new(Method::POST, FROZEN);
        let (name, held) = match runtime.block_on(ask(data_folder, &call)) {
            Ok(answer) => (answer["folder"].as_str().map(str::to_owned), None),
            Err(error @ CallError::Unreachable { .. }) => {
                let held = causeway_storage::hold(data_folder)
                    .map_err(|source| SourceError::Held { socket: error.to_string(), source })?;
                (None, Some(held))
            }
            Err(error) => return Err(SourceError::Refused(error)),
        };
        let folder = name.map_or_else(|| data_folder.to_owned(), |name| data_folder.join(name));
        let is_running = held.is_none();
        Ok(Self { folder, is_running, data_folder: data_folder.to_owned(), _held: held, _lock: lock })
    }

    /// Lets the server forget what it froze.
    pub fn close(self, runtime: &tokio::runtime::Runtime) -> Result<(), SourceError> {
        if self.is_running {
            let call = Call::new(Method::DELETE, FROZEN);
            runtime.block_on(ask(&self.data_folder, &call)).map_err(SourceError::Refused)?;
        }
        Ok(())
    }

    /// The paths of all files, relative.
    pub fn files(&self) -> io::Result<Vec<String>> {
        let mut found = vec!["schema".to_owned()];
        for root in ["db", "media"] {
            collect(&self.folder, &self.folder.join(root), &mut found)?;
        }
        found.sort();
        Ok(found)
    }
}

fn collect(base: &Path, folder: &Path, found: &mut Vec<String>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        // A server that never had a file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let (entry, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if LEFT_OUT.contains(&&*name) || LEFT_OUT_BEGINNINGS.iter().any(|begin| name.starts_with(begin)) {
            continue;
        }
        if entry?.is_dir() {
            collect(base, &path, found)?;
        } else {
            let relative = path.strip_prefix(base).ok().and_then(Path::to_str);
            let relative =
                relative.ok_or_else(|| io::Error::other(format!("{} has no name", path.display())))?;
            found.push(relative.to_owned());
        }
    }
    Ok(())
}
