//! What is known of a room's event, whoever shows it.
//!
//! An event that this server holds is a PDU. One that another homeserver shows to a
//! program beside it comes in the client format: without signatures, depth and
//! `auth_events`, and possibly without what was redacted. Whoever needs more than both
//! have asks for the PDU ([`RoomEvent::pdu`]) and does without where there is none.
//!
//! Not here: whether an event was accepted, or is the room's state.

use std::sync::Arc;

use causeway_room::Pdu;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt, UserId,
    events::{TimelineEventType, room::member::MembershipState},
    state_res::Event,
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

/// Bytes of the longest event that is taken in: one as servers exchange it has 65,536 at
/// most, and what a homeserver adds for clients (`unsigned`) may repeat the redaction
/// and the content before.
pub const SHOWN_BYTES_MAX: usize = 256 * 1024;
/// Bytes of type, state key and ids, as in any event.
const FIELD_BYTES_MAX: usize = 255;

/// Why some text is no event as clients are shown it.
#[derive(Debug, thiserror::Error)]
pub enum ShownError {
    /// It is longer than [`SHOWN_BYTES_MAX`].
    #[error("the event is too large")]
    TooLarge,
    /// It is not JSON, or lacks something that every event has.
    #[error("the event is malformed")]
    Malformed(#[from] serde_json::Error),
    /// It says that it is of another room.
    #[error("the event is one of another room")]
    AnotherRoom,
    /// A field is longer than it may be.
    #[error("a field of the event is too long")]
    FieldTooLong,
}

/// An event.
#[derive(Clone, Debug)]
pub enum RoomEvent {
    /// As this server holds it.
    Own(Arc<Pdu>),
    /// As another homeserver shows it.
    Shown(Arc<ShownEvent>),
}

/// An event as a homeserver shows it to clients.
#[derive(Clone, Debug)]
pub struct ShownEvent {
    event_id: OwnedEventId,
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    kind: TimelineEventType,
    kind_text: Box<str>,
    state_key: Option<Box<str>>,
    origin_server_ts: u64,
    redacts: Option<OwnedEventId>,
    content: Box<RawValue>,
    replaces: Option<OwnedEventId>,
    redaction: Option<OwnedEventId>,
    soft_failed: bool,
}

#[derive(Deserialize)]
struct Client {
    event_id: OwnedEventId,
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    #[serde(rename = "type")]
    kind: String,
    state_key: Option<String>,
    #[serde(default)]
    origin_server_ts: u64,
    redacts: Option<OwnedEventId>,
    content: Box<RawValue>,
    #[serde(default)]
    unsigned: Value,
}

impl ShownEvent {
    /// Reads an event of a room in the client format. The room's id may be left out of
    /// it, as /sync does.
    ///
    /// # Errors
    /// It is no event of that room, or larger than one may be.
    pub fn parse(room_id: &RoomId, text: &str) -> Result<Self, ShownError> {
        if text.len() > SHOWN_BYTES_MAX {
            return Err(ShownError::TooLarge);
        }
        let client: Client = serde_json::from_str(text)?;
        if client.room_id.is_some_and(|said| said != room_id) {
            return Err(ShownError::AnotherRoom);
        }
        let is_long = |text: &str| text.len() > FIELD_BYTES_MAX;
        if is_long(&client.kind)
            || client.state_key.as_deref().is_some_and(is_long)
            || is_long(client.event_id.as_str())
        {
            return Err(ShownError::FieldTooLong);
        }
        let in_content = || {
            let content: Map<String, Value> = serde_json::from_str(client.content.get()).ok()?;
            EventId::parse(content.get("redacts")?.as_str()?).ok()
        };
        let redacts = match client.redacts {
            None if client.kind == "m.room.redaction" => in_content(),
            said => said,
        };
        let unsigned = &client.unsigned;
        let id = |value: &Value| value.as_str().and_then(|id| EventId::parse(id).ok());
        Ok(Self {
            replaces: id(&unsigned["replaces_state"]),
            redaction: id(&unsigned["redacted_because"]["event_id"]),
            soft_failed: unsigned["io.element.synapse.soft_failed"] == Value::Bool(true),
            event_id: client.event_id,
            room_id: room_id.to_owned(),
            sender: client.sender,
            kind: TimelineEventType::from(client.kind.as_str()),
            kind_text: client.kind.into(),
            state_key: client.state_key.map(Into::into),
            origin_server_ts: client.origin_server_ts,
            redacts,
            content: client.content,
        })
    }

