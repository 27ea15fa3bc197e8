//! Rows of what users reported to the administrators.

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
};

/// Row of `Meta`: the highest id that was ever given, as a number of eight bytes.
const LAST_ID: &[u8] = b"report-id";

/// One report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who reported.
    pub user_id: OwnedUserId,
    /// When, in milliseconds since the epoch.
    pub received_ts: u64,
    /// What.
    pub about: About,
    /// Why, in the reporter's words.
    pub reason: Option<String>,
    /// How bad it is: -100 for the worst, 0 for harmless.
    pub score: Option<i64>,
}

/// What a report is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// An event.
    Event {
        /// Its room.
        room_id: OwnedRoomId,
        /// Its id.
        event_id: OwnedEventId,
        /// Who sent it.
        sender: OwnedUserId,
    },
    /// A whole room.
    Room(OwnedRoomId),
    /// A user, of any server.
    User(OwnedUserId),
}

/// One report.
pub fn report(read: &impl Read, id: u64) -> Result<Option<Report>, StorageError> {
    codec::get(read, Cf::Reports, key().u64(id).as_ref())
}

/// Adds it.
pub fn put(batch: &mut Batch, id: u64, report: &Report) {
    codec::put(batch, Cf::Reports, key().u64(id), report);
}

/// Deletes it.
pub fn delete(batch: &mut Batch, id: u64) {
    batch.delete(Cf::Reports, key().u64(id));
}

/// Reports in the order of their ids, beginning after `after`; at most `limit`.
pub fn reports(
    read: &impl Read,
    after: Option<u64>,
    limit: usize,
) -> Result<Vec<(u64, Report)>, StorageError> {
    let from = after.map(|after| key().u64(after.saturating_add(1)).finish());
    let rows = read.scan(Cf::Reports, b"", from.as_deref(), Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let id = KeyParts::new(Cf::Reports, row).u64()?;
            Ok((id, codec::decode(Cf::Reports, value)?))
        })
        .collect()
}

/// The highest id that was ever given; 0 for none.
pub fn last_id(read: &impl Read) -> Result<u64, StorageError> {
    let value = read.get(Cf::Meta, LAST_ID)?;
    value.map_or(Ok(0), |value| codec::decode_u64(Cf::Meta, &value))
}

/// Remembers it.
pub fn put_last_id(batch: &mut Batch, id: u64) {
    batch.put(Cf::Meta, LAST_ID, id.to_be_bytes());
}
