//! Events that a destination answered for with an error, in a transaction that it took:
//! it could not get what is before them, say, while it was cut off from others. They
//! are sent again, with pauses; nobody else may have a reason to write in their room. The
//! pauses stay short for half an hour, as what is in the way is most often a link that was
//! cut; a destination that was away itself is sent them as soon as it is back.
//!
//! Invariant: of a room only the last such event is kept, which names the others as its
//! past; how many rooms, and how often, is bounded, and they are in memory by pages only.

use std::collections::{BTreeMap, BTreeSet};

use causeway_storage::{
    StorageError,
    outbox::{
        self as queue,
        again::{self as rows, Again},
    },
    rooms,
};
use ruma::{OwnedEventId, OwnedRoomId, ServerName};

use super::{Outbox, Transaction};
use crate::notify::Topic;

/// Rooms of one destination.
pub const ROOMS_MAX: usize = 100_000;
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
/// Rooms read, and queued, at once.
const ROOMS_AT_ONCE: usize = 500;

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
        let count = rows::count(&self.database, destination, if refused.is_empty() { 1 } else { ROOMS_MAX })?;
        if refused.is_empty() && count == 0 {
            return Ok(());
        }
        let mut answers: BTreeMap<OwnedRoomId, Answer<'_>> = BTreeMap::new();
        for event_id in &transaction.events {
            if let Some(meta) = rooms::event_meta(&self.database, event_id)? {
                let answer = answers.entry(meta.room_id).or_default();
                let side = if refused.contains(event_id) { &mut answer.refused } else { &mut answer.taken };
                *side = (*side).max(Some((meta.position.unwrap_or(i64::MIN), event_id)));
            }
        }
        let (mut batch, mut room_for) = (self.database.batch(), ROOMS_MAX.saturating_sub(count));
        for (room_id, Answer { taken, refused }) in answers {
            let before = rows::again(&self.database, destination, &room_id)?;
            let place = |event_id: &OwnedEventId| -> Result<Option<i64>, StorageError> {
                Ok(rooms::event_meta(&self.database, event_id)?.and_then(|meta| meta.position))
            };
            let waits = before.as_ref().map(|before| place(&before.event_id)).transpose()?.flatten();
            // What was taken was so with its past; of what is later it says nothing, nor does it
            // that something earlier was refused as well: that is the past of what waits.
            let latest = taken.max(refused).map_or(i64::MIN, |(position, _)| position);
            if waits.is_some_and(|waits| latest < waits) {
                continue;
            }
            let again = refused.map(|(_, event_id)| after(before.as_ref(), event_id, now_ms));
            let kept = again.filter(|again| {
                let is_kept = again.tries <= TRIES_MAX && (before.is_some() || room_for > 0);
                if !is_kept {
                    let Again { event_id, tries, .. } = again;
                    tracing::info!(server = %destination, %event_id, tries, "it is not sent again");
                }
                is_kept
            });
            match (&before, &kept) {
                (None, None) => continue,
                (None, Some(_)) => room_for -= 1,
                (Some(_), _) => {}
            }
            rows::put(&mut batch, destination, &room_id, before.as_ref(), kept.as_ref());
        }
        let _unsynced = self.database.commit(batch)?;
        Ok(())
    }

    /// Queues what `destination` could not take and may be able to now, of a page of rooms; when
    /// to look again, in milliseconds since the Unix epoch, if something is left.
    ///
    /// # Errors
    /// Storage failed.
    pub fn send_again(&self, destination: &ServerName, now_ms: u64) -> Result<Option<u64>, StorageError> {
        let _writing = self.writing();
        let due = rows::due(&self.database, destination, now_ms, ROOMS_AT_ONCE)?;
        if due.is_empty() {
            let first = rows::due(&self.database, destination, u64::MAX, 1)?;
            return Ok(first.first().map(|(at_ms, _)| *at_ms));
        }
        let mut batch = self.database.batch();
        for (at_ms, room_id) in due {
            let Some(before) = rows::again(&self.database, destination, &room_id)? else {
                rows::delete_due(&mut batch, destination, at_ms, &room_id);
                continue;
            };
            if rooms::server_count(&self.database, &room_id, destination)? == 0 {
                rows::put(&mut batch, destination, &room_id, Some(&before), None);
                continue;
            }
            let position = batch.position();
            queue::push_pdu(&mut batch, destination, position, &before.event_id);
            // Its answer says more.
            let again = Again { at_ms: now_ms.saturating_add(PAUSE_MS_MAX), ..before.clone() };
            rows::put(&mut batch, destination, &room_id, Some(&before), Some(&again));
        }
        let _commit = self.database.commit_durable(batch)?;
        self.notifier.notify([&Topic::Outbox]);
        Ok(Some(now_ms))
    }

    /// All that `destination` could not take is due now: it is back after an outage. It is
    /// queued by [`Self::send_again`], when nothing else waits.
    ///
    /// # Errors
    /// Storage failed.
    pub fn send_again_at_once(&self, destination: &ServerName, now_ms: u64) -> Result<(), StorageError> {
        let mut after: Option<OwnedRoomId> = None;
        loop {
            let _writing = self.writing();
            let page = rows::page(&self.database, destination, after.as_deref(), ROOMS_AT_ONCE)?;
            let mut batch = self.database.batch();
            for (room_id, before) in page.iter().filter(|(_, before)| before.at_ms > now_ms) {
                let again = Again { at_ms: now_ms, ..before.clone() };
                rows::put(&mut batch, destination, room_id, Some(before), Some(&again));
            }
            if !batch.is_empty() {
                let _unsynced = self.database.commit(batch)?;
            }
            match page.last() {
                Some((room_id, _)) if page.len() == ROOMS_AT_ONCE => after = Some(room_id.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// Queues what any destination could not take, a page of rooms of each: after a start nobody
    /// waits to do it.
    ///
    /// # Errors
    /// Storage failed.
    pub fn send_all_again(&self, now_ms: u64) -> Result<(), StorageError> {
        let mut after = None;
        while let Some(server) = rows::next_destination(&self.database, after.as_deref())? {
            self.send_again_at_once(&server, now_ms)?;
            self.send_again(&server, now_ms)?;
            after = Some(server);
        }
        Ok(())
    }
}

/// What is to be sent again of a room after this event of it was not taken.
/// What was said of the events of one room: the latest that was taken, and that was not, with
/// their places in the timeline.
#[derive(Default)]
struct Answer<'a> {
    taken: Option<(i64, &'a OwnedEventId)>,
    refused: Option<(i64, &'a OwnedEventId)>,
}

fn after(before: Option<&Again>, event_id: &OwnedEventId, now_ms: u64) -> Again {
    // Another event than before is no other try of that.
    let tries = before.map_or(1, |before| before.tries.max(1) + u32::from(before.event_id == *event_id));
    Again { event_id: event_id.clone(), tries, at_ms: now_ms.saturating_add(pause_ms(tries - 1)) }
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
