//! Events that a destination answered for with an error, in a transaction that it took:
//! it could not get what is before them, say, while it was cut off from others. They
//! are sent again, with pauses; nobody else may have a reason to write in their room.
//!
//! Invariant: of a room only the last such event is kept, which names the others as its
//! past; how many rooms, and how often, is bounded.

use std::collections::{BTreeMap, BTreeSet};

use causeway_storage::{
    StorageError,
    outbox::{self as rows, Again},
    rooms,
};
use ruma::{OwnedEventId, OwnedRoomId, ServerName};

use super::{Outbox, Transaction};
use crate::notify::Topic;

/// Rooms of one destination.
pub const ROOMS_MAX: usize = 100;
/// How often it is tried: for half an hour in all.
pub const TRIES_MAX: u32 = 10;
/// Before the first time; doubled each time.
const PAUSE_MS: u64 = 2_000;
const PAUSE_MS_MAX: u64 = 10 * 60 * 1_000;
/// Destinations read at once.
const DESTINATIONS_AT_ONCE: usize = 500;

impl Outbox {
    /// Notes what `destination` said of the events of a transaction that it took.
    ///
    /// # Errors
    /// Storage failed.
    pub fn answered(
        &self,
        destination: &ServerName,
        transaction: &Transaction,
        refused: &BTreeSet<OwnedEventId>,
        now_ms: u64,
    ) -> Result<(), StorageError> {
        let _writing = self.writing();
        let mut met = self.met(destination)?;
        if refused.is_empty() && met.again.is_empty() {
            return Ok(());
        }
        let mut answers: BTreeMap<OwnedRoomId, Option<&OwnedEventId>> = BTreeMap::new();
        for event_id in &transaction.events {
            if let Some(meta) = rooms::event_meta(&self.database, event_id)? {
                let last = answers.entry(meta.room_id).or_default();
                *last = refused.get(event_id).or(*last);
            }
        }
        for (room_id, last) in answers {
            let at = met.again.iter().position(|one| one.room_id == room_id);
            let tries = at.map_or(0, |at| met.again.swap_remove(at).tries) + 1;
            // What was taken was so with its past.
            let Some(event_id) = last else { continue };
            if tries > TRIES_MAX || met.again.len() >= ROOMS_MAX {
                tracing::info!(server = %destination, %event_id, tries, "it is not sent again");
                continue;
            }
            let pause_ms = PAUSE_MS.saturating_mul(1 << (tries - 1)).min(PAUSE_MS_MAX);
            met.again.push(Again {
                room_id,
                event_id: event_id.clone(),
                tries,
                at_ms: now_ms.saturating_add(pause_ms),
            });
        }
        let mut batch = self.database.batch();
        rows::put_destination(&mut batch, destination, &met);
        let _unsynced = self.database.commit(batch)?;
        Ok(())
    }

    /// Queues what `destination` could not take and may be able to now; when to look
    /// again, in milliseconds since the Unix epoch, if something is left.
    ///
    /// # Errors
    /// Storage failed.
    pub fn send_again(&self, destination: &ServerName, now_ms: u64) -> Result<Option<u64>, StorageError> {
        self.queue_again(destination, now_ms, now_ms)
    }

    /// The same for what is due at some time.
    fn queue_again(
        &self,
        destination: &ServerName,
        now_ms: u64,
        until_ms: u64,
    ) -> Result<Option<u64>, StorageError> {
        let _writing = self.writing();
        let mut met = self.met(destination)?;
        let first = met.again.iter().map(|one| one.at_ms).min();
        if first.is_none_or(|first| first > until_ms) {
            return Ok(first);
        }
        let (mut batch, mut left) = (self.database.batch(), Vec::new());
        for mut one in met.again {
            if one.at_ms <= until_ms {
                if !rooms::joined_servers(&self.database, &one.room_id)?.contains_key(destination) {
                    continue;
                }
                let position = batch.position();
                rows::push_pdu(&mut batch, destination, position, &one.event_id);
                // Its answer says more.
                one.at_ms = now_ms.saturating_add(PAUSE_MS_MAX);
            }
            left.push(one);
        }
        met.again = left;
        rows::put_destination(&mut batch, destination, &met);
        let _commit = self.database.commit_durable(batch)?;
        self.notifier.notify([&Topic::Outbox]);
        Ok(Some(now_ms))
    }

    /// Queues all that any destination could not take: after a start nobody waits to do it.
    ///
    /// # Errors
    /// Storage failed.
    pub fn send_all_again(&self, now_ms: u64) -> Result<(), StorageError> {
        let mut after = None;
        loop {
            let page = rows::destinations_met(&self.database, after.as_deref(), DESTINATIONS_AT_ONCE)?;
            for (server, met) in &page {
                if !met.again.is_empty() {
                    self.queue_again(server, now_ms, u64::MAX)?;
                }
            }
            match page.last() {
                Some((server, _)) if page.len() == DESTINATIONS_AT_ONCE => after = Some(server.clone()),
                _ => return Ok(()),
            }
        }
    }
}
