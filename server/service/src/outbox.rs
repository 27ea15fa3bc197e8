//! What other servers are to be told: durable rows, and short-lived units that
//! are kept in memory only.
//!
//! Services write durable rows in the batch of the fact itself
//! (`causeway_storage::outbox`), or hand a short-lived unit to
//! [`Outbox::queue_ephemeral`]. The federation door's sender takes both from
//! here as [`Transaction`]s, one at a time for each destination.
//!
//! Invariants: rows go away only when acknowledged; a transaction that was begun
//! keeps its id, time and rows until then, also over a restart; nothing leaves
//! that is not durable; memory per destination is bounded.

pub mod again;
mod behind;
pub mod owed;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use causeway_room::Pdu;
use causeway_storage::{
    Batch, Database, StreamPosition,
    outbox::{self as rows, Entry, InFlight},
    rooms,
};
pub use causeway_storage::{StorageError, outbox::Destination};
use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName};
use serde_json::value::RawValue;

use crate::notify::{Notifier, Topic};

/// Events in one transaction (server-server API, "Transactions").
pub const TRANSACTION_PDUS_MAX: usize = 50;
/// Ephemeral units in one transaction.
pub const TRANSACTION_EDUS_MAX: usize = 100;
/// Short-lived units that wait for one destination; the oldest is dropped first.
pub const EPHEMERAL_MAX: usize = 1_000;
/// Durable rows in one transaction, at most.
pub const TRANSACTION_ROWS_MAX: usize = TRANSACTION_PDUS_MAX + TRANSACTION_EDUS_MAX;
/// Full transactions that a unit of [`Outbox::queue_after_events`] lets go before it.
const LET_PASS_MAX: u8 = 20;
/// How far the depth of a queue is counted.
pub const DEPTH_MAX: usize = 10_000;
/// Destinations that are listed.
pub const KNOWN_MAX: usize = 100_000;
/// Rows that are looked at for the oldest event that waits.
const OLDEST_LOOKED_AT: usize = 100;
/// Bytes of events and units after which a transaction is full.
pub const TRANSACTION_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Rooms that are remembered for a destination that refused events of them, or was not sent some,
/// together with the events that put it out of one.
pub const OWED_MAX: usize = 100_000;
/// How long after a refusal the last events of such rooms are tried.
pub const CATCH_UP_AFTER_MS: u64 = 10 * 60 * 1_000;
/// Last events of one such room.
const OWED_HEADS_MAX: usize = 5;

/// The queues of all destinations.
#[derive(Debug)]
pub struct Outbox {
    database: Database,
    notifier: Arc<Notifier>,
    ephemeral: Mutex<HashMap<OwnedServerName, VecDeque<Ephemeral>>>,
    /// Up to here, inclusive, a destination has no rows any more.
    done: Mutex<HashMap<OwnedServerName, StreamPosition>>,
    /// See [`Self::writing`]. Taken before `done`.
    writing: Mutex<()>,
    behind: Mutex<behind::Behind>,
}

/// How it stands with a destination.
#[derive(Clone, Debug)]
pub struct Standing {
    /// How it was last met.
    pub met: Destination,
    /// What waits for it, counted up to [`DEPTH_MAX`].
    pub queued: usize,
    /// `origin_server_ts` of the oldest event that waits.
    pub oldest_ts: Option<u64>,
}

/// The time of an event.
#[derive(serde::Deserialize)]
struct Timed {
    origin_server_ts: u64,
}

#[derive(Debug)]
struct Ephemeral {
    key: String,
    edu: Box<RawValue>,
    /// Full transactions that it still lets go before it.
    lets_pass: u8,
}

/// What is sent to one destination at once.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Unique for this server and destination.
    pub id: String,
    /// Milliseconds since the Unix epoch.
    pub origin_server_ts: u64,
    /// Events.
    pub pdus: Vec<Box<RawValue>>,
    /// Ephemeral units.
    pub edus: Vec<Box<RawValue>>,
    /// The durable rows that are in it.
    positions: Vec<StreamPosition>,
    /// The events.
    events: Vec<OwnedEventId>,
}

