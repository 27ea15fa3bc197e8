//! How much each server has put into a room: what its quota is held against.
//!
//! Counted are the bytes of its entries and of their values as they were taken
//! in; what is erased later is not given back. Written in the batch that writes
//! the entries. Where a row is lacking, the entries are of before it was counted,
//! and [`measure`] makes up for it once.

use causeway_shared_space::{Counter, ReplicaId};
use ruma::{RoomId, ServerName};
use serde::{Deserialize, Serialize};

use super::{entries, last_text, parts};
use crate::{Batch, Cf, Direction, Read, StorageError, codec};

/// Rows read at once while measuring.
const MEASURED_AT_ONCE: usize = 500;

/// What one server has put into a room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// Bytes of entries and values.
    pub bytes: u64,
    /// The smallest entry that was deferred because it did not fit, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deferred_bytes: Option<u64>,
}

/// What a server has put into a room, if that was counted.
pub fn usage(db: &impl Read, room: &RoomId, origin: &ServerName) -> Result<Option<UsageRow>, StorageError> {
    codec::get(db, Cf::SpaceUsage, &parts(&[room.as_str(), origin.as_str()]))
}

/// Up to `limit` servers with what they have put into a room.
pub fn usages(db: &impl Read, room: &RoomId, limit: usize) -> Result<Vec<(String, UsageRow)>, StorageError> {
    let rows = db.scan(Cf::SpaceUsage, &parts(&[room.as_str()]), None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(key, row)| Ok((last_text(Cf::SpaceUsage, key)?, codec::decode(Cf::SpaceUsage, row)?)))
        .collect()
}

/// Notes what a server has put into a room.
pub fn put_usage(batch: &mut Batch, room: &RoomId, origin: &ServerName, row: &UsageRow) {
    codec::put(batch, Cf::SpaceUsage, parts(&[room.as_str(), origin.as_str()]), row);
}

/// Forgets the count: it is made anew when it is needed.
pub fn delete_usage(batch: &mut Batch, room: &RoomId, origin: &ServerName) {
    batch.delete(Cf::SpaceUsage, parts(&[room.as_str(), origin.as_str()]));
}

/// The bytes that are held of a replica, counted entry by entry.
pub fn measure(db: &impl Read, room: &RoomId, replica: &ReplicaId) -> Result<u64, StorageError> {
    let (mut bytes, mut from, mut after) = (0, Counter::FIRST, None);
    loop {
        let page = entries::entries_from(db, room, replica, from, after.as_ref(), MEASURED_AT_ONCE)?;
        for (_, id, row) in &page {
            let value = entries::value(db, room, id)?.map_or(0, |value| value.len());
            bytes += u64::try_from(row.entry.get().len() + value).unwrap_or(u64::MAX);
        }
        match page.last().and_then(|(counter, id, _)| Some((Counter::new(*counter)?, *id))) {
            Some((counter, id)) if page.len() == MEASURED_AT_ONCE => (from, after) = (counter, Some(id)),
            _ => return Ok(bytes),
        }
    }
}
