//! Events as clients see them (client-server API, "Client event format").
//!
//! A PDU's own JSON passes through field by field, unparsed; what only servers
//! need (hashes, signatures, `auth_events` …) stays behind, and `unsigned` is
//! built anew, for nothing in it may come from another server unchecked.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

/// An event could not be shown because its stored JSON is not an event.
#[derive(Debug, thiserror::Error)]
#[error("a stored event is not an event")]
pub struct UnreadableEvent(#[source] serde_json::Error);

/// Where an event is shown: the formats differ in a field or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// With `room_id`: /messages, /event, /context …
    Full,
    /// Without: /sync, where the room is known.
    Sync,
    /// As it goes between servers, with its id and the room's: /sync with `event_format: federation`.
    Federation,
    /// Type, sender, state key and content only: state of a room that the user is not in.
    Stripped,
}

/// The fields of a PDU that clients get.
#[derive(Debug, Deserialize)]
struct Fields<'a> {
    #[serde(borrow, rename = "type")]
    kind: &'a RawValue,
    #[serde(borrow)]
    sender: &'a RawValue,
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    origin_server_ts: &'a RawValue,
    #[serde(borrow, default)]
    state_key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    redacts: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct ClientEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a RawValue,
    sender: &'a RawValue,
    content: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin_server_ts: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<Redacts<'a>>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    unsigned: Map<String, Value>,
}

/// `redacts` as it stood, or copied up from the content (room version 11 on)
/// for clients that look for it on top.
#[derive(Serialize)]
#[serde(untagged)]
enum Redacts<'a> {
    Own(&'a RawValue),
    Copied(String),
}

/// Renders a PDU for a client. `pdu` must be shown as redacted already, if it is.
///
/// # Errors
/// If `pdu` lacks what every event has.
pub fn client_event(
    pdu: &RawValue,
    event_id: &str,
    room_id: &str,
    shape: Shape,
    unsigned: Map<String, Value>,
) -> Result<Box<RawValue>, UnreadableEvent> {
    if shape == Shape::Federation {
        return federation_event(pdu, event_id, room_id, unsigned);
    }
    let fields: Fields<'_> = serde_json::from_str(pdu.get()).map_err(UnreadableEvent)?;
    let stripped = shape == Shape::Stripped;
    let event = ClientEvent {
        kind: fields.kind,
        sender: fields.sender,
        content: fields.content,
        state_key: fields.state_key,
        origin_server_ts: (!stripped).then_some(fields.origin_server_ts),
        event_id: (!stripped).then_some(event_id),
        room_id: (shape == Shape::Full).then_some(room_id),
        redacts: fields.redacts.map(Redacts::Own).or_else(|| copied_redacts(fields.kind, fields.content)),
        unsigned,
    };
    serde_json::value::to_raw_value(&event).map_err(UnreadableEvent)
}

fn federation_event(
    pdu: &RawValue,
    event_id: &str,
    room_id: &str,
    unsigned: Map<String, Value>,
) -> Result<Box<RawValue>, UnreadableEvent> {
    let mut event: Map<String, Value> = serde_json::from_str(pdu.get()).map_err(UnreadableEvent)?;
    event.insert("event_id".to_owned(), event_id.into());
    event.insert("room_id".to_owned(), room_id.into());
    event.insert("unsigned".to_owned(), Value::Object(unsigned));
    serde_json::value::to_raw_value(&event).map_err(UnreadableEvent)
}

fn copied_redacts<'a>(kind: &RawValue, content: &RawValue) -> Option<Redacts<'a>> {
    #[derive(Deserialize)]
    struct Redaction {
        redacts: String,
    }
    if kind.get() != "\"m.room.redaction\"" {
        return None;
    }
    serde_json::from_str(content.get()).ok().map(|Redaction { redacts }| Redacts::Copied(redacts))
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};

    use super::*;

    fn rendered(pdu: &Value, shape: Shape, unsigned: &Value) -> Value {
        let unsigned = unsigned.as_object().cloned().unwrap_or_default();
        let raw = to_raw_value(pdu).expect("JSON");
        let event = client_event(&raw, "$e", "!r", shape, unsigned).expect("an event");
        serde_json::from_str(event.get()).expect("JSON")
    }

    fn pdu() -> Value {
        json!({
            "type": "m.room.name", "sender": "@a:b.c", "state_key": "", "origin_server_ts": 5, "depth": 3,
            "content": { "name": "x" }, "auth_events": [], "prev_events": [], "hashes": {}, "signatures": {},
            "unsigned": { "age": 1, "forged": true },
        })
    }

    #[test]
    fn what_servers_need_stays_behind() {
        assert_eq!(
            rendered(&pdu(), Shape::Full, &json!({ "age": 7 })),
            json!({
                "type": "m.room.name", "sender": "@a:b.c", "state_key": "", "origin_server_ts": 5,
                "content": { "name": "x" }, "event_id": "$e", "room_id": "!r", "unsigned": { "age": 7 },
            })
        );
        assert_eq!(rendered(&pdu(), Shape::Sync, &Value::Null).get("room_id"), None);
        let mut whole = pdu();
        whole["unsigned"] = json!({ "age": 7 });
        whole["event_id"] = "$e".into();
        whole["room_id"] = "!r".into();
        assert_eq!(rendered(&pdu(), Shape::Federation, &json!({ "age": 7 })), whole);
        assert_eq!(
            rendered(&pdu(), Shape::Stripped, &Value::Null),
            json!({ "type": "m.room.name", "sender": "@a:b.c", "state_key": "", "content": { "name": "x" } })
        );
    }

    #[test]
    fn redactions_name_their_target_on_top_in_every_room_version() {
        let mut redaction = pdu();
        redaction["type"] = "m.room.redaction".into();
        redaction["content"] = json!({ "redacts": "$old" });
        assert_eq!(rendered(&redaction, Shape::Sync, &Value::Null)["redacts"], "$old");
        redaction["redacts"] = "$other".into();
        assert_eq!(rendered(&redaction, Shape::Sync, &Value::Null)["redacts"], "$other");
    }

    #[test]
    fn something_else_is_an_error() {
        let raw = to_raw_value(&json!({ "type": "m.room.name" })).expect("JSON");
        assert!(client_event(&raw, "$e", "!r", Shape::Full, Map::new()).is_err());
    }
}