impl Outbox {
    /// Queues over `database`.
    pub fn new(database: Database, notifier: Arc<Notifier>) -> Self {
        Self {
            database,
            notifier,
            ephemeral: Mutex::default(),
            done: Mutex::default(),
            writing: Mutex::default(),
            behind: Mutex::default(),
        }
    }

    /// Queues a unit that need not survive a restart. It replaces one of the same
    /// `key` that has not left yet.
    pub fn queue_ephemeral(&self, destination: &ServerName, key: impl Into<String>, edu: Box<RawValue>) {
        self.queue(destination, Ephemeral { key: key.into(), edu, lets_pass: 0 });
    }

    /// The same for one that speaks of what events bring which were queued before
    /// it: it stays while they fill whole transactions, but not for long.
    pub fn queue_after_events(&self, destination: &ServerName, key: impl Into<String>, edu: Box<RawValue>) {
        self.queue(destination, Ephemeral { key: key.into(), edu, lets_pass: LET_PASS_MAX });
    }

    fn queue(&self, destination: &ServerName, mut unit: Ephemeral) {
        {
            let mut all = self.lock();
            let queue = all.entry(destination.to_owned()).or_default();
            if let Some(at) = queue.iter().position(|queued| queued.key == unit.key) {
                // Who is replaced again and again must not wait for ever.
                unit.lets_pass =
                    queue.remove(at).map_or(0, |replaced| replaced.lets_pass.min(unit.lets_pass));
            }
            if queue.len() >= EPHEMERAL_MAX {
                queue.pop_front();
            }
            queue.push_back(unit);
        }
        self.notifier.notify([&Topic::Outbox]);
    }

    /// Every destination that something waits for.
    pub fn destinations(&self) -> Result<BTreeSet<OwnedServerName>, StorageError> {
        let mut found = rows::destinations(&self.database)?;
        found.extend(self.lock().keys().cloned());
        Ok(found)
    }

    /// The transaction to send to `destination` now: the one that was begun and
    /// not acknowledged, or a new one called `fresh_id`, of at most `rows_max`
    /// durable rows. Short-lived units come only with one that may be full.
    /// `None`: nothing waits.
    pub fn next(
        &self,
        destination: &ServerName,
        fresh_id: &str,
        now_ms: u64,
        rows_max: usize,
    ) -> Result<Option<Transaction>, StorageError> {
        if let Some(begun) = rows::in_flight(&self.database, destination)? {
            let mut transaction = Transaction::new(begun.transaction_id, begun.origin_server_ts);
            self.fill(&mut transaction, destination, begun.last, TRANSACTION_ROWS_MAX)?;
            if !transaction.positions.is_empty() {
                return Ok(Some(transaction));
            }
        }
        loop {
            let mut transaction = Transaction::new(fresh_id.to_owned(), now_ms);
            self.fill(&mut transaction, destination, self.database.visible(), rows_max)?;
            let Some(&last) = transaction.positions.last() else {
                self.take_ephemeral(&mut transaction, destination);
                if transaction.units() == 0 {
                    rows::settle(&self.database, destination, self.first_row(destination))?;
                    return Ok(None);
                }
                return Ok(Some(transaction));
            };
            if rows_max >= TRANSACTION_ROWS_MAX {
                self.take_ephemeral(&mut transaction, destination);
            }
            if transaction.units() == 0 {
                // Rows of events that are gone; more may follow.
                self.acknowledged(destination, &transaction)?;
                continue;
            }
            let mut batch = self.database.batch();
            let (transaction_id, origin_server_ts) = (transaction.id.clone(), transaction.origin_server_ts);
            rows::put_in_flight(
                &mut batch,
                destination,
                &InFlight { transaction_id, origin_server_ts, last },
            );
            // Unsynced: were it lost in a crash, the rows would go out under a
            // new id, which costs the peer some work and nothing else.
            let _unsynced = self.database.commit(batch)?;
            return Ok(Some(transaction));
        }
    }

