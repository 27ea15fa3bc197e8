//! Who is in which room: by room, by user, and counted by server.

use std::collections::BTreeMap;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    events::room::member::MembershipState,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::room_id_part;
use crate::{
    Batch, Cf, Direction, Read, StorageError, StreamPosition,
    codec::{self, KeyParts, key},
};

/// A user's standing in a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Joined, invited …
    pub membership: MembershipState,
    /// The event that says so.
    pub event_id: OwnedEventId,
    /// Who sent that event.
    pub sender: OwnedUserId,
    /// When this server learnt of it.
    pub position: StreamPosition,
    /// Of who is joined: since when, if that was before this event, which then changed
    /// something else, as a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_since: Option<StreamPosition>,
    /// The name in this room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub displayname: Option<String>,
    /// The picture in this room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// A local user wants to hear no more of the room; clients that have not heard
    /// that he left are still told so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forgotten: bool,
}

/// A user's standing in a room's current state.
pub fn member(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    user_id: &UserId,
) -> Result<Option<Member>, StorageError> {
    codec::get(read, Cf::RoomMembers, key().str(room_id).str(user_id).as_ref())
}

/// Everybody who ever was in the room's state, in order, after a user, at most `limit`.
pub fn members(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    after: Option<&UserId>,
    limit: usize,
) -> Result<Vec<(OwnedUserId, Member)>, StorageError> {
    let from = after.map(|user_id| key().str(room_id).str(user_id).bytes(&[0]).finish());
    let prefix = key().str(room_id).finish();
    let rows = read.scan(Cf::RoomMembers, &prefix, from.as_deref(), Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::RoomMembers, row);
            parts.str()?;
            let broken = |_| StorageError::BrokenKey { cf: Cf::RoomMembers.name() };
            let user_id = UserId::parse(parts.str()?).map_err(broken)?;
            Ok((user_id, codec::decode(Cf::RoomMembers, value)?))
        })
        .collect()
}

/// Writes a user's standing in the room's current state, or takes it away.
pub fn put_member(batch: &mut Batch, room_id: &RoomId, user_id: &UserId, member: Option<&Member>) {
    let row = key().str(room_id).str(user_id);
    match member {
        Some(member) => codec::put(batch, Cf::RoomMembers, row, member),
        None => batch.delete(Cf::RoomMembers, row),
    }
}

/// Notes whether a user of another server is joined to a room.
pub fn put_remote_membership(batch: &mut Batch, user_id: &UserId, room_id: &RoomId, joined: bool) {
    let row = key().str(user_id).str(room_id);
    if joined {
        batch.put(Cf::RemoteMemberships, row, []);
    } else {
        batch.delete(Cf::RemoteMemberships, row);
    }
}

/// The rooms that a user of another server is joined to, as far as this server
/// is or was in them, at most `limit`.
pub fn remote_rooms(
    read: &(impl Read + ?Sized),
    user_id: &UserId,
    limit: usize,
) -> Result<Vec<OwnedRoomId>, StorageError> {
    let prefix = key().str(user_id).finish();
    let rows = read.scan(Cf::RemoteMemberships, &prefix, None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, _)| {
            let mut parts = KeyParts::new(Cf::RemoteMemberships, row);
            parts.str()?;
            room_id_part(Cf::RemoteMemberships, &mut parts)
        })
        .collect()
}

/// A local user's standing in a room, also one that this server is not in.
pub fn membership(
    read: &(impl Read + ?Sized),
    user_id: &UserId,
    room_id: &RoomId,
) -> Result<Option<Member>, StorageError> {
    codec::get(read, Cf::Memberships, key().str(user_id).str(room_id).as_ref())
}

/// A local user's rooms after a room, in order, at most `limit`.
pub fn memberships(
    read: &(impl Read + ?Sized),
    user_id: &UserId,
    after: Option<&RoomId>,
    limit: usize,
) -> Result<Vec<(OwnedRoomId, Member)>, StorageError> {
    let from = after.map(|room_id| key().str(user_id).str(room_id).bytes(&[0]).finish());
    let prefix = key().str(user_id).finish();
    let rows = read.scan(Cf::Memberships, &prefix, from.as_deref(), Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::Memberships, row);
            parts.str()?;
            let room_id = room_id_part(Cf::Memberships, &mut parts)?;
            Ok((room_id, codec::decode(Cf::Memberships, value)?))
        })
        .collect()
}

/// Writes a local user's standing in a room.
pub fn put_membership(batch: &mut Batch, user_id: &UserId, room_id: &RoomId, member: &Member) {
    codec::put(batch, Cf::Memberships, key().str(user_id).str(room_id), member);
}

/// Forgets a local user's standing in a room.
pub fn delete_membership(batch: &mut Batch, user_id: &UserId, room_id: &RoomId) {
    batch.delete(Cf::Memberships, key().str(user_id).str(room_id));
    batch.delete(Cf::InviteState, key().str(user_id).str(room_id));
}

/// The stripped state that came with an invite or a knock.
pub fn invite_state(
    read: &(impl Read + ?Sized),
    user_id: &UserId,
    room_id: &RoomId,
) -> Result<Vec<Box<RawValue>>, StorageError> {
    let row = key().str(user_id).str(room_id);
    Ok(codec::get(read, Cf::InviteState, row.as_ref())?.unwrap_or_default())
}

/// Keeps the stripped state that came with an invite or a knock.
pub fn put_invite_state(batch: &mut Batch, user_id: &UserId, room_id: &RoomId, stripped: &[Box<RawValue>]) {
    codec::put(batch, Cf::InviteState, key().str(user_id).str(room_id), stripped);
}

/// The servers with joined members, and how many each has.
pub fn joined_servers(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
) -> Result<BTreeMap<OwnedServerName, u64>, StorageError> {
    let prefix = key().str(room_id).finish();
    let rows = read.scan(Cf::JoinedServers, &prefix, None, Direction::Forward, usize::MAX)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::JoinedServers, row);
            parts.str()?;
            let broken = |_| StorageError::BrokenKey { cf: Cf::JoinedServers.name() };
            let server = ServerName::parse(parts.str()?).map_err(broken)?;
            Ok((server, codec::decode_u64(Cf::JoinedServers, value)?))
        })
        .collect()
}

/// How many joined members a server has.
pub fn server_count(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    server: &ServerName,
) -> Result<u64, StorageError> {
    let count = read.get(Cf::JoinedServers, key().str(room_id).str(server).as_ref())?;
    count.map_or(Ok(0), |count| codec::decode_u64(Cf::JoinedServers, &count))
}

/// Sets how many joined members a server has; none takes it away.
pub fn put_server_count(batch: &mut Batch, room_id: &RoomId, server: &ServerName, count: u64) {
    let row = key().str(room_id).str(server);
    if count == 0 {
        batch.delete(Cf::JoinedServers, row);
    } else {
        batch.put(Cf::JoinedServers, row, count.to_be_bytes());
    }
}
