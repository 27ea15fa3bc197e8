//! Reading rooms: events, state, members, timeline.
//!
//! No access checks here, except where the name says so: see [`super::access`].

use std::sync::Arc;

use causeway_room::{
    Pdu, Root, StateKey,
    acl::ServerAcl,
    state_tree::{self, Difference, Entry},
};
use causeway_storage::{
    Direction, StreamPosition,
    rooms::{self as rows, Member, Place, Room},
};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName,
    UserId, events::room::member::MembershipState, room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue;

use super::{
    Rooms,
    error::RoomError,
    power::Power,
    store::{Held, Reader, VersionRules},
};

/// Rooms of one user of another server that are looked at.
const SHARED_ROOMS_MAX: usize = 10_000;
/// Members of a room that are read at once.
const MEMBERS_PAGE: usize = 500;

impl Rooms {
    /// Whether this server knows the room.
    pub fn exists(&self, room_id: &RoomId) -> Result<bool, RoomError> {
        Ok(self.store.version(room_id)?.is_some())
    }

    /// The room's version and rules.
    pub fn version_rules(&self, room_id: &RoomId) -> Result<Arc<VersionRules>, RoomError> {
        self.store.version(room_id)?.ok_or(RoomError::UnknownRoom)
    }

    /// The room's version.
    pub fn version(&self, room_id: &RoomId) -> Result<RoomVersionId, RoomError> {
        Ok(self.version_rules(room_id)?.version.clone())
    }

    /// The ids of known rooms after one, in order, at most `limit`.
    pub fn room_ids(&self, after: Option<&RoomId>, limit: usize) -> Result<Vec<OwnedRoomId>, RoomError> {
        Ok(rows::room_ids(&self.store.database, after, limit)?)
    }

    pub(crate) fn row(&self, room_id: &RoomId) -> Result<Room, RoomError> {
        rows::room(&self.store.database, room_id)?.ok_or(RoomError::UnknownRoom)
    }

    /// An event, whatever became of it (rejected, soft-failed, outlier).
    pub fn held(&self, event_id: &EventId) -> Result<Option<Held>, RoomError> {
        self.store.held(event_id)
    }

    /// An event that was accepted into a room; what was refused does not exist.
    pub fn event(&self, event_id: &EventId) -> Result<Option<Arc<Pdu>>, RoomError> {
        let held = self.store.held(event_id)?;
        Ok(held.filter(|held| held.meta.rejected.is_none() && !held.meta.soft_failed).map(|held| held.pdu))
    }

    /// An event of the room's current state.
    pub fn state_event(
        &self,
        room_id: &RoomId,
        kind: &str,
        key: &str,
    ) -> Result<Option<Arc<Pdu>>, RoomError> {
        let Some(event_id) = rows::current(&self.store.database, room_id, kind, key)? else {
            return Ok(None);
        };
        Ok(self.store.held(&event_id)?.map(|held| held.pdu))
    }

    /// The whole current state.
    pub fn state_all(&self, room_id: &RoomId) -> Result<Vec<Arc<Pdu>>, RoomError> {
        let ids = rows::current_of(&self.store.database, room_id, None, None, usize::MAX)?;
        self.pdus(ids.into_iter().map(|(_, event_id)| event_id))
    }

    /// The current state of one type, in order of state keys.
    pub fn state_of_kind(&self, room_id: &RoomId, kind: &str) -> Result<Vec<Arc<Pdu>>, RoomError> {
        let ids = rows::current_of(&self.store.database, room_id, Some(kind), None, usize::MAX)?;
        self.pdus(ids.into_iter().map(|(_, event_id)| event_id))
    }

    /// The keys of the current state of one type after a key, at most `limit`.
    pub fn state_keys(
        &self,
        room_id: &RoomId,
        kind: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, OwnedEventId)>, RoomError> {
        let after = after.map(|after| StateKey::new(kind, after));
        let ids = rows::current_of(&self.store.database, room_id, Some(kind), after.as_ref(), limit)?;
        Ok(ids.into_iter().map(|(key, event_id)| (key.key, event_id)).collect())
    }

