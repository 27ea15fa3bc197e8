//! Rooms of which other servers speak though they are none of ours: they may have become shared
//! spaces before anybody of the upstream came into them, and what was said before that is told to
//! nobody. So the upstream is asked who is in them, now and then.
//!
//! In memory only. Not here: asking.
//!
//! Invariants: of one room one server has it asked for once in [`NO_MS`], unless somebody came or
//! went there; how many questions one server, and all, may raise in that time, and how many are
//! under way at once, is bounded: any server may make up rooms.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};

/// How long it counts that the two are not in the room.
const NO_MS: u64 = 60_000;
/// Rooms and servers that are kept in mind.
const KNOWN_MAX: usize = 1_000;
/// The same of one server.
const OF_ONE_MAX: usize = 32;
/// Questions under way.
const AT_ONCE_MAX: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Until when (ms since the epoch) it is not asked again whether a room has both servers in it.
    until_ms: HashMap<(OwnedRoomId, OwnedServerName), u64>,
    under_way: usize,
}

/// A question that may be asked; it is under way until this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Strangers);

impl Strangers {
    /// A server speaks of a room: whether it is to be asked now who is in it.
    pub(super) fn begin(&self, now_ms: u64, room: &RoomId, by: &ServerName) -> Option<Turn<'_>> {
        let mut known = self.lock();
        known.until_ms.retain(|_, until_ms| now_ms < *until_ms);
        let of_one = known.until_ms.keys().filter(|(_, server)| server == by).count();
        let place = (room.to_owned(), by.to_owned());
        if known.until_ms.contains_key(&place)
            || of_one >= OF_ONE_MAX
            || known.until_ms.len() >= KNOWN_MAX
            || known.under_way >= AT_ONCE_MAX
        {
            return None;
        }
        known.until_ms.insert(place, now_ms.saturating_add(NO_MS));
        known.under_way += 1;
        Some(Turn(self))
    }

    /// Somebody came into a room or went, or it could not be said who is there: it may be asked
    /// again.
    pub(super) fn forget(&self, room: &RoomId) {
        self.lock().until_ms.retain(|(of, _), _| of != room);
    }

    /// What is held is whole between statements, so a panic elsewhere is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
    }
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, server_name};

    use super::*;

    fn room(number: usize) -> OwnedRoomId {
        OwnedRoomId::try_from(format!("!{number}:a.example")).expect("an id")
    }

    #[test]
    fn it_is_asked_once_in_a_while_or_when_somebody_came() {
        let (strangers, room) = (Strangers::default(), room_id!("!r:a.example"));
        let (b, c) = (server_name!("b.example"), server_name!("c.example"));
        assert!(strangers.begin(0, room, b).is_some());
        assert!(strangers.begin(NO_MS - 1, room, b).is_none());
        assert!(strangers.begin(NO_MS - 1, room, c).is_some(), "the other one may be there");
        assert!(strangers.begin(NO_MS, room, b).is_some());
        strangers.forget(room);
        assert!(strangers.begin(NO_MS, room, b).is_some());
    }

    #[test]
    fn whoever_makes_up_rooms_has_few_questions_asked_and_keeps_few_from_theirs() {
        let (strangers, b) = (Strangers::default(), server_name!("b.example"));
        let asked = (0..2 * OF_ONE_MAX).filter(|n| strangers.begin(0, &room(*n), b).is_some()).count();
        assert_eq!(asked, OF_ONE_MAX);
        let turns: Vec<_> = (0..2 * AT_ONCE_MAX)
            .filter_map(|n| strangers.begin(0, &room(n), server_name!("c.example")))
            .collect();
        assert_eq!(turns.len(), AT_ONCE_MAX);
        assert!(strangers.begin(0, &room(0), server_name!("d.example")).is_none());
        drop(turns);
        assert!(strangers.begin(0, &room(0), server_name!("d.example")).is_some());
        for n in 0..2 * KNOWN_MAX {
            let server = OwnedServerName::try_from(format!("s{n}.example")).expect("a name");
            strangers.begin(0, &room(0), &server);
        }
        assert_eq!(strangers.lock().until_ms.len(), KNOWN_MAX);
        assert!(strangers.begin(NO_MS, &room(1), b).is_some());
    }
}
