//! Which events are a service's business (application service API, "Registration"): those
//! of its users, about them, of rooms and aliases in its namespaces, and of rooms that one
//! of its users was in when they were.
//!
//! Invariant: what is remembered of a room (which of its members, past ones too, are the
//! service's) is looked up anew after each membership event of such a member, so that who
//! was in the room at an event is always found, however late the service is told.

use std::collections::HashMap;

use causeway_room::Pdu;
use causeway_storage::{
    Database,
    directory::aliases_of,
    rooms::{self as rows, Place},
};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState};

use crate::{appservices::Registration, error::MatrixError, room_view::RoomView, rooms::Rooms};

/// Rooms of which something is remembered; beyond it all is looked up anew.
const ROOMS_MAX: usize = 10_000;
/// Members that are read at once.
const PAGE: usize = 500;
/// Aliases of a room that are looked at.
const ALIASES_MAX: usize = 100;
/// Rooms of somebody that are looked at for whether a service shares one.
const SHARED_MAX: usize = 1_000;

/// What one service, as it is registered, is known to take part in.
#[derive(Debug, Default)]
pub struct Interest {
    /// Its users among the members; who was found in the room last comes first.
    members: HashMap<OwnedRoomId, Vec<OwnedUserId>>,
}

impl Interest {
    pub(super) fn concerns(
        &mut self,
        rooms: &Rooms,
        service: &Registration,
        place: &Place,
        event: &Pdu,
    ) -> Result<bool, MatrixError> {
        let member = event.membership().and_then(|_| event.state_key());
        let member = member.and_then(|member| <&UserId>::try_from(member).ok());
        if member.is_some_and(|member| service.owns_user(member)) {
            self.members.remove(&place.room_id);
            return Ok(true);
        }
        let view = RoomView::new(rooms);
        if service.owns_user(event.sender()) || is_named(view.database(), service, &place.room_id)? {
            return Ok(true);
        }
        let members = self.members_of(view.database(), service, &place.room_id)?;
        if members.is_empty() {
            return Ok(false);
        }
        let Some(root) = view.root_at(&place.room_id, place.position.0)? else { return Ok(false) };
        for at in 0..members.len() {
            if view.is_joined_in(&root, &members[at])? {
                members.swap(0, at);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether what happens in the room now is its business.
    pub(super) fn has_room(
        &mut self,
        database: &Database,
        service: &Registration,
        room_id: &RoomId,
    ) -> Result<bool, MatrixError> {
        if is_named(database, service, room_id)? {
            return Ok(true);
        }
        let members = self.members_of(database, service, room_id)?;
        for at in 0..members.len() {
            let member = rows::member(database, room_id, &members[at])?;
            if member.is_some_and(|member| member.membership == MembershipState::Join) {
                members.swap(0, at);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether somebody is in a room that is its business.
    pub(super) fn shares_room(
        &mut self,
        database: &Database,
        service: &Registration,
        user_id: &UserId,
    ) -> Result<bool, MatrixError> {
        let rooms: Vec<OwnedRoomId> = if user_id.server_name() == service.sender.server_name() {
            let rooms = rows::memberships(database, user_id, None, SHARED_MAX)?.into_iter();
            let joined = rooms.filter(|(_, member)| member.membership == MembershipState::Join);
            joined.map(|(room_id, _)| room_id).collect()
        } else {
            rows::remote_rooms(database, user_id, SHARED_MAX)?
        };
        for room_id in rooms {
            if self.has_room(database, service, &room_id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn members_of(
        &mut self,
        database: &Database,
        service: &Registration,
        room_id: &RoomId,
    ) -> Result<&mut Vec<OwnedUserId>, MatrixError> {
        if !self.members.contains_key(room_id) {
            if self.members.len() >= ROOMS_MAX {
                self.members.clear();
            }
            let mut own = Vec::new();
            let mut after: Option<OwnedUserId> = None;
            loop {
                let page = rows::members(database, room_id, after.as_deref(), PAGE)?;
                let is_last = page.len() < PAGE;
                after = page.last().map(|(user_id, _)| user_id.clone());
                own.extend(page.into_iter().map(|(user_id, _)| user_id).filter(|id| service.owns_user(id)));
                if is_last {
                    break;
                }
            }
            self.members.insert(room_id.to_owned(), own);
        }
        Ok(self.members.entry(room_id.to_owned()).or_default())
    }
}

/// Whether the room itself, or an alias of it, is in a namespace.
fn is_named(database: &Database, service: &Registration, room_id: &RoomId) -> Result<bool, MatrixError> {
    if service.owns_room(room_id) {
        return Ok(true);
    }
    if service.aliases.is_empty() {
        return Ok(false);
    }
    Ok(aliases_of(database, room_id, ALIASES_MAX)?.iter().any(|alias| service.owns_alias(alias)))
}
