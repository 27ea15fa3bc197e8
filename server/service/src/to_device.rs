//! Messages from device to device: between local users, to users of other
//! servers, and from them.
//!
//! Invariants: a request's messages are queued once for each transaction id,
//! those of another server once for each message id; what goes to other servers
//! is in the batch of what stays here; no queue grows beyond its bound, and who
//! filled one makes place for all others (see [`give_way`]).

use std::{collections::BTreeMap, sync::Arc};

use causeway_storage::{
    Batch, Database, Full, StreamPosition, devices, outbox,
    to_device::{self as rows, FromSource},
    transactions,
};
use ruma::{DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId};
use serde::Deserialize;
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{
    appservices::{Appservices, Registration, news::Queued},
    clock::Clock,
    error::MatrixError,
    notify::{Notifier, Topic},
    secrets,
    session::Session,
    transactions::made_now,
};

/// Messages that may wait for one device, so that one that never comes back costs
/// a bounded amount.
pub const WAITING_MAX: Full = Full { rows: 10_000, bytes: 64 * 1024 * 1024 };

/// Messages that give way to a new one, at most; if that is not enough, it is dropped.
const DISPLACED_MAX: usize = 100;

/// What may wait for another server; further messages are dropped.
const WAITING_FOR_SERVER_MAX: Full = Full { rows: 10_000, bytes: 128 * 1024 * 1024 };

/// Recipients of one request, or of one message of another server.
const RECIPIENTS_MAX: usize = 1_000;

/// One message, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Messages in one unit to another server, in bytes, unless one alone is larger.
const UNIT_BYTES_MAX: usize = 64 * 1024;

/// The type of a message, in bytes.
const TYPE_BYTES_MAX: usize = 255;

/// A message's id, in characters (server-server API, "`m.direct_to_device`").
const MESSAGE_ID_CHARS_MAX: usize = 32;

/// How long the ids of messages of other servers are remembered at least.
const GENERATION_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

const ENDPOINT: &str = "sendToDevice";

/// See the module.
pub struct ToDevice {
    database: Database,
    notifier: Arc<Notifier>,
    server_name: OwnedServerName,
    clock: Clock,
    appservices: Arc<Appservices>,
}

/// The content of `m.direct_to_device`.
#[derive(Debug, Deserialize)]
pub struct Direct {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    kind: String,
    message_id: String,
    messages: Map<String, Value>,
}

/// One message to one local device.
struct Local {
    user_id: OwnedUserId,
    device_id: OwnedDeviceId,
    sender: OwnedUserId,
    event: Box<RawValue>,
    /// What gives way to it.
    displaced: Displaced,
}

/// Messages of one source.
#[derive(Default)]
struct Displaced {
    source: String,
    messages: Vec<StreamPosition>,
}

/// Messages by device and user, for one server.
type ForServer = Vec<(OwnedUserId, String, Value)>;

impl ToDevice {
    /// Over `database`, for the users of this server.
    pub fn new(
        database: Database,
        notifier: Arc<Notifier>,
        server_name: OwnedServerName,
        clock: Clock,
        appservices: Arc<Appservices>,
    ) -> Self {
        Self { database, notifier, server_name, clock, appservices }
    }

