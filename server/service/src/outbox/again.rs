//! Events that a destination answered for with an error, in a transaction that it took:
//! it could not get what is before them, say, while it was cut off from others. They
//! are sent again, with pauses; nobody else may have a reason to write in their room. The
//! pauses stay short for half an hour, as what is in the way is most often a link that was
//! cut; a destination that was away itself is sent them as soon as it is back.
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
/// How often it is tried: for a day in all.
pub const TRIES_MAX: u32 = SHORT_TRIES_MAX + 140;
/// Before the first time; doubled each time.
const PAUSE_MS: u64 = 2_000;
/// The longest pause for a while, so that what is mended is so for everybody within a minute.
pub const SHORT_PAUSE_MS_MAX: u64 = 20_000;
/// How often it is tried with such pauses: for half an hour.
const SHORT_TRIES_MAX: u32 = 100;
/// The pause from then on.
const PAUSE_MS_MAX: u64 = 10 * 60 * 1_000;
/// Destinations read at once.
const DESTINATIONS_AT_ONCE: usize = 500;

/// How long to wait after so many tries in vain, in milliseconds.
pub fn pause_ms(tries: u32) -> u64 {
    if tries >= SHORT_TRIES_MAX {
        return PAUSE_MS_MAX;
    }
    PAUSE_MS.saturating_mul(1 << tries.min(31)).min(SHORT_PAUSE_MS_MAX)
}

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
            let before = at.map(|at| met.again.swap_remove(at));
            // What was taken was so with its past.
            let Some(event_id) = last else { continue };
            // Another event than before is no other try of that.
            let tries =
                before.map_or(1, |before| before.tries.max(1) + u32::from(before.event_id == **event_id));
            if tries > TRIES_MAX || met.again.len() >= ROOMS_MAX {
                tracing::info!(server = %destination, %event_id, tries, "it is not sent again");
                continue;
            }
            let pause_ms = pause_ms(tries - 1);
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

    /// The same for all that it could not take, whenever it is due: it is back after an outage.
    ///
    /// # Errors
    /// Storage failed.
    pub fn send_again_at_once(&self, destination: &ServerName, now_ms: u64) -> Result<(), StorageError> {
        self.queue_again(destination, now_ms, u64::MAX).map(drop)
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
                    self.send_again_at_once(server, now_ms)?;
                }
            }
            match page.last() {
                Some((server, _)) if page.len() == DESTINATIONS_AT_ONCE => after = Some(server.clone()),
                _ => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_short_for_half_an_hour_and_it_is_tried_for_a_day() {
        let until = |tries| (0..tries).map(pause_ms).sum::<u64>() / 60_000;
        assert!((30..35).contains(&until(SHORT_TRIES_MAX)));
        assert!((23 * 60..25 * 60).contains(&until(TRIES_MAX)));
        assert!((0..SHORT_TRIES_MAX).all(|tries| pause_ms(tries) <= SHORT_PAUSE_MS_MAX));
        assert_eq!([0, 1, 2, 3, 4].map(pause_ms), [2_000, 4_000, 8_000, 16_000, 20_000]);
    }
}
