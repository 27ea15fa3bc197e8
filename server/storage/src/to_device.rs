//! Rows of messages from device to device that wait for /sync.

use ruma::{DeviceId, ServerName, UserId};
use serde_json::value::RawValue;

use crate::{
    Batch, Cf, Direction, Full, Read, StorageError, StreamPosition,
    codec::{KeyParts, key},
};

/// Queues an event (`sender`, `type`, `content`) for a device.
pub fn put(
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
    position: StreamPosition,
    event: &RawValue,
) {
    batch.put(Cf::ToDevice, key().str(user_id).str(device_id).u64(position.0), event.get());
}

/// Events after `since` and up to `until`, in order, at most `limit`.
pub fn events(
    read: &impl Read,
    user_id: &UserId,
    device_id: &DeviceId,
    since: StreamPosition,
    until: StreamPosition,
    limit: usize,
) -> Result<Vec<(StreamPosition, Box<RawValue>)>, StorageError> {
    let prefix = key().str(user_id).str(device_id);
    let from = prefix.clone().u64(since.0.saturating_add(1));
    let rows = read.scan(Cf::ToDevice, prefix.as_ref(), Some(from.as_ref()), Direction::Forward, limit)?;
    let mut events = Vec::with_capacity(rows.len());
    for (row, value) in rows {
        let mut parts = KeyParts::new(Cf::ToDevice, &row);
        parts.str()?;
        parts.str()?;
        let position = StreamPosition(parts.u64()?);
        if position > until {
            break;
        }
        let event = serde_json::from_slice(&value)
            .map_err(|source| StorageError::BrokenValue { cf: Cf::ToDevice.name(), source })?;
        events.push((position, event));
    }
    Ok(events)
}

/// Whether so much waits for a device.
pub fn is_full(
    read: &impl Read,
    user_id: &UserId,
    device_id: &DeviceId,
    full: Full,
) -> Result<bool, StorageError> {
    read.is_full(Cf::ToDevice, key().str(user_id).str(device_id).as_ref(), full)
}

/// Deletes what the device has acknowledged: events at or before `until`. At
/// most `limit` rows; answers whether there may be more.
pub fn delete_until(
    read: &impl Read,
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
    until: StreamPosition,
    limit: usize,
) -> Result<bool, StorageError> {
    let prefix = key().str(user_id).str(device_id);
    let rows = read.scan(Cf::ToDevice, prefix.as_ref(), None, Direction::Forward, limit)?;
    let end = prefix.u64(until.0);
    let done: Vec<_> =
        rows.iter().map(|(row, _)| row).take_while(|row| row.as_slice() <= end.as_ref()).collect();
    for row in &done {
        batch.delete(Cf::ToDevice, row);
    }
    Ok(done.len() == limit)
}

/// Whether a message came from a server in one of these generations.
pub fn was_received(
    read: &impl Read,
    origin: &ServerName,
    generations: &[u64],
    message_id: &str,
) -> Result<bool, StorageError> {
    for &generation in generations {
        let row = key().str(origin).u64(generation).str(message_id);
        if read.get(Cf::ReceivedMessages, row.as_ref())?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Notes that a message came from a server.
pub fn put_received(batch: &mut Batch, origin: &ServerName, generation: u64, message_id: &str) {
    batch.put(Cf::ReceivedMessages, key().str(origin).u64(generation).str(message_id), []);
}

/// Forgets what came from a server in a generation.
pub fn forget_received(batch: &mut Batch, origin: &ServerName, generation: u64) {
    batch.delete_prefix(Cf::ReceivedMessages, key().str(origin).u64(generation));
}

/// The first generation of which anything is remembered of a server.
pub fn first_generation(read: &impl Read, origin: &ServerName) -> Result<Option<u64>, StorageError> {
    let prefix = key().str(origin);
    let rows = read.scan(Cf::ReceivedMessages, prefix.as_ref(), None, Direction::Forward, 1)?;
    let Some((row, _)) = rows.first() else { return Ok(None) };
    let mut parts = KeyParts::new(Cf::ReceivedMessages, row);
    parts.str()?;
    parts.u64().map(Some)
}

/// Deletes everything that waits for a device.
pub fn delete_all(batch: &mut Batch, user_id: &UserId, device_id: &DeviceId) {
    batch.delete_prefix(Cf::ToDevice, key().str(user_id).str(device_id));
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::{Database, Options};

    #[test]
    fn a_queue_is_full_by_rows_or_by_bytes_and_only_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(folder.path(), &Options::default()).expect("opens");
        let (alice, first, second) = (user_id!("@alice:a.example"), device_id!("A"), device_id!("B"));
        let event = to_raw_value(&"x".repeat(98)).expect("JSON");
        let mut batch = database.batch();
        for device_id in [first, first, first, second] {
            let position = batch.position();
            put(&mut batch, alice, device_id, position, &event);
        }
        let _unsynced = database.commit(batch).expect("commits");
        let full = |device_id, rows, bytes| is_full(&database, alice, device_id, Full { rows, bytes });
        assert!(full(first, 3, 1_000).expect("reads"));
        assert!(!full(first, 4, 1_000).expect("reads"));
        assert!(full(first, 4, 300).expect("reads"));
        assert!(!full(first, 4, 301).expect("reads"));
        assert!(!full(second, 2, 101).expect("reads"));
    }
}
