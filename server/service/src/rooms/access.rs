//! Who may see which event: users by the room's history visibility, servers by
//! their members.
//!
//! The rule itself is [`causeway_room::visibility`]; here its facts are found.
//! An event of history whose own state is not known is judged by the state of
//! the first event that this server saw of the room: the nearest that it knows.

use std::sync::Arc;

use causeway_room::{
    Pdu, Root,
    visibility::{AtEvent, user_may_see, visibility_of},
};
use causeway_storage::{
    Direction,
    rooms::{self as rows, Member},
};
use ruma::{
    EventId, RoomId, ServerName, UserId,
    events::room::{history_visibility::HistoryVisibility, member::MembershipState},
};

use super::{
    Rooms,
    error::RoomError,
    store::{Held, Reader},
};

/// An event as it may be shown: without what a redaction took.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The event, redacted if it was.
    pub pdu: Arc<Pdu>,
    /// What redacted it: for `unsigned.redacted_because`.
    pub redacted_because: Option<Arc<Pdu>>,
}

impl Rooms {
    /// The event with its redaction applied, if it has one.
    ///
    /// # Errors
    /// Storage.
    pub fn shown(&self, pdu: &Arc<Pdu>) -> Result<Shown, RoomError> {
        let Some(redaction) = self.redaction_of(pdu.event_id())? else {
            return Ok(Shown { pdu: Arc::clone(pdu), redacted_because: None });
        };
        let rules = self.version_rules(pdu.room_id())?;
        let redacted = Arc::new(pdu.redacted(&rules.rules)?);
        Ok(Shown { pdu: redacted, redacted_because: Some(redaction) })
    }

    /// An event for a user, if it is one of this room and the user may see it.
    ///
    /// # Errors
    /// Storage.
    pub fn event_for_user(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Option<Arc<Pdu>>, RoomError> {
        let Some(held) = self.held(event_id)? else { return Ok(None) };
        let seen = *held.meta.room_id == *room_id && self.visible_to_user(user_id, &held)?;
        Ok(seen.then_some(held.pdu))
    }

    /// Whether a user may see an event. What was refused, nobody may.
    ///
    /// # Errors
    /// Storage.
    pub fn visible_to_user(&self, user_id: &UserId, held: &Held) -> Result<bool, RoomError> {
        if held.meta.rejected.is_some() || held.meta.soft_failed {
            return Ok(false);
        }
        let room_id = &held.meta.room_id;
        let member = self.member(room_id, user_id)?;
        let joined_since = self.was_joined_since(room_id, member.as_ref(), held)?;
        let Some(before) = self.nearest_state(held)? else { return Ok(joined_since) };
        if self.allows(&before, user_id, joined_since)? {
            return Ok(true);
        }
        // What changes the visibility or the user's own membership counts with
        // the state before it or after it, whichever shows more.
        let changes = held.pdu.is_state("m.room.history_visibility", "")
            || held.pdu.is_state("m.room.member", user_id.as_str());
        match held.meta.state_after {
            Some(after) if changes => self.allows(&after, user_id, joined_since),
            _ => Ok(false),
        }
    }

    fn allows(&self, root: &Root, user_id: &UserId, joined_since: bool) -> Result<bool, RoomError> {
        let visibility = visibility_of(self.state_at(root, "m.room.history_visibility", "")?.as_deref());
        let membership = self.state_at(root, "m.room.member", user_id.as_str())?;
        let membership = membership.and_then(|event| event.membership()).unwrap_or(MembershipState::Leave);
        Ok(user_may_see(&AtEvent { visibility, membership }, joined_since))
    }

    /// Whether the user was joined at the event or later.
    fn was_joined_since(
        &self,
        room_id: &RoomId,
        member: Option<&Member>,
        held: &Held,
    ) -> Result<bool, RoomError> {
        let Some(member) = member else { return Ok(false) };
        if member.membership == MembershipState::Join {
            return Ok(true);
        }
        // He left, was removed or banned by that event: was he joined just before it?
        let Some(last) = self.held(&member.event_id)? else { return Ok(false) };
        let Some(user_id) = last.pdu.state_key().filter(|_| *last.meta.room_id == *room_id) else {
            return Ok(false);
        };
        let Some(before) = last.meta.state_before else { return Ok(false) };
        let was = self.state_at(&before, "m.room.member", user_id)?.and_then(|event| event.membership());
        let earlier = match (held.meta.position, last.meta.position) {
            (Some(event), Some(left)) => event <= left,
            _ => false,
        };
        Ok(earlier && was == Some(MembershipState::Join))
    }

    /// The state before an event, or of the first event that came live.
    fn nearest_state(&self, held: &Held) -> Result<Option<Root>, RoomError> {
        if held.meta.state_before.is_some() {
            return Ok(held.meta.state_before);
        }
        let first = rows::timeline(&self.store.database, &held.meta.room_id, Some(0), Direction::Forward, 1)?;
        let Some(first) = first.first() else { return Ok(None) };
        Ok(self.held(&first.event_id)?.and_then(|first| first.meta.state_before))
    }

    /// An event for another server: of a room that it is in, redacted where the
    /// room's history visibility hides it from that server's users.
    ///
    /// # Errors
    /// Storage.
    pub fn event_for_server(
        &self,
        server: &ServerName,
        event_id: &EventId,
    ) -> Result<Option<Arc<Pdu>>, RoomError> {
        let Some(held) = self.held(event_id)? else { return Ok(None) };
        if held.meta.rejected.is_some() || !self.is_server_joined(&held.meta.room_id, server)? {
            return Ok(None);
        }
        self.for_server(server, &held).map(Some)
    }

    /// An event as a server in its room may have it.
    pub(crate) fn for_server(&self, server: &ServerName, held: &Held) -> Result<Arc<Pdu>, RoomError> {
        // State is what authorisation is made of: a server in the room needs it whole.
        if held.pdu.state_key().is_none() && !self.visible_to_server(server, held)? {
            let rules = self.version_rules(&held.meta.room_id)?;
            return Ok(Arc::new(held.pdu.redacted(&rules.rules)?));
        }
        Ok(self.shown(&held.pdu)?.pdu)
    }

    /// Whether any user of a server (which is in the room) may see the event.
    fn visible_to_server(&self, server: &ServerName, held: &Held) -> Result<bool, RoomError> {
        let Some(root) = self.nearest_state(held)? else { return Ok(true) };
        let visibility = visibility_of(self.state_at(&root, "m.room.history_visibility", "")?.as_deref());
        let enough: &[MembershipState] = match visibility {
            HistoryVisibility::Invited => &[MembershipState::Join, MembershipState::Invite],
            HistoryVisibility::Joined => &[MembershipState::Join],
            _ => return Ok(true),
        };
        for entry in causeway_room::state_tree::entries(&Reader(&self.store), &root)? {
            let theirs = entry.key.kind == "m.room.member"
                && UserId::parse(&*entry.key.key).is_ok_and(|user_id| user_id.server_name() == server);
            if theirs
                && let Some(held) = self.held(&entry.event_id)?
                && held.pdu.membership().is_some_and(|membership| enough.contains(&membership))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
