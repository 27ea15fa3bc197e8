//! How much each other server may put into a room.
//!
//! A bound on the disk that one server can fill: what passes it is not held for
//! the time being, is told in the room's status, and comes with a later pull when
//! there is room again (a larger quota). This server's own entries are not counted.
//!
//! Invariant: what is counted is written in the batch that writes the entries.

use std::collections::{HashMap, hash_map::Entry};

use causeway_shared_space::Change;
use causeway_storage::{
    Batch, Database, StorageError,
    shared_space::usage::{self, UsageRow},
};
use ruma::{OwnedServerName, RoomId, ServerName};

use super::stored;

/// What servers have put into one room, as far as drafted.
#[derive(Debug)]
pub struct Quota {
    /// Bytes that each may put into a room.
    bytes_max: u64,
    used: HashMap<OwnedServerName, Used>,
}

#[derive(Debug)]
struct Used {
    row: UsageRow,
    changed: bool,
}

impl Quota {
    /// With so many bytes for each server.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, used: HashMap::new() }
    }

    /// Whether so many bytes of a server fit; notes it if they do not.
    pub fn has_room(
        &mut self,
        db: &Database,
        room: &RoomId,
        origin: &ServerName,
        bytes: u64,
    ) -> Result<bool, StorageError> {
        let used = match self.used.entry(origin.to_owned()) {
            Entry::Occupied(used) => used.into_mut(),
            Entry::Vacant(none) => {
                let kept = usage::usage(db, room, origin)?;
                let changed = kept.is_none();
                let row = match kept {
                    Some(row) => row,
                    None => UsageRow { bytes: measure(db, room, origin)?, deferred_bytes: None },
                };
                none.insert(Used { row, changed })
            }
        };
        let fits = used.row.bytes.saturating_add(bytes) <= self.bytes_max;
        if !fits && used.row.deferred_bytes.is_none_or(|least| bytes < least) {
            used.row.deferred_bytes = Some(bytes);
            used.changed = true;
        }
        Ok(fits)
    }

    /// Counts what was found to fit and is held now.
    pub fn add(&mut self, origin: &ServerName, bytes: u64) {
        if let Some(used) = self.used.get_mut(origin) {
            used.row.bytes = used.row.bytes.saturating_add(bytes);
            used.changed = true;
        }
    }

    /// Writes what has changed.
    pub fn finish(&self, batch: &mut Batch, room: &RoomId) {
        for (origin, used) in self.used.iter().filter(|(_, used)| used.changed) {
            usage::put_usage(batch, room, origin, &used.row);
        }
    }
}

/// The bytes of an entry as they are counted.
pub fn size(change: &Change) -> u64 {
    let entry = u64::try_from(change.to_json_without_value().len()).unwrap_or(u64::MAX);
    entry.saturating_add(value_size(change))
}

/// The bytes of its value.
pub fn value_size(change: &Change) -> u64 {
    change.value().map_or(0, |value| u64::try_from(value.as_str().len()).unwrap_or(u64::MAX))
}

/// What is held of a server whose entries were not counted when they came.
fn measure(db: &Database, room: &RoomId, origin: &ServerName) -> Result<u64, StorageError> {
    let log = stored::load_log(db, room)?;
    let mut bytes = 0;
    for (replica, _) in log.rows().filter(|(replica, _)| replica.server_text() == origin.as_str()) {
        bytes += usage::measure(db, room, replica)?;
    }
    Ok(bytes)
}
