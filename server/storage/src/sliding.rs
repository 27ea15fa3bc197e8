//! Connections of simplified sliding sync (MSC4186): where each stands, and
//! what it was sent of each room.
//!
//! Only rows; the rules are in `causeway_service::sliding`. Kept on disk, not in
//! memory: a restart must not make every client begin anew, and what a device
//! was given has to be known for as long as the device may write.

use std::collections::BTreeMap;

use ruma::{DeviceId, OwnedRoomId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Cf, Direction, Read, StorageError, StreamPosition,
    codec::{self, KeyParts, key},
};

/// One connection of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The generation of the token that was presented last.
    pub generation: u64,
    /// The position of the same.
    pub position: StreamPosition,
    /// When it was used last, in milliseconds since the epoch.
    pub used_ms: u64,
    /// Whether it was told of the account data that belongs to no room.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub account_data: bool,
    /// Answers that are not acknowledged, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<PendingAnswer>,
}

/// What an answer that is not acknowledged yet would make true.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingAnswer {
    /// The generation of its token.
    pub generation: u64,
    /// Whether nothing that was sent before counts any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_fresh: bool,
    /// As in [`Connection`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub account_data: bool,
    /// Rooms of which it says something new; `None` forgets one.
    pub rooms: Vec<(OwnedRoomId, Option<SentRoom>)>,
}

/// What a connection was sent of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentRoom {
    /// Up to where; `None` if up to what the connection acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<StreamPosition>,
    /// Every event of the timeline above this position was sent.
    pub from: StreamPosition,
    /// Hexadecimal root of a state whose item events were sent, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// So many of the latest events were sent.
    pub timeline_limit: u64,
    /// Which state was sent; see [`required_states`].
    pub required: u64,
    /// The members that the timeline above this position shows were sent; `None`: no such promise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lazy_from: Option<StreamPosition>,
    /// Whether it was said to be a direct chat.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_dm: bool,
    /// Whether its account data was sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub account_data: bool,
    /// Whether its receipts were sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub receipts: bool,
}

/// A connection by its id, which may be empty.
pub fn connection(
    read: &(impl Read + ?Sized),
    user_id: &UserId,
    device_id: &DeviceId,
    conn_id: &str,
) -> Result<Option<Connection>, StorageError> {
    codec::get(read, Cf::SlidingConnections, device(user_id, device_id).str(conn_id).as_ref())
}

/// All connections of a device, at most `limit`.
pub fn connections(
    read: &(impl Read + ?Sized),
    user_id: &UserId,
    device_id: &DeviceId,
    limit: usize,
) -> Result<Vec<(String, Connection)>, StorageError> {
    let prefix = device(user_id, device_id);
    let rows = read.scan(Cf::SlidingConnections, prefix.as_ref(), None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::SlidingConnections, row);
            parts.str()?;
            parts.str()?;
            Ok((parts.str()?.to_owned(), codec::decode(Cf::SlidingConnections, value)?))
        })
        .collect()
}

/// Writes a connection.
pub fn put_connection(
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
    conn_id: &str,
    row: &Connection,
) {
    codec::put(batch, Cf::SlidingConnections, device(user_id, device_id).str(conn_id), row);
}

/// Which state rooms of a connection were sent with, as type and key; named by
/// rooms. Apart from the connection, which is read much more often.
pub fn required_states(
    read: &(impl Read + ?Sized),
    user_id: &UserId,
    device_id: &DeviceId,
    conn_id: &str,
) -> Result<BTreeMap<u64, Vec<(String, String)>>, StorageError> {
    let prefix = device(user_id, device_id).str(conn_id);
    let rows = read.scan(Cf::SlidingRequired, prefix.as_ref(), None, Direction::Forward, usize::MAX)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::SlidingRequired, row);
            parts.str()?;
            parts.str()?;
            parts.str()?;
            Ok((parts.u64()?, codec::decode(Cf::SlidingRequired, value)?))
        })
        .collect()
}

/// Writes one of them; `None` forgets it.
pub fn put_required(
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
    (conn_id, number): (&str, u64),
    row: Option<&Vec<(String, String)>>,
) {
    let at = device(user_id, device_id).str(conn_id).u64(number);
    match row {
        Some(row) => codec::put(batch, Cf::SlidingRequired, at, row),
        None => batch.delete(Cf::SlidingRequired, at),
    }
}