    /// Adds rows up to `last` while there is room.
    fn fill(
        &self,
        transaction: &mut Transaction,
        destination: &ServerName,
        last: StreamPosition,
        rows_max: usize,
    ) -> Result<(), StorageError> {
        let mut bytes = 0;
        let from = self.first_row(destination);
        for row in rows::rows(&self.database, destination, from, rows_max.clamp(1, TRANSACTION_ROWS_MAX))? {
            let full = transaction.pdus.len() >= TRANSACTION_PDUS_MAX
                || transaction.edus.len() >= TRANSACTION_EDUS_MAX;
            if row.position > last || full || bytes >= TRANSACTION_BYTES_MAX {
                break;
            }
            match row.entry {
                Entry::Pdu(event_id) => {
                    if let Some(pdu) = self.pdu(&event_id)? {
                        bytes += pdu.get().len();
                        transaction.pdus.push(pdu);
                        transaction.events.push(event_id);
                    }
                }
                Entry::Edu(edu) => {
                    bytes += edu.get().len();
                    transaction.edus.push(edu);
                }
            }
            transaction.positions.push(row.position);
        }
        Ok(())
    }

    /// An event as it goes out: without what was redacted of it meanwhile.
    fn pdu(&self, event_id: &EventId) -> Result<Option<Box<RawValue>>, StorageError> {
        let Some(raw) = rooms::pdu_raw(&self.database, event_id)? else { return Ok(None) };
        if rooms::redaction_of(&self.database, event_id)?.is_none() {
            return Ok(Some(raw));
        }
        let meta = rooms::event_meta(&self.database, event_id)?;
        let room = meta.map(|meta| rooms::room(&self.database, &meta.room_id)).transpose()?.flatten();
        let rules = room.and_then(|room| causeway_room::version::rules(&room.version));
        let redacted = rules.and_then(|rules| Pdu::parse(&rules, raw.get()).ok()?.redacted(&rules).ok());
        // What can't be redacted is better not told.
        Ok(redacted.map(|pdu| pdu.raw().to_owned()))
    }

    fn take_ephemeral(&self, transaction: &mut Transaction, destination: &ServerName) {
        let mut all = self.lock();
        let Some(queue) = all.get_mut(destination) else { return };
        let full = transaction.pdus.len() >= TRANSACTION_PDUS_MAX;
        let mut stay = VecDeque::new();
        for mut unit in queue.drain(..) {
            if full && unit.lets_pass > 0 {
                unit.lets_pass -= 1;
                stay.push_back(unit);
            } else if transaction.edus.len() >= TRANSACTION_EDUS_MAX {
                stay.push_back(unit);
            } else {
                transaction.edus.push(unit.edu);
            }
        }
        *queue = stay;
        if queue.is_empty() {
            all.remove(destination);
        }
    }

    /// Forgets what `destination` acknowledged. Not synced: after a crash it may
    /// be sent again, under the same id.
    pub fn acknowledged(
        &self,
        destination: &ServerName,
        transaction: &Transaction,
    ) -> Result<(), StorageError> {
        if transaction.positions.is_empty() {
            return Ok(());
        }
        let batch = self.database.batch();
        self.forget(batch, destination, transaction)
    }

    /// Deletes the transaction's rows with `batch`.
    fn forget(
        &self,
        mut batch: Batch,
        destination: &ServerName,
        transaction: &Transaction,
    ) -> Result<(), StorageError> {
        for &position in &transaction.positions {
            rows::delete(&mut batch, destination, position);
        }
        rows::delete_in_flight(&mut batch, destination);
        let _unsynced = self.database.commit(batch)?;
        if let Some(&last) = transaction.positions.last() {
            // Rows are visible in the order of their positions, so none can come
            // to be below this one.
            self.done().insert(destination.to_owned(), last);
        }
        Ok(())
    }

    /// Gives a transaction up as it is: its rows go out again under another id.
    pub fn abandon(&self, destination: &ServerName) -> Result<(), StorageError> {
        let mut batch = self.database.batch();
        rows::delete_in_flight(&mut batch, destination);
        let _unsynced = self.database.commit(batch)?;
        Ok(())
    }

