//! Room on the disk: while little is left, what would make the database grow is refused.
//!
//! A disk that is really full hurts: RocksDB can't write what it took already, and the log
//! can't be synced. So writes end before, at a reserve: growing ones at the whole of it, the
//! small rows by which readers and other servers go on at a quarter of it. What only deletes
//! is always let through: it makes room.
//!
//! Invariant: nothing is remembered; as soon as there is room, writes are taken again.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::Cf;

/// The part of the reserve that small rows don't touch.
const LAST_PART: u64 = 4;

/// Too little room for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("only {} MiB are free on the disk of the data folder, and {} MiB are kept free", free >> 20, reserve >> 20)]
pub struct DiskFull {
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that are to stay free.
    pub reserve: u64,
}

/// What a batch does to the size of the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Growth {
    /// It only deletes.
    #[default]
    Shrinks,
    /// It writes rows that were there already, or are few.
    Stays,
    /// It adds what stays.
    Grows,
}

impl Growth {
    /// What a row of this column family does.
    pub(crate) fn of(cf: Cf) -> Self {
        match cf {
            Cf::Meta
            | Cf::Devices
            | Cf::PushCursor
            | Cf::SyncProgress
            | Cf::SyncGiven
            | Cf::SyncRead
            | Cf::SlidingConnections
            | Cf::SlidingRequired
            | Cf::SlidingRooms
            | Cf::OutboxInFlight
            | Cf::Destinations
            | Cf::OutboxOwed
            | Cf::OutboxAgain
            | Cf::OutboxAgainDue => Self::Stays,
            _ => Self::Grows,
        }
    }
}

/// The reserve, and whether it was told that it is touched.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// 0 refuses nothing.
    reserve: AtomicU64,
    told: AtomicBool,
}

impl Disk {
    pub(crate) fn keep_free(&self, bytes: u64) {
        self.reserve.store(bytes, Ordering::Relaxed);
    }

    /// Whether a write may be done now.
    pub(crate) fn check(&self, growth: Growth, folder: &Path) -> Result<(), DiskFull> {
        let reserve = self.reserve.load(Ordering::Relaxed);
        if reserve == 0 || growth == Growth::Shrinks {
            return Ok(());
        }
        // One that can't be asked is not taken for a full one.
        let Some(free) = free_bytes(folder) else { return Ok(()) };
        let full = DiskFull { free, reserve };
        let is_full = free < reserve;
        if self.told.swap(is_full, Ordering::Relaxed) != is_full {
            if is_full {
                tracing::error!(error = %full, "the disk is full: nothing new is accepted until there is room");
            } else {
                tracing::info!(free, "there is room on the disk again: everything is accepted");
            }
        }
        let needed = if growth == Growth::Grows { reserve } else { reserve / LAST_PART };
        if free < needed { Err(full) } else { Ok(()) }
    }
}

/// Bytes that this process may still write to the file system of `folder`.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Database, Direction, Options, Read as _, StorageError};

    #[test]
    fn growth_is_refused_at_the_reserve_and_taken_as_soon_as_there_is_room() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(folder.path(), &Options::default()).expect("opens");
        let put = |cf: Cf| {
            let mut batch = database.batch();
            batch.put(cf, b"key", b"\x01{}");
            database.commit_durable(batch)
        };
        put(Cf::Accounts).expect("there is room");
        let free = free_bytes(folder.path()).expect("can be asked");
        // Twice of what is free: only small rows.
        database.keep_free(free.saturating_mul(2));
        let refused = put(Cf::Accounts).expect_err("full");
        assert!(matches!(refused, StorageError::Full(DiskFull { reserve, .. }) if reserve == free * 2));
        put(Cf::SyncProgress).expect("readers go on");
        database.check_room().expect_err("also for files");
        // Nothing at all, but what makes room.
        database.keep_free(u64::MAX);
        put(Cf::SyncProgress).expect_err("full");
        assert_eq!(database.scan(Cf::Accounts, b"", None, Direction::Forward, 9).expect("reads").len(), 1);
        let mut batch = database.batch();
        batch.delete(Cf::Accounts, b"key");
        database.commit_durable(batch).expect("makes room");
        database.keep_free(1);
        put(Cf::Accounts).expect("there is room again");
    }

    #[test]
    fn a_folder_that_is_not_there_has_no_room_to_tell() {
        assert_eq!(free_bytes(Path::new("/no such folder")), None);
    }
}
