//! What makes up for rows that a destination is not sent any more: the last events of their
//! rooms, and events by which it has left one. By rounds: a round begins with the first of its
//! rows, so that what is noted while an earlier round is made up for is no part of that.

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, ServerName};

use super::next_server;
use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{Key, KeyParts, key},
    rooms::room_id_part,
};

/// Something that a destination is owed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owed {
    /// When its round began, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The room.
    pub room_id: OwnedRoomId,
    /// The event by which the destination has left the room; `None`: the room's last events.
    pub event_id: Option<OwnedEventId>,
}

impl Owed {
    fn key(&self, destination: &ServerName) -> Key {
        let event_id = self.event_id.as_deref().map_or("", EventId::as_str);
        key().str(destination).u64(self.since_ms).str(&self.room_id).str(event_id)
    }
}

/// Notes that `destination` is owed this.
pub fn put(batch: &mut Batch, destination: &ServerName, owed: &Owed) {
    batch.put(Cf::OutboxOwed, owed.key(destination), []);
}

/// `destination` is not owed this any more.
pub fn delete(batch: &mut Batch, destination: &ServerName, owed: &Owed) {
    batch.delete(Cf::OutboxOwed, owed.key(destination));
}

/// Whether `destination` is owed this.
pub fn is_owed(read: &impl Read, destination: &ServerName, owed: &Owed) -> Result<bool, StorageError> {
    Ok(read.get(Cf::OutboxOwed, owed.key(destination).as_ref())?.is_some())
}

/// What `destination` is owed of rounds that began at `until_ms` or before, the oldest round
/// first; at most `limit`.
pub fn owed(
    read: &impl Read,
    destination: &ServerName,
    until_ms: u64,
    limit: usize,
) -> Result<Vec<Owed>, StorageError> {
    let prefix = key().str(destination).finish();
    let rows = read.scan(Cf::OutboxOwed, &prefix, None, Direction::Forward, limit)?;
    let mut found = Vec::with_capacity(rows.len());
    for (row, _) in &rows {
        let mut parts = KeyParts::new(Cf::OutboxOwed, row);
        parts.str()?;
        let since_ms = parts.u64()?;
        if since_ms > until_ms {
            break;
        }
        let room_id = room_id_part(Cf::OutboxOwed, &mut parts)?;
        let broken = |_| StorageError::BrokenKey { cf: Cf::OutboxOwed.name() };
        let event_id = Some(parts.str()?).filter(|id| !id.is_empty());
        let event_id = event_id.map(EventId::parse).transpose().map_err(broken)?;
        found.push(Owed { since_ms, room_id, event_id });
    }
    Ok(found)
}

/// How much `destination` is owed, counted up to `limit`.
pub fn count(read: &impl Read, destination: &ServerName, limit: usize) -> Result<usize, StorageError> {
    let prefix = key().str(destination).finish();
    read.count(Cf::OutboxOwed, &prefix, &prefix, limit)
}

/// The first destination after `after` (in the order of names) that is owed something.
pub fn next_destination(
    read: &impl Read,
    after: Option<&ServerName>,
) -> Result<Option<OwnedServerName>, StorageError> {
    next_server(read, Cf::OutboxOwed, after)
}
