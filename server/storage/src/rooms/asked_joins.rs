//! Joins that another server was asked to take in, until this one has taken in the room, or
//! the other one's refusal: after a failure others may see a user in a room who is not.

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};
use serde::{Deserialize, Serialize};

use super::room_id_part;
use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
};

/// First part of the key in `Meta`.
const MARK: &str = "asked_join";

/// A join that another server was asked to take in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskedJoin {
    /// Of which room.
    pub room_id: OwnedRoomId,
    /// Whose; a user of this server.
    pub user_id: OwnedUserId,
    /// Which server.
    pub server: OwnedServerName,
    /// The join.
    pub event_id: OwnedEventId,
}

#[derive(Serialize, Deserialize)]
struct Row {
    event_id: OwnedEventId,
}

/// Notes it, in place of one of the same user that this server was asked for before.
pub fn put_asked_join(batch: &mut Batch, asked: &AskedJoin) {
    let row = Row { event_id: asked.event_id.clone() };
    codec::put(
        batch,
        Cf::Meta,
        key().str(MARK).str(&asked.room_id).str(&asked.user_id).str(&asked.server),
        &row,
    );
}

/// Notes it no longer.
pub fn delete_asked_join(batch: &mut Batch, room_id: &RoomId, user_id: &UserId, server: &ServerName) {
    batch.delete(Cf::Meta, key().str(MARK).str(room_id).str(user_id).str(server));
}

/// All of them, or those of one user in a room; at most `limit`.
pub fn asked_joins(
    read: &(impl Read + ?Sized),
    of: Option<(&RoomId, &UserId)>,
    limit: usize,
) -> Result<Vec<AskedJoin>, StorageError> {
    let prefix = match of {
        Some((room_id, user_id)) => key().str(MARK).str(room_id).str(user_id),
        None => key().str(MARK),
    };
    let rows = read.scan(Cf::Meta, prefix.as_ref(), None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::Meta, row);
            parts.str()?;
            let room_id = room_id_part(Cf::Meta, &mut parts)?;
            let broken = |_| StorageError::BrokenKey { cf: Cf::Meta.name() };
            let user_id = UserId::parse(parts.str()?).map_err(broken)?;
            let server = ServerName::parse(parts.str()?).map_err(broken)?;
            let Row { event_id } = codec::decode(Cf::Meta, value)?;
            Ok(AskedJoin { room_id, user_id, server, event_id })
        })
        .collect()
}
