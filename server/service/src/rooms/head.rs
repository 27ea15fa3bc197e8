//! What a room's writer keeps in memory between writes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use causeway_room::{Pdu, StateKey};
use causeway_storage::{
    Database,
    rooms::{self as rows, Room},
};
use ruma::{OwnedRoomId, OwnedServerName, RoomId};

use super::{error::RoomError, store::VersionRules};

/// Pieces of authorisation state kept per room.
const AUTH_CACHED: usize = 1_024;
/// Rooms whose heads are kept; idle ones go when there are more.
const ROOMS_KEPT: usize = 4_096;

/// A piece of state, or its absence.
pub(crate) type Piece = Option<Arc<Pdu>>;

/// A room as its last committed write left it.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) rules: Arc<VersionRules>,
    pub(crate) row: Room,
    /// Servers with joined members, and how many.
    pub(crate) servers: BTreeMap<OwnedServerName, u64>,
    /// The current state as far as authorisation looked at it.
    auth: HashMap<StateKey, Piece>,
}

impl Head {
    pub(crate) fn load(database: &Database, room_id: &RoomId) -> Result<Option<Self>, RoomError> {
        let Some(row) = rows::room(database, room_id)? else {
            return Ok(None);
        };
        let rules = VersionRules::of(&row.version)?;
        let servers = rows::joined_servers(database, room_id)?;
        Ok(Some(Self { rules, row, servers, auth: HashMap::new() }))
    }

    pub(crate) fn new(rules: Arc<VersionRules>, row: Room) -> Self {
        Self { rules, row, servers: BTreeMap::new(), auth: HashMap::new() }
    }

    /// A piece of the current state, if it was looked at: present or known to be absent.
    pub(crate) fn cached(&self, key: &StateKey) -> Option<&Piece> {
        self.auth.get(key)
    }

    pub(crate) fn cache(&mut self, key: StateKey, event: Piece) {
        if self.auth.len() >= AUTH_CACHED {
            self.auth.clear();
        }
        self.auth.insert(key, event);
    }

    pub(crate) fn forget(&mut self, key: &StateKey) {
        self.auth.remove(key);
    }
}

/// The lock of a room's one writer, and what it keeps.
///
/// `None` is "read it from storage": at first, and after a write that ended in
/// any way but a commit (a panic too: the lock is then taken over).
#[derive(Debug, Default)]
pub(crate) struct Slot(Mutex<Option<Head>>);

impl Slot {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Option<Head>> {
        self.0.lock().unwrap_or_else(|poisoned| {
            // Whoever panicked had taken the head out, or had not touched it.
            self.0.clear_poison();
            poisoned.into_inner()
        })
    }
}

/// The slots of all rooms.
///
/// Lock order: this map, never held while a slot's lock is waited for; one slot
/// per thread.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<HashMap<OwnedRoomId, Arc<Slot>>>);

impl Slots {
    pub(crate) fn of(&self, room_id: &RoomId) -> Arc<Slot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(room_id) {
            return Arc::clone(slot);
        }
        if slots.len() >= ROOMS_KEPT {
            // A slot that somebody holds must stay: it is that room's lock.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        let slot = Arc::new(Slot::default());
        slots.insert(room_id.to_owned(), Arc::clone(&slot));
        slot
    }
}
