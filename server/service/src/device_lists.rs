//! Telling of changes of local users' devices and cross-signing keys: the own
//! clients through the stream, other servers through their queues.
//!
//! Not the lists of other servers' users: see [`crate::keys::remote`]. Only
//! servers that share a room with the user are told. Invariant: what is told is
//! in the batch of the change itself, and the changes of a user are numbered in
//! the order in which they are told, each naming the one before it
//! (server-server API, "Device Management"). Whoever was not told of one, be it
//! of cross-signing keys, finds a gap at the next.

use std::collections::BTreeSet;

use causeway_storage::{
    Batch, Full, Read, StorageError, device_lists as lists,
    devices::{self, Device},
    key_changes,
    keys::{self as rows, CrossSigningKind},
    outbox,
    rooms::{joined_servers, memberships, server_count},
};
use ruma::{
    DeviceId, OwnedDeviceId, OwnedRoomId, OwnedServerName, ServerName, UserId,
    events::room::member::MembershipState,
};
use serde_json::{Value, json, value::RawValue};

use crate::notify::Topic;

/// Rooms whose members are woken by a change of keys.
const ROOMS_MAX: usize = 10_000;

/// What may wait for a server before it is told no more of devices: it fetches
/// the lists when it is back and finds a gap.
pub(crate) const WAITING_MAX: Full = Full { rows: 10_000, bytes: 128 * 1024 * 1024 };

