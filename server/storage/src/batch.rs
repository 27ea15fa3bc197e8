//! What is written at once: a [`Batch`], and the [`Commit`] that it becomes.

use std::fmt;

use rocksdb::WriteBatch;
use ruma::{OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};

use crate::{Cf, Database, codec, disk::Growth};

/// A place in the server's one stream of everything that happens: events,
/// account data, to-device messages, receipts, changes of shared spaces.
/// Global, monotone, with gaps; 0 is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamPosition(pub u64);

impl fmt::Display for StreamPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Writes that happen together or not at all.
///
/// A position that it allocated stays in flight, and holds back every later
/// one, until the batch is durable or dropped: allocate positions last, after
/// all slow work, and never wait for another commit in between.
pub struct Batch {
    pub(crate) database: Database,
    pub(crate) writes: WriteBatch,
    pub(crate) positions: Vec<u64>,
    /// Servers for which a row of the outbox is in it.
    pub(crate) destinations: Vec<OwnedServerName>,
    pub(crate) growth: Growth,
}

impl Batch {
    pub(crate) fn new(database: Database) -> Self {
        Self {
            database,
            writes: WriteBatch::default(),
            positions: Vec::new(),
            destinations: Vec::new(),
            growth: Growth::default(),
        }
    }

    /// Notes that a row of the outbox for `server` was put.
    pub(crate) fn waits_for(&mut self, server: &ServerName) {
        if self.destinations.iter().all(|noted| noted != server) {
            self.destinations.push(server.to_owned());
        }
    }

    /// Sets a value.
    pub fn put(&mut self, cf: Cf, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.growth = self.growth.max(Growth::of(cf));
        self.writes.put_cf(self.database.handle(cf), key, value);
    }

    /// Removes a value; no error if there is none.
    pub fn delete(&mut self, cf: Cf, key: impl AsRef<[u8]>) {
        self.writes.delete_cf(self.database.handle(cf), key);
    }

    /// Removes everything whose key begins with `prefix`, also what this batch
    /// has put before. An empty prefix, or one of 0xFF bytes only, removes nothing.
    pub fn delete_prefix(&mut self, cf: Cf, prefix: impl AsRef<[u8]>) {
        let prefix = prefix.as_ref();
        if let Some(end) = codec::prefix_end(prefix) {
            self.writes.delete_range_cf(self.database.handle(cf), prefix, &end);
        }
    }

    /// Allocates the next stream position; see the type's warning.
    pub fn position(&mut self) -> StreamPosition {
        let position = self.database.flow().allocate();
        self.positions.push(position);
        StreamPosition(position)
    }

    /// Whether nothing was put or deleted.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// The number of puts and deletes.
    pub fn len(&self) -> usize {
        self.writes.len()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.database.flow().give_up(&self.positions);
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("len", &self.len())
            .field("positions", &self.positions)
            .finish_non_exhaustive()
    }
}

/// Proof that a batch was written, though perhaps not synced yet.
#[derive(Clone, Copy, Debug)]
#[must_use = "not durable until `wait_durable`"]
pub struct Commit {
    /// RocksDB's sequence number; everything up to it is in the log.
    pub(crate) sequence: u64,
    /// The highest position of the batch, 0 if it had none.
    pub(crate) position: u64,
}

impl Commit {
    /// The highest position that the batch allocated; zero if none.
    pub fn position(&self) -> StreamPosition {
        StreamPosition(self.position)
    }
}