    /// Queues messages: user → device (or `*`) → content. Once for each transaction id.
    ///
    /// # Errors
    /// 400 for what has not that form, 413 for too much.
    pub fn send(
        &self,
        session: &Session,
        kind: &str,
        transaction_id: &str,
        messages: &Map<String, Value>,
    ) -> Result<(), MatrixError> {
        let (user_id, device_id) = (&session.user_id, &session.device_id);
        if transactions::answer(&self.database, user_id, device_id, transaction_id, ENDPOINT)?.is_some() {
            return Ok(());
        }
        let (local, remote) = self.recipients(user_id, kind, messages)?;
        let units = remote
            .into_iter()
            .flat_map(|(server, messages)| {
                units(user_id, kind, messages).into_iter().map(move |unit| (server.clone(), unit))
            })
            .collect::<Vec<_>>();
        let mut topics = Vec::with_capacity(local.len() + 1);
        let mut batch = self.database.batch();
        let made = made_now(self.clock.now_ms());
        transactions::put_answer(&mut batch, user_id, device_id, transaction_id, ENDPOINT, &made);
        for (server, unit) in units {
            if outbox::is_full(&self.database, &server, WAITING_FOR_SERVER_MAX)? {
                tracing::warn!(%server, "too much waits for a server: a message to devices is dropped");
                continue;
            }
            let position = batch.position();
            outbox::push_edu(&mut batch, &server, position, unit);
            topics.push(Topic::Outbox);
        }
        self.put(&mut batch, local, &mut topics)?;
        self.database.commit_durable(batch)?;
        self.notifier.notify(&topics);
        Ok(())
    }

    /// Takes in messages of a user of `origin`. Once for each message id; what
    /// is for nobody here is skipped.
    ///
    /// # Errors
    /// 403 for messages of another server's user, 400 for what has not the form.
    pub fn receive(&self, origin: &ServerName, direct: &Direct) -> Result<(), MatrixError> {
        if direct.sender.server_name() != origin {
            return Err(MatrixError::forbidden("The sender is a user of another server"));
        }
        let id_chars = direct.message_id.chars().take(MESSAGE_ID_CHARS_MAX + 1).count();
        if id_chars > MESSAGE_ID_CHARS_MAX || direct.kind.len() > TYPE_BYTES_MAX {
            return Err(MatrixError::invalid_param("The message's id or type is too long"));
        }
        let generation = self.clock.now_ms() / GENERATION_MS;
        let remembered = [generation, generation.saturating_sub(1)];
        if rows::was_received(&self.database, origin, &remembered, &direct.message_id)? {
            return Ok(());
        }
        let (local, _) = self.recipients(&direct.sender, &direct.kind, &direct.messages)?;
        if local.is_empty() {
            return Ok(());
        }
        let mut topics = Vec::with_capacity(local.len());
        let mut batch = self.database.batch();
        rows::put_received(&mut batch, origin, generation, &direct.message_id);
        if let Some(first) = rows::first_generation(&self.database, origin)?
            && first < remembered[1]
        {
            rows::forget_received(&mut batch, origin, first);
        }
        self.put(&mut batch, local, &mut topics)?;
        self.database.commit_durable(batch)?;
        self.notifier.notify(&topics);
        Ok(())
    }

    /// Local devices that exist and have room, others being skipped as the
    /// specification has it; and what goes to which server.
    fn recipients(
        &self,
        sender: &UserId,
        kind: &str,
        messages: &Map<String, Value>,
    ) -> Result<(Vec<Local>, BTreeMap<OwnedServerName, ForServer>), MatrixError> {
        let (mut local, mut remote) = (Vec::new(), BTreeMap::<OwnedServerName, ForServer>::new());
        let mut count = 0;
        for (user_id, by_device) in messages {
            let user_id =
                UserId::parse(user_id).map_err(|_| MatrixError::invalid_param("Invalid user id"))?;
            let by_device =
                by_device.as_object().ok_or_else(|| MatrixError::bad_json("Not an object of devices"))?;
            for (device, content) in by_device {
                if !content.is_object() {
                    return Err(MatrixError::bad_json("The content of a message is an object"));
                }
                let event = json!({ "sender": sender, "type": kind, "content": content });
                let event = to_raw_value(&event).map_err(|error| MatrixError::internal(&error))?;
                if event.get().len() > MESSAGE_BYTES_MAX {
                    return Err(MatrixError::too_large("A message is too large"));
                }
                if user_id.server_name() == self.server_name {
                    let before = local.len();
                    self.add_local(&mut local, (sender, &user_id), device, &event)?;
                    count += local.len() - before;
                } else {
                    let server = user_id.server_name().to_owned();
                    let message = (user_id.clone(), device.clone(), content.clone());
                    remote.entry(server).or_default().push(message);
                    count += 1;
                }
                if count > RECIPIENTS_MAX {
                    return Err(MatrixError::too_large("Too many recipients"));
                }
            }
        }
        Ok((local, remote))
    }

