//! What other servers are still to be told, in the order in which it happened.
//!
//! A row is written in the batch of the fact that it tells of, and deleted only
//! when its destination has acknowledged it. So nothing is lost by a crash, and
//! what is sent twice is sent under the same transaction id.

pub mod again;
pub mod owed;

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Batch, Cf, Database, Direction, Full, Read, StorageError, StreamPosition, codec, codec::KeyParts,
};

/// Something to be told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A room event, by id; its bytes are where all events are.
    Pdu(OwnedEventId),
    /// An ephemeral unit that must arrive all the same (`edu_type` and `content`).
    Edu(Box<RawValue>),
}

/// A row of one destination.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where in the server's stream it happened.
    pub position: StreamPosition,
    /// What happened.
    pub entry: Entry,
}

/// A transaction that was begun and not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// Its id, the same at each attempt.
    pub transaction_id: String,
    /// Its time, milliseconds since the Unix epoch, the same at each attempt.
    pub origin_server_ts: u64,
    /// It holds the rows up to here.
    pub last: StreamPosition,
}

/// How a destination was last met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Failures in a row.
    pub failures: u32,
    /// No attempt before this time, milliseconds since the Unix epoch.
    pub retry_at_ms: u64,
    /// Since when it could not be reached, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub down_since_ms: u64,
    /// When the round of [`owed`] rows began that is open, milliseconds since the Unix epoch;
    /// zero while there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub owed_since_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Queues a room event for `destination`.
pub fn push_pdu(batch: &mut Batch, destination: &ServerName, position: StreamPosition, event_id: &EventId) {
    push(batch, destination, position, &Entry::Pdu(event_id.to_owned()));
}

/// Queues an ephemeral unit for `destination`.
pub fn push_edu(batch: &mut Batch, destination: &ServerName, position: StreamPosition, edu: Box<RawValue>) {
    push(batch, destination, position, &Entry::Edu(edu));
}

fn push(batch: &mut Batch, destination: &ServerName, position: StreamPosition, entry: &Entry) {
    batch.waits_for(destination);
    codec::put(batch, Cf::Outbox, codec::key().str(destination).u64(position.0), entry);
}

/// The first `limit` rows of `destination` from `from` on, oldest first.
///
/// A caller that knows up to where rows were deleted says so: deleted rows cost
/// a scan time until they are compacted away.
pub fn rows(
    read: &impl Read,
    destination: &ServerName,
    from: StreamPosition,
    limit: usize,
) -> Result<Vec<Row>, StorageError> {
    let prefix = codec::key().str(destination).finish();
    let from = codec::key().str(destination).u64(from.0).finish();
    let rows = read.scan(Cf::Outbox, &prefix, Some(&from), Direction::Forward, limit)?;
    rows.iter()
        .map(|(key, value)| {
            let mut parts = KeyParts::new(Cf::Outbox, key);
            parts.str()?;
            let position = StreamPosition(parts.u64()?);
            Ok(Row { position, entry: codec::decode(Cf::Outbox, value)? })
        })
        .collect()
}

/// How many rows of `destination` there are from `from` on, counted up to `limit`.
pub fn count(
    read: &impl Read,
    destination: &ServerName,
    from: StreamPosition,
    limit: usize,
) -> Result<usize, StorageError> {
    let prefix = codec::key().str(destination).finish();
    let from = codec::key().str(destination).u64(from.0).finish();
    read.count(Cf::Outbox, &prefix, &from, limit)
}

/// Whether so much waits for `destination`.
pub fn is_full(read: &impl Read, destination: &ServerName, full: Full) -> Result<bool, StorageError> {
    read.is_full(Cf::Outbox, codec::key().str(destination).as_ref(), full)
}

/// Deletes an acknowledged row.
pub fn delete(batch: &mut Batch, destination: &ServerName, position: StreamPosition) {
    batch.delete(Cf::Outbox, codec::key().str(destination).u64(position.0));
}

/// Every destination that has rows.
///
/// Deleted rows cost a scan time until they are compacted away, and this is asked
/// at every event: so rows are looked for once, and then kept count of.
pub fn destinations(database: &Database) -> Result<BTreeSet<OwnedServerName>, StorageError> {
    database.waiting().all(database)
}

/// Takes a destination off [`destinations`] unless it has rows from `from` on.
pub fn settle(
    database: &Database,
    destination: &ServerName,
    from: StreamPosition,
) -> Result<(), StorageError> {
    database.waiting().settle(database, destination, from)
}

