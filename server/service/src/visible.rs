//! Who may see which event of a room (client-server API, "Room History
//! Visibility").
//!
//! A [`Viewer`] answers for one user and room. The state at an event decides;
//! for an event that changes the visibility or the user's own membership the
//! state after it counts too.
//!
//! Invariant: what is not known does not let anybody see. History that was
//! fetched later is before somebody left only if an event that came live before
//! that follows it. Where the state at it is not known, the state at that event
//! decides, and of that only what is older than the event.

use std::sync::Arc;

use causeway_room::{
    Pdu, Root,
    visibility::{AtEvent, user_may_see, visibility_of},
};
use causeway_storage::rooms as rows;
use ruma::{
    RoomId, UserId,
    events::room::{history_visibility::HistoryVisibility, member::MembershipState},
};

use crate::{
    error::MatrixError,
    room_view::RoomView,
    rooms::{Held, RoomError},
};

/// Events of a user's membership that are followed back to the last time that he was joined.
const MEMBERSHIPS_MAX: usize = 100;

/// What one user may see of one room.
pub struct Viewer<'a> {
    view: RoomView<'a>,
    user_id: &'a UserId,
    /// The user is joined now.
    pub is_joined: bool,
    /// Until where in the timeline the user was joined; `None` if he never was.
    joined_until: Option<i64>,
    /// The last answer, by state: neighbours share it.
    last: Option<(Root, Deciding)>,
}

/// What decides in one state: the visibility, and the user's membership.
type Deciding = [Option<Arc<Pdu>>; 2];

impl<'a> Viewer<'a> {
    /// For this user and room.
    pub fn new(view: RoomView<'a>, room_id: &RoomId, user_id: &'a UserId) -> Result<Self, RoomError> {
        let member = rows::membership(view.database(), user_id, room_id)?.filter(|member| !member.forgotten);
        let membership = member.as_ref().map(|member| member.membership.clone());
        let is_joined = membership == Some(MembershipState::Join);
        let joined_until = match &member {
            Some(_) if is_joined => Some(i64::MAX),
            Some(member) => Self::left_at(view, member)?,
            None => None,
        };
        Ok(Self { view, user_id, is_joined, joined_until, last: None })
    }

    /// The place of the event that ended the last time that the user was joined:
    /// who was kicked may have been banned since, or invited again.
    fn left_at(view: RoomView<'_>, member: &rows::Member) -> Result<Option<i64>, RoomError> {
        let mut event_id = member.event_id.clone();
        for _ in 0..MEMBERSHIPS_MAX {
            let Some(held) = view.held(&event_id)? else { return Ok(None) };
            let (Some(position), Some(before)) = (held.meta.position, held.meta.state_before) else {
                return Ok(None);
            };
            let key = held.pdu.state_key().unwrap_or_default();
            let Some(was) = view.state(&before, "m.room.member", key)? else { return Ok(None) };
            if was.membership() == Some(MembershipState::Join) {
                return Ok(Some(position));
            }
            was.event_id().clone_into(&mut event_id);
        }
        Ok(None)
    }

    /// Where in the timeline the user left, or was put out; `None` if he never was in the room.
    pub fn left(&self) -> Option<i64> {
        self.joined_until.filter(|_| !self.is_joined)
    }

    /// Whether the user is or was in the room.
    pub fn was_joined(&self) -> bool {
        self.joined_until.is_some()
    }

    /// Refuses users who may see nothing of the room at all.
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN`.
    pub fn require_some_access(&self, room_id: &RoomId) -> Result<(), MatrixError> {
        if self.joined_until.is_some() || self.is_world_readable(room_id)? {
            Ok(())
        } else {
            Err(MatrixError::forbidden("You are not in this room"))
        }
    }

    /// Whether anybody may read the room now.
    pub fn is_world_readable(&self, room_id: &RoomId) -> Result<bool, RoomError> {
        let event = self.view.current(room_id, "m.room.history_visibility", "")?;
        Ok(visibility_of(event.as_deref()) == HistoryVisibility::WorldReadable)
    }

    /// The last place in the timeline that the user may look at.
    pub fn until(&self, room_id: &RoomId) -> Result<i64, RoomError> {
        if self.is_joined || self.is_world_readable(room_id)? {
            return Ok(i64::MAX);
        }
        Ok(self.joined_until.unwrap_or(i64::MIN))
    }

    /// Whether the user may see this event.
    pub fn may_see(&mut self, held: &Held) -> Result<bool, RoomError> {
        if held.meta.is_purged() {
            return Ok(false);
        }
        let own_membership = held.pdu.is_state("m.room.member", self.user_id.as_str());
        let changes_rule = own_membership || held.pdu.is_state("m.room.history_visibility", "");
        if own_membership && self.joined_until.is_some() {
            return Ok(true);
        }
        let joined_since = self.joined_until.is_some_and(|until| held.meta.not_after() <= until);
        let roots = [held.meta.state_before, held.meta.state_after.filter(|_| changes_rule)];
        let mut known = false;
        for root in roots.into_iter().flatten() {
            known = true;
            let [visibility, member] = self.deciding(root)?;
            if user_may_see(&at_event(visibility.as_deref(), member.as_deref()), joined_since) {
                return Ok(true);
            }
        }
        Ok(!known && user_may_see(&self.near(held)?, joined_since))
    }

    /// Whether the user may know the room's state as it was at a place of the timeline:
    /// who may see a message that is sent in it.
    pub fn may_see_state(&mut self, root: Root, position: i64) -> Result<bool, RoomError> {
        let joined_since = self.joined_until.is_some_and(|until| position <= until);
        let [visibility, member] = self.deciding(root)?;
        Ok(user_may_see(&at_event(visibility.as_deref(), member.as_deref()), joined_since))
    }

    /// What is known of the state at an event of which it is not kept.
    fn near(&mut self, held: &Held) -> Result<AtEvent, RoomError> {
        let root = match self.view.nearest_state(held)? {
            Some(root) => root,
            None => self.view.current_root(&held.meta.room_id)?,
        };
        let [visibility, member] = self.deciding(root)?;
        let was_so =
            |event: &Option<Arc<Pdu>>| event.as_ref().is_none_or(|event| event.depth() < held.pdu.depth());
        let mut at = at_event(visibility.as_deref(), member.as_deref().filter(|_| was_so(&member)));
        // What the room was before it got this visibility is not known. State
        // is what the room's members know anyway.
        if held.pdu.state_key().is_none() && !was_so(&visibility) {
            at.visibility = HistoryVisibility::Joined;
        }
        Ok(at)
    }

    fn deciding(&mut self, root: Root) -> Result<Deciding, RoomError> {
        if let Some((last, deciding)) = &self.last
            && *last == root
        {
            return Ok(deciding.clone());
        }
        let visibility = self.view.state(&root, "m.room.history_visibility", "")?;
        let member = self.view.state(&root, "m.room.member", self.user_id.as_str())?;
        let deciding = [visibility, member];
        self.last = Some((root, deciding.clone()));
        Ok(deciding)
    }
}

fn at_event(visibility: Option<&Pdu>, member: Option<&Pdu>) -> AtEvent {
    let membership = member.and_then(Pdu::membership).unwrap_or(MembershipState::Leave);
    AtEvent { visibility: visibility_of(visibility), membership }
}

#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod tests;
