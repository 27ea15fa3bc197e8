//! Reading rooms for clients: only what clients may know of at all, and places
//! in the timeline as /sync and /messages count them.
//!
//! Thin. Which user may see what is decided in [`crate::visible`], how an event
//! looks in [`crate::shown`].

use std::sync::Arc;

use causeway_room::{Pdu, Root, StateKey, state_tree::Difference};
use causeway_storage::{
    Database, Direction,
    rooms::{self as rows, TimelineRow},
};
use ruma::{EventId, OwnedEventId, RoomId, UserId, events::room::member::MembershipState};

use crate::rooms::{Crowd, Held, RoomError, Rooms, VersionRules};

/// A view of all rooms.
#[derive(Clone, Copy)]
pub struct RoomView<'a> {
    rooms: &'a Rooms,
}

impl<'a> RoomView<'a> {
    /// Over these rooms.
    pub fn new(rooms: &'a Rooms) -> Self {
        Self { rooms }
    }

    /// The database.
    pub fn database(&self) -> &'a Database {
        &self.rooms.store.database
    }

    /// Who is in a room.
    pub(crate) fn crowd(self, room_id: &RoomId) -> Result<Arc<Crowd>, RoomError> {
        self.rooms.crowd(room_id)
    }

    /// An event that is held, whatever became of it.
    pub fn held(&self, event_id: &EventId) -> Result<Option<Held>, RoomError> {
        self.rooms.held(event_id)
    }

    /// The same without what became of it.
    pub fn event(&self, event_id: &EventId) -> Result<Option<Arc<Pdu>>, RoomError> {
        Ok(self.held(event_id)?.map(|held| held.pdu))
    }

    /// An event of this room that clients may know of: neither rejected nor soft-failed.
    pub fn event_in(&self, room_id: &RoomId, event_id: &EventId) -> Result<Option<Held>, RoomError> {
        let is_shown = |held: &Held| held.meta.rejected.is_none() && !held.meta.soft_failed;
        Ok(self.held(event_id)?.filter(|held| *held.meta.room_id == *room_id && is_shown(held)))
    }

    /// Where an event stands in its room's timeline.
    pub fn position(&self, room_id: &RoomId, event_id: &EventId) -> Result<Option<i64>, RoomError> {
        Ok(self.event_in(room_id, event_id)?.and_then(|held| held.meta.position))
    }

    /// The room's version and rules.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`].
    pub fn rules(&self, room_id: &RoomId) -> Result<Arc<VersionRules>, RoomError> {
        self.rooms.version_rules(room_id)
    }

    /// A stretch of the timeline.
    pub fn timeline(
        &self,
        room_id: &RoomId,
        from: Option<i64>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<TimelineRow>, RoomError> {
        Ok(rows::timeline(self.database(), room_id, from, direction, limit)?)
    }

    /// The current state as it was when the server's stream was at `position`;
    /// `None` before the room's first event here.
    pub fn root_at(&self, room_id: &RoomId, position: u64) -> Result<Option<Root>, RoomError> {
        self.rooms.state_root_at(room_id, i64::try_from(position).unwrap_or(i64::MAX))
    }

    /// The state before an event, or before the nearest after it that came live;
    /// `None` where neither is known.
    pub fn nearest_state(&self, held: &Held) -> Result<Option<Root>, RoomError> {
        self.rooms.nearest_state(held)
    }

    /// The current state.
    pub fn current_root(&self, room_id: &RoomId) -> Result<Root, RoomError> {
        self.rooms.state_root(room_id)
    }

    /// A piece of the current state.
    pub fn current(&self, room_id: &RoomId, kind: &str, key: &str) -> Result<Option<Arc<Pdu>>, RoomError> {
        self.rooms.state_event(room_id, kind, key)
    }

    /// A piece of some state.
    pub fn state(&self, root: &Root, kind: &str, key: &str) -> Result<Option<Arc<Pdu>>, RoomError> {
        self.rooms.state_at(root, kind, key)
    }

    /// All of some state.
    pub fn state_entries(&self, root: &Root) -> Result<Vec<(StateKey, OwnedEventId)>, RoomError> {
        let entries = self.rooms.state_entries(root)?;
        Ok(entries.into_iter().map(|entry| (entry.key, entry.event_id)).collect())
    }

    /// Where two states differ.
    pub fn state_diff(&self, old: &Root, new: &Root) -> Result<Vec<Difference>, RoomError> {
        self.rooms.state_diff(old, new)
    }

    /// Whether an event's sender was erased, and it is kept from this user for that.
    pub fn hides_erased(&self, viewer: &UserId, pdu: &Pdu) -> Result<bool, RoomError> {
        self.rooms.hides_erased(viewer, pdu)
    }

    /// Whether the user is joined in this state.
    pub fn is_joined_in(&self, root: &Root, user_id: &UserId) -> Result<bool, RoomError> {
        let member = self.state(root, "m.room.member", user_id.as_str())?;
        Ok(member.and_then(|member| member.membership()) == Some(MembershipState::Join))
    }
}
