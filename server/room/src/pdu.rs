//! An event as it travels between servers: parsed once, kept whole.
//!
//! A [`Pdu`] keeps the canonical JSON of everything that came (unknown fields
//! too), without `unsigned`, which nobody signs. Canonical JSON is a bijection
//! for events of the supported room versions, so hashes and signatures survive.
//! A `Pdu` says nothing of who may send it: see [`crate::auth`].

use std::{fmt, sync::Arc};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId,
    OwnedUserId, RoomId, UInt, UserId,
    canonical_json::redact_in_place,
    events::{TimelineEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
    signatures::reference_hash,
    state_res::Event,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use crate::format::{self, FormatError};

/// Why some text is not an event.
#[derive(Debug, thiserror::Error)]
pub enum PduError {
    /// Not JSON, or not canonical JSON (floats, integers out of range).
    #[error("the event is not canonical JSON")]
    Json(#[source] serde_json::Error),
    /// See [`FormatError`].
    #[error("the event is malformed")]
    Format(#[from] FormatError),
    /// The event could not be hashed or signed.
    #[error("the event could not be hashed or signed")]
    Hash(#[source] ruma::signatures::JsonError),
    /// The event could not be redacted.
    #[error("the event could not be redacted")]
    Redact(#[source] ruma::canonical_json::CanonicalJsonFieldError),
}

impl PduError {
    /// Whether it is only too large (`M_TOO_LARGE`).
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Format(FormatError::TooLarge | FormatError::FieldTooLong(_)))
    }
}

/// An event of a room, in the format of federation.
#[derive(Clone)]
pub struct Pdu {
    event_id: OwnedEventId,
    room_id: OwnedRoomId,
    /// Room version 12: a create event has no room id of its own.
    states_room_id: bool,
    sender: OwnedUserId,
    kind: TimelineEventType,
    kind_text: Box<str>,
    state_key: Option<Box<str>>,
    origin_server_ts: u64,
    depth: u64,
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    redacts: Option<OwnedEventId>,
    content: Box<RawValue>,
    raw: Box<RawValue>,
    rejected: bool,
}

impl Pdu {
    /// Parses an event that came from outside, checks its format and finds its id.
    ///
    /// Signatures and the content hash are not checked: that needs keys.
    ///
    /// # Errors
    /// When the text is not an event of a room with these rules: drop it.
    pub fn parse(rules: &RoomVersionRules, raw: &str) -> Result<Self, PduError> {
        if raw.len() > format::RAW_BYTES_MAX {
            return Err(FormatError::TooLarge.into());
        }
        let object: CanonicalJsonObject = serde_json::from_str(raw).map_err(PduError::Json)?;
        Self::from_object(rules, object)
    }

    /// The same for an event that is an object already.
    pub fn from_object(rules: &RoomVersionRules, mut object: CanonicalJsonObject) -> Result<Self, PduError> {
        object.remove("unsigned");
        let text = serde_json::to_string(&object).map_err(PduError::Json)?;
        format::check(&object, text.len(), rules)?;
        let hash = reference_hash(&object, rules).map_err(PduError::Hash)?;
        let event_id =
            OwnedEventId::try_from(format!("${hash}")).map_err(|_| FormatError::Malformed("hashes"))?;
        Self::assemble(rules, &object, text, event_id)
    }

    /// Reads back an event that this server stored: it was checked then.
    ///
    /// # Errors
    /// When the row is damaged.
    pub fn from_stored(
        rules: &RoomVersionRules,
        event_id: OwnedEventId,
        raw: &str,
        rejected: bool,
    ) -> Result<Self, PduError> {
        let object: CanonicalJsonObject = serde_json::from_str(raw).map_err(PduError::Json)?;
        let mut pdu = Self::assemble(rules, &object, raw.to_owned(), event_id)?;
        pdu.rejected = rejected;
        Ok(pdu)
    }

    fn assemble(
        rules: &RoomVersionRules,
        object: &CanonicalJsonObject,
        text: String,
        event_id: OwnedEventId,
    ) -> Result<Self, PduError> {
        let stated = string(object, "room_id");
        let room_id = match stated {
            Some(room_id) => OwnedRoomId::try_from(room_id).map_err(|_| FormatError::Malformed("room_id"))?,
            None => OwnedRoomId::try_from(event_id.as_str().replacen('$', "!", 1))
                .map_err(|_| FormatError::Malformed("room_id"))?,
        };
        let kind = string(object, "type").ok_or(FormatError::Malformed("type"))?;
        let sender = string(object, "sender").ok_or(FormatError::Malformed("sender"))?;
        let content = object.get("content").ok_or(FormatError::Malformed("content"))?;
        let redacts =
            if kind == "m.room.redaction" { redaction_target(rules, object, content) } else { None };
        Ok(Self {
            event_id,
            room_id,
            states_room_id: stated.is_some(),
            sender: OwnedUserId::try_from(sender).map_err(|_| FormatError::Malformed("sender"))?,
            kind: TimelineEventType::from(kind),
            kind_text: kind.into(),
            state_key: string(object, "state_key").map(Into::into),
            origin_server_ts: format::integer(object, "origin_server_ts")?,
            depth: format::integer(object, "depth")?,
            prev_events: owned_ids(object, "prev_events", format::PREV_EVENTS_MAX)?,
            auth_events: owned_ids(object, "auth_events", format::AUTH_EVENTS_MAX)?,
            redacts,
            content: to_raw_value(content).map_err(PduError::Json)?,
            raw: RawValue::from_string(text).map_err(PduError::Json)?,
            rejected: false,
        })
    }

    /// The event with everything removed that a redaction removes; same id.
    ///
    /// For an event whose signature holds and whose content hash does not.
    pub fn redacted(&self, rules: &RoomVersionRules) -> Result<Self, PduError> {
        let mut object = self.object();
        redact_in_place(&mut object, &rules.redaction, None).map_err(PduError::Redact)?;
        let text = serde_json::to_string(&object).map_err(PduError::Json)?;
        let mut pdu = Self::assemble(rules, &object, text, self.event_id.clone())?;
        pdu.rejected = self.rejected;
        Ok(pdu)
    }

    /// The same event, marked as refused by the authorisation rules.
    #[must_use]
    pub fn into_rejected(mut self) -> Self {
        self.rejected = true;
        self
    }

    /// A stand-in with another content, for a rule to look at: it is not what was signed.
    pub(crate) fn with_content(&self, content: Box<RawValue>) -> Self {
        Self { content, ..self.clone() }
    }

    /// `$` and the reference hash.
    pub fn event_id(&self) -> &EventId {
        &self.event_id
    }

    /// The room; for a create event of room version 12 it is made of the event's id.
    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// Who sent it.
    pub fn sender(&self) -> &UserId {
        &self.sender
    }

    /// Its type.
    pub fn kind(&self) -> &TimelineEventType {
        &self.kind
    }

    /// Its type as written.
    pub fn kind_text(&self) -> &str {
        &self.kind_text
    }

    /// Its state key, if it is a state event.
    pub fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    /// The field that is longer than it may be, if any. In old room versions such an
    /// event can be followed by others, and is rejected.
    pub fn overlong(&self) -> Option<&'static str> {
        let long = |text: &str| text.len() > format::FIELD_BYTES_MAX;
        let state_key = || self.state_key().is_some_and(long).then_some("state_key");
        long(&self.kind_text).then_some("type").or_else(state_key)
    }

    /// Whether it is this piece of state.
    pub fn is_state(&self, kind: &str, state_key: &str) -> bool {
        *self.kind_text == *kind && self.state_key() == Some(state_key)
    }

    /// Milliseconds since the epoch, as the sender's server said.
    pub fn origin_server_ts(&self) -> u64 {
        self.origin_server_ts
    }

    /// One more than the greatest depth of the events before it, as the sender's server said.
    pub fn depth(&self) -> u64 {
        self.depth
    }

    /// The events before it.
    pub fn prev_events(&self) -> &[OwnedEventId] {
        &self.prev_events
    }

    /// The events that it says authorise it.
    pub fn auth_events(&self) -> &[OwnedEventId] {
        &self.auth_events
    }

    /// The event that it redacts.
    pub fn redacts(&self) -> Option<&EventId> {
        self.redacts.as_deref()
    }

    /// Whether the authorisation rules refused it.
    pub fn rejected(&self) -> bool {
        self.rejected
    }

    /// Its content as JSON text.
    pub fn content_raw(&self) -> &RawValue {
        &self.content
    }

    /// Its content as some type.
    ///
    /// # Errors
    /// When the content is not of that type: contents are not checked on receipt.
    pub fn content<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.content.get())
    }

    /// Its content as an object.
    pub fn content_object(&self) -> Map<String, Value> {
        self.content().unwrap_or_default()
    }

    /// `membership` of an `m.room.member` state event.
    pub fn membership(&self) -> Option<MembershipState> {
        #[derive(Deserialize)]
        struct Content {
            membership: MembershipState,
        }
        if *self.kind_text != *"m.room.member" || self.state_key.is_none() {
            return None;
        }
        self.content::<Content>().ok().map(|content| content.membership)
    }

    /// The whole event as canonical JSON: what other servers get and what is stored.
    pub fn raw(&self) -> &RawValue {
        &self.raw
    }

    /// The whole event as an object.
    ///
    /// # Panics
    /// Never: `raw` was made from such an object.
    pub fn object(&self) -> CanonicalJsonObject {
        serde_json::from_str(self.raw.get()).expect("`raw` was made from a canonical JSON object")
    }

    /// The format that clients get, with neither redaction nor `unsigned` applied.
    pub fn client_json(&self) -> Map<String, Value> {
        let mut event = Map::new();
        event.insert("type".to_owned(), (*self.kind_text).into());
        event.insert("content".to_owned(), self.content().unwrap_or_else(|_| Value::Object(Map::new())));
        event.insert("event_id".to_owned(), self.event_id.as_str().into());
        event.insert("room_id".to_owned(), self.room_id.as_str().into());
        event.insert("sender".to_owned(), self.sender.as_str().into());
        event.insert("origin_server_ts".to_owned(), self.origin_server_ts.into());
        if let Some(state_key) = &self.state_key {
            event.insert("state_key".to_owned(), (**state_key).into());
        }
        // Rooms before version 11 have it at the top level; newer ones in
        // `content`, and clients of either kind get both.
        if let Some(redacts) = &self.redacts {
            event.insert("redacts".to_owned(), redacts.as_str().into());
            if let Some(Value::Object(content)) = event.get_mut("content") {
                content.entry("redacts").or_insert_with(|| redacts.as_str().into());
            }
        }
        event
    }

    /// The stripped state format (client-server API, "Stripped state"); of a create event also
    /// its time (MSC4311).
    ///
    /// # Panics
    /// Never: strings and valid JSON serialise.
    pub fn stripped(&self) -> Box<RawValue> {
        let mut stripped = serde_json::json!({
            "type": self.kind_text, "state_key": self.state_key.as_deref().unwrap_or_default(),
            "sender": self.sender, "content": self.content,
        });
        if self.is_state("m.room.create", "") {
            stripped["origin_server_ts"] = self.origin_server_ts.into();
        }
        to_raw_value(&stripped).expect("an object of strings and valid JSON serialises")
    }
}