    fn put(&self, batch: &mut Batch, local: Vec<Local>, topics: &mut Vec<Topic>) -> Result<(), MatrixError> {
        for Local { user_id, device_id, sender, event, displaced } in local {
            for position in displaced.messages {
                rows::delete(batch, (&user_id, &device_id), &displaced.source, position);
            }
            let position = batch.position();
            rows::put(batch, (&user_id, &device_id), &sender, position, &event);
            topics.push(Topic::Device(user_id.clone(), device_id.clone()));
            let queued = Queued::ToDevice { user_id: user_id.clone(), device_id, event };
            let wants = |service: &Registration| service.ephemeral.is_some() && service.owns_user(&user_id);
            topics.extend(self.appservices.queue(&self.database, batch, &queued, wants)?);
        }
        Ok(())
    }

    fn add_local(
        &self,
        local: &mut Vec<Local>,
        (sender, user_id): (&UserId, &UserId),
        device: &str,
        event: &RawValue,
    ) -> Result<(), MatrixError> {
        let found: Vec<OwnedDeviceId> = if device == "*" {
            devices::devices(&self.database, user_id)?.into_iter().map(|(device_id, _)| device_id).collect()
        } else {
            let device_id: &DeviceId = device.into();
            let found = devices::device(&self.database, user_id, device_id)?;
            found.map(|_| device_id.to_owned()).into_iter().collect()
        };
        for device_id in found {
            let mut displaced = Displaced::default();
            if rows::is_full(&self.database, user_id, &device_id, WAITING_MAX)? {
                let waiting = rows::by_source(&self.database, user_id, &device_id, WAITING_MAX.rows)?;
                let bytes = event.get().len() as u64;
                let Some(found) = give_way(&waiting, rows::source(user_id, sender), bytes) else {
                    tracing::warn!(%user_id, %device_id, "too much waits for a device");
                    continue;
                };
                displaced = found;
            }
            let (user_id, sender) = (user_id.to_owned(), sender.to_owned());
            local.push(Local { user_id, device_id, sender, event: event.to_owned(), displaced });
        }
        Ok(())
    }
}

/// How much of a queue messages take: each counts as its part of the bytes or of
/// the rows, whichever is more.
fn weight(count: usize, bytes: u64) -> u64 {
    let row = (WAITING_MAX.bytes / WAITING_MAX.rows) as u64;
    bytes.max(row.saturating_mul(count as u64))
}

/// What gives way in a full queue to a message of a source: the last ones of the
/// source that takes most of it, as long as the new one's takes less. So each has
/// the part that it needs, or an equal one, whatever others send; and what came
/// first stays, which is what a device that was away needs to begin with.
/// `None` if nothing gives way.
fn give_way(waiting: &BTreeMap<String, FromSource>, source: &str, bytes: u64) -> Option<Displaced> {
    let taken =
        |from: &FromSource| weight(from.messages.len(), from.messages.iter().map(|(_, bytes)| bytes).sum());
    let own = waiting.get(source).map_or(0, taken).saturating_add(weight(1, bytes));
    let (largest, from) = waiting.iter().max_by_key(|(_, from)| taken(from))?;
    if largest == source || taken(from) < own {
        return None;
    }
    let mut displaced = Displaced { source: largest.clone(), messages: Vec::new() };
    let mut freed = 0;
    for (position, size) in from.messages.iter().rev().take(DISPLACED_MAX) {
        displaced.messages.push(*position);
        freed += size;
        if freed >= bytes {
            return Some(displaced);
        }
    }
    None
}

