//! Work that follows from changes and must not be forgotten over a restart:
//! projection, adoption, media to fetch; and the followers' cursors, remembered
//! outcomes and secrets.

use ruma::RoomId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::parts;
use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts},
};

/// Which queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Items whose face in room state is to be brought up to date.
    Projection,
    /// Unstamped item events that may have to be adopted.
    Adoption,
    /// Items whose conflict is to be told.
    Notice,
    /// Media that items refer to and that is not here yet.
    Media,
    /// Changes that were held as headers only and whose value is to be asked for.
    Value,
    /// Rooms whose items go to the room that replaces them.
    Copy,
}

impl Queue {
    fn name(self) -> &'static str {
        match self {
            Self::Projection => "projection",
            Self::Adoption => "adoption",
            Self::Notice => "notice",
            Self::Media => "media",
            Self::Value => "value",
            Self::Copy => "copy",
        }
    }
}

/// One thing to do; what else it needs is in `detail`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRow {
    /// Not before (ms since the epoch).
    pub due: u64,
    /// How often it was tried.
    #[serde(default)]
    pub attempts: u32,
    /// What the queue's worker needs besides room and key.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
}

impl QueueRow {
    /// Something to do at `due` (ms since the epoch).
    pub fn due(due: u64) -> Self {
        Self { due, attempts: 0, detail: serde_json::Value::Null }
    }
}

/// A first outcome, kept to answer a retry with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutcomeRow {
    /// When (ms since the epoch).
    pub at: u64,
    /// SHA-256 of the request, so that another request under the same key is seen.
    pub request: String,
    /// The answer's status.
    pub status: u16,
    /// The answer's body.
    pub body: serde_json::Value,
}

/// Queues something, once for each (room, subject); a later row replaces it.
pub fn put(batch: &mut Batch, queue: Queue, room: &RoomId, subject: &str, row: &QueueRow) {
    codec::put(batch, Cf::SpaceQueues, parts(&[queue.name(), room.as_str(), subject]), row);
}

/// It is done.
pub fn delete(batch: &mut Batch, queue: Queue, room: &RoomId, subject: &str) {
    batch.delete(Cf::SpaceQueues, parts(&[queue.name(), room.as_str(), subject]));
}

/// What is queued for a subject.
pub fn queued(
    db: &impl Read,
    queue: Queue,
    room: &RoomId,
    subject: &str,
) -> Result<Option<QueueRow>, StorageError> {
    let key = parts(&[queue.name(), room.as_str(), subject]);
    codec::get(db, Cf::SpaceQueues, &key)
}

/// Up to `limit` rows of a queue: room, subject, row.
pub fn all(
    db: &impl Read,
    queue: Queue,
    limit: usize,
) -> Result<Vec<(String, String, QueueRow)>, StorageError> {
    from(db, queue, None, limit)
}

/// The same, from a room and subject on.
pub fn from(
    db: &impl Read,
    queue: Queue,
    first: Option<(&str, &str)>,
    limit: usize,
) -> Result<Vec<(String, String, QueueRow)>, StorageError> {
    let first = first.map(|(room, subject)| parts(&[queue.name(), room, subject]));
    let prefix = parts(&[queue.name()]);
    let rows = db.scan(Cf::SpaceQueues, &prefix, first.as_deref(), Direction::Forward, limit)?;
    rows.iter()
        .map(|(key, row)| {
            let mut parts = KeyParts::new(Cf::SpaceQueues, key);
            parts.str()?;
            Ok((parts.str()?.to_owned(), parts.str()?.to_owned(), codec::decode(Cf::SpaceQueues, row)?))
        })
        .collect()
}

/// Up to `limit` rows of a queue in one room: subject, row.
pub fn of_room(
    db: &impl Read,
    queue: Queue,
    room: &RoomId,
    limit: usize,
) -> Result<Vec<(String, QueueRow)>, StorageError> {
    let rows =
        db.scan(Cf::SpaceQueues, &parts(&[queue.name(), room.as_str()]), None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(key, row)| {
            let subject = super::last_text(Cf::SpaceQueues, key)?;
            Ok((subject, codec::decode(Cf::SpaceQueues, row)?))
        })
        .collect()
}

/// How many rows a queue has, counted up to `most`.
pub fn depth(db: &impl Read, queue: Queue, most: usize) -> Result<usize, StorageError> {
    Ok(db.scan(Cf::SpaceQueues, &parts(&[queue.name()]), None, Direction::Forward, most)?.len())
}

/// The remembered outcome of a request.
pub fn outcome(db: &impl Read, scope: &str, request_id: &str) -> Result<Option<OutcomeRow>, StorageError> {
    codec::get(db, Cf::SpaceOutcomes, &parts(&[scope, request_id]))
}

/// Remembers an outcome.
pub fn put_outcome(batch: &mut Batch, scope: &str, request_id: &str, row: &OutcomeRow) {
    codec::put(batch, Cf::SpaceOutcomes, parts(&[scope, request_id]), row);
}

/// Deletes the outcomes from before `before_ms` (ms since the epoch) among `limit`
/// rows from `from` on. Where to go on; `None` at the end.
pub fn expire_outcomes(
    db: &impl Read,
    batch: &mut Batch,
    from: Option<&[u8]>,
    before_ms: u64,
    limit: usize,
) -> Result<Option<Vec<u8>>, StorageError> {
    let mut rows = db.scan(Cf::SpaceOutcomes, &[], from, Direction::Forward, limit.saturating_add(1))?;
    let next = if rows.len() > limit { rows.pop().map(|(key, _)| key) } else { None };
    for (key, value) in rows {
        let row: OutcomeRow = codec::decode(Cf::SpaceOutcomes, &value)?;
        if row.at < before_ms {
            batch.delete(Cf::SpaceOutcomes, key);
        }
    }
    Ok(next)
}

/// A single remembered thing: a cursor, a secret.
pub fn meta<T: DeserializeOwned>(db: &impl Read, name: &[&str]) -> Result<Option<T>, StorageError> {
    codec::get(db, Cf::SpaceMeta, &parts(name))
}

/// Remembers a single thing.
pub fn put_meta<T: Serialize>(batch: &mut Batch, name: &[&str], value: &T) {
    codec::put(batch, Cf::SpaceMeta, parts(name), value);
}
