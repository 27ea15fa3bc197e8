//! What others' changes name of the upstream's rooms and is not at hand: asked for by and by,
//! for nobody waits.
//!
//! In memory only: after a start the changes are judged again and name it again.
//!
//! Invariants: bounded in each room and in all; what is not to be had is asked for less and
//! less often, whoever names it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedRoomId, RoomId};

use super::request::{FACTS_MAX, Wanted};

/// Facts of a room that are remembered as wanted.
const WANTED_MAX: usize = 1_000;
/// Rooms with such facts.
const ROOMS_MAX: usize = 1_000;
/// Rooms that are asked about in one go.
const ASKED_ROOMS_MAX: usize = 4;
/// Pauses before it is asked for again: they double.
const PAUSE_FIRST_MS: u64 = 5_000;
const PAUSE_LAST_MS: u64 = 3_600_000;

/// When a fact is asked for again.
#[derive(Clone, Copy, Debug)]
struct Next {
    due_ms: u64,
    pause_ms: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct WantedLater(Mutex<BTreeMap<OwnedRoomId, BTreeMap<Wanted, Next>>>);

impl WantedLater {
    /// A fact is wanted. Whether that is new.
    pub(super) fn want(&self, now_ms: u64, room: &RoomId, wanted: Wanted) -> bool {
        let mut rooms = self.lock();
        if rooms.len() >= ROOMS_MAX && !rooms.contains_key(room) {
            return false;
        }
        let of_room = rooms.entry(room.to_owned()).or_default();
        if of_room.len() >= WANTED_MAX || of_room.contains_key(&wanted) {
            return false;
        }
        of_room.insert(wanted, Next { due_ms: now_ms, pause_ms: PAUSE_FIRST_MS });
        true
    }

    /// What is to be asked for now, in a few rooms; it is not due again for a while.
    pub(super) fn take(&self, now_ms: u64) -> Vec<(OwnedRoomId, Vec<Wanted>)> {
        let mut due = Vec::new();
        for (room, wanted) in self.lock().iter_mut() {
            let mut asked = Vec::new();
            for (wanted, next) in wanted.iter_mut().filter(|(_, next)| next.due_ms <= now_ms).take(FACTS_MAX)
            {
                next.due_ms = now_ms.saturating_add(next.pause_ms);
                next.pause_ms = next.pause_ms.saturating_mul(2).min(PAUSE_LAST_MS);
                asked.push(wanted.clone());
            }
            if !asked.is_empty() {
                due.push((room.clone(), asked));
            }
            if due.len() == ASKED_ROOMS_MAX {
                break;
            }
        }
        due
    }

    /// It is at hand.
    pub(super) fn came(&self, room: &RoomId, wanted: &Wanted) {
        let mut rooms = self.lock();
        if let Some(of_room) = rooms.get_mut(room) {
            of_room.remove(wanted);
            if of_room.is_empty() {
                rooms.remove(room);
            }
        }
    }

    /// The maps are whole between statements, so a panic elsewhere is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<OwnedRoomId, BTreeMap<Wanted, Next>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ruma::{OwnedEventId, room_id};

    use super::*;

    fn event(n: usize) -> Wanted {
        Wanted::Event(OwnedEventId::try_from(format!("${n}:s1")).expect("an id"))
    }

    #[test]
    fn what_is_wanted_is_asked_for_once_and_then_less_and_less_often() {
        let (later, room) = (WantedLater::default(), room_id!("!r:s1"));
        assert!(later.want(0, room, event(1)));
        assert!(!later.want(0, room, event(1)), "it is known to be wanted");
        assert_eq!(later.take(0), [(room.to_owned(), vec![event(1)])]);
        later.want(0, room, event(1));
        assert!(later.take(PAUSE_FIRST_MS - 1).is_empty());
        assert_eq!(later.take(PAUSE_FIRST_MS).len(), 1);
        assert!(later.take(PAUSE_FIRST_MS * 3 - 1).is_empty());
        later.came(room, &event(1));
        assert!(later.take(u64::MAX).is_empty());
    }

    #[test]
    fn it_is_bounded_and_asked_for_in_pages() {
        let (later, room) = (WantedLater::default(), room_id!("!r:s1"));
        for n in 0..=WANTED_MAX {
            later.want(0, room, event(n));
        }
        let mut asked = 0;
        while let [(_, page)] = &later.take(0)[..] {
            assert!(page.len() <= FACTS_MAX);
            asked += page.len();
        }
        assert_eq!(asked, WANTED_MAX);
    }
}
