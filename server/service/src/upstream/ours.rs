//! Which of the upstream's rooms have shared spaces, as far as is known here: of which something
//! of a shared space was seen, or another server in them spoke.
//!
//! Invariant: each is told of once as new, after a start all are: replication begins there.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedRoomId, RoomId};

/// See the module.
#[derive(Debug)]
pub(super) struct Ours(Mutex<Known>);

#[derive(Debug)]
struct Known {
    rooms: HashSet<OwnedRoomId>,
    new: BTreeSet<OwnedRoomId>,
}

impl Ours {
    /// Those that are known at a start.
    pub(super) fn of(rooms: HashSet<OwnedRoomId>) -> Self {
        let new = rooms.iter().cloned().collect();
        Self(Mutex::new(Known { rooms, new }))
    }

    pub(super) fn has(&self, room: &RoomId) -> bool {
        self.lock().rooms.contains(room)
    }

    /// These are among them; whether that is news of any.
    pub(super) fn add(&self, rooms: impl IntoIterator<Item = OwnedRoomId>) -> bool {
        let mut known = self.lock();
        let before = known.rooms.len();
        for room in rooms {
            if known.rooms.insert(room.clone()) {
                known.new.insert(room);
            }
        }
        known.rooms.len() > before
    }

    /// Takes those that are new.
    pub(super) fn take_new(&self) -> Vec<OwnedRoomId> {
        std::mem::take(&mut self.lock().new).into_iter().collect()
    }

    /// What is held is whole between statements, so a panic elsewhere is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
