//! The events of joining, leaving and knocking through another server: its
//! template is checked, completed and signed here; what it answers is checked
//! before anything is believed. Pure.
//!
//! Invariant: a template decides where the event stands in the room and nothing
//! else: who does what in which room is ours.

use causeway_room::{Pdu, PduError};
use causeway_service::{clock::Clock, server_keys::ServerKeys};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, RoomId, RoomVersionId, UserId,
    canonical_json::try_from_json_map, room_version_rules::RoomVersionRules, signatures::hash_and_sign_event,
};
use serde::Deserialize;
use serde_json::Value;

/// What `make_join`, `make_leave` and `make_knock` answer.
#[derive(Debug, Deserialize)]
pub struct Template {
    /// Absent for a room of version 1.
    pub room_version: Option<RoomVersionId>,
    /// The event, not signed.
    pub event: CanonicalJsonObject,
}

/// Why a template is not used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// This server does not take part in rooms of that version.
    #[error("the room's version is not supported")]
    Version,
    /// It is not for what was asked.
    #[error("`{0}` of the template is not what was asked for")]
    Other(&'static str),
    /// What the user wants to say can't be said in an event.
    #[error("the content can't be part of an event")]
    Content,
    /// The event breaks a limit.
    #[error("the event can't be made")]
    Event(#[source] PduError),
    /// It could not be signed.
    #[error("the event can't be signed")]
    Sign,
}

/// What is to happen.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// In which room.
    pub room_id: &'a RoomId,
    /// To whom, and by whom.
    pub user_id: &'a UserId,
    /// `join`, `leave` or `knock`.
    pub membership: &'a str,
    /// Further fields: `displayname`, `reason`, …
    pub content: &'a Value,
}

impl Template {
    /// The rules of the room's version.
    pub fn rules(&self) -> Result<RoomVersionRules, TemplateError> {
        let version = self.room_version.as_ref().ok_or(TemplateError::Version)?;
        causeway_room::version::rules(version).ok_or(TemplateError::Version)
    }

    /// The signed event.
    pub fn complete(
        mut self,
        wanted: Wanted<'_>,
        keys: &ServerKeys,
        clock: &Clock,
    ) -> Result<Pdu, TemplateError> {
        let rules = self.rules()?;
        self.check(wanted)?;
        let mut content = match wanted.content {
            Value::Object(fields) => try_from_json_map(fields.clone()).map_err(|_| TemplateError::Content)?,
            Value::Null => CanonicalJsonObject::new(),
            _ => return Err(TemplateError::Content),
        };
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        content.insert("membership".to_owned(), text(wanted.membership));
        content.remove("join_authorised_via_users_server");
        let offered = self.event.remove("content");
        let voucher = offered.as_ref().and_then(CanonicalJsonValue::as_object);
        if let Some(voucher) = voucher.and_then(|offered| offered.get("join_authorised_via_users_server"))
            && wanted.membership == "join"
        {
            content.insert("join_authorised_via_users_server".to_owned(), voucher.clone());
        }
        let mut event = CanonicalJsonObject::new();
        for field in ["room_id", "type", "sender", "state_key", "prev_events", "auth_events", "depth"] {
            let value = self.event.remove(field).ok_or(TemplateError::Other(field))?;
            event.insert(field.to_owned(), value);
        }
        event.insert("content".to_owned(), CanonicalJsonValue::Object(content));
        let now = i64::try_from(clock.now_ms()).unwrap_or(i64::MAX);
        let now = CanonicalJsonValue::Integer(ruma::Int::new_saturating(now));
        event.insert("origin_server_ts".to_owned(), now);
        hash_and_sign_event(keys.server_name().as_str(), keys.key_pair(), &mut event, &rules.redaction)
            .map_err(|_| TemplateError::Sign)?;
        Pdu::from_object(&rules, event).map_err(TemplateError::Event)
    }

    fn check(&self, wanted: Wanted<'_>) -> Result<(), TemplateError> {
        let expected = [
            ("room_id", wanted.room_id.as_str()),
            ("type", "m.room.member"),
            ("sender", wanted.user_id.as_str()),
            ("state_key", wanted.user_id.as_str()),
        ];
        for (field, expected) in expected {
            if self.event.get(field).and_then(CanonicalJsonValue::as_str) != Some(expected) {
                return Err(TemplateError::Other(field));
            }
        }
        let content = self.event.get("content").and_then(CanonicalJsonValue::as_object);
        let membership =
            content.and_then(|content| content.get("membership")).and_then(CanonicalJsonValue::as_str);
        if membership != Some(wanted.membership) {
            return Err(TemplateError::Other("membership"));
        }
        Ok(())
    }
}