    /// The events of these ids that are held, in order.
    pub fn pdus(&self, ids: impl IntoIterator<Item = OwnedEventId>) -> Result<Vec<Arc<Pdu>>, RoomError> {
        let mut pdus = Vec::new();
        for event_id in ids {
            pdus.extend(self.store.held(&event_id)?.map(|held| held.pdu));
        }
        Ok(pdus)
    }

    /// The current state as a whole.
    pub fn state_root(&self, room_id: &RoomId) -> Result<Root, RoomError> {
        Ok(self.row(room_id)?.state)
    }

    /// The state that was current at a stream position; `None` before the room was known here.
    pub fn state_root_at(&self, room_id: &RoomId, position: i64) -> Result<Option<Root>, RoomError> {
        let row = rows::position_before(&self.store.database, room_id, position)?;
        Ok(row.filter(|row| row.position > 0).map(|row| row.current))
    }

    /// The states that were current before and after the event at a stream position;
    /// `None` if the room was not known here before it.
    pub fn state_roots_around(
        &self,
        room_id: &RoomId,
        position: i64,
    ) -> Result<Option<(Root, Root)>, RoomError> {
        let rows = rows::position_and_before(&self.store.database, room_id, position)?;
        Ok(rows.filter(|(_, before)| before.position > 0).map(|(at, before)| (before.current, at.current)))
    }

    /// A piece of some state.
    pub fn state_at(&self, root: &Root, kind: &str, key: &str) -> Result<Option<Arc<Pdu>>, RoomError> {
        self.store.state(root, kind, key)
    }

    /// Where two states differ; walks only what differs.
    pub fn state_diff(&self, old: &Root, new: &Root) -> Result<Vec<Difference>, RoomError> {
        state_tree::diff(&Reader(&self.store), old, new)
    }

    /// All of some state, in no particular order.
    pub fn state_entries(&self, root: &Root) -> Result<Vec<Entry>, RoomError> {
        state_tree::entries(&Reader(&self.store), root)
    }

    /// Events of a room from a position (inclusive; `None` is the end one
    /// begins at), at most `limit`. Live events stand at their stream position,
    /// history that was fetched later at negative ones.
    pub fn timeline(
        &self,
        room_id: &RoomId,
        from: Option<i64>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(i64, Arc<Pdu>)>, RoomError> {
        let rows = rows::timeline(&self.store.database, room_id, from, direction, limit)?;
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some(held) = self.store.held(&row.event_id)? {
                events.push((row.position, held.pdu));
            }
        }
        Ok(events)
    }

    /// Events of all rooms after a position, in order, at most `limit`, and
    /// only durable ones.
    pub fn stream(&self, after: StreamPosition, limit: usize) -> Result<Vec<Place>, RoomError> {
        let up_to = self.store.database.visible();
        Ok(rows::stream(&self.store.database, after, up_to, limit)?)
    }

    /// A user's standing in a room, by its current state or (a local user's
    /// invite to a room elsewhere) by what this server was told.
    pub fn member(&self, room_id: &RoomId, user_id: &UserId) -> Result<Option<Member>, RoomError> {
        if user_id.server_name() == self.server_name {
            return Ok(rows::membership(&self.store.database, user_id, room_id)?);
        }
        Ok(rows::member(&self.store.database, room_id, user_id)?)
    }

    /// Whether a user is joined.
    pub fn is_joined(&self, room_id: &RoomId, user_id: &UserId) -> Result<bool, RoomError> {
        let member = self.member(room_id, user_id)?;
        Ok(member.is_some_and(|member| member.membership == MembershipState::Join))
    }

    /// Everybody in the room's state, or those with one membership, in order of their ids.
    pub fn members(
        &self,
        room_id: &RoomId,
        membership: Option<&MembershipState>,
    ) -> Result<Vec<(OwnedUserId, Member)>, RoomError> {
        let mut members = rows::members(&self.store.database, room_id, None, usize::MAX)?;
        members.retain(|(_, member)| membership.is_none_or(|membership| member.membership == *membership));
        Ok(members)
    }

