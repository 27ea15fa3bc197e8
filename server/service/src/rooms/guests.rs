//! Guests in rooms: who is one, and which rooms let them in (client-server API,
//! "Guest access"). Taking them out is `crate::guests`' business.

use causeway_room::{NewEvent, Pdu, Root, StateKey};
use causeway_storage::accounts;
use ruma::{CanonicalJsonValue, RoomId, UserId, events::TimelineEventType};
use serde_json::Value;

use super::{Rooms, error::RoomError, writer::RoomWriter};

/// The state that says whether guests may join; without it they may not.
pub(crate) const GUEST_ACCESS: &str = "m.room.guest_access";

impl Rooms {
    /// Whether this is a guest of this server.
    pub fn is_guest(&self, user_id: &UserId) -> Result<bool, RoomError> {
        let account = accounts::account(&self.store.database, user_id)?;
        Ok(account.is_some_and(|account| account.guest))
    }

    /// Whether guests may be in the room.
    pub(crate) fn lets_guests_in(&self, room_id: &RoomId) -> Result<bool, RoomError> {
        Ok(self.state_event(room_id, GUEST_ACCESS, "")?.is_some_and(|access| is_open(&access)))
    }
}

impl RoomWriter<'_> {
    /// That a guest of this server changes nobody's membership but his own, only to
    /// join or leave, and joins only where guests may. `before` is the state that the
    /// event is put on.
    pub(super) fn check_guest(&mut self, event: &NewEvent, before: &Root) -> Result<(), RoomError> {
        if event.kind != TimelineEventType::RoomMember || !self.rooms.is_guest(&event.sender)? {
            return Ok(());
        }
        let is_own = event.state_key.as_deref() == Some(event.sender.as_str());
        match event.content.get("membership").and_then(CanonicalJsonValue::as_str) {
            Some("join") if is_own => {}
            Some("leave") if is_own => return Ok(()),
            _ => return Err(RoomError::Forbidden("guests only join and leave".to_owned())),
        }
        let access = self.at(before, &StateKey::new(GUEST_ACCESS, ""))?;
        if access.is_some_and(|access| is_open(&access)) { Ok(()) } else { Err(RoomError::NoGuests) }
    }
}

fn is_open(access: &Pdu) -> bool {
    access.content_object().get("guest_access").and_then(Value::as_str) == Some("can_join")
}
