//! Where [`super::facts`] keeps what it knows: bounded maps, and what changed in them while a
//! question was under way. Forgets what is idle; a forgotten piece is asked for again.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId};

use super::freshness::{Asked, Freshness};
use crate::room_event::RoomEvent;

/// Rooms of which something is kept.
pub(super) const ROOMS_MAX: usize = 1_000;
/// Pieces of one room.
pub(super) const PIECES_MAX: usize = 512;
/// Bytes of all pieces together.
pub(super) const PIECES_BYTES_MAX: usize = 64 << 20;
/// Events in one of two generations, and their bytes.
pub(super) const EVENTS_MAX: usize = 2_048;
pub(super) const EVENTS_BYTES_MAX: usize = 16 << 20;
/// Changes of a room that are remembered for answers that are under way.
pub(super) const CHANGES_MAX: usize = 64;
/// What a piece weighs besides its content.
const PIECE_BYTES: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) rooms: HashMap<OwnedRoomId, RoomMemory>,
    /// Of all pieces.
    pub(super) bytes: usize,
    /// Counts what happened.
    pub(super) change: u64,
    /// Counts who looked.
    look: u64,
    pub(super) events: Events,
}

#[derive(Debug, Default)]
pub(super) struct RoomMemory {
    pub(super) pieces: HashMap<(String, String), Kept<Option<RoomEvent>>>,
    pub(super) servers: Option<Kept<Arc<BTreeSet<OwnedServerName>>>>,
    /// What changed last, oldest first; an empty type stands for the servers.
    changes: VecDeque<(u64, String, String)>,
    /// Changes up to this one are forgotten.
    forgotten: u64,
    /// Of the pieces.
    pub(super) bytes: usize,
    /// The last look.
    used: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Kept<T> {
    pub(super) value: T,
    pub(super) at_ms: u64,
    pub(super) stale: bool,
}

impl<T: Clone> Kept<T> {
    pub(super) fn if_fresh(&self, now_ms: u64, freshness: Freshness) -> Option<T> {
        let young = now_ms.saturating_sub(self.at_ms) <= freshness.age_max_ms;
        (young && (freshness.stale || !self.stale)).then(|| self.value.clone())
    }
}

/// Events by id, in two generations.
#[derive(Debug, Default)]
pub(super) struct Events {
    young: HashMap<OwnedEventId, Kept<Option<RoomEvent>>>,
    old: HashMap<OwnedEventId, Kept<Option<RoomEvent>>>,
    pub(super) bytes: usize,
}

impl Events {
    pub(super) fn get(&self, id: &EventId) -> Option<&Kept<Option<RoomEvent>>> {
        self.young.get(id).or_else(|| self.old.get(id))
    }

    pub(super) fn put(&mut self, id: OwnedEventId, kept: Kept<Option<RoomEvent>>) {
        let bytes = weight(kept.value.as_ref());
        if self.young.len() >= EVENTS_MAX || self.bytes + bytes > EVENTS_BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.young.insert(id, kept);
    }
}

pub(super) fn weight(event: Option<&RoomEvent>) -> usize {
    PIECE_BYTES + event.map_or(0, |event| event.content_raw().get().len())
}

impl Events {
    pub(super) fn outdate(&mut self, id: &EventId) {
        for kept in [self.young.get_mut(id), self.old.get_mut(id)].into_iter().flatten() {
            kept.stale = true;
        }
    }
}

impl Memory {
    pub(super) fn room(&mut self, room: &RoomId) -> Option<&mut RoomMemory> {
        self.look += 1;
        let look = self.look;
        let room = self.rooms.get_mut(room)?;
        room.used = look;
        Some(room)
    }

    pub(super) fn make_room(&mut self, room: &RoomId) -> &mut RoomMemory {
        if !self.rooms.contains_key(room) {
            while self.rooms.len() >= ROOMS_MAX {
                self.forget_idlest(None);
            }
            // What changed before is not known.
            let known = RoomMemory { forgotten: self.change, ..RoomMemory::default() };
            self.rooms.insert(room.to_owned(), known);
        }
        self.look += 1;
        let look = self.look;
        let room = self.rooms.entry(room.to_owned()).or_default();
        room.used = look;
        room
    }

