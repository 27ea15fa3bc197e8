//! Making an event: canonical JSON, content hash, signature, id.
//!
//! Where the event stands in the room ([`Placement`]) is the caller's to say;
//! whether it is allowed is [`crate::auth`]'s.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, Int, OwnedEventId, OwnedRoomId, OwnedUserId, ServerName,
    canonical_json::try_from_json_map,
    events::TimelineEventType,
    room_version_rules::RoomVersionRules,
    signatures::{KeyPair, hash_and_sign_event},
};
use serde_json::Value;

use crate::{
    format::{FormatError, INTEGER_MAX},
    pdu::{Pdu, PduError},
};

/// What a user wants to say, before it has a place in the room.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its type.
    pub kind: TimelineEventType,
    /// Who sends it.
    pub sender: OwnedUserId,
    /// Present for state events.
    pub state_key: Option<String>,
    /// Its content.
    pub content: CanonicalJsonObject,
    /// For an `m.room.redaction`: what it redacts. It is put where the room version wants it.
    pub redacts: Option<OwnedEventId>,
    /// Milliseconds since the epoch; `None` is now.
    pub origin_server_ts: Option<u64>,
}

impl NewEvent {
    /// A message event, or with `state_key` a state event.
    ///
    /// # Errors
    /// When the content is no object, or holds a number that canonical JSON has
    /// no place for (a float, or an integer beyond ±(2^53 − 1)).
    pub fn new(
        kind: impl Into<TimelineEventType>,
        sender: OwnedUserId,
        state_key: Option<String>,
        content: Value,
    ) -> Result<Self, PduError> {
        let Value::Object(content) = content else {
            return Err(FormatError::Malformed("content").into());
        };
        let content = try_from_json_map(content).map_err(|_| FormatError::Malformed("content"))?;
        Ok(Self { kind: kind.into(), sender, state_key, content, redacts: None, origin_server_ts: None })
    }
}

/// Where an event stands in the room.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The room; `None` only for a create event of room version 12.
    pub room_id: Option<OwnedRoomId>,
    /// The events before it.
    pub prev_events: Vec<OwnedEventId>,
    /// The events that authorise it.
    pub auth_events: Vec<OwnedEventId>,
    /// One more than the greatest depth before it, at most 2^53 − 1.
    pub depth: u64,
    /// Milliseconds since the epoch.
    pub origin_server_ts: u64,
}

/// The event as an object, without hashes and signatures: what `make_join` answers.
pub fn template(rules: &RoomVersionRules, event: &NewEvent, placement: &Placement) -> CanonicalJsonObject {
    let mut object = CanonicalJsonObject::new();
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let ids =
        |ids: &[OwnedEventId]| CanonicalJsonValue::Array(ids.iter().map(|id| text(id.as_str())).collect());
    let number = |number: u64| {
        CanonicalJsonValue::Integer(Int::new_saturating(
            i64::try_from(number.min(INTEGER_MAX)).unwrap_or(i64::MAX),
        ))
    };
    let mut content = event.content.clone();
    if let Some(redacts) = &event.redacts {
        if rules.redaction.content_field_redacts {
            content.insert("redacts".to_owned(), text(redacts.as_str()));
        } else {
            object.insert("redacts".to_owned(), text(redacts.as_str()));
        }
    }
    object.insert("type".to_owned(), text(&event.kind.to_string()));
    object.insert("sender".to_owned(), text(event.sender.as_str()));
    object.insert("content".to_owned(), CanonicalJsonValue::Object(content));
    object.insert("prev_events".to_owned(), ids(&placement.prev_events));
    object.insert("auth_events".to_owned(), ids(&placement.auth_events));
    object.insert("depth".to_owned(), number(placement.depth));
    object.insert("origin_server_ts".to_owned(), number(placement.origin_server_ts));
    if let Some(room_id) = &placement.room_id {
        object.insert("room_id".to_owned(), text(room_id.as_str()));
    }
    if let Some(state_key) = &event.state_key {
        object.insert("state_key".to_owned(), text(state_key));
    }
    object
}

/// Builds, hashes and signs an event as `server_name`.
///
/// # Errors
/// When the event would break a limit of the event format.
pub fn build<K: KeyPair>(
    rules: &RoomVersionRules,
    event: &NewEvent,
    placement: &Placement,
    server_name: &ServerName,
    key_pair: &K,
) -> Result<Pdu, PduError> {
    let mut object = template(rules, event, placement);
    hash_and_sign_event(server_name.as_str(), key_pair, &mut object, &rules.redaction).map_err(hash_error)?;
    let pdu = Pdu::from_object(rules, object)?;
    match pdu.overlong() {
        Some(field) => Err(FormatError::FieldTooLong(field).into()),
        None => Ok(pdu),
    }
}

fn hash_error(error: ruma::signatures::JsonError) -> PduError {
    match error {
        ruma::signatures::JsonError::PduTooLarge => FormatError::TooLarge.into(),
        other => PduError::Hash(other),
    }
}
