//! Push rules: which events a user wants to hear of, and how loudly
//! (client-server API, "Push Rules").
//!
//! Rules are evaluated for one recipient and one event, over the state of the
//! room that the caller names. Not here: counting ([`crate::sync`]), sending.

use causeway_room::Root;
use causeway_storage::{Read, StorageError, account_data as data, rooms as rows};
use futures_util::FutureExt;
use ruma::{
    RoomId, UserId,
    events::{AnySyncTimelineEvent, room::power_levels::RoomPowerLevelsEventContent},
    int,
    power_levels::NotificationPowerLevels,
    push::{Action, PushConditionPowerLevelsCtx, PushConditionRoomCtx, Ruleset},
    room_version_rules::RoomPowerLevelsRules,
    serde::Raw,
    state_res::events::RoomCreateEvent,
};
use serde_json::value::RawValue;

use crate::{error::MatrixError, room_view::RoomView};

/// The type of account data that holds a user's rules.
pub const PUSH_RULES: &str = "m.push_rules";

/// A user's rules: the stored ones, with default rules added that were not known when they were stored.
pub fn rules_of(read: &impl Read, user_id: &UserId) -> Result<Ruleset, StorageError> {
    let stored = data::get(read, user_id, None, PUSH_RULES)?;
    parse_rules(user_id, stored.as_ref().map(|(_, content)| &**content))
}

/// The same from their stored form.
pub fn parse_rules(user_id: &UserId, stored: Option<&RawValue>) -> Result<Ruleset, StorageError> {
    #[derive(serde::Deserialize)]
    struct Content {
        global: Ruleset,
    }
    let defaults = Ruleset::server_default(user_id);
    let Some(stored) = stored else { return Ok(defaults) };
    let broken = |source| StorageError::BrokenValue { cf: "account_data", source };
    let mut rules = serde_json::from_str::<Content>(stored.get()).map_err(broken)?.global;
    rules.update_with_server_default(defaults);
    Ok(rules)
}

/// What rules look at beside the event: how many are in the room, what the user
/// is called there, who may notify all.
pub fn context(
    view: RoomView<'_>,
    room_id: &RoomId,
    root: &Root,
    user_id: &UserId,
) -> Result<PushConditionRoomCtx, MatrixError> {
    let servers = rows::joined_servers(view.database(), room_id)?;
    let members = ruma::UInt::new_saturating(servers.values().sum());
    let own = view.state(root, "m.room.member", user_id.as_str())?;
    let name = own.and_then(|own| own.content_object().get("displayname")?.as_str().map(str::to_owned));
    let name = name.unwrap_or_else(|| user_id.localpart().to_owned());
    let mut context = PushConditionRoomCtx::new(room_id.to_owned(), members, user_id.to_owned(), name);
    context.power_levels = power_levels(view, room_id, root)?;
    Ok(context)
}

/// `None` where they are malformed: then nobody may notify all.
fn power_levels(
    view: RoomView<'_>,
    room_id: &RoomId,
    root: &Root,
) -> Result<Option<PushConditionPowerLevelsCtx>, MatrixError> {
    let rules = &view.rules(room_id)?.rules.authorization;
    let Some(create) = view.state(root, "m.room.create", "")? else { return Ok(None) };
    let Ok(creators) = RoomCreateEvent::new(&*create).creators(rules) else { return Ok(None) };
    let (users, default, notifications) = match view.state(root, "m.room.power_levels", "")? {
        Some(event) => {
            let content = serde_json::from_str::<RoomPowerLevelsEventContent>(event.content_raw().get());
            let Ok(content) = content else { return Ok(None) };
            (content.users, content.users_default, content.notifications)
        }
        None => (
            creators.iter().map(|creator| (creator.clone(), int!(100))).collect(),
            int!(0),
            NotificationPowerLevels::new(),
        ),
    };
    let rules = RoomPowerLevelsRules::new(rules, creators);
    Ok(Some(PushConditionPowerLevelsCtx::new(users, default, notifications, rules)))
}

/// What the rules say of an event, by its canonical JSON.
pub fn actions<'a>(rules: &'a Ruleset, context: &PushConditionRoomCtx, event: &RawValue) -> &'a [Action] {
    let event: Raw<AnySyncTimelineEvent> = Raw::from_json(event.to_owned());
    // The future waits for nothing: its only await is on thread subscriptions, which are not in use.
    rules.get_actions(&event, context).now_or_never().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, owned_user_id, uint, user_id};
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;

    /// Whether an event of this type and content notifies and highlights.
    fn verdict(kind: &str, content: &Value, sender: &str) -> (bool, bool) {
        let bob = user_id!("@bob:b.c");
        let rules = Ruleset::server_default(bob);
        let mut context =
            PushConditionRoomCtx::new(owned_room_id!("!r:b.c"), uint!(3), bob.to_owned(), "Bob".to_owned());
        context.power_levels = Some(PushConditionPowerLevelsCtx::new(
            [(owned_user_id!("@mod:b.c"), int!(50))].into(),
            int!(0),
            NotificationPowerLevels::new(),
            RoomPowerLevelsRules::new(
                &ruma::RoomVersionId::V11.rules().expect("known").authorization,
                [owned_user_id!("@mod:b.c")],
            ),
        ));
        let event = json!({ "type": kind, "event_id": "$e", "sender": sender, "origin_server_ts": 1,
            "content": content });
        let actions = actions(&rules, &context, &to_raw_value(&event).expect("JSON")).to_vec();
        (actions.iter().any(Action::should_notify), actions.iter().any(Action::is_highlight))
    }

    #[test]
    fn messages_notify_mentions_highlight_and_some_are_silent() {
        let alice = "@alice:b.c";
        let text = json!({ "msgtype": "m.text", "body": "hi" });
        assert_eq!(verdict("m.room.message", &text, alice), (true, false));
        assert_eq!(verdict("m.room.encrypted", &json!({}), alice), (true, false));
        assert_eq!(verdict("m.room.message", &text, "@bob:b.c"), (false, false), "his own");
        let mention = json!({ "body": "x", "m.mentions": { "user_ids": ["@bob:b.c"] } });
        assert_eq!(verdict("m.room.message", &mention, alice), (true, true));
        let room = json!({ "body": "x", "m.mentions": { "room": true } });
        assert_eq!(verdict("m.room.message", &room, alice), (true, false), "without the power for it");
        assert_eq!(verdict("m.room.message", &room, "@mod:b.c"), (true, true));
        let by_name = json!({ "body": "hello Bob", "m.mentions": {} });
        assert_eq!(verdict("m.room.message", &by_name, alice), (true, false), "says whom it mentions");
        let notice = json!({ "msgtype": "m.notice", "body": "x" });
        assert_eq!(verdict("m.room.message", &notice, alice), (false, false));
        let edit = json!({ "body": "x", "m.relates_to": { "rel_type": "m.replace", "event_id": "$o" } });
        assert_eq!(verdict("m.room.message", &edit, alice), (false, false));
        assert_eq!(verdict("m.reaction", &json!({}), alice), (false, false));
        assert_eq!(verdict("m.room.server_acl", &json!({}), alice), (false, false));
    }
}
