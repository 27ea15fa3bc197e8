//! Media: files that clients upload, and copies of other servers' files.
//!
//! A content lies once in `media/` of the data folder, named by its SHA-256
//! (`media/ab/cdef…`), and is written before the row that names it: to a
//! temporary file, synced, renamed, folder synced. So a row always has its
//! content; a content without a row is only waste.
//!
//! Media ids and names come from peers and clients and never become paths.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write as _},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
};

pub use causeway_storage::media::Media;
use causeway_storage::{Database, media as rows};
use ruma::{MxcUri, OwnedMxcUri, OwnedServerName, OwnedUserId, ServerName};
use sha2::{Digest, Sha256};

use crate::{
    clock::Clock,
    error::MatrixError,
    new_file,
    remote::{ExpectedContent, RemoteHandle, RemoteMedia, RemoteRequest},
    secrets,
    settings::Settings,
};

/// Characters of a media id.
const MEDIA_ID_CHARS: usize = 24;

/// A media id of another server, in bytes.
const MEDIA_ID_BYTES_MAX: usize = 255;

/// A content type or file name, in bytes.
const LABEL_BYTES_MAX: usize = 255;

const FOLDER: &str = "media";

/// See the module.
pub struct MediaStore {
    database: Database,
    clock: Clock,
    settings: Arc<Settings>,
    remote: RemoteHandle,
    /// One fetch at a time for each file of another server.
    fetching: Mutex<HashMap<OwnedMxcUri, Weak<tokio::sync::Mutex<()>>>>,
}

/// What a client or peer said about a file.
#[derive(Clone, Debug, Default)]
pub struct Label {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// A file name.
    pub filename: Option<String>,
}

/// A content that is being written.
pub struct Upload {
    file: new_file::Temporary,
    hash: Sha256,
    bytes: u64,
    bytes_max: u64,
}

impl Upload {
    /// Adds a piece.
    ///
    /// # Errors
    /// 413 `M_TOO_LARGE` when it is more than allowed.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), MatrixError> {
        self.bytes += piece.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(MatrixError::too_large(format!("A file may have {} bytes", self.bytes_max)));
        }
        self.hash.update(piece);
        self.file.write_all(piece).map_err(|error| MatrixError::internal(&error))
    }
}

impl MediaStore {
    /// Over `database` and the folder that it lies in.
    ///
    /// # Errors
    /// The folder can't be made.
    pub fn open(
        database: Database,
        clock: Clock,
        settings: Arc<Settings>,
        remote: RemoteHandle,
    ) -> io::Result<Self> {
        let folder = database.folder().join(FOLDER);
        fs::create_dir_all(&folder)?;
        new_file::clean(&folder)?;
        Ok(Self { database, clock, settings, remote, fetching: Mutex::default() })
    }

    /// The largest file, in bytes.
    pub fn bytes_max(&self) -> u64 {
        self.settings.media.upload_bytes_max
    }

    /// Begins writing a content.
    pub fn begin(&self) -> Result<Upload, MatrixError> {
        let file = new_file::Temporary::create(&self.database.folder().join(FOLDER))
            .map_err(|error| MatrixError::internal(&error))?;
        Ok(Upload { file, hash: Sha256::new(), bytes: 0, bytes_max: self.bytes_max() })
    }

    /// Keeps an upload of a local user; its new address.
    pub fn finish(
        &self,
        upload: Upload,
        uploader: OwnedUserId,
        label: Label,
    ) -> Result<OwnedMxcUri, MatrixError> {
        let media_id = secrets::alphanumeric(MEDIA_ID_CHARS);
        let server = self.settings.server_name.clone();
        self.keep(upload, &server, &media_id, Some(uploader), label)?;
        Ok(OwnedMxcUri::from(format!("mxc://{server}/{media_id}")))
    }

    /// What is stored here under an address; `None` if nothing is.
    pub fn find(&self, server: &ServerName, media_id: &str) -> Result<Option<Media>, MatrixError> {
        if media_id.len() > MEDIA_ID_BYTES_MAX {
            return Ok(None);
        }
        Ok(rows::media(&self.database, server, media_id)?)
    }

    /// Where a content lies.
    pub fn path(&self, media: &Media) -> PathBuf {
        let (first, rest) = media.sha256.split_at_checked(2).unwrap_or(("", ""));
        self.database.folder().join(FOLDER).join(first).join(rest)
    }

