//! Power levels: who may do what, for questions that are not an event's authorisation.

use ruma::{
    UserId,
    events::{TimelineEventType, room::power_levels::UserPowerLevel},
    int,
    room_version_rules::RoomVersionRules,
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField},
};

use crate::room_event::RoomEvent;

/// The two events that give power.
#[derive(Clone, Debug)]
pub struct Power {
    create: Option<RoomEvent>,
    levels: Option<RoomEvent>,
}

/// Where the levels of a room without power levels put its creator.
const CREATOR_LEVEL: i32 = 100;

impl Power {
    /// From the create event and the power levels of some state.
    pub fn new(create: Option<impl Into<RoomEvent>>, levels: Option<impl Into<RoomEvent>>) -> Self {
        Self { create: create.map(Into::into), levels: levels.map(Into::into) }
    }

    /// A user's level; a malformed event gives nobody any power.
    pub fn of(&self, rules: &RoomVersionRules, user_id: &UserId) -> UserPowerLevel {
        let create = self.create.as_ref().map(RoomCreateEvent::new);
        let creators =
            create.and_then(|create| create.creators(&rules.authorization).ok()).unwrap_or_default();
        let is_creator = creators.contains(user_id);
        if is_creator && rules.authorization.explicitly_privilege_room_creators {
            return UserPowerLevel::Infinite;
        }
        match &self.levels {
            Some(levels) => RoomPowerLevelsEvent::new(levels)
                .user_power_level(user_id, &rules.authorization)
                .unwrap_or_else(|_| int!(0))
                .into(),
            None if is_creator => ruma::Int::from(CREATOR_LEVEL).into(),
            None => int!(0).into(),
        }
    }

    /// Whether a user may redact other people's events, invite, ban …
    pub fn may(&self, rules: &RoomVersionRules, user_id: &UserId, field: RoomPowerLevelsIntField) -> bool {
        let needed = self.levels.as_ref().map_or(Ok(field.default_value()), |levels| {
            RoomPowerLevelsEvent::new(levels).get_as_int_or_default(field, &rules.authorization)
        });
        needed.is_ok_and(|needed| self.of(rules, user_id) >= UserPowerLevel::from(needed))
    }

    /// Whether a user may send state (or else messages) of a type.
    pub fn may_send(&self, rules: &RoomVersionRules, user_id: &UserId, kind: &str, state: bool) -> bool {
        let kind = TimelineEventType::from(kind);
        let needed = match &self.levels {
            Some(levels) => RoomPowerLevelsEvent::new(levels).event_power_level(
                &kind,
                state.then_some(""),
                &rules.authorization,
            ),
            // Without power levels state needs nothing, as messages do.
            None => Ok(int!(0)),
        };
        needed.is_ok_and(|needed| self.of(rules, user_id) >= UserPowerLevel::from(needed))
    }
}