/// What changed.
pub(crate) enum Change<'a> {
    /// A device's keys or the signatures of them are new, or its name, which then is given.
    Device(&'a DeviceId, &'a RawValue, Option<&'a str>),
    /// A device is gone.
    Deleted(&'a DeviceId),
    /// Cross-signing keys; those that are in the batch and not yet stored.
    CrossSigning(&'a [(CrossSigningKind, Box<RawValue>)]),
}

/// Notes changes of a local user in the batch. The topics to notify of after it:
/// all who share a room with the user are told.
pub(crate) fn announce(
    read: &impl Read,
    batch: &mut Batch,
    user_id: &UserId,
    changes: &[Change<'_>],
) -> Result<Vec<Topic>, StorageError> {
    let rooms = joined_rooms(read, user_id)?;
    let servers = servers_in(read, user_id, &rooms)?;
    let mut units =
        changes.iter().map(|change| unit(read, user_id, change)).collect::<Result<Vec<_>, _>>()?;
    let mut previous = lists::number(read, user_id)?;
    if changes.iter().all(|change| matches!(change, Change::CrossSigning(_))) {
        // Such a unit has no number, so that nobody would miss it: one of a device
        // that did not change goes after it. Without a device the next one shows a gap.
        if let Some((device_id, keys)) = first_device(read, user_id)? {
            units.push(unit(read, user_id, &Change::Device(&device_id, &keys, None))?);
        } else {
            let number = batch.position();
            lists::put_number(batch, user_id, number);
        }
    }
    let mut topics: Vec<Topic> = rooms.into_iter().map(Topic::Room).collect();
    topics.extend([Topic::User(user_id.to_owned()), Topic::Stream]);
    key_changes::put(read, batch, user_id, None)?;
    for (kind, mut content) in units {
        let position = batch.position();
        if kind == DEVICE {
            content["stream_id"] = position.0.into();
            content["prev_id"] = if previous == 0 { json!([]) } else { json!([previous]) };
            lists::put_number(batch, user_id, position);
            previous = position.0;
        }
        for server in &servers {
            push(read, batch, server, position, kind, &content)?;
        }
    }
    if !servers.is_empty() {
        topics.push(Topic::Outbox);
    }
    Ok(topics)
}

/// Tells servers of a room that a local user joins, and that share no other
/// with the user, that the user has devices: whatever they hold is to be fetched
/// anew. Whether there is anything to tell.
pub(crate) fn announce_join(
    read: &impl Read,
    batch: &mut Batch,
    user_id: &UserId,
    room_id: &OwnedRoomId,
    mut servers: BTreeSet<OwnedServerName>,
) -> Result<bool, StorageError> {
    servers.remove(user_id.server_name());
    if servers.is_empty() {
        return Ok(false);
    }
    let Some((device_id, keys)) = first_device(read, user_id)? else { return Ok(false) };
    let mut others = joined_rooms(read, user_id)?;
    others.retain(|other| other != room_id);
    let known = servers_in(read, user_id, &others)?;
    let (kind, mut content) = unit(read, user_id, &Change::Device(&device_id, &keys, None))?;
    content["stream_id"] = lists::number(read, user_id)?.into();
    content["prev_id"] = json!([]);
    let position = batch.position();
    for server in servers.difference(&known) {
        push(read, batch, server, position, kind, &content)?;
    }
    Ok(true)
}

/// Some device of the user that has keys.
fn first_device(
    read: &impl Read,
    user_id: &UserId,
) -> Result<Option<(OwnedDeviceId, Box<RawValue>)>, StorageError> {
    for (device_id, _) in devices::devices(read, user_id)? {
        if let Some(keys) = rows::device_keys(read, user_id, &device_id)? {
            return Ok(Some((device_id, keys)));
        }
    }
    Ok(None)
}

const DEVICE: &str = "m.device_list_update";
const CROSS_SIGNING: &str = "m.signing_key_update";

/// The unit that tells of a change, without its number.
fn unit(
    read: &impl Read,
    user_id: &UserId,
    change: &Change<'_>,
) -> Result<(&'static str, Value), StorageError> {
    let mut content = json!({ "user_id": user_id });
    match change {
        Change::Device(device_id, keys, name) => {
            content["device_id"] = device_id.as_str().into();
            content["keys"] = json!(keys);
            let device = devices::device(read, user_id, device_id)?;
            let name = name.map(str::to_owned).or_else(|| device.and_then(|device| device.display_name));
            if let Some(name) = name {
                content["device_display_name"] = name.into();
            }
            Ok((DEVICE, content))
        }
        Change::Deleted(device_id) => {
            content["device_id"] = device_id.as_str().into();
            content["deleted"] = true.into();
            Ok((DEVICE, content))
        }
        Change::CrossSigning(new) => {
            for (field, kind) in [
                ("master_key", CrossSigningKind::Master),
                ("self_signing_key", CrossSigningKind::SelfSigning),
            ] {
                let new = new.iter().find(|(new, _)| *new == kind).map(|(_, key)| key.clone());
                let key = match new {
                    Some(key) => Some(key),
                    None => rows::cross_signing_key(read, user_id, kind)?,
                };
                if let Some(key) = key {
                    content[field] = json!(key);
                }
            }
            Ok((CROSS_SIGNING, content))
        }
    }
}

fn push(
    read: &impl Read,
    batch: &mut Batch,
    server: &OwnedServerName,
    position: causeway_storage::StreamPosition,
    kind: &str,
    content: &Value,
) -> Result<(), StorageError> {
    if outbox::is_full(read, server, WAITING_MAX)? {
        tracing::warn!(%server, "too much waits for a server: it is not told of a change of devices");
        return Ok(());
    }
    let edu = json!({ "edu_type": kind, "content": content });
    let edu = RawValue::from_string(edu.to_string()).expect("a JSON value's text is JSON");
    outbox::push_edu(batch, server, position, edu);
    Ok(())
}

fn joined_rooms(read: &impl Read, user_id: &UserId) -> Result<Vec<OwnedRoomId>, StorageError> {
    let rooms = memberships(read, user_id, None, ROOMS_MAX)?;
    let joined = rooms.into_iter().filter(|(_, member)| member.membership == MembershipState::Join);
    Ok(joined.map(|(room_id, _)| room_id).collect())
}

/// Whether a server has a member in a room that the user is in.
pub(crate) fn shares_room(
    read: &impl Read,
    user_id: &UserId,
    server: &ServerName,
) -> Result<bool, StorageError> {
    for room_id in joined_rooms(read, user_id)? {
        if server_count(read, &room_id, server)? > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The other servers in some rooms.
fn servers_in(
    read: &impl Read,
    user_id: &UserId,
    rooms: &[OwnedRoomId],
) -> Result<BTreeSet<OwnedServerName>, StorageError> {
    let mut servers = BTreeSet::new();
    for room_id in rooms {
        servers.extend(joined_servers(read, room_id)?.into_keys());
    }
    servers.remove(user_id.server_name());
    Ok(servers)
}

/// Notes that devices of a local user are gone.
pub(crate) fn announce_deleted(
    read: &impl Read,
    batch: &mut Batch,
    user_id: &UserId,
    devices: &[OwnedDeviceId],
) -> Result<Vec<Topic>, StorageError> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let changes: Vec<Change<'_>> = devices.iter().map(|device_id| Change::Deleted(device_id)).collect();
    announce(read, batch, user_id, &changes)
}

/// Notes that a device of a local user has a new name, if it has keys.
pub(crate) fn announce_renamed(
    read: &impl Read,
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
    device: &Device,
) -> Result<Vec<Topic>, StorageError> {
    let Some(keys) = rows::device_keys(read, user_id, device_id)? else { return Ok(Vec::new()) };
    announce(read, batch, user_id, &[Change::Device(device_id, &keys, device.display_name.as_deref())])
}