    /// The whole content.
    pub fn read(&self, media: &Media) -> Result<Vec<u8>, MatrixError> {
        fs::read(self.path(media)).map_err(|error| MatrixError::internal(&error))
    }

    /// Keeps a copy of another server's file.
    pub fn keep_remote(
        &self,
        server: &ServerName,
        media_id: &str,
        media: &RemoteMedia,
    ) -> Result<Media, MatrixError> {
        let mut upload = self.begin()?;
        upload.write(&media.content)?;
        let filename = media.content_disposition.as_deref().and_then(file_name);
        let label = Label { content_type: media.content_type.clone(), filename };
        self.keep(upload, server, media_id, None, label)
    }

    /// A file of any server: the copy here, or else from its origin or one of
    /// `holders`, of which a copy is kept. It has to be one of what is
    /// `expected`; if nothing is, only the origin is believed.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND` for an unknown file of this server; what the other server said.
    pub async fn obtain(
        self: &Arc<Self>,
        mxc: &MxcUri,
        holders: Vec<OwnedServerName>,
        expected: Vec<ExpectedContent>,
    ) -> Result<Media, MatrixError> {
        let (server, media_id) = mxc.parts().map_err(|_| MatrixError::not_found("Not a media address"))?;
        let (server, media_id) = (server.to_owned(), media_id.to_owned());
        if let Some(media) = self.find_blocking(&server, &media_id).await? {
            return Ok(media);
        }
        if server == self.settings.server_name || media_id.len() > MEDIA_ID_BYTES_MAX {
            return Err(MatrixError::not_found("Media not found"));
        }
        let turn = self.turn(mxc);
        let _turn = turn.lock().await;
        if let Some(media) = self.find_blocking(&server, &media_id).await? {
            return Ok(media);
        }
        let bytes_max = self.bytes_max();
        let request =
            |reply| RemoteRequest::Media { mxc: mxc.to_owned(), holders, expected, bytes_max, reply };
        let fetched = self.remote.request(request).await?;
        let store = Arc::clone(self);
        run(move || store.keep_remote(&server, &media_id, &fetched)).await
    }

    async fn find_blocking(
        self: &Arc<Self>,
        server: &ServerName,
        media_id: &str,
    ) -> Result<Option<Media>, MatrixError> {
        let (store, server, media_id) = (Arc::clone(self), server.to_owned(), media_id.to_owned());
        run(move || store.find(&server, &media_id)).await
    }

    /// The lock of one file's fetch; locks that nobody holds are forgotten.
    fn turn(&self, mxc: &MxcUri) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        fetching.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = fetching.get(mxc).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        fetching.insert(mxc.to_owned(), Arc::downgrade(&turn));
        turn
    }

    fn keep(
        &self,
        upload: Upload,
        server: &ServerName,
        media_id: &str,
        uploader: Option<OwnedUserId>,
        label: Label,
    ) -> Result<Media, MatrixError> {
        let bounded = |text: Option<String>| text.filter(|text| text.len() <= LABEL_BYTES_MAX);
        let media = Media {
            sha256: hex::encode(upload.hash.finalize()),
            bytes: upload.bytes,
            content_type: bounded(label.content_type),
            filename: bounded(label.filename),
            uploader,
            created_ts: self.clock.now_ms(),
        };
        upload.file.persist(&self.path(&media)).map_err(|error| MatrixError::internal(&error))?;
        let mut batch = self.database.batch();
        rows::put_media(&mut batch, server, media_id, &media);
        self.database.commit_durable(batch)?;
        Ok(media)
    }
}

async fn run<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, MatrixError> + Send + 'static,
) -> Result<R, MatrixError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(MatrixError::internal(&error)),
    }
}

/// The file name in a `Content-Disposition`; only the plain form.
fn file_name(disposition: &str) -> Option<String> {
    let (_, rest) = disposition.split_once("filename=")?;
    let name = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => rest.split(';').next()?.trim(),
    };
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_read_from_dispositions() {
        assert_eq!(file_name("inline; filename=a.txt"), Some("a.txt".to_owned()));
        assert_eq!(file_name("attachment; filename=\"a b.txt\"; x=y"), Some("a b.txt".to_owned()));
        assert_eq!(file_name("inline"), None);
        assert_eq!(file_name("inline; filename="), None);
    }
}
