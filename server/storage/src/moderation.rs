//! Rows of what administrators decided: rooms that nobody may join, rooms that
//! were shut down, contents that nobody is given.

use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomId};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
};

/// Who decided, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// An administrator; `None` for the operator.
    pub by: Option<OwnedUserId>,
    /// Milliseconds since the epoch.
    pub ts: u64,
}

/// What the last shutdown of a room did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// What it is called.
    pub id: String,
    /// When, in milliseconds since the epoch.
    pub ts: u64,
    /// Who was taken out of the room.
    pub kicked_users: Vec<OwnedUserId>,
    /// Who could not be.
    pub failed_to_kick_users: Vec<OwnedUserId>,
    /// Aliases that were removed.
    pub local_aliases: Vec<OwnedRoomAliasId>,
    /// Whether the room is deleted at the next start.
    pub purge: bool,
    /// When it was, in milliseconds since the epoch.
    pub purged_ts: Option<u64>,
}

/// Who blocked a room, if it is blocked.
pub fn blocked(read: &(impl Read + ?Sized), room_id: &RoomId) -> Result<Option<Decision>, StorageError> {
    codec::get(read, Cf::BlockedRooms, key().str(room_id).as_ref())
}

/// Blocks a room, or unblocks it.
pub fn set_blocked(batch: &mut Batch, room_id: &RoomId, decision: Option<&Decision>) {
    match decision {
        Some(decision) => codec::put(batch, Cf::BlockedRooms, key().str(room_id), decision),
        None => batch.delete(Cf::BlockedRooms, key().str(room_id)),
    }
}

/// The last shutdown of a room.
pub fn shutdown(read: &(impl Read + ?Sized), room_id: &RoomId) -> Result<Option<Shutdown>, StorageError> {
    codec::get(read, Cf::Shutdowns, key().str(room_id).as_ref())
}

/// Writes it.
pub fn put_shutdown(batch: &mut Batch, room_id: &RoomId, shutdown: &Shutdown) {
    codec::put(batch, Cf::Shutdowns, key().str(room_id), shutdown);
}

/// The last shutdowns of all rooms, at most `limit`.
pub fn shutdowns(
    read: &(impl Read + ?Sized),
    limit: usize,
) -> Result<Vec<(OwnedRoomId, Shutdown)>, StorageError> {
    let rows = read.scan(Cf::Shutdowns, b"", None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let room_id = KeyParts::new(Cf::Shutdowns, row).str()?;
            let room_id =
                RoomId::parse(room_id).map_err(|_| StorageError::BrokenKey { cf: Cf::Shutdowns.name() })?;
            Ok((room_id, codec::decode(Cf::Shutdowns, value)?))
        })
        .collect()
}

/// Who quarantined a content (its SHA-256 in hex), if it is.
pub fn quarantined(read: &(impl Read + ?Sized), sha256: &str) -> Result<Option<Decision>, StorageError> {
    codec::get(read, Cf::QuarantinedContents, key().str(sha256).as_ref())
}

/// Quarantines a content, or lifts that.
pub fn set_quarantined(batch: &mut Batch, sha256: &str, decision: Option<&Decision>) {
    match decision {
        Some(decision) => codec::put(batch, Cf::QuarantinedContents, key().str(sha256), decision),
        None => batch.delete(Cf::QuarantinedContents, key().str(sha256)),
    }
}