fn string<'a>(object: &'a CanonicalJsonObject, field: &str) -> Option<&'a str> {
    object.get(field).and_then(CanonicalJsonValue::as_str)
}

fn owned_ids(
    object: &CanonicalJsonObject,
    field: &'static str,
    max: usize,
) -> Result<Vec<OwnedEventId>, PduError> {
    format::event_ids(object, field, max)?
        .into_iter()
        .map(|id| OwnedEventId::try_from(id).map_err(|_| FormatError::Malformed(field).into()))
        .collect()
}

fn redaction_target(
    rules: &RoomVersionRules,
    object: &CanonicalJsonObject,
    content: &CanonicalJsonValue,
) -> Option<OwnedEventId> {
    let holder = if rules.redaction.content_field_redacts { content.as_object()? } else { object };
    OwnedEventId::try_from(string(holder, "redacts")?).ok()
}

impl fmt::Debug for Pdu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pdu")
            .field("event_id", &self.event_id)
            .field("kind", &self.kind_text)
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}

impl Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &Self::Id {
        &self.event_id
    }
    fn room_id(&self) -> Option<&RoomId> {
        self.states_room_id.then_some(&*self.room_id)
    }
    fn sender(&self) -> &UserId {
        &self.sender
    }
    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.origin_server_ts))
    }
    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }
    fn content(&self) -> &RawValue {
        &self.content
    }
    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }
    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.prev_events.iter())
    }
    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.auth_events.iter())
    }
    fn redacts(&self) -> Option<&Self::Id> {
        self.redacts.as_ref()
    }
    fn rejected(&self) -> bool {
        self.rejected
    }
}

/// Shared events are what everything passes around.
pub type SharedPdu = Arc<Pdu>;

#[cfg(test)]
mod tests;