/// The destinations with rows, kept in memory; `None` until they are asked for.
///
/// Invariant: a destination with rows is in it. A commit adds to it after its
/// rows are there, and one is taken off only under the lock and after a look.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<Option<BTreeSet<OwnedServerName>>>);

impl Waiting {
    pub(crate) fn add(&self, destinations: Vec<OwnedServerName>) {
        if !destinations.is_empty()
            && let Some(known) = &mut *self.lock()
        {
            known.extend(destinations);
        }
    }

    fn all(&self, database: &Database) -> Result<BTreeSet<OwnedServerName>, StorageError> {
        let mut known = self.lock();
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let mut found = BTreeSet::new();
        while let Some(next) =
            next_server(database, Cf::Outbox, found.last().map(|last: &OwnedServerName| &**last))?
        {
            found.insert(next);
        }
        *known = Some(found.clone());
        Ok(found)
    }

    fn settle(
        &self,
        database: &Database,
        destination: &ServerName,
        from: StreamPosition,
    ) -> Result<(), StorageError> {
        let mut known = self.lock();
        if let Some(known) = &mut *known
            && rows(database, destination, from, 1)?.is_empty()
        {
            known.remove(destination);
        }
        Ok(())
    }

    /// A set is whole between statements, so a panic elsewhere is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, Option<BTreeSet<OwnedServerName>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first destination after `after` (in the order of names) that has rows in a column family
/// whose keys begin with it.
fn next_server(
    read: &impl Read,
    cf: Cf,
    after: Option<&ServerName>,
) -> Result<Option<OwnedServerName>, StorageError> {
    let from = after.and_then(|server| codec::prefix_end(codec::key().str(server).as_ref()));
    let rows = read.scan(cf, &[], from.as_deref(), Direction::Forward, 1)?;
    let Some((key, _)) = rows.first() else { return Ok(None) };
    let name = KeyParts::new(cf, key).str()?;
    Ok(Some(OwnedServerName::try_from(name).map_err(|_| StorageError::BrokenKey { cf: cf.name() })?))
}

/// The transaction to `destination` that was not acknowledged.
pub fn in_flight(read: &impl Read, destination: &ServerName) -> Result<Option<InFlight>, StorageError> {
    codec::get(read, Cf::OutboxInFlight, codec::key().str(destination).as_ref())
}

/// Records that a transaction to `destination` begins.
pub fn put_in_flight(batch: &mut Batch, destination: &ServerName, in_flight: &InFlight) {
    codec::put(batch, Cf::OutboxInFlight, codec::key().str(destination), in_flight);
}

/// Records that the transaction to `destination` was acknowledged.
pub fn delete_in_flight(batch: &mut Batch, destination: &ServerName) {
    batch.delete(Cf::OutboxInFlight, codec::key().str(destination));
}

/// How `destination` was last met; the default for one never met.
pub fn destination(read: &impl Read, destination: &ServerName) -> Result<Destination, StorageError> {
    Ok(codec::get(read, Cf::Destinations, codec::key().str(destination).as_ref())?.unwrap_or_default())
}

/// Whether `destination` was ever met.
pub fn is_met(read: &impl Read, destination: &ServerName) -> Result<bool, StorageError> {
    Ok(read.get(Cf::Destinations, codec::key().str(destination).as_ref())?.is_some())
}

/// Up to `limit` destinations after `after` with how they were met.
pub fn destinations_met(
    read: &impl Read,
    after: Option<&ServerName>,
    limit: usize,
) -> Result<Vec<(OwnedServerName, Destination)>, StorageError> {
    let from = after.map(|server| codec::key().str(server).bytes(&[0]).finish());
    let rows = read.scan(Cf::Destinations, &[], from.as_deref(), Direction::Forward, limit)?;
    let broken = || StorageError::BrokenKey { cf: Cf::Destinations.name() };
    rows.iter()
        .map(|(key, value)| {
            let name = KeyParts::new(Cf::Destinations, key).str()?;
            let server = OwnedServerName::try_from(name).map_err(|_| broken())?;
            Ok((server, codec::decode(Cf::Destinations, value)?))
        })
        .collect()
}

/// Records how `destination` was met.
pub fn put_destination(batch: &mut Batch, destination: &ServerName, met: &Destination) {
    codec::put(batch, Cf::Destinations, codec::key().str(destination), met);
}
