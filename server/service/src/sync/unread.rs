//! What users have not read, by room and thread.
//!
//! Counted when a room is shown to the user, not when an event is written: a
//! write must not cost in proportion to a room's members. Events that count are
//! kept in memory until they are read, so each event is looked at once per user
//! who syncs, and moving a receipt costs nothing.
//!
//! Not here: which events count ([`crate::push_rules`]), sending pushes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};

use super::response::Unread;
use crate::receipts::ReadUpTo;

/// Unread events that are looked at in one room at once; those further back
/// are not counted.
pub const UNREAD_SCAN_MAX: usize = 1_000;

/// Of those, read at once: mostly there are few new ones.
pub const UNREAD_PAGE: usize = 16;

/// Rooms of users kept in memory; beyond it they are forgotten and counted again.
const COUNTS_MAX: usize = 50_000;

/// Unread events kept for all of them; likewise.
const EVENTS_MAX: usize = 500_000;

/// An event that counts.
#[derive(Clone, Debug)]
pub struct UnreadEvent {
    /// Its id.
    pub event_id: OwnedEventId,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// Its place in the timeline.
    pub position: i64,
    /// The root of its thread.
    pub thread: Option<OwnedEventId>,
    /// Whether it notifies.
    pub notifies: bool,
    /// Whether it highlights.
    pub highlights: bool,
}

/// The events that count of those in `(from, until]`.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// From where on events were looked at.
    pub from: i64,
    /// The last one looked at.
    pub until: i64,
    /// Those that count and are not read.
    pub events: Vec<UnreadEvent>,
}

impl Counted {
    /// Drops what is read, and what was redacted.
    pub fn forget(&mut self, read: &ReadUpTo, is_redacted: impl Fn(&EventId) -> bool) {
        self.events.retain(|event| {
            event.position > read.of(event.thread.as_deref()) && !is_redacted(&event.event_id)
        });
    }

    /// The numbers, without what these users sent: whom somebody ignores he may listen to
    /// again, so what they sent is kept.
    pub fn counts(&self, ignored: &BTreeSet<String>) -> Counts {
        let mut counts = Counts::default();
        for event in self.events.iter().filter(|event| !ignored.contains(event.sender.as_str())) {
            let unread = match &event.thread {
                None => &mut counts.main,
                Some(root) => counts.threads.entry(root.clone()).or_default(),
            };
            unread.notification_count += u64::from(event.notifies);
            unread.highlight_count += u64::from(event.highlights);
        }
        counts
    }
}

/// Unread events of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Outside of threads.
    pub main: Unread,
    /// In threads, by their roots.
    pub threads: BTreeMap<OwnedEventId, Unread>,
}

impl Counts {
    /// All of them.
    pub fn total(&self) -> Unread {
        self.threads.values().fold(self.main, |total, thread| Unread {
            notification_count: total.notification_count + thread.notification_count,
            highlight_count: total.highlight_count + thread.highlight_count,
        })
    }
}

/// What was counted for whom.
#[derive(Debug, Default)]
pub struct UnreadCounts {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    counts: HashMap<(OwnedUserId, OwnedRoomId), Counted>,
    events: usize,
}

impl UnreadCounts {
    /// What was counted, if it was from this place or an earlier one on; else nothing yet.
    pub fn counted(&self, user_id: &UserId, room_id: &RoomId, from: i64) -> Counted {
        let found = self.lock().counts.get(&(user_id.to_owned(), room_id.to_owned())).cloned();
        let found = found.filter(|counted| counted.from <= from && counted.until >= from);
        found.unwrap_or(Counted { from, until: from, events: Vec::new() })
    }

    /// Remembers a count.
    pub fn remember(&self, user_id: &UserId, room_id: &RoomId, counted: Counted) {
        let mut kept = self.lock();
        if kept.counts.len() >= COUNTS_MAX || kept.events + counted.events.len() > EVENTS_MAX {
            *kept = Kept::default();
        }
        kept.events += counted.events.len();
        let before = kept.counts.insert((user_id.to_owned(), room_id.to_owned()), counted);
        kept.events -= before.map_or(0, |before| before.events.len());
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, owned_event_id, owned_user_id, room_id};

    use super::*;

    fn event(position: i64, thread: Option<&EventId>, highlights: bool) -> UnreadEvent {
        let event_id = OwnedEventId::try_from(format!("$e{position}")).expect("an id");
        let thread = thread.map(ToOwned::to_owned);
        let sender = owned_user_id!("@alice:b.c");
        UnreadEvent { event_id, sender, position, thread, notifies: true, highlights }
    }

    fn unread(notification_count: u64, highlight_count: u64) -> Unread {
        Unread { notification_count, highlight_count }
    }

    #[test]
    fn receipts_clear_what_they_are_about() {
        let root = event_id!("$root");
        let events = vec![event(5, None, true), event(6, Some(root), false), event(7, None, false)];
        let counted = Counted { from: 1, until: 9, events };
        let after = |read: ReadUpTo| {
            let mut counted = counted.clone();
            counted.forget(&read, |_| false);
            counted.counts(&BTreeSet::new())
        };
        let all = after(ReadUpTo::default());
        assert_eq!((all.main, all.total()), (unread(2, 1), unread(3, 1)));
        assert_eq!(all.threads, [(root.to_owned(), unread(1, 0))].into());
        let main = after(ReadUpTo { main: 7, ..ReadUpTo::default() });
        assert_eq!((main.main, main.total()), (unread(0, 0), unread(1, 0)));
        let thread = after(ReadUpTo { threads: [(root.to_owned(), 6)].into(), ..ReadUpTo::default() });
        assert_eq!((thread.main, thread.total()), (unread(2, 1), unread(2, 1)));
        assert_eq!(after(ReadUpTo { everything: 6, ..ReadUpTo::default() }).total(), unread(1, 0));
        let mut redacted = counted.clone();
        redacted.forget(&ReadUpTo::default(), |event_id| event_id == owned_event_id!("$e5"));
        assert_eq!(redacted.counts(&BTreeSet::new()).total(), unread(2, 0));
        assert_eq!(counted.counts(&["@alice:b.c".to_owned()].into()), Counts::default());
    }

    #[test]
    fn counts_are_kept_while_the_receipt_goes_on_and_not_back() {
        let counts = UnreadCounts::default();
        let (room, bob) = (room_id!("!r:b.c"), owned_user_id!("@bob:b.c"));
        let counted = Counted { from: 5, until: 9, events: vec![event(8, None, false)] };
        counts.remember(&bob, room, counted);
        assert_eq!(counts.counted(&bob, room, 5).events.len(), 1);
        assert_eq!(counts.counted(&bob, room, 7).events.len(), 1);
        assert_eq!(counts.counted(&bob, room, 3).until, 3, "earlier events were not looked at");
        counts.remember(&bob, room, Counted::default());
        assert_eq!(counts.lock().events, 0);
    }
}
