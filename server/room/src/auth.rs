//! Authorisation: which events an event needs, and whether they allow it.
//!
//! The rules are ruma's ("Authorisation rules" of each room version). This
//! module gathers what they look at into an [`AuthState`] first, so that a
//! failure to read is never taken for absent state.
//!
//! Where ruma reads the rules otherwise than Synapse does, and the specification
//! leaves it open, this follows Synapse: servers that part over one event part
//! over who is in the room. `tests/src/forks` holds the two against each other.

mod power_levels;

use std::{collections::HashMap, sync::Arc, sync::LazyLock};

use ruma::{
    EventId, OwnedEventId, UserId,
    events::TimelineEventType,
    room_version_rules::RoomVersionRules,
    state_res::{self, Event},
};
use serde_json::value::RawValue;

pub use self::power_levels::power_of;
use crate::{pdu::Pdu, state_tree::StateKey};

/// The state events that the rules look at, by key.
pub type AuthState = HashMap<StateKey, Arc<Pdu>>;

/// Why the rules refuse an event.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Refusal(pub String);

/// The keys of the state that authorises such an event ("Auth events
/// selection"), and so of its `auth_events`.
///
/// # Errors
/// When the content is too malformed to say.
pub fn auth_event_keys(
    rules: &RoomVersionRules,
    kind: &TimelineEventType,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
) -> Result<Vec<StateKey>, Refusal> {
    let keys = state_res::auth_types_for_event(kind, sender, state_key, content, &rules.authorization)
        .map_err(Refusal)?;
    Ok(keys.into_iter().map(|(kind, key)| StateKey::new(kind.to_string(), key)).collect())
}

/// The keys that the rules may look at in a state: the above and the create event,
/// which room version 12 leaves out of `auth_events`.
pub fn needed_keys(rules: &RoomVersionRules, pdu: &Pdu) -> Result<Vec<StateKey>, Refusal> {
    let mut keys = auth_event_keys(rules, pdu.kind(), pdu.sender(), pdu.state_key(), pdu.content_raw())?;
    let create = StateKey::new("m.room.create", "");
    if !keys.contains(&create) {
        keys.push(create);
    }
    Ok(keys)
}

/// The rules that need no state: a create event's own, and what may stand in `auth_events`.
///
/// `fetch` finds an event by id: the auth events, and in room version 12 the create event.
///
/// # Errors
/// Reject the event.
pub fn check_auth_events(
    rules: &RoomVersionRules,
    pdu: &Pdu,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> Result<(), Refusal> {
    if let Some(field) = pdu.overlong() {
        return Err(Refusal(format!("`{field}` is too long")));
    }
    state_res::check_state_independent_auth_rules(&rules.authorization, pdu, fetch).map_err(Refusal)
}

/// The rules against a state: that of the auth events, that before the event, or the current one.
///
/// # Errors
/// Reject the event (against the current state: soft-fail it).
pub fn check_against(rules: &RoomVersionRules, pdu: &Pdu, state: &AuthState) -> Result<(), Refusal> {
    // A create event is allowed by itself, at the beginning of a room; anything else needs one
    // in the state. ruma counts the former among the rules that need no state.
    if *pdu.kind() == TimelineEventType::RoomCreate {
        if !pdu.prev_events().is_empty() {
            return Err(Refusal("a room has one beginning".to_owned()));
        }
    } else if !state.contains_key(&StateKey::new("m.room.create", "")) {
        return Err(Refusal("no `m.room.create` event in the state".to_owned()));
    }
    let look = |kind: &str, key: &str| match state.get(&StateKey::new(kind, key)) {
        Some(event) if kind == JOIN_RULES && !states_join_rule(event) => Some(&*INVITED_ONLY),
        None if (kind, key) == (JOIN_RULES, "") => Some(&*INVITED_ONLY),
        held => held.map(Arc::as_ref),
    };
    let mut adapted = None;
    if *pdu.kind() == TimelineEventType::RoomPowerLevels {
        let (create, levels) = (look("m.room.create", ""), look("m.room.power_levels", ""));
        adapted = power_levels::without_defaults(rules, pdu, create, levels)?;
    }
    let pdu = adapted.as_ref().unwrap_or(pdu);
    state_res::check_state_dependent_auth_rules(&rules.authorization, pdu, |kind, key| {
        look(&kind.to_string(), key)
    })
    .map_err(Refusal)
}

const JOIN_RULES: &str = "m.room.join_rules";

/// The join rules of a room that has none, or that don't say which: ruma refuses
/// even those who were invited, Synapse lets them in.
static INVITED_ONLY: LazyLock<Pdu> = LazyLock::new(|| {
    let event = serde_json::json!({
        "type": JOIN_RULES, "state_key": "", "content": { "join_rule": "invite" },
        "sender": "@nobody:invalid", "room_id": "!none:invalid", "origin_server_ts": 0, "depth": 0,
        "prev_events": [], "auth_events": [],
    });
    let rules = RoomVersionRules::V11;
    let id = OwnedEventId::try_from("$none").expect("an event id");
    Pdu::from_stored(&rules, id, &event.to_string(), false).expect("it has every field of an event")
});

fn states_join_rule(event: &Pdu) -> bool {
    event.content_object().contains_key("join_rule")
}

/// The create event by the room's id, where it is no auth event (room version 12).
pub fn create_event_id(rules: &RoomVersionRules, pdu: &Pdu) -> Option<OwnedEventId> {
    let named = rules.authorization.room_create_event_id_as_room_id;
    if !named || *pdu.kind() == TimelineEventType::RoomCreate {
        return None;
    }
    OwnedEventId::try_from(pdu.room_id().as_str().replacen('!', "$", 1)).ok()
}

/// The state that a list of auth events amounts to.
pub fn state_of(auth_events: impl IntoIterator<Item = Arc<Pdu>>) -> AuthState {
    auth_events
        .into_iter()
        .filter_map(|event| {
            Some((StateKey::new(event.kind_text(), Event::state_key(&*event)?), Arc::clone(&event)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_with_an_overlong_field_is_rejected() {
        let rules = crate::version::rules(&ruma::RoomVersionId::V10).expect("supported");
        let create = |state_key: &str| {
            let event = json!({
                "type": "m.room.create", "state_key": state_key, "content": { "creator": "@a:a.example" },
                "sender": "@a:a.example", "room_id": "!room:a.example", "origin_server_ts": 0, "depth": 0,
                "prev_events": [], "auth_events": [], "hashes": {}, "signatures": {},
            });
            Pdu::parse(&rules, &event.to_string()).expect("an event")
        };
        assert_eq!(check_auth_events(&rules, &create(""), |_| None), Ok(()));
        assert!(check_auth_events(&rules, &create(&"\u{1f4a5}".repeat(70)), |_| None).is_err());
    }

    #[test]
    fn a_create_event_that_follows_another_is_refused() {
        let rules = crate::version::rules(&ruma::RoomVersionId::V11).expect("supported");
        let create = |prev_events: &[&str]| {
            let event = json!({
                "type": "m.room.create", "state_key": "", "content": {}, "sender": "@eve:a.example",
                "room_id": "!room:a.example", "origin_server_ts": 0, "depth": 0,
                "prev_events": prev_events, "auth_events": [], "hashes": {}, "signatures": {},
            });
            Pdu::parse(&rules, &event.to_string()).expect("an event")
        };
        assert_eq!(check_against(&rules, &create(&[]), &AuthState::default()), Ok(()));
        let id = "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        assert!(check_against(&rules, &create(&[id]), &AuthState::default()).is_err());
    }
}