    /// Its id.
    pub fn event_id(&self) -> &EventId {
        &self.event_id
    }

    /// The event that state showed before it, as the homeserver says.
    pub fn replaces(&self) -> Option<&EventId> {
        self.replaces.as_deref()
    }

    /// The redaction that applies to it, as the homeserver says.
    pub fn redaction(&self) -> Option<&EventId> {
        self.redaction.as_deref()
    }

    /// Whether the homeserver says that it keeps it out of the room.
    pub fn is_soft_failed(&self) -> bool {
        self.soft_failed
    }
}

impl RoomEvent {
    /// Its id.
    pub fn event_id(&self) -> &EventId {
        match self {
            Self::Own(pdu) => Pdu::event_id(pdu),
            Self::Shown(shown) => &shown.event_id,
        }
    }

    /// The room.
    pub fn room_id(&self) -> &RoomId {
        match self {
            Self::Own(pdu) => Pdu::room_id(pdu),
            Self::Shown(shown) => &shown.room_id,
        }
    }

    /// Who sent it.
    pub fn sender(&self) -> &UserId {
        match self {
            Self::Own(pdu) => Pdu::sender(pdu),
            Self::Shown(shown) => &shown.sender,
        }
    }

    /// Its type as written.
    pub fn kind_text(&self) -> &str {
        match self {
            Self::Own(pdu) => pdu.kind_text(),
            Self::Shown(shown) => &shown.kind_text,
        }
    }

    /// Its state key, if it is a state event.
    pub fn state_key(&self) -> Option<&str> {
        match self {
            Self::Own(pdu) => Pdu::state_key(pdu),
            Self::Shown(shown) => shown.state_key.as_deref(),
        }
    }

    /// Whether it is this piece of state.
    pub fn is_state(&self, kind: &str, state_key: &str) -> bool {
        self.kind_text() == kind && self.state_key() == Some(state_key)
    }

    /// Its content as JSON text.
    pub fn content_raw(&self) -> &RawValue {
        match self {
            Self::Own(pdu) => pdu.content_raw(),
            Self::Shown(shown) => &shown.content,
        }
    }

    /// Its content as an object; empty if it is none.
    pub fn content_object(&self) -> Map<String, Value> {
        serde_json::from_str(self.content_raw().get()).unwrap_or_default()
    }

    /// `membership` of an `m.room.member` state event.
    pub fn membership(&self) -> Option<MembershipState> {
        #[derive(Deserialize)]
        struct Content {
            membership: MembershipState,
        }
        if self.kind_text() != "m.room.member" || self.state_key().is_none() {
            return None;
        }
        serde_json::from_str::<Content>(self.content_raw().get()).ok().map(|content| content.membership)
    }

    /// The event that it redacts.
    pub fn redacts(&self) -> Option<&EventId> {
        match self {
            Self::Own(pdu) => Pdu::redacts(pdu),
            Self::Shown(shown) => shown.redacts.as_deref(),
        }
    }

    /// The events that it says authorise it; none where that is not shown.
    pub fn auth_events(&self) -> &[OwnedEventId] {
        match self {
            Self::Own(pdu) => Pdu::auth_events(pdu),
            Self::Shown(_) => &[],
        }
    }

    /// The event as servers exchange it, where it is held.
    pub fn pdu(&self) -> Option<&Arc<Pdu>> {
        match self {
            Self::Own(pdu) => Some(pdu),
            Self::Shown(_) => None,
        }
    }

    /// The event as its homeserver shows it, if it is held by another.
    pub fn shown(&self) -> Option<&Arc<ShownEvent>> {
        match self {
            Self::Own(_) => None,
            Self::Shown(shown) => Some(shown),
        }
    }
}

impl From<Arc<Pdu>> for RoomEvent {
    fn from(pdu: Arc<Pdu>) -> Self {
        Self::Own(pdu)
    }
}

impl From<ShownEvent> for RoomEvent {
    fn from(shown: ShownEvent) -> Self {
        Self::Shown(Arc::new(shown))
    }
}

/// For the rules about power, which look at types, senders and contents only.
impl Event for RoomEvent {
    type Id = OwnedEventId;

