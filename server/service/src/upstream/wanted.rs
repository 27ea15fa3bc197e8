//! What others' changes name of the upstream's rooms and is not at hand: asked for by and by,
//! for nobody waits.
//!
//! In memory only: after a start the changes are judged again and name it again.
//!
//! Invariants: bounded in each room and in all; what is not to be had is asked for less and
//! less often, whoever names it. That the upstream does not answer says nothing of that, and a
//! room of which it never does keeps no other from being asked about.

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
/// The pause when no answer came.
const PAUSE_SILENT_MS: u64 = 1_000;

/// When a fact is asked for again.
#[derive(Clone, Copy, Debug)]
struct Next {
    due_ms: u64,
    pause_ms: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct WantedLater(Mutex<Rooms>);

#[derive(Debug, Default)]
struct Rooms {
    wanted: BTreeMap<OwnedRoomId, BTreeMap<Wanted, Next>>,
    /// The last room of which no answer came: those after it come before it.
    silent: Option<OwnedRoomId>,
}

impl WantedLater {
    /// A fact is wanted. Whether that is new.
    pub(super) fn want(&self, now_ms: u64, room: &RoomId, wanted: Wanted) -> bool {
        let rooms = &mut self.lock().wanted;
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
        let mut rooms = self.lock();
        let silent = rooms.silent.take();
        let (first, last): (Vec<_>, Vec<_>) =
            rooms.wanted.iter_mut().partition(|(room, _)| silent.as_ref() < Some(*room));
        for (room, wanted) in first.into_iter().chain(last) {
            let mut asked = Vec::new();
            for (wanted, next) in wanted.iter_mut().filter(|(_, next)| next.due_ms <= now_ms).take(FACTS_MAX)
            {
                next.due_ms = now_ms.saturating_add(next.pause_ms);
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

    /// It was answered, and is not to be had now.
    pub(super) fn missed(&self, room: &RoomId, wanted: &Wanted) {
        if let Some(next) = self.lock().wanted.get_mut(room).and_then(|of_room| of_room.get_mut(wanted)) {
            next.pause_ms = next.pause_ms.saturating_mul(2).min(PAUSE_LAST_MS);
        }
    }

    /// These were not answered, of the first room because the upstream is silent.
    pub(super) fn unanswered(&self, now_ms: u64, of_rooms: &[(OwnedRoomId, Vec<Wanted>)]) {
        let mut rooms = self.lock();
        rooms.silent = of_rooms.first().map(|(room, _)| room.clone());
        for (room, wanted) in of_rooms {
            let Some(of_room) = rooms.wanted.get_mut(room) else { continue };
            for wanted in wanted {
                if let Some(next) = of_room.get_mut(wanted) {
                    next.due_ms = now_ms.saturating_add(PAUSE_SILENT_MS);
                }
            }
        }
    }

    /// It is at hand.
    pub(super) fn came(&self, room: &RoomId, wanted: &Wanted) {
        let rooms = &mut self.lock().wanted;
        if let Some(of_room) = rooms.get_mut(room) {
            of_room.remove(wanted);
            if of_room.is_empty() {
                rooms.remove(room);
            }
        }
    }

    /// The maps are whole between statements, so a panic elsewhere is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, Rooms> {
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
        later.missed(room, &event(1));
        assert!(later.take(PAUSE_FIRST_MS - 1).is_empty());
        assert_eq!(later.take(PAUSE_FIRST_MS).len(), 1);
        later.missed(room, &event(1));
        assert!(later.take(PAUSE_FIRST_MS * 3 - 1).is_empty());
        later.came(room, &event(1));
        assert!(later.take(u64::MAX).is_empty());
    }

    #[test]
    fn silence_makes_no_pause_longer_and_no_room_keeps_others_waiting() {
        let later = WantedLater::default();
        let rooms: Vec<OwnedRoomId> =
            (0..9).map(|n| OwnedRoomId::try_from(format!("!{n}:s1")).expect("an id")).collect();
        for room in &rooms {
            later.want(0, room, event(1));
        }
        let mut now_ms = 0;
        let mut asked = Vec::new();
        for _ in 0..30 {
            let due = later.take(now_ms);
            asked.push(due[0].0.clone());
            later.unanswered(now_ms, &due);
            now_ms += PAUSE_SILENT_MS;
        }
        for room in &rooms {
            assert!(asked.iter().filter(|asked| *asked == room).count() >= 3, "{room}: {asked:?}");
        }
        let all = |now_ms| -> usize {
            let mut rooms = 0;
            while let due @ [_, ..] = &later.take(now_ms)[..] {
                rooms += due.len();
            }
            rooms
        };
        assert_eq!(all(now_ms), rooms.len());
        assert_eq!(all(now_ms + PAUSE_FIRST_MS - 1), 0);
        assert_eq!(all(now_ms + PAUSE_FIRST_MS), rooms.len(), "the pause is the first one still");
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
