//! Who may see which event of a room (client-server API, "Room History
//! Visibility").
//!
//! A [`Viewer`] answers for one user and room. The state at an event decides;
//! for an event that changes the visibility or the user's own membership the
//! state after it counts too.

use causeway_room::{
    Root,
    visibility::{AtEvent, user_may_see, visibility_of},
};
use causeway_storage::rooms as rows;
use ruma::{RoomId, UserId, events::room::member::MembershipState};

use crate::{
    error::MatrixError,
    room_view::RoomView,
    rooms::{Held, RoomError},
};

/// What one user may see of one room.
pub struct Viewer<'a> {
    view: RoomView<'a>,
    user_id: &'a UserId,
    /// The user is joined now.
    pub is_joined: bool,
    /// Until where in the timeline the user was joined; `None` if he never was.
    joined_until: Option<i64>,
    /// The last answer, by state: neighbours share it.
    last: Option<(Root, AtEvent)>,
}

impl<'a> Viewer<'a> {
    /// For this user and room.
    pub fn new(view: RoomView<'a>, room_id: &RoomId, user_id: &'a UserId) -> Result<Self, RoomError> {
        let member = rows::membership(view.database(), user_id, room_id)?;
        let membership = member.as_ref().map(|member| member.membership.clone());
        let is_joined = membership == Some(MembershipState::Join);
        let joined_until = match &member {
            Some(_) if is_joined => Some(i64::MAX),
            Some(member) => Self::left_at(view, member)?,
            None => None,
        };
        Ok(Self { view, user_id, is_joined, joined_until, last: None })
    }

    /// The place of the event that ended the membership, if it ended one.
    fn left_at(view: RoomView<'_>, member: &rows::Member) -> Result<Option<i64>, RoomError> {
        let Some(held) = view.held(&member.event_id)? else { return Ok(None) };
        let (Some(position), Some(before)) = (held.meta.position, held.meta.state_before) else {
            return Ok(None);
        };
        let key = held.pdu.state_key().unwrap_or_default();
        let was = view.state(&before, "m.room.member", key)?.and_then(|event| event.membership());
        Ok((was == Some(MembershipState::Join)).then_some(position))
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
        use ruma::events::room::history_visibility::HistoryVisibility;
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
        let own_membership = held.pdu.is_state("m.room.member", self.user_id.as_str());
        let changes_rule = own_membership || held.pdu.is_state("m.room.history_visibility", "");
        if own_membership && self.joined_until.is_some() {
            return Ok(true);
        }
        let joined_since = match held.meta.position {
            Some(position) => self.joined_until.is_some_and(|until| position <= until),
            None => self.joined_until.is_some(),
        };
        let roots = [held.meta.state_before, held.meta.state_after.filter(|_| changes_rule)];
        let mut known = false;
        for root in roots.into_iter().flatten() {
            known = true;
            if user_may_see(&self.at(root)?, joined_since) {
                return Ok(true);
            }
        }
        // History whose state is not known is judged by the state of today.
        if !known {
            let root = self.view.current_root(&held.meta.room_id)?;
            return Ok(user_may_see(&self.at(root)?, joined_since));
        }
        Ok(false)
    }

    fn at(&mut self, root: Root) -> Result<AtEvent, RoomError> {
        if let Some((last, at)) = &self.last
            && *last == root
        {
            return Ok(at.clone());
        }
        let visibility = self.view.state(&root, "m.room.history_visibility", "")?;
        let member = self.view.state(&root, "m.room.member", self.user_id.as_str())?;
        let membership = member.and_then(|member| member.membership()).unwrap_or(MembershipState::Leave);
        let at = AtEvent { visibility: visibility_of(visibility.as_deref()), membership };
        self.last = Some((root, at.clone()));
        Ok(at)
    }
}

#[cfg(test)]
mod tests;
