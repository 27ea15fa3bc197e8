//! A room's entries as the pure crates read them: over the database, or over a
//! consistent snapshot of it.

use causeway_replication::Snapshot as ReplicationSnapshot;
use causeway_shared_space::{
    Change, ChangeId, ChangeLog, Counter, Dot, Entries, EntrySignature, Header, Link, Range, Value,
};
use causeway_storage::{
    Read, StorageError,
    shared_space::entries::{self, EntryRow},
};
use ruma::RoomId;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::SpaceError;

/// Rows read at once when a range of entries is read.
const READ_AT_ONCE: usize = 64;

/// Key documents that are served for one server.
const KEY_DOCUMENTS_MAX: usize = 8;
/// Keys of one server that are looked at for that.
const KEYS_SCANNED_MAX: usize = 256;

/// The held entries of one room.
#[derive(Debug)]
pub struct StoredEntries<'a, R> {
    /// Where they are read.
    pub db: &'a R,
    /// The room.
    pub room: &'a RoomId,
}

impl<R: Read> Entries for StoredEntries<'_, R> {
    type Error = StorageError;

    fn link(&self, id: &ChangeId) -> Result<Option<Link>, StorageError> {
        Ok(entries::link(self.db, self.room, id)?.map(entries::LinkRow::link))
    }

    fn at(&self, dot: &Dot) -> Result<Vec<ChangeId>, StorageError> {
        entries::at(self.db, self.room, dot)
    }
}

/// The shape of a room's logs, from storage.
pub fn load_log(db: &impl Read, room: &RoomId) -> Result<ChangeLog, StorageError> {
    Ok(ChangeLog::from_rows(entries::logs(db, room)?))
}

/// A consistent view of one room for the replicator. Take it after a barrier:
/// what it shows must be durable.
#[derive(Debug)]
pub struct SpaceSnapshot<'a, R> {
    stored: StoredEntries<'a, R>,
    log: ChangeLog,
}

impl<'a, R: Read> SpaceSnapshot<'a, R> {
    /// The view that `db` gives of a room.
    pub fn new(db: &'a R, room: &'a RoomId) -> Result<Self, StorageError> {
        Ok(Self { stored: StoredEntries { db, room }, log: load_log(db, room)? })
    }
}

impl<R: Read> Entries for SpaceSnapshot<'_, R> {
    type Error = StorageError;

    fn link(&self, id: &ChangeId) -> Result<Option<Link>, StorageError> {
        self.stored.link(id)
    }

    fn at(&self, dot: &Dot) -> Result<Vec<ChangeId>, StorageError> {
        self.stored.at(dot)
    }
}

impl<R: Read> ReplicationSnapshot for SpaceSnapshot<'_, R> {
    fn log(&self) -> &ChangeLog {
        &self.log
    }

    fn read(&self, range: &Range, limit: usize, bytes: usize) -> Result<Vec<Change>, StorageError> {
        let StoredEntries { db, room } = self.stored;
        let mut changes = Vec::new();
        let mut bytes_left = bytes;
        let mut cursor = (range.from, None);
        let forked = self.log.row(&range.replica).is_none_or(|log| log.runs().len() > 1);
        loop {
            let at_once = READ_AT_ONCE.min(limit - changes.len());
            let rows = entries::entries_from(db, room, &range.replica, cursor.0, cursor.1.as_ref(), at_once)?;
            for (counter, id, row) in &rows {
                if *counter > range.to.value() || (bytes_left == 0 && !changes.is_empty()) {
                    return Ok(changes);
                }
                if forked && entries::link(db, room, id)?.is_none_or(|link| link.run != range.run) {
                    continue;
                }
                let change = with_value(db, room, row)?;
                let value = change.value().map_or(0, |value| value.as_str().len());
                bytes_left = bytes_left.saturating_sub(change.header().as_str().len() + value);
                changes.push(change);
            }
            let last = rows.last().and_then(|(counter, id, _)| Some((Counter::new(*counter)?, *id)));
            match last {
                Some((counter, id)) if rows.len() == at_once && changes.len() < limit => {
                    cursor = (counter, Some(id));
                }
                _ => return Ok(changes),
            }
        }
    }

    fn keys(&self, server: &str) -> Result<Vec<Box<RawValue>>, StorageError> {
        let rows = entries::verify_keys(self.stored.db, self.stored.room, server, KEYS_SCANNED_MAX)?;
        let mut documents: Vec<_> = rows.into_iter().filter_map(|row| row.published).collect();
        documents.sort();
        documents.dedup();
        documents.truncate(KEY_DOCUMENTS_MAX);
        Ok(documents.into_iter().filter_map(|text| RawValue::from_string(text.into_string()).ok()).collect())
    }
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    header: &'a RawValue,
    signature: EntrySignature,
}

/// A stored entry's header and signature.
pub fn parts(row: &EntryRow) -> Option<(Header, EntrySignature)> {
    let entry: Entry<'_> = serde_json::from_str(row.entry.get()).ok()?;
    Some((Header::parse(entry.header.get().as_bytes()).ok()?, entry.signature))
}

/// A stored entry with its value, where that is at hand.
pub fn with_value(db: &impl Read, room: &RoomId, row: &EntryRow) -> Result<Change, StorageError> {
    let broken = || StorageError::BrokenKey { cf: causeway_storage::Cf::SpaceEntries.name() };
    let (header, signature) = parts(row).ok_or_else(broken)?;
    let value = match header.value_hash() {
        Some(_) => entries::value(db, room, &header.id())?.and_then(|text| Value::parse(&text).ok()),
        None => None,
    };
    Change::from_parts(header, signature, value).map_err(|_| broken())
}

/// The held entry with this id, with its value.
pub fn change(db: &impl Read, room: &RoomId, id: &ChangeId) -> Result<Option<Change>, SpaceError> {
    let Some(row) = entries::entry(db, room, id)? else { return Ok(None) };
    Ok(Some(with_value(db, room, &row)?))
}