    fn event_id(&self) -> &Self::Id {
        match self {
            Self::Own(pdu) => Event::event_id(&**pdu),
            Self::Shown(shown) => &shown.event_id,
        }
    }

    fn room_id(&self) -> Option<&RoomId> {
        match self {
            Self::Own(pdu) => Event::room_id(&**pdu),
            Self::Shown(shown) => Some(&shown.room_id),
        }
    }

    fn sender(&self) -> &UserId {
        Self::sender(self)
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        match self {
            Self::Own(pdu) => Event::origin_server_ts(&**pdu),
            Self::Shown(shown) => MilliSecondsSinceUnixEpoch(UInt::new_saturating(shown.origin_server_ts)),
        }
    }

    fn event_type(&self) -> &TimelineEventType {
        match self {
            Self::Own(pdu) => pdu.kind(),
            Self::Shown(shown) => &shown.kind,
        }
    }

    fn content(&self) -> &RawValue {
        self.content_raw()
    }

    fn state_key(&self) -> Option<&str> {
        Self::state_key(self)
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        match self {
            Self::Own(pdu) => Event::prev_events(&**pdu),
            Self::Shown(_) => Box::new(std::iter::empty()),
        }
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(Self::auth_events(self).iter())
    }

    fn redacts(&self) -> Option<&Self::Id> {
        match self {
            Self::Own(pdu) => Event::redacts(&**pdu),
            Self::Shown(shown) => shown.redacts.as_ref(),
        }
    }

    fn rejected(&self) -> bool {
        match self {
            Self::Own(pdu) => pdu.rejected(),
            Self::Shown(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use serde_json::json;

    use super::*;

    fn parse(event: &Value) -> Result<ShownEvent, ShownError> {
        ShownEvent::parse(room_id!("!r:s1"), &event.to_string())
    }

    fn event() -> Value {
        json!({
            "event_id": "$one:s1", "sender": "@zoe:s1", "type": "m.room.member", "state_key": "@zoe:s1",
            "origin_server_ts": 5, "content": { "membership": "join" },
            "unsigned": {
                "replaces_state": "$zero:s1", "io.element.synapse.soft_failed": true,
                "redacted_because": { "event_id": "$red:s1" },
            },
        })
    }

    #[test]
    fn what_a_homeserver_shows_of_an_event_is_read() {
        let shown = parse(&event()).expect("an event");
        assert_eq!(shown.replaces().map(EventId::as_str), Some("$zero:s1"));
        assert_eq!(shown.redaction().map(EventId::as_str), Some("$red:s1"));
        assert!(shown.is_soft_failed());
        let event = RoomEvent::from(shown);
        assert!(event.is_state("m.room.member", "@zoe:s1") && event.pdu().is_none());
        assert_eq!(event.membership(), Some(MembershipState::Join));
    }

    #[test]
    fn a_redaction_says_what_it_redacts_in_either_place() {
        let of = |top: Value, content: Value| {
            let mut event = event();
            event["type"] = "m.room.redaction".into();
            event["redacts"] = top;
            event["content"] = content;
            parse(&event).expect("an event").redacts.map(|id| id.to_string())
        };
        assert_eq!(of(json!("$a:s1"), json!({})).as_deref(), Some("$a:s1"));
        assert_eq!(of(Value::Null, json!({"redacts": "$b:s1"})).as_deref(), Some("$b:s1"));
        assert_eq!(of(Value::Null, json!({"redacts": 1})), None);
    }

    #[test]
    fn what_is_no_event_of_the_room_is_refused() {
        let mut elsewhere = event();
        elsewhere["room_id"] = "!other:s1".into();
        assert!(matches!(parse(&elsewhere), Err(ShownError::AnotherRoom)));
        let mut long = event();
        long["state_key"] = "k".repeat(FIELD_BYTES_MAX + 1).into();
        assert!(matches!(parse(&long), Err(ShownError::FieldTooLong)));
        let mut large = event();
        large["content"] = json!({ "body": "x".repeat(SHOWN_BYTES_MAX) });
        assert!(matches!(parse(&large), Err(ShownError::TooLarge)));
        assert!(matches!(parse(&json!({"event_id": "$a"})), Err(ShownError::Malformed(_))));
    }
}