    /// Whether somebody of a server is invited, as far as `budget` members say, from
    /// which those that are looked at are taken.
    pub fn is_server_invited(
        &self,
        room_id: &RoomId,
        server: &ServerName,
        budget: &mut usize,
    ) -> Result<bool, RoomError> {
        let mut after = None;
        while *budget > 0 {
            let page = MEMBERS_PAGE.min(*budget);
            let members = rows::members(&self.store.database, room_id, after.as_deref(), page)?;
            *budget -= members.len();
            let is_invited = |(user_id, member): &(OwnedUserId, Member)| {
                member.membership == MembershipState::Invite && user_id.server_name() == server
            };
            if members.iter().any(is_invited) {
                return Ok(true);
            }
            if members.len() < page {
                break;
            }
            after = members.into_iter().next_back().map(|(user_id, _)| user_id);
        }
        Ok(false)
    }

    /// A local user's standing in all rooms, invites to rooms elsewhere included.
    pub fn memberships_of(&self, user_id: &UserId) -> Result<Vec<(OwnedRoomId, Member)>, RoomError> {
        Ok(rows::memberships(&self.store.database, user_id, None, usize::MAX)?)
    }

    /// What an invited (or knocking) user is told of the room.
    pub fn invite_state(&self, room_id: &RoomId, user_id: &UserId) -> Result<Vec<Box<RawValue>>, RoomError> {
        Ok(rows::invite_state(&self.store.database, user_id, room_id)?)
    }

