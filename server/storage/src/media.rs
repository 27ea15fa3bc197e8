//! Rows of media: what is known of a file. The content itself lies beside the
//! database, named by its hash.

use ruma::{OwnedServerName, OwnedUserId, ServerName};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
};

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// SHA-256 of the content, in hex: where it lies.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
    /// `Content-Type` as uploaded.
    pub content_type: Option<String>,
    /// The name that the uploader gave it.
    pub filename: Option<String>,
    /// Who uploaded it; `None` for a file of another server.
    pub uploader: Option<OwnedUserId>,
    /// When it was stored, in milliseconds since the epoch.
    pub created_ts: u64,
}

/// What is known of `mxc://server/media_id`.
pub fn media(read: &impl Read, server: &ServerName, media_id: &str) -> Result<Option<Media>, StorageError> {
    codec::get(read, Cf::Media, key().str(server).str(media_id).as_ref())
}

/// Deletes the row.
pub fn delete(batch: &mut Batch, server: &ServerName, media_id: &str) {
    batch.delete(Cf::Media, key().str(server).str(media_id));
}

/// All rows after one, in order, at most `limit`.
pub fn page(
    read: &impl Read,
    after: Option<(&ServerName, &str)>,
    limit: usize,
) -> Result<Vec<(OwnedServerName, String, Media)>, StorageError> {
    let from = after.map(|(server, media_id)| key().str(server).str(media_id).bytes(&[0]).finish());
    let rows = read.scan(Cf::Media, b"", from.as_deref(), Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::Media, row);
            let broken = |_| StorageError::BrokenKey { cf: Cf::Media.name() };
            let server = OwnedServerName::try_from(parts.str()?).map_err(broken)?;
            Ok((server, parts.str()?.to_owned(), codec::decode(Cf::Media, value)?))
        })
        .collect()
}

/// Adds or replaces it.
pub fn put_media(batch: &mut Batch, server: &ServerName, media_id: &str, media: &Media) {
    codec::put(batch, Cf::Media, key().str(server).str(media_id), media);
}
