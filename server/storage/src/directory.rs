//! Room aliases of this server, and the rooms it publishes in its directory.

use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
};

/// What an alias points to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who made it.
    pub creator: OwnedUserId,
}

/// Looks an alias up.
pub fn alias(read: &(impl Read + ?Sized), alias: &RoomAliasId) -> Result<Option<Alias>, StorageError> {
    codec::get(read, Cf::Aliases, key().str(alias).as_ref())
}

/// The aliases of a room, at most `limit`.
pub fn aliases_of(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    limit: usize,
) -> Result<Vec<OwnedRoomAliasId>, StorageError> {
    let rows = read.scan(Cf::RoomAliases, key().str(room_id).as_ref(), None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, _)| {
            let mut parts = KeyParts::new(Cf::RoomAliases, row);
            parts.str()?;
            RoomAliasId::parse(parts.str()?)
                .map_err(|_| StorageError::BrokenKey { cf: Cf::RoomAliases.name() })
        })
        .collect()
}

/// Points an alias to a room.
pub fn put_alias(batch: &mut Batch, alias: &RoomAliasId, room_id: &RoomId, creator: &UserId) {
    let value = Alias { room_id: room_id.to_owned(), creator: creator.to_owned() };
    codec::put(batch, Cf::Aliases, key().str(alias), &value);
    batch.put(Cf::RoomAliases, key().str(room_id).str(alias), []);
}

/// Removes an alias that points to `room_id`.
pub fn delete_alias(batch: &mut Batch, alias: &RoomAliasId, room_id: &RoomId) {
    batch.delete(Cf::Aliases, key().str(alias));
    batch.delete(Cf::RoomAliases, key().str(room_id).str(alias));
}

/// Whether the directory lists the room.
pub fn is_published(read: &(impl Read + ?Sized), room_id: &RoomId) -> Result<bool, StorageError> {
    Ok(read.get(Cf::PublishedRooms, key().str(room_id).as_ref())?.is_some())
}

/// Lists the room in the directory, or takes it out.
pub fn set_published(batch: &mut Batch, room_id: &RoomId, published: bool) {
    let row = key().str(room_id);
    if published { batch.put(Cf::PublishedRooms, row, []) } else { batch.delete(Cf::PublishedRooms, row) }
}

/// The rooms in the directory by id, from `from` (inclusive) on, at most `limit`.
pub fn published_rooms(
    read: &(impl Read + ?Sized),
    from: Option<&RoomId>,
    limit: usize,
) -> Result<Vec<OwnedRoomId>, StorageError> {
    let from = from.map(|room_id| key().str(room_id).finish());
    let rows = read.scan(Cf::PublishedRooms, b"", from.as_deref(), Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, _)| {
            let room_id = KeyParts::new(Cf::PublishedRooms, row).str()?;
            RoomId::parse(room_id).map_err(|_| StorageError::BrokenKey { cf: Cf::PublishedRooms.name() })
        })
        .collect()
}
