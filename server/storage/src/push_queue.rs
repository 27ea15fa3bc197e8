//! Notifications that wait for push gateways, and up to where the stream was
//! looked at for them.
//!
//! Only rows; who is notified is decided in `causeway_service::pushes`.

use ruma::{DeviceId, OwnedEventId, OwnedRoomId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Batch, Cf, Direction, Read, StorageError, StreamPosition,
    codec::{self, KeyParts, key},
};

/// The field of a stored pusher that names the device that set it.
pub const DEVICE: &str = "org.causeway.device_id";

/// Whose pusher: user, `app_id`, `pushkey`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PusherKey {
    /// The user.
    pub user_id: OwnedUserId,
    /// The application.
    pub app_id: String,
    /// What the gateway knows the device by.
    pub push_key: String,
}

/// An event that a pusher is to be told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// Its room.
    pub room_id: OwnedRoomId,
    /// The event.
    pub event_id: OwnedEventId,
    /// Whether it is meant for the user especially.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub highlights: bool,
    /// The sound that the user's rules name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sound: Option<String>,
}

/// Up to where the stream was looked at; `None` before the first time.
pub fn cursor(read: &(impl Read + ?Sized)) -> Result<Option<StreamPosition>, StorageError> {
    codec::get(read, Cf::PushCursor, key().as_ref())
}

/// Writes it.
pub fn put_cursor(batch: &mut Batch, position: StreamPosition) {
    codec::put(batch, Cf::PushCursor, key(), &position);
}

/// The pushers of everybody after one, in order, at most `limit`.
pub fn all_pushers(
    read: &(impl Read + ?Sized),
    after: Option<&PusherKey>,
    limit: usize,
) -> Result<Vec<(PusherKey, Box<RawValue>)>, StorageError> {
    let from = after.map(|after| row(after).bytes(&[0]).finish());
    let rows = read.scan(Cf::Pushers, &[], from.as_deref(), Direction::Forward, limit)?;
    let broken = |source| StorageError::BrokenValue { cf: Cf::Pushers.name(), source };
    rows.iter()
        .map(|(row, value)| {
            let held = pusher_key(Cf::Pushers, &mut KeyParts::new(Cf::Pushers, row))?;
            Ok((held, serde_json::from_slice(value).map_err(broken)?))
        })
        .collect()
}

/// Queues a notification.
pub fn put(batch: &mut Batch, pusher: &PusherKey, position: StreamPosition, queued: &Queued) {
    codec::put(batch, Cf::PushQueue, row(pusher).u64(position.0), queued);
}

/// What waits for a pusher, oldest first, at most `limit`.
pub fn queued(
    read: &(impl Read + ?Sized),
    pusher: &PusherKey,
    limit: usize,
) -> Result<Vec<(StreamPosition, Queued)>, StorageError> {
    let rows = read.scan(Cf::PushQueue, row(pusher).as_ref(), None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::PushQueue, row);
            pusher_key(Cf::PushQueue, &mut parts)?;
            Ok((StreamPosition(parts.u64()?), codec::decode(Cf::PushQueue, value)?))
        })
        .collect()
}

/// The first pusher after one that something waits for.
pub fn next_waiting(
    read: &(impl Read + ?Sized),
    after: Option<&PusherKey>,
) -> Result<Option<PusherKey>, StorageError> {
    let from = after.and_then(|after| codec::prefix_end(&row(after).finish()));
    let rows = read.scan(Cf::PushQueue, &[], from.as_deref(), Direction::Forward, 1)?;
    rows.first().map(|(row, _)| pusher_key(Cf::PushQueue, &mut KeyParts::new(Cf::PushQueue, row))).transpose()
}

/// Takes a notification out.
pub fn delete(batch: &mut Batch, pusher: &PusherKey, position: StreamPosition) {
    batch.delete(Cf::PushQueue, row(pusher).u64(position.0));
}

/// Forgets a pusher and what waits for it.
pub fn delete_pusher(batch: &mut Batch, pusher: &PusherKey) {
    batch.delete(Cf::Pushers, row(pusher));
    batch.delete_prefix(Cf::PushQueue, row(pusher));
}

/// Forgets the pushers of all others that have the same application and push key.
pub fn delete_others(
    read: &(impl Read + ?Sized),
    batch: &mut Batch,
    own: &PusherKey,
) -> Result<(), StorageError> {
    for (held, _) in all_pushers(read, None, usize::MAX)? {
        if held.user_id != own.user_id && (&held.app_id, &held.push_key) == (&own.app_id, &own.push_key) {
            delete_pusher(batch, &held);
        }
    }
    Ok(())
}

/// Forgets the pushers that a device set.
pub fn delete_of_device(
    read: &(impl Read + ?Sized),
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<(), StorageError> {
    for (held, pusher) in pushers_of(read, user_id, usize::MAX)? {
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(pusher.get()).unwrap_or_default();
        if fields.get(DEVICE).and_then(|device| device.as_str()) == Some(device_id.as_str()) {
            delete_pusher(batch, &held);
        }
    }
    Ok(())
}

/// A user's pushers by key.
pub fn pushers_of(
    read: &(impl Read + ?Sized),
    user_id: &UserId,
    limit: usize,
) -> Result<Vec<(PusherKey, Box<RawValue>)>, StorageError> {
    let rows = read.scan(Cf::Pushers, key().str(user_id).as_ref(), None, Direction::Forward, limit)?;
    let broken = |source| StorageError::BrokenValue { cf: Cf::Pushers.name(), source };
    rows.iter()
        .map(|(row, value)| {
            let held = pusher_key(Cf::Pushers, &mut KeyParts::new(Cf::Pushers, row))?;
            Ok((held, serde_json::from_slice(value).map_err(broken)?))
        })
        .collect()
}

fn row(pusher: &PusherKey) -> codec::Key {
    key().str(&pusher.user_id).str(&pusher.app_id).str(&pusher.push_key)
}

fn pusher_key(cf: Cf, parts: &mut KeyParts<'_>) -> Result<PusherKey, StorageError> {
    let user_id = UserId::parse(parts.str()?).map_err(|_| StorageError::BrokenKey { cf: cf.name() })?;
    Ok(PusherKey { user_id, app_id: parts.str()?.to_owned(), push_key: parts.str()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use ruma::{owned_event_id, owned_room_id};

    use super::*;

    #[test]
    fn the_stored_bytes_are_these() {
        let queued = Queued {
            room_id: owned_room_id!("!r:b.c"),
            event_id: owned_event_id!("$e"),
            highlights: true,
            sound: Some("default".to_owned()),
        };
        let expected =
            "\u{1}{\"room_id\":\"!r:b.c\",\"event_id\":\"$e\",\"highlights\":true,\"sound\":\"default\"}";
        assert_eq!(codec::encode(&queued), expected.as_bytes());
    }
}