/// What a connection was sent of one room.
pub fn sent_room(
    read: &(impl Read + ?Sized),
    user_id: &UserId,
    device_id: &DeviceId,
    conn_id: &str,
    room_id: &RoomId,
) -> Result<Option<SentRoom>, StorageError> {
    codec::get(read, Cf::SlidingRooms, device(user_id, device_id).str(conn_id).str(room_id).as_ref())
}

/// The same for all its rooms.
pub fn sent_rooms(
    read: &(impl Read + ?Sized),
    user_id: &UserId,
    device_id: &DeviceId,
    conn_id: &str,
) -> Result<BTreeMap<OwnedRoomId, SentRoom>, StorageError> {
    let prefix = device(user_id, device_id).str(conn_id);
    let rows = read.scan(Cf::SlidingRooms, prefix.as_ref(), None, Direction::Forward, usize::MAX)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::SlidingRooms, row);
            parts.str()?;
            parts.str()?;
            parts.str()?;
            let room_id = RoomId::parse(parts.str()?);
            let room_id = room_id.map_err(|_| StorageError::BrokenKey { cf: Cf::SlidingRooms.name() })?;
            Ok((room_id, codec::decode(Cf::SlidingRooms, value)?))
        })
        .collect()
}

/// Writes what a connection was sent of a room; `None` forgets it.
pub fn put_sent_room(
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
    (conn_id, room_id): (&str, &RoomId),
    row: Option<&SentRoom>,
) {
    let at = device(user_id, device_id).str(conn_id).str(room_id);
    match row {
        Some(row) => codec::put(batch, Cf::SlidingRooms, at, row),
        None => batch.delete(Cf::SlidingRooms, at),
    }
}

/// Forgets what a connection was sent.
pub fn forget_rooms(batch: &mut Batch, user_id: &UserId, device_id: &DeviceId, conn_id: &str) {
    batch.delete_prefix(Cf::SlidingRooms, device(user_id, device_id).str(conn_id));
}

/// Forgets a connection.
pub fn forget_connection(batch: &mut Batch, user_id: &UserId, device_id: &DeviceId, conn_id: &str) {
    batch.delete(Cf::SlidingConnections, device(user_id, device_id).str(conn_id));
    batch.delete_prefix(Cf::SlidingRequired, device(user_id, device_id).str(conn_id));
    forget_rooms(batch, user_id, device_id, conn_id);
}

/// Forgets all connections of a device.
pub fn forget_device(batch: &mut Batch, user_id: &UserId, device_id: &DeviceId) {
    batch.delete_prefix(Cf::SlidingConnections, device(user_id, device_id));
    batch.delete_prefix(Cf::SlidingRequired, device(user_id, device_id));
    batch.delete_prefix(Cf::SlidingRooms, device(user_id, device_id));
}

fn device(user_id: &UserId, device_id: &DeviceId) -> codec::Key {
    key().str(user_id).str(device_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_bytes_are_these() {
        let room =
            SentRoom { from: StreamPosition(4), timeline_limit: 20, required: 7, ..SentRoom::default() };
        let expected = "\u{1}{\"from\":4,\"timeline_limit\":20,\"required\":7}";
        assert_eq!(codec::encode(&room), expected.as_bytes());
        let required = vec![("m.room.name".to_owned(), String::new())];
        assert_eq!(codec::encode(&required), b"\x01[[\"m.room.name\",\"\"]]");
        let pending = PendingAnswer { generation: 9, is_fresh: true, ..PendingAnswer::default() };
        let connection = Connection {
            generation: 8,
            position: StreamPosition(3),
            used_ms: 5,
            account_data: true,
            pending: vec![pending],
        };
        let expected = "\u{1}{\"generation\":8,\"position\":3,\"used_ms\":5,\"account_data\":true,\
                        \"pending\":[{\"generation\":9,\"is_fresh\":true,\"rooms\":[]}]}";
        assert_eq!(String::from_utf8_lossy(&codec::encode(&connection)), expected);
        let read: Connection = codec::decode(Cf::SlidingConnections, expected.as_bytes()).expect("reads");
        assert_eq!(read, connection);
    }
}
