//! Rows of messages from device to device that wait for /sync.
//!
//! Each is listed by its source as well, so that who filled a queue is known
//! without reading it. Those from before that was done are in the queue only.

use std::collections::BTreeMap;

use ruma::{DeviceId, OwnedUserId, ServerName, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Batch, Cf, Direction, Full, Read, StorageError, StreamPosition,
    codec::{self, KeyParts, key},
};

/// Whose messages are counted together: all of another server, whose users are as
/// many as it likes, and those of each user of this one.
pub fn source<'a>(recipient: &UserId, sender: &'a UserId) -> &'a str {
    if sender.server_name() == recipient.server_name() {
        sender.as_str()
    } else {
        sender.server_name().as_str()
    }
}

/// Queues an event (`sender`, `type`, `content`) for a device.
pub fn put(
    batch: &mut Batch,
    (user_id, device_id): (&UserId, &DeviceId),
    sender: &UserId,
    position: StreamPosition,
    event: &RawValue,
) {
    let device = key().str(user_id).str(device_id);
    batch.put(Cf::ToDevice, device.clone().u64(position.0), event.get());
    let bytes = event.get().len() as u64;
    let row = device.str(source(user_id, sender)).u64(position.0);
    batch.put(Cf::ToDeviceSources, row, bytes.to_be_bytes());
}

/// What of one source waits for a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FromSource {
    /// Where each message is and how large, oldest first.
    pub messages: Vec<(StreamPosition, u64)>,
}

/// What waits for a device, by source; at most `limit` messages are looked at.
pub fn by_source(
    read: &impl Read,
    user_id: &UserId,
    device_id: &DeviceId,
    limit: usize,
) -> Result<BTreeMap<String, FromSource>, StorageError> {
    let prefix = key().str(user_id).str(device_id);
    let rows = read.scan(Cf::ToDeviceSources, prefix.as_ref(), None, Direction::Forward, limit)?;
    let mut sources: BTreeMap<String, FromSource> = BTreeMap::new();
    for (row, value) in rows {
        let mut parts = KeyParts::new(Cf::ToDeviceSources, &row);
        parts.str()?;
        parts.str()?;
        let (source, position) = (parts.str()?, StreamPosition(parts.u64()?));
        let message = (position, codec::decode_u64(Cf::ToDeviceSources, &value)?);
        match sources.get_mut(source) {
            Some(from) => from.messages.push(message),
            None => {
                sources.insert(source.to_owned(), FromSource { messages: vec![message] });
            }
        }
    }
    Ok(sources)
}

/// Deletes a message of a source.
pub fn delete(
    batch: &mut Batch,
    (user_id, device_id): (&UserId, &DeviceId),
    source: &str,
    position: StreamPosition,
) {
    let device = key().str(user_id).str(device_id);
    batch.delete(Cf::ToDevice, device.clone().u64(position.0));
    batch.delete(Cf::ToDeviceSources, device.str(source).u64(position.0));
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
    let mut done = 0;
    for (row, value) in rows {
        let mut parts = KeyParts::new(Cf::ToDevice, &row);
        parts.str()?;
        parts.str()?;
        let position = StreamPosition(parts.u64()?);
        if position > until {
            break;
        }
        batch.delete(Cf::ToDevice, &row);
        if let Ok(Sent { sender }) = serde_json::from_slice(&value) {
            delete(batch, (user_id, device_id), source(user_id, &sender), position);
        }
        done += 1;
    }
    Ok(done == limit)
}

/// What of a message says where it came from.
#[derive(Deserialize)]
struct Sent {
    sender: OwnedUserId,
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
    batch.delete_prefix(Cf::ToDeviceSources, key().str(user_id).str(device_id));
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
            put(&mut batch, (alice, device_id), alice, position, &event);
        }
        let _unsynced = database.commit(batch).expect("commits");
        let full = |device_id, rows, bytes| is_full(&database, alice, device_id, Full { rows, bytes });
        assert!(full(first, 3, 1_000).expect("reads"));
        assert!(!full(first, 4, 1_000).expect("reads"));
        assert!(full(first, 4, 300).expect("reads"));
        assert!(!full(first, 4, 301).expect("reads"));
        assert!(!full(second, 2, 101).expect("reads"));
    }

    #[test]
    fn messages_are_listed_by_source_as_long_as_they_wait() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(folder.path(), &Options::default()).expect("opens");
        let (alice, device_id) = (user_id!("@alice:a.example"), device_id!("A"));
        let mut batch = database.batch();
        let mut last = StreamPosition(0);
        for sender in
            ["@bob:a.example", "@eve:b.example", "@mallory:b.example", "@alice:a.example", "@eve:b.example"]
        {
            let sender = <&UserId>::try_from(sender).expect("an id");
            let event = to_raw_value(&serde_json::json!({ "sender": sender })).expect("JSON");
            last = batch.position();
            put(&mut batch, (alice, device_id), sender, last, &event);
        }
        let _unsynced = database.commit(batch).expect("commits");
        let waiting = || -> Vec<(String, usize)> {
            let sources = by_source(&database, alice, device_id, 100).expect("reads");
            sources.into_iter().map(|(source, from)| (source, from.messages.len())).collect()
        };
        let expected = [("@alice:a.example", 1), ("@bob:a.example", 1), ("b.example", 3)];
        assert_eq!(waiting(), expected.map(|(source, count)| (source.to_owned(), count)));
        let mut batch = database.batch();
        assert!(delete_until(&database, &mut batch, alice, device_id, last, 4).expect("reads"));
        let _unsynced = database.commit(batch).expect("commits");
        assert_eq!(waiting(), [("b.example".to_owned(), 1)]);
        let mut batch = database.batch();
        delete_all(&mut batch, alice, device_id);
        let _unsynced = database.commit(batch).expect("commits");
        assert!(waiting().is_empty());
    }
}