    /// Whether a local user and another are joined to the same room.
    pub fn share_a_room(&self, user_id: &UserId, other: &UserId) -> Result<bool, RoomError> {
        for (room_id, member) in self.memberships_of(user_id)? {
            if member.membership == MembershipState::Join && self.is_joined(&room_id, other)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether this server is in a room with a user of another server.
    pub fn shares_a_room(&self, user_id: &UserId) -> Result<bool, RoomError> {
        for room_id in rows::remote_rooms(&self.store.database, user_id, SHARED_ROOMS_MAX)? {
            if self.is_joined_here(&room_id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The rooms that this server and a user of another one are in.
    pub fn shared_rooms(&self, user_id: &UserId) -> Result<Vec<OwnedRoomId>, RoomError> {
        let mut rooms = rows::remote_rooms(&self.store.database, user_id, SHARED_ROOMS_MAX)?;
        let mut shared = Vec::with_capacity(rooms.len());
        for room_id in rooms.drain(..) {
            if self.is_joined_here(&room_id)? {
                shared.push(room_id);
            }
        }
        Ok(shared)
    }

    /// The number of joined members.
    pub fn joined_count(&self, room_id: &RoomId) -> Result<u64, RoomError> {
        Ok(rows::joined_servers(&self.store.database, room_id)?.values().sum())
    }

    /// The servers with joined members.
    pub fn joined_servers(&self, room_id: &RoomId) -> Result<Vec<OwnedServerName>, RoomError> {
        Ok(rows::joined_servers(&self.store.database, room_id)?.into_keys().collect())
    }

    /// Whether a server has a joined member.
    pub fn is_server_joined(&self, room_id: &RoomId, server: &ServerName) -> Result<bool, RoomError> {
        Ok(rows::server_count(&self.store.database, room_id, server)? > 0)
    }

    /// Whether this server has a joined member: a room that it only was in is
    /// as foreign as one that it never was in.
    pub fn is_joined_here(&self, room_id: &RoomId) -> Result<bool, RoomError> {
        self.is_server_joined(room_id, &self.server_name)
    }

    /// Whether the room's access control list lets a server take part.
    pub fn server_acl_allows(&self, room_id: &RoomId, server: &ServerName) -> Result<bool, RoomError> {
        let Some(event) = self.state_event(room_id, "m.room.server_acl", "")? else {
            return Ok(true);
        };
        // A list that can't be read is no list.
        Ok(event.content::<ServerAcl>().map_or(true, |acl| acl.allows(server)))
    }

    /// Who has which power now.
    pub fn power(&self, room_id: &RoomId) -> Result<Power, RoomError> {
        let create = self.state_event(room_id, "m.room.create", "")?;
        Ok(Power::new(create, self.state_event(room_id, "m.room.power_levels", "")?))
    }

    /// Whether a joined user may send state of a type now.
    pub fn may_send_state(&self, room_id: &RoomId, user_id: &UserId, kind: &str) -> Result<bool, RoomError> {
        let rules: &RoomVersionRules = &self.version_rules(room_id)?.rules;
        Ok(self.is_joined(room_id, user_id)? && self.power(room_id)?.may_send(rules, user_id, kind, true))
    }

    /// The redaction that applies to an event.
    pub fn redaction_of(&self, event_id: &EventId) -> Result<Option<Arc<Pdu>>, RoomError> {
        let Some(redaction) = rows::redaction_of(&self.store.database, event_id)? else {
            return Ok(None);
        };
        self.event(&redaction)
    }

    /// What relates to an event, from a position (inclusive), with one `rel_type`
    /// and one type if given, at most `limit`.
    pub fn relations(
        &self,
        target: &EventId,
        rel_type: Option<&str>,
        kind: Option<&str>,
        from: Option<i64>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(i64, Arc<Pdu>)>, RoomError> {
        let mut found = Vec::new();
        let mut from = from;
        while found.len() < limit {
            let rows = rows::relations(&self.store.database, target, from, direction, RELATIONS_STEP)?;
            let Some(last) = rows.last().map(|row| row.position) else { break };
            let full = rows.len() == RELATIONS_STEP;
            for row in rows {
                let wanted = rel_type.is_none_or(|rel_type| row.rel_type == rel_type)
                    && kind.is_none_or(|kind| row.kind == kind);
                if wanted && let Some(pdu) = self.event(&row.event_id)? {
                    found.push((row.position, pdu));
                }
            }
            from = match direction {
                Direction::Forward => last.checked_add(1),
                Direction::Backward => last.checked_sub(1),
            };
            if !full || from.is_none() {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The depth of the first event that came to this server as it was sent: that of a room's
    /// beginning, or of the join by which this server came in. 0 if there is none.
    pub fn least_live_depth(&self, room_id: &RoomId) -> Result<u64, RoomError> {
        let first = rows::timeline(&self.store.database, room_id, Some(0), Direction::Forward, 1)?;
        let Some(first) = first.first() else { return Ok(0) };
        Ok(self.event(&first.event_id)?.map_or(0, |pdu| pdu.depth()))
    }

    /// The events that no accepted event follows yet.
    pub fn heads(&self, room_id: &RoomId) -> Result<Vec<OwnedEventId>, RoomError> {
        Ok(self.row(room_id)?.heads.into_iter().map(|head| head.event_id).collect())
    }

    /// Events that held ones follow and that are not held, at most `limit`:
    /// where history is to be fetched from.
    pub fn missing_events(&self, room_id: &RoomId, limit: usize) -> Result<Vec<OwnedEventId>, RoomError> {
        Ok(rows::missing_events(&self.store.database, room_id, limit)?)
    }
}

/// Rows of relations that are read at once.
const RELATIONS_STEP: usize = 64;

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use serde_json::Map;

    use crate::rooms::{Preset, tests::Server};

    #[test]
    fn only_so_many_members_of_all_rooms_are_looked_at() {
        let server = Server::new("a.example");
        let alice = server.user("alice");
        let room_id = server.create(&alice, Preset::PrivateChat);
        for n in 0..3 {
            server
                .rooms
                .invite(&room_id, &alice, &server.user(&format!("guest{n}")), Map::new())
                .expect("may");
        }
        let is_invited = |server_name, mut budget: usize| {
            let invited = server.rooms.is_server_invited(&room_id, server_name, &mut budget);
            (invited.expect("reads"), budget)
        };
        let b = server_name!("b.example");
        assert_eq!(is_invited(b, 6), (false, 2), "four were looked at");
        assert_eq!(is_invited(b, 2), (false, 0));
        assert_eq!(is_invited(b, 0), (false, 0));
        assert!(is_invited(server_name!("a.example"), 4).0);
        assert!(!is_invited(server_name!("a.example"), 1).0, "alice is no guest");
    }
}