/// Messages for one server as units of bounded size, each with an id of its own.
fn units(sender: &UserId, kind: &str, messages: ForServer) -> Vec<Box<RawValue>> {
    let mut units = Vec::new();
    let mut by_user: BTreeMap<OwnedUserId, Map<String, Value>> = BTreeMap::new();
    let mut bytes = 0;
    for (user_id, device, content) in messages {
        let length = content.to_string().len() + device.len() + user_id.as_str().len();
        if bytes > 0 && bytes + length > UNIT_BYTES_MAX {
            units.push(unit(sender, kind, &std::mem::take(&mut by_user)));
            bytes = 0;
        }
        by_user.entry(user_id).or_default().insert(device, content);
        bytes += length;
    }
    if !by_user.is_empty() {
        units.push(unit(sender, kind, &by_user));
    }
    units
}

fn unit(sender: &UserId, kind: &str, messages: &BTreeMap<OwnedUserId, Map<String, Value>>) -> Box<RawValue> {
    let message_id = secrets::alphanumeric(MESSAGE_ID_CHARS_MAX);
    let content = json!({ "sender": sender, "type": kind, "message_id": message_id, "messages": messages });
    let edu = json!({ "edu_type": "m.direct_to_device", "content": content });
    RawValue::from_string(edu.to_string()).expect("a JSON value's text is JSON")
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn units_are_bounded_and_have_ids_of_their_own() {
        let content = json!({ "text": "x".repeat(30_000) });
        let message =
            |device: &str| (user_id!("@bob:b.example").to_owned(), device.to_owned(), content.clone());
        let messages = ["A", "B", "C", "D", "E"].map(message).to_vec();
        let units = units(user_id!("@alice:a.example"), "m.test", messages);
        let units: Vec<Value> =
            units.iter().map(|unit| serde_json::from_str(unit.get()).expect("JSON")).collect();
        let count = |unit: &Value| unit["content"]["messages"]["@bob:b.example"].as_object().map(Map::len);
        assert_eq!(units.iter().map(count).collect::<Vec<_>>(), [Some(2), Some(2), Some(1)]);
        let ids: Vec<&str> = units.iter().filter_map(|unit| unit["content"]["message_id"].as_str()).collect();
        assert!(ids[0] != ids[1] && ids.iter().all(|id| id.chars().count() <= MESSAGE_ID_CHARS_MAX));
        assert_eq!(units[0]["edu_type"], "m.direct_to_device");
    }

    /// Messages of equal size of a source, at places from `first` on.
    fn messages(first: u64, count: u64, bytes: u64) -> FromSource {
        FromSource { messages: (first..first + count).map(|n| (StreamPosition(n), bytes)).collect() }
    }

    #[test]
    fn who_takes_most_of_a_full_queue_gives_way_and_nobody_else() {
        let mut waiting = BTreeMap::from([
            ("stranger.example".to_owned(), messages(1, 9_000, 100)),
            ("friend.example".to_owned(), messages(9_001, 1_000, 100)),
        ]);
        let way = |waiting: &BTreeMap<String, FromSource>, source: &str, bytes| {
            give_way(waiting, source, bytes).map(|displaced| (displaced.source, displaced.messages))
        };
        assert_eq!(way(&waiting, "stranger.example", 100), None, "not to itself");
        let last = |count: u64| (1..=count).map(|n| StreamPosition(9_001 - n)).collect::<Vec<_>>();
        for source in ["friend.example", "new.example", "@alice:a.example"] {
            assert_eq!(way(&waiting, source, 100), Some(("stranger.example".to_owned(), last(1))));
        }
        assert_eq!(way(&waiting, "new.example", 250), Some(("stranger.example".to_owned(), last(3))));
        assert_eq!(way(&waiting, "new.example", 60_000), None, "not hundreds to one");
        waiting.insert("friend.example".to_owned(), messages(9_001, 9_000, 100));
        assert_eq!(way(&waiting, "friend.example", 100), None, "it has as much");
        // Few large ones take as much as many small ones.
        waiting.insert("large.example".to_owned(), messages(20_001, 1_100, 60_000));
        assert_eq!(way(&waiting, "friend.example", 100).expect("is made").0, "large.example");
        assert_eq!(way(&BTreeMap::new(), "new.example", 100), None);
    }
}
