//! The event format check: the first of the checks on receipt of a PDU.
//!
//! Limits are those of the specification (client-server API, "Size limits";
//! room version 3 and up, "Event format"). An event that fails is dropped: it
//! is not an event. This is not authorisation.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, RoomId, UserId, room_version_rules::RoomVersionRules,
};

/// Largest event, as canonical JSON with signatures, in bytes.
pub const PDU_BYTES_MAX: usize = 65_536;
/// Largest sender, room id, type, state key and event id, in bytes. Up to room
/// version 10 servers counted characters: such an event is one, and rejected.
pub const FIELD_BYTES_MAX: usize = 255;
/// Most `prev_events`.
pub const PREV_EVENTS_MAX: usize = 20;
/// Most `auth_events`.
pub const AUTH_EVENTS_MAX: usize = 10;
/// Largest integer of canonical JSON, and so largest depth: 2^53 − 1.
pub const INTEGER_MAX: u64 = (1 << 53) - 1;
/// Text longer than this is not even parsed as an event: six times the limit
/// is what escapes (`\u0061`) could stretch a legal event to.
pub const RAW_BYTES_MAX: usize = 6 * PDU_BYTES_MAX;

/// Why some JSON is not an event.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    /// Larger than [`PDU_BYTES_MAX`].
    #[error("the event is larger than {PDU_BYTES_MAX} bytes")]
    TooLarge,
    /// A string field is longer than [`FIELD_BYTES_MAX`].
    #[error("`{0}` is longer than {FIELD_BYTES_MAX} bytes")]
    FieldTooLong(&'static str),
    /// A list is longer than the specification allows.
    #[error("`{0}` has too many entries")]
    TooMany(&'static str),
    /// A field is missing or of another type than the specification says.
    #[error("`{0}` is missing or malformed")]
    Malformed(&'static str),
}

/// Checks fields, types and limits; `size` is the length of the canonical JSON.
pub fn check(object: &CanonicalJsonObject, size: usize, rules: &RoomVersionRules) -> Result<(), FormatError> {
    if size > PDU_BYTES_MAX {
        return Err(FormatError::TooLarge);
    }
    let kind = required_string(object, "type")?;
    let sender = required_string(object, "sender")?;
    if counts_bytes(rules) {
        for field in ["type", "state_key"] {
            let text = object.get(field).and_then(CanonicalJsonValue::as_str);
            if text.is_some_and(|text| text.len() > FIELD_BYTES_MAX) {
                return Err(FormatError::FieldTooLong(field));
            }
        }
    }
    UserId::parse(sender).map_err(|_| FormatError::Malformed("sender"))?;
    optional_string(object, "state_key")?;
    optional_string(object, "event_id")?;
    let needs_room_id = kind != "m.room.create" || rules.event_format.require_room_create_room_id;
    let room_id = if needs_room_id {
        Some(required_string(object, "room_id")?)
    } else {
        optional_string(object, "room_id")?
    };
    if let Some(room_id) = room_id {
        RoomId::parse(room_id).map_err(|_| FormatError::Malformed("room_id"))?;
    }
    event_ids(object, "prev_events", PREV_EVENTS_MAX)?;
    let auth_events = event_ids(object, "auth_events", AUTH_EVENTS_MAX)?;
    if let Some(room_id) = room_id
        && !rules.event_format.allow_room_create_in_auth_events
        && auth_events.iter().any(|id| id.get(1..) == room_id.get(1..))
    {
        return Err(FormatError::Malformed("auth_events"));
    }
    integer(object, "depth")?;
    integer(object, "origin_server_ts")?;
    for field in ["content", "hashes", "signatures"] {
        if !matches!(object.get(field), Some(CanonicalJsonValue::Object(_))) {
            return Err(FormatError::Malformed(field));
        }
    }
    Ok(())
}

/// Whether the limit of fields is one of bytes, and not of characters: as in
/// Synapse, from the version on in which creators are senders (11).
fn counts_bytes(rules: &RoomVersionRules) -> bool {
    rules.authorization.use_room_create_sender
}

fn optional_string<'a>(
    object: &'a CanonicalJsonObject,
    field: &'static str,
) -> Result<Option<&'a str>, FormatError> {
    match object.get(field) {
        None => Ok(None),
        Some(CanonicalJsonValue::String(text)) if text.chars().nth(FIELD_BYTES_MAX).is_some() => {
            Err(FormatError::FieldTooLong(field))
        }
        Some(CanonicalJsonValue::String(text)) => Ok(Some(text)),
        Some(_) => Err(FormatError::Malformed(field)),
    }
}

fn required_string<'a>(object: &'a CanonicalJsonObject, field: &'static str) -> Result<&'a str, FormatError> {
    optional_string(object, field)?.ok_or(FormatError::Malformed(field))
}

/// The ids in a list of events.
pub(crate) fn event_ids<'a>(
    object: &'a CanonicalJsonObject,
    field: &'static str,
    max: usize,
) -> Result<Vec<&'a str>, FormatError> {
    let Some(CanonicalJsonValue::Array(list)) = object.get(field) else {
        return Err(FormatError::Malformed(field));
    };
    if list.len() > max {
        return Err(FormatError::TooMany(field));
    }
    list.iter()
        .map(|id| match id {
            CanonicalJsonValue::String(id)
                if id.len() <= FIELD_BYTES_MAX && EventId::parse(id.as_str()).is_ok() =>
            {
                Ok(id.as_str())
            }
            _ => Err(FormatError::Malformed(field)),
        })
        .collect()
}

/// A non-negative integer.
pub(crate) fn integer(object: &CanonicalJsonObject, field: &'static str) -> Result<u64, FormatError> {
    match object.get(field) {
        Some(CanonicalJsonValue::Integer(value)) => {
            u64::try_from(i64::from(*value)).map_err(|_| FormatError::Malformed(field))
        }
        _ => Err(FormatError::Malformed(field)),
    }
}