    /// Whether a piece changed after the question began, as far as is known.
    pub(super) fn has_changed(&self, room: &RoomId, asked: Asked, (kind, key): (&str, &str)) -> bool {
        let Some(room) = self.rooms.get(room) else { return true };
        let since = |(at, of, its): &&(u64, String, String)| *at > asked.change && of == kind && its == key;
        room.forgotten > asked.change || room.changes.iter().any(|change| since(&change))
    }

    pub(super) fn keep_piece(
        &mut self,
        room_id: &RoomId,
        asked: Asked,
        (kind, key): (&str, &str),
        event: Option<RoomEvent>,
    ) {
        let stale = self.has_changed(room_id, asked, (kind, key));
        if let Some(event) = &event {
            self.keep_event(event, asked.at_ms);
        }
        let bytes = weight(event.as_ref());
        let room = self.make_room(room_id);
        let place = (kind.to_owned(), key.to_owned());
        if room.pieces.get(&place).is_some_and(|kept| kept.at_ms > asked.at_ms) {
            return;
        }
        let mut freed = 0;
        if room.pieces.len() >= PIECES_MAX && !room.pieces.contains_key(&place) {
            let oldest =
                room.pieces.iter().min_by_key(|(_, kept)| kept.at_ms).map(|(place, _)| place.clone());
            let oldest = oldest.and_then(|place| room.pieces.remove(&place));
            freed += oldest.map_or(0, |kept| weight(kept.value.as_ref()));
        }
        let kept = Kept { value: event, at_ms: asked.at_ms, stale };
        freed += room.pieces.insert(place, kept).map_or(0, |kept| weight(kept.value.as_ref()));
        room.bytes = (room.bytes + bytes).saturating_sub(freed);
        self.bytes = (self.bytes + bytes).saturating_sub(freed);
        while self.bytes > PIECES_BYTES_MAX && self.rooms.len() > 1 {
            self.forget_idlest(Some(room_id));
        }
    }

    pub(super) fn keep_servers(
        &mut self,
        room: &RoomId,
        asked: Asked,
        servers: Arc<BTreeSet<OwnedServerName>>,
    ) {
        let stale = self.has_changed(room, asked, ("", ""));
        self.make_room(room).servers = Some(Kept { value: servers, at_ms: asked.at_ms, stale });
    }

    pub(super) fn keep_event(&mut self, event: &RoomEvent, at_ms: u64) {
        let known = self.events.get(event.event_id());
        if known.is_some_and(|kept| kept.value.is_some() && kept.at_ms >= at_ms) {
            return;
        }
        let kept = Kept { at_ms, stale: false, value: Some(event.clone()) };
        self.events.put(event.event_id().to_owned(), kept);
    }

    /// What was answered to a question for an event. That it is not shown does not make one
    /// disappear that is known from elsewhere.
    pub(super) fn keep_answer(&mut self, id: &EventId, asked: Asked, event: Option<RoomEvent>) {
        let is_known = self.events.get(id).is_some_and(|kept| kept.value.is_some());
        if event.is_some() || !is_known {
            let kept = Kept { value: event, at_ms: asked.at_ms, stale: false };
            self.events.put(id.to_owned(), kept);
        }
    }

    pub(super) fn changed(&mut self, room: &RoomId, kind: &str, key: &str) {
        self.change += 1;
        let change = self.change;
        let Some(room) = self.rooms.get_mut(room) else { return };
        if room.changes.len() >= CHANGES_MAX
            && let Some((at, ..)) = room.changes.pop_front()
        {
            room.forgotten = at;
        }
        room.changes.push_back((change, kind.to_owned(), key.to_owned()));
        if kind.is_empty() {
            if let Some(servers) = &mut room.servers {
                servers.stale = true;
            }
        } else if let Some(kept) = room.pieces.get_mut(&(kind.to_owned(), key.to_owned())) {
            kept.stale = true;
        }
    }

    pub(super) fn forget(&mut self, room: &RoomId) {
        if let Some(room) = self.rooms.remove(room) {
            self.bytes = self.bytes.saturating_sub(room.bytes);
        }
    }

    pub(super) fn forget_idlest(&mut self, but: Option<&RoomId>) {
        let others = self.rooms.iter().filter(|(room, _)| Some(&***room) != but);
        let idlest = others.min_by_key(|(_, memory)| memory.used).map(|(room, _)| room.clone());
        if let Some(idlest) = idlest {
            self.forget(&idlest);
        }
    }
}