    /// How much waits for `destination`, counted up to [`DEPTH_MAX`].
    pub fn depth(&self, destination: &ServerName) -> Result<usize, StorageError> {
        self.depth_up_to(destination, DEPTH_MAX)
    }

    fn depth_up_to(&self, destination: &ServerName, limit: usize) -> Result<usize, StorageError> {
        let durable = rows::count(&self.database, destination, self.first_row(destination), limit)?;
        Ok(durable + self.lock().get(destination).map_or(0, VecDeque::len))
    }

    /// Every destination that was met or that something waits for, at most [`KNOWN_MAX`].
    pub fn known(&self) -> Result<BTreeSet<OwnedServerName>, StorageError> {
        let met = rows::destinations_met(&self.database, None, KNOWN_MAX)?;
        let mut known: BTreeSet<_> = met.into_iter().map(|(server, _)| server).collect();
        known.extend(self.destinations()?);
        Ok(known)
    }

    /// Whether `destination` was met or something waits for it.
    pub fn is_known(&self, destination: &ServerName) -> Result<bool, StorageError> {
        Ok(rows::is_met(&self.database, destination)? || self.depth_up_to(destination, 1)? > 0)
    }

    /// How it stands with `destination`.
    pub fn standing(&self, destination: &ServerName) -> Result<Standing, StorageError> {
        let oldest = rows::rows(&self.database, destination, self.first_row(destination), OLDEST_LOOKED_AT)?;
        let mut oldest_ts = None;
        for row in oldest {
            if let Entry::Pdu(event_id) = row.entry
                && let Some(raw) = rooms::pdu_raw(&self.database, &event_id)?
                && let Ok(Timed { origin_server_ts }) = serde_json::from_str(raw.get())
            {
                oldest_ts = Some(origin_server_ts);
                break;
            }
        }
        Ok(Standing { met: self.met(destination)?, queued: self.depth(destination)?, oldest_ts })
    }

    /// How `destination` was last met.
    pub fn met(&self, destination: &ServerName) -> Result<Destination, StorageError> {
        rows::destination(&self.database, destination)
    }

    /// Remembers a pause for `destination`. Not synced: it is only a pause.
    pub fn set_pause(
        &self,
        destination: &ServerName,
        failures: u32,
        retry_at_ms: u64,
    ) -> Result<(), StorageError> {
        let _writing = self.writing();
        let before = self.met(destination)?;
        let down_since_ms = match (failures, before.down_since_ms) {
            (0, _) => 0,
            // The first pause is short: this is about when it began.
            (_, 0) => retry_at_ms,
            (_, since) => since,
        };
        let met = Destination { failures, retry_at_ms, down_since_ms, ..before };
        let mut batch = self.database.batch();
        rows::put_destination(&mut batch, destination, &met);
        let _unsynced = self.database.commit(batch)?;
        Ok(())
    }

    /// Held while a destination's row is read and written.
    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn behind(&self) -> MutexGuard<'_, behind::Behind> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is no row of a destination before this.
    fn first_row(&self, destination: &ServerName) -> StreamPosition {
        self.done().get(destination).map_or(StreamPosition(0), |done| StreamPosition(done.0 + 1))
    }

    fn done(&self) -> MutexGuard<'_, HashMap<OwnedServerName, StreamPosition>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OwnedServerName, VecDeque<Ephemeral>>> {
        self.ephemeral.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transaction {
    /// A transaction that says nothing.
    pub fn empty(id: String, origin_server_ts: u64) -> Self {
        Self::new(id, origin_server_ts)
    }

    fn new(id: String, origin_server_ts: u64) -> Self {
        let (pdus, edus, positions, events) = Default::default();
        Self { id, origin_server_ts, pdus, edus, positions, events }
    }

    /// Events and units in it.
    pub fn units(&self) -> usize {
        self.pdus.len() + self.edus.len()
    }

    /// The ids of the events in it.
    pub fn events(&self) -> &[OwnedEventId] {
        &self.events
    }

    /// The durable rows in it.
    pub fn rows(&self) -> usize {
        self.positions.len()
    }
}
