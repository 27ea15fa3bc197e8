//! Events: an event's id is the hash of what a redaction leaves of it, its content has
//! the hash that it names unless it was redacted, and its sender's server signed it.

use std::collections::HashMap;

use causeway_room::version;
use causeway_storage::{
    Cf, Database, codec,
    rooms::{self as rows, EventMeta},
    server_keys,
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedRoomId, OwnedServerName, RoomId, ServerName,
    UserId,
    canonical_json::redact,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{PublicKeyMap, PublicKeySet, content_hash, reference_hash, verify_json},
};

use super::{Report, each, shown};
use crate::server_keys::ServerKeys;

/// What is looked up for many events.
struct Known<'a> {
    database: &'a Database,
    rules: HashMap<OwnedRoomId, Option<RoomVersionRules>>,
    keys: HashMap<OwnedServerName, PublicKeySet>,
}

pub(super) fn verify(database: &Database, server_name: &ServerName, report: &mut Report) {
    let mut known = Known { database, rules: HashMap::new(), keys: HashMap::new() };
    match ServerKeys::public(database) {
        Ok(keys) if keys.is_empty() => report.wrong("the server's own signing key is not there"),
        Ok(keys) => drop(known.keys.insert(server_name.to_owned(), keys)),
        Err(error) => report.wrong(format!("the server's own signing key: {error}")),
    }
    each(database, Cf::EventMeta, b"", report, |report, key, value| {
        report.count("events");
        let name = shown(key);
        let meta = codec::decode::<EventMeta>(Cf::EventMeta, value);
        // One that can't be decoded was told with the rows.
        let Ok(meta) = meta else { return };
        if let Err(what) = known.check(&name, &meta, report) {
            report.wrong(format!("event {name} in {}: {what}", meta.room_id));
        }
    });
    each(database, Cf::Pdus, b"", report, |report, key, _| {
        let name = shown(key);
        let Ok(event_id) = EventId::parse(&*name) else { return };
        if report.read(&name, rows::event_meta(database, &event_id)).is_some_and(|meta| meta.is_none()) {
            report.wrong(format!("event {name}: it is not known what became of it"));
        }
    });
    places(database, report);
}

impl Known<'_> {
    fn check(&mut self, name: &str, meta: &EventMeta, report: &mut Report) -> Result<(), String> {
        let event_id = EventId::parse(name).map_err(|_| "its id is none".to_owned())?;
        let raw = rows::pdu_raw(self.database, &event_id).map_err(|error| error.to_string())?;
        let raw = raw.ok_or("the event itself is missing")?;
        let Some(rules) = self.rules(&meta.room_id)? else {
            // Of a join that was interrupted: the next start deletes it.
            let joining = rows::is_joining(self.database, &meta.room_id);
            let joining = joining.map_err(|error| error.to_string())?;
            return if joining { Ok(()) } else { Err("its room is not known".to_owned()) };
        };
        let object: CanonicalJsonObject =
            serde_json::from_str(raw.get()).map_err(|error| format!("it is not canonical JSON: {error}"))?;
        let hash = reference_hash(&object, &rules).map_err(|error| error.to_string())?;
        if format!("${hash}") != name {
            return Err("it was altered: its id is not its hash".to_owned());
        }
        let redacted = redact(object.clone(), &rules.redaction, None).map_err(|error| error.to_string())?;
        if redacted != object && stated_hash(&object) != content_hash(&object).ok().map(|hash| hash.encode())
        {
            return Err("its content was altered: it has another hash than the event names".to_owned());
        }
        self.check_signature(&redacted, report)
    }

    fn rules(&mut self, room_id: &RoomId) -> Result<Option<RoomVersionRules>, String> {
        if let Some(rules) = self.rules.get(room_id) {
            return Ok(rules.clone());
        }
        let room = rows::room(self.database, room_id).map_err(|error| error.to_string())?;
        let rules = room.and_then(|room| version::rules(&room.version));
        self.rules.insert(room_id.to_owned(), rules.clone());
        Ok(rules)
    }

    fn check_signature(&mut self, redacted: &CanonicalJsonObject, report: &mut Report) -> Result<(), String> {
        let sender = redacted.get("sender").and_then(CanonicalJsonValue::as_str).unwrap_or_default();
        let sender = UserId::parse(sender).map_err(|_| "its sender is none".to_owned())?;
        let server = sender.server_name().to_owned();
        if !self.keys.contains_key(&server) {
            let known = server_keys::remote(self.database, &server).map_err(|error| error.to_string())?;
            let keys = known.unwrap_or_default().keys.into_iter();
            let keys = keys.filter_map(|(id, key)| Some((id, Base64::parse(key.key).ok()?)));
            self.keys.insert(server.clone(), keys.collect());
        }
        let keys = &self.keys[&server];
        let signed_by = redacted.get("signatures").and_then(CanonicalJsonValue::as_object);
        let signed_by = signed_by.and_then(|all| all.get(server.as_str())?.as_object());
        if !signed_by.is_some_and(|ids| ids.keys().any(|id| keys.contains_key(id))) {
            report.count("events whose signature can't be checked: no key at hand");
            return Ok(());
        }
        let map = PublicKeyMap::from([(server.to_string(), keys.clone())]);
        report.count("signatures of events");
        verify_json(&map, redacted).map_err(|_| format!("the signature of {server} is not valid"))
    }
}

fn stated_hash(object: &CanonicalJsonObject) -> Option<String> {
    Some(object.get("hashes")?.as_object()?.get("sha256")?.as_str()?.to_owned())
}

/// What names an event by its place leads to one that has the place.
fn places(database: &Database, report: &mut Report) {
    each(database, Cf::Timeline, b"", report, |report, key, value| {
        let mut parts = codec::KeyParts::new(Cf::Timeline, key);
        let (Ok(room), Ok(position)) = (parts.str(), parts.i64()) else {
            return report.wrong(format!("a place in a timeline has no name: {}", shown(key)));
        };
        let event = value.get(32..).and_then(|id| std::str::from_utf8(id).ok()).unwrap_or_default();
        let meta = EventId::parse(event).ok().map(|id| rows::event_meta(database, &id));
        let meta = meta.and_then(|read| report.read(event, read)).flatten();
        if meta.is_none_or(|meta| meta.position != Some(position) || meta.room_id != room) {
            report.wrong(format!("the timeline of {room} at {position}: event {event} is not there"));
        }
    });
    each(database, Cf::EventStream, b"", report, |report, key, value| {
        let event = std::str::from_utf8(value).unwrap_or_default();
        let meta = EventId::parse(event).ok().map(|id| rows::event_meta(database, &id));
        if meta.and_then(|read| report.read(event, read)).flatten().is_none() {
            report.wrong(format!("the stream at {}: event {event} is not there", shown(key)));
        }
    });
}
