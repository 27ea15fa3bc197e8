//! Which rooms may be sent to, and who is to be woken for that.
//!
//! What was sent before is known only when all that the upstream has to say of a room was heard:
//! after a start, and after a request whose outcome is unknown. Until then nothing is sent there,
//! so that nothing is said twice.
//!
//! Invariant: a room is opened by a round of hearing that began after it was closed.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedRoomId, RoomId};
use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gate {
    rooms: Mutex<Rooms>,
    /// All is to be heard anew at once.
    pub(super) hear_now: Notify,
    /// Transactions come.
    pub(super) traffic: Notify,
    /// The upstream does not answer.
    pub(super) silent: Notify,
    /// Rooms were opened.
    pub(super) opened: Notify,
    /// Rooms of which the upstream lacks events that others speak of.
    gaps: Mutex<HashSet<OwnedRoomId>>,
    /// There are such.
    pub(super) gap: Notify,
}

/// Rooms with gaps that are kept in mind.
const GAPS_MAX: usize = 1_000;

#[derive(Debug, Default)]
struct Rooms {
    /// Rounds that began.
    round: u64,
    open: HashSet<OwnedRoomId>,
    /// In which round, or before the next of which, a room was closed.
    closed: HashMap<OwnedRoomId, u64>,
}

impl Gate {
    /// Whether a room may be sent to.
    pub(super) fn is_open(&self, room: &RoomId) -> bool {
        self.lock().open.contains(room)
    }

    /// A request to the room may have been done or not.
    pub(super) fn close(&self, room: &RoomId) {
        let mut rooms = self.lock();
        rooms.open.remove(room);
        let round = rooms.round;
        rooms.closed.insert(room.to_owned(), round);
        drop(rooms);
        self.hear_now.notify_one();
    }

    /// The upstream does not show an event of a room that others speak of.
    pub(super) fn lacks(&self, room: &RoomId) {
        let mut gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        if gaps.len() < GAPS_MAX && gaps.insert(room.to_owned()) {
            self.gap.notify_one();
        }
    }

    /// Takes the rooms of which events are lacking.
    pub(super) fn take_gaps(&self) -> HashSet<OwnedRoomId> {
        std::mem::take(&mut self.gaps.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A round of hearing begins; its number.
    pub(super) fn begin_round(&self) -> u64 {
        let mut rooms = self.lock();
        rooms.round += 1;
        rooms.round
    }

    /// All that the upstream had to say of a room when the round began was heard.
    pub(super) fn heard(&self, room: &RoomId, round: u64) {
        let mut rooms = self.lock();
        if rooms.closed.get(room).is_some_and(|closed| *closed >= round) {
            return;
        }
        rooms.closed.remove(room);
        if rooms.open.insert(room.to_owned()) {
            drop(rooms);
            self.opened.notify_one();
        }
    }

    /// The maps are whole between statements, so a panic elsewhere is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;

    #[test]
    fn a_room_is_opened_by_what_began_after_it_was_closed() {
        let (gate, room) = (Gate::default(), room_id!("!r:a.example"));
        assert!(!gate.is_open(room));
        let first = gate.begin_round();
        gate.heard(room, first);
        assert!(gate.is_open(room));
        let second = gate.begin_round();
        gate.close(room);
        gate.heard(room, second);
        assert!(!gate.is_open(room), "the round had begun before");
        let third = gate.begin_round();
        gate.heard(room, third);
        assert!(gate.is_open(room));
    }
}
