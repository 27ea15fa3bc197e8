//! Media: files that clients upload, and copies of other servers' files.
//!
//! A content lies once in `media/` of the data folder, named by its SHA-256
//! (`media/ab/cdef…`), and is written before the row that names it: to a
//! temporary file, synced, renamed, folder synced. So a row always has its
//! content; a content without a row is only waste.
//!
//! Media ids and names come from peers and clients and never become paths.

mod admin;
mod frozen;
mod pending;
mod thumbnails;

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, Weak, atomic::AtomicU64},
};

pub use self::{
    admin::Held,
    pending::{LIFETIME_MS, NOT_YET, PENDING_MAX, patience_ms},
    thumbnails::{Method, Thumbnail, Wish},
};
pub use causeway_storage::media::Media;
use causeway_storage::{Batch, Database, media as rows, moderation};
use ruma::{MxcUri, OwnedMxcUri, OwnedServerName, OwnedUserId, ServerName};

pub use crate::upload::Upload;
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

/// In the data folder.
pub(crate) const FOLDER: &str = "media";

/// See the module.
pub struct MediaStore {
    database: Database,
    clock: Clock,
    settings: Arc<Settings>,
    remote: RemoteHandle,
    /// One fetch at a time for each file of another server.
    fetching: Mutex<HashMap<OwnedMxcUri, Weak<tokio::sync::Mutex<()>>>>,
    /// See [`admin`].
    contents: RwLock<()>,
    /// When old files may be looked for again, see [`MediaStore::is_due`].
    next_look_ms: AtomicU64,
    filling: pending::Filling,
    thumbnails_made: tokio::sync::Semaphore,
    thumbnails_waiting: tokio::sync::Semaphore,
}

/// What a client or peer said about a file.
#[derive(Clone, Debug, Default)]
pub struct Label {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// A file name.
    pub filename: Option<String>,
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
        frozen::clean(database.folder())?;
        Ok(Self {
            database,
            clock,
            settings,
            remote,
            fetching: Mutex::default(),
            contents: RwLock::default(),
            next_look_ms: AtomicU64::default(),
            filling: pending::Filling::default(),
            thumbnails_made: tokio::sync::Semaphore::new(thumbnails::AT_ONCE_MAX),
            thumbnails_waiting: tokio::sync::Semaphore::new(thumbnails::WAITING_MAX),
        })
    }

    /// The largest file, in bytes.
    pub fn bytes_max(&self) -> u64 {
        self.settings.media.upload_bytes_max
    }

    /// Begins writing a content.
    pub fn begin(&self) -> Result<Upload, MatrixError> {
        self.begin_up_to(self.bytes_max())
    }

    /// Begins writing a content of at most so many bytes.
    pub fn begin_up_to(&self, bytes_max: u64) -> Result<Upload, MatrixError> {
        self.database.check_room()?;
        let upload = Upload::begin(&self.database.folder().join(FOLDER), bytes_max);
        upload.map_err(|error| MatrixError::internal(&error))
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
        self.keep(upload, (&server, &media_id), Some(uploader), label, |_| ())?;
        Ok(OwnedMxcUri::from(format!("mxc://{server}/{media_id}")))
    }

    /// What is stored here under an address; `None` if nothing is.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND` for what is quarantined: nobody is to look for it elsewhere.
    pub fn find(&self, server: &ServerName, media_id: &str) -> Result<Option<Media>, MatrixError> {
        if media_id.len() > MEDIA_ID_BYTES_MAX {
            return Ok(None);
        }
        let found = rows::media(&self.database, server, media_id)?;
        found.map(|media| self.unless_quarantined(media)).transpose()
    }

    fn unless_quarantined(&self, media: Media) -> Result<Media, MatrixError> {
        match moderation::quarantined(&self.database, &media.sha256)? {
            None => Ok(media),
            Some(_) => Err(MatrixError::not_found("Media not found")),
        }
    }

    /// Where a content lies.
    pub fn path(&self, media: &Media) -> PathBuf {
        content_path(&self.database.folder().join(FOLDER), &media.sha256)
    }

    /// Keeps a copy of another server's file.
    pub fn keep_remote(
        &self,
        server: &ServerName,
        media_id: &str,
        media: RemoteMedia,
    ) -> Result<Media, MatrixError> {
        let filename = media.content_disposition.as_deref().and_then(file_name);
        let label = Label { content_type: media.content_type, filename };
        self.keep(media.content, (server, media_id), None, label, |_| ())
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
        run(move || {
            let media = store.keep_remote(&server, &media_id, fetched)?;
            store.unless_quarantined(media)
        })
        .await
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

    /// Keeps a content under an address, with whatever else is to be written with its row.
    fn keep(
        &self,
        upload: Upload,
        (server, media_id): (&ServerName, &str),
        uploader: Option<OwnedUserId>,
        label: Label,
        and: impl FnOnce(&mut Batch),
    ) -> Result<Media, MatrixError> {
        let bounded = |text: Option<String>| text.filter(|text| text.len() <= LABEL_BYTES_MAX);
        let media = Media {
            sha256: upload.sha256(),
            bytes: upload.bytes(),
            content_type: bounded(label.content_type),
            filename: bounded(label.filename),
            uploader,
            created_ts: self.clock.now_ms(),
        };
        let _shared = self.contents.read().unwrap_or_else(PoisonError::into_inner);
        upload.persist(&self.path(&media)).map_err(|error| MatrixError::internal(&error))?;
        let mut batch = self.database.batch();
        rows::put_media(&mut batch, server, media_id, &media);
        and(&mut batch);
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

/// Where a content lies in the folder of media.
pub(crate) fn content_path(folder: &Path, sha256: &str) -> PathBuf {
    let (first, rest) = sha256.split_at_checked(2).unwrap_or(("", ""));
    folder.join(first).join(rest)
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
