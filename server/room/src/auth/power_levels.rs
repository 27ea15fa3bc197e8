//! Power levels as Synapse reads the rules about them.
//!
//! The rules speak of levels that were "added, changed or removed". Where one
//! side of a change is absent, ruma compares the default as well: a moderator at
//! 40 can't write down a `ban` of 40 that was not written before, since 50 is
//! what it stood for. Synapse compares what is written. And Synapse holds a
//! power levels event against the one with the same state key, of which there is
//! none unless that is empty.

use ruma::{
    Int, UserId,
    events::room::power_levels::UserPowerLevel,
    room_version_rules::{AuthorizationRules, RoomVersionRules},
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField as Field},
};
use serde_json::{Value, value::to_raw_value};

use super::Refusal;
use crate::pdu::Pdu;

/// The levels that stand by themselves.
const FIELDS: [Field; 7] = [
    Field::UsersDefault,
    Field::EventsDefault,
    Field::StateDefault,
    Field::Ban,
    Field::Redact,
    Field::Kick,
    Field::Invite,
];

/// A user's power by a create event and power levels, either of which may be
/// missing; what is malformed counts as missing.
pub fn power_of(
    rules: &RoomVersionRules,
    user: &UserId,
    create: Option<&Pdu>,
    levels: Option<&Pdu>,
) -> UserPowerLevel {
    let rules = &rules.authorization;
    let creators = create.and_then(|create| RoomCreateEvent::new(create).creators(rules).ok());
    let is_creator = creators.is_some_and(|creators| creators.contains(user));
    if is_creator && rules.explicitly_privilege_room_creators {
        return UserPowerLevel::Infinite;
    }
    let level = match levels {
        Some(levels) => RoomPowerLevelsEvent::new(levels).user_power_level(user, rules).unwrap_or_default(),
        None if is_creator => Int::from(CREATOR),
        None => Int::from(0),
    };
    UserPowerLevel::Int(level)
}

/// What a creator has where nobody wrote down levels, up to room version 11.
const CREATOR: i32 = 100;

/// The event without those changes that ruma would refuse and Synapse does not, to
/// be checked in its place; `None` if there are none.
///
/// # Errors
/// When a change is refused that is no longer to be seen in the answer.
pub(super) fn without_defaults(
    rules: &RoomVersionRules,
    pdu: &Pdu,
    create: Option<&Pdu>,
    current: Option<&Pdu>,
) -> Result<Option<Pdu>, Refusal> {
    let Some(current) = current else { return Ok(None) };
    let power = power_of(rules, pdu.sender(), create, Some(current));
    let rules = &rules.authorization;
    let (old, new) = (RoomPowerLevelsEvent::new(current), RoomPowerLevelsEvent::new(pdu));
    if pdu.state_key() != Some("") {
        check_format(rules, &new, create)?;
        return Ok(Some(pdu.with_content(current.content_raw().to_owned())));
    }
    let mut content = pdu.content_object();
    let mut altered = false;
    for field in FIELDS {
        // What is malformed ruma refuses.
        let (Ok(was), Ok(becomes)) = (old.get_as_int(field, rules), new.get_as_int(field, rules)) else {
            return Ok(None);
        };
        let level = match (was, becomes) {
            (Some(level), None) => {
                content.insert(field.as_str().to_owned(), Value::from(i64::from(level)));
                level
            }
            (None, Some(level)) => {
                content.remove(field.as_str());
                level
            }
            _ => continue,
        };
        altered = true;
        if UserPowerLevel::Int(level) > power {
            return Err(Refusal(format!("the sender has not the power to change `{field}`")));
        }
    }
    let content = to_raw_value(&content).map_err(|_| Refusal("malformed power levels".to_owned()))?;
    Ok(altered.then(|| pdu.with_content(content)))
}

/// The rules about the format of power levels alone.
fn check_format(
    rules: &AuthorizationRules,
    levels: &RoomPowerLevelsEvent<&Pdu>,
    create: Option<&Pdu>,
) -> Result<(), Refusal> {
    for field in FIELDS {
        levels.get_as_int(field, rules).map_err(Refusal)?;
    }
    levels.events(rules).map_err(Refusal)?;
    levels.notifications(rules).map_err(Refusal)?;
    let users = levels.users(rules).map_err(Refusal)?;
    let creators = match create {
        Some(create) if rules.explicitly_privilege_room_creators => {
            RoomCreateEvent::new(create).creators(rules).map_err(Refusal)?
        }
        _ => return Ok(()),
    };
    let named = users.is_some_and(|users| users.keys().any(|user| creators.contains(user)));
    if named { Err(Refusal("creators have no level".to_owned())) } else { Ok(()) }
}
