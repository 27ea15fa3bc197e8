//! Destinations that lack more of a room than they ask for: a gap of hundreds of events of
//! which `get_missing_events` brings the nearest ten. A Synapse that was cut off in the middle
//! of being told has answered for the others and dropped them; their senders never hear of it,
//! and nothing but a person who scrolls back would bring them. So this server sends its own
//! of them once more, oldest first, when it is asked in a way that shows the gap.
//!
//! Not here: which events these are (`Rooms::own_events_missed`).
//!
//! Invariant: how often this happens is bounded for each destination and room, so that
//! nobody can make a server send the same again and again: a gap is filled at once if it
//! begins after the one that was filled last, and otherwise with pauses that grow.

use std::collections::{BTreeSet, HashMap};

use causeway_storage::{
    StorageError,
    outbox::{self as rows, Entry},
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};

use super::{DEPTH_MAX, Outbox};
use crate::notify::Topic;

/// Before the second time; doubled each time. About as long as a Synapse takes to look at
/// what it was sent: who asks for the same after that was cut off once more.
const PAUSE_MS: u64 = 5_000;
/// What the pause grows to; after so long without a question all is forgotten.
const PAUSE_MS_MAX: u64 = 10 * 60 * 1_000;
/// Destinations and rooms that are remembered; while there are more, nothing is sent once more.
const REMEMBERED_MAX: usize = 10_000;

/// When which gaps were filled.
#[derive(Debug, Default)]
pub(super) struct Behind(HashMap<(OwnedServerName, OwnedRoomId), Filled>);

#[derive(Debug)]
struct Filled {
    /// Where the gap begins: the place in the timeline, here, of the last event that the
    /// destination has before it. What it has grows, and only by events that are here: a
    /// later beginning is another gap.
    begins: i64,
    next_ms: u64,
    pause_ms: u64,
}

impl Behind {
    fn may_fill(&mut self, destination: &ServerName, room_id: &RoomId, begins: i64, now_ms: u64) -> bool {
        self.0.retain(|_, filled| filled.next_ms.saturating_add(PAUSE_MS_MAX) > now_ms);
        let is_full = self.0.len() >= REMEMBERED_MAX;
        let key = (destination.to_owned(), room_id.to_owned());
        let next_ms = now_ms.saturating_add(PAUSE_MS);
        let fresh = Filled { begins, next_ms, pause_ms: PAUSE_MS };
        match self.0.get_mut(&key) {
            Some(filled) if begins > filled.begins => {
                *filled = fresh;
                true
            }
            Some(filled) if filled.next_ms > now_ms => false,
            Some(filled) => {
                filled.pause_ms = filled.pause_ms.saturating_mul(2).min(PAUSE_MS_MAX);
                filled.next_ms = now_ms.saturating_add(filled.pause_ms);
                true
            }
            None if is_full => false,
            None => {
                self.0.insert(key, fresh);
                true
            }
        }
    }
}

impl Outbox {
    /// Whether it is time to fill a gap of `destination` in a room that begins after a place in
    /// the timeline; if so, it is taken to be done.
    pub fn may_fill_gap(&self, destination: &ServerName, room_id: &RoomId, begins: i64, now_ms: u64) -> bool {
        self.behind().may_fill(destination, room_id, begins, now_ms)
    }

    /// Queues events for `destination` that it was sent before, except what waits for it still.
    ///
    /// # Errors
    /// Storage failed.
    pub fn send_once_more(
        &self,
        destination: &ServerName,
        events: &[OwnedEventId],
    ) -> Result<(), StorageError> {
        if events.is_empty() {
            return Ok(());
        }
        let _writing = self.writing();
        let waiting = rows::rows(&self.database, destination, self.first_row(destination), DEPTH_MAX)?;
        if waiting.len() >= DEPTH_MAX {
            return Ok(());
        }
        let waiting: BTreeSet<OwnedEventId> = waiting
            .into_iter()
            .filter_map(|row| match row.entry {
                Entry::Pdu(event_id) => Some(event_id),
                Entry::Edu(_) => None,
            })
            .collect();
        let mut batch = self.database.batch();
        let mut count = 0_usize;
        for event_id in events.iter().filter(|event_id| !waiting.contains(*event_id)) {
            let position = batch.position();
            rows::push_pdu(&mut batch, destination, position, event_id);
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        let _commit = self.database.commit_durable(batch)?;
        tracing::info!(server = %destination, count, "it lacks much of a room: events are sent once more");
        self.notifier.notify([&Topic::Outbox]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, server_name};

    use super::*;

    #[test]
    fn the_same_gap_is_filled_less_and_less_often() {
        let mut behind = Behind::default();
        let (b, room) = (server_name!("b.test"), room_id!("!r:a.test"));
        let mut filled = Vec::new();
        for now_ms in (0..100_000).step_by(1_000) {
            if behind.may_fill(b, room, 7, now_ms) {
                filled.push(now_ms);
            }
        }
        assert_eq!(filled, [0, 5_000, 15_000, 35_000, 75_000]);
        assert!(behind.may_fill(b, room_id!("!s:a.test"), 7, 100_000), "another room has its own");
        let much_later = 100_000 + 2 * PAUSE_MS_MAX;
        assert!(behind.may_fill(b, room, 7, much_later));
        assert!(behind.may_fill(b, room, 7, much_later + PAUSE_MS), "it begins anew");
    }

    #[test]
    fn a_gap_that_begins_later_is_filled_at_once() {
        let mut behind = Behind::default();
        let (b, room) = (server_name!("b.test"), room_id!("!r:a.test"));
        for now_ms in [0, 5_000, 15_000] {
            assert!(behind.may_fill(b, room, 7, now_ms));
        }
        assert!(behind.may_fill(b, room, 8, 15_001), "another gap");
        assert!(!behind.may_fill(b, room, 8, 15_002), "the same");
        assert!(!behind.may_fill(b, room, 7, 15_003), "nor can the old one be had for it");
        assert!(behind.may_fill(b, room, 8, 15_001 + PAUSE_MS), "its pauses are short again");
    }
}
