//! Rooms that the user is not in: invited to, knocked on, left.

use std::collections::BTreeSet;

use causeway_room::Root;
use causeway_storage::rooms::{self as rows, Member};
use ruma::{OwnedRoomId, RoomId, UserId};
use serde_json::json;

use super::{
    answer::Answer,
    filter,
    response::{Events, LeftRoom, RawEvent, Timeline, raw_event},
    state::{self, Span},
    timeline::{Range, Selected, select},
    token::TimelineToken,
};
use crate::{
    client_event::{Shape, client_event},
    error::MatrixError,
    room_view::RoomView,
    shown::{Detail, Shower},
    visible::Viewer,
};

/// State that a user who is not in a room is shown of it (client-server API, "Stripped state").
const STRIPPED: [&str; 7] = [
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
];

/// Stripped state of a room that the user is invited to or knocked on; `None`
/// if the device knows of it already, or the user ignores who invited.
pub fn stripped(
    answer: &Answer<'_>,
    room_id: &RoomId,
    member: &Member,
) -> Result<Option<Events>, MatrixError> {
    let is_new = answer.since().is_none_or(|since| member.position.0 > since);
    if !is_new
        || answer.ignored.contains(member.sender.as_str())
        || !filter::room_passes(&answer.filter.room, room_id)
    {
        return Ok(None);
    }
    let events = stripped_state(answer.view, answer.user_id(), room_id, member)?;
    Ok(Some(Events { events }))
}

/// Stripped state of a room that the user is invited to or knocked on.
pub fn stripped_state(
    view: RoomView<'_>,
    user_id: &UserId,
    room_id: &RoomId,
    member: &Member,
) -> Result<Vec<RawEvent>, MatrixError> {
    let mut events = rows::invite_state(view.database(), user_id, room_id)?;
    if events.is_empty() {
        for kind in STRIPPED {
            if let Some(event) = view.current(room_id, kind, "")? {
                events.push(event.stripped());
            }
        }
        if let Some(inviter) = view.current(room_id, "m.room.member", member.sender.as_str())? {
            events.push(inviter.stripped());
        }
    }
    if !events.iter().any(|event| is_own_membership(event, user_id.as_str()))
        && let Some(held) = view.held(&member.event_id)?
    {
        // In full, as the specification allows here: clients show who invited, and when.
        let event = client_event(
            held.pdu.raw(),
            held.pdu.event_id().as_str(),
            room_id.as_str(),
            Shape::Sync,
            serde_json::Map::new(),
        );
        events.push(event.map_err(|error| MatrixError::internal(&error))?);
    }
    Ok(events)
}

fn is_own_membership(event: &RawEvent, user_id: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Head {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        state_key: Option<String>,
    }
    serde_json::from_str::<Head>(event.get())
        .is_ok_and(|head| head.kind == "m.room.member" && head.state_key.as_deref() == Some(user_id))
}

/// A room that the user left or was banned from; `None` if the device knows.
pub fn left_room(
    answer: &mut Answer<'_>,
    room_id: &OwnedRoomId,
    member: &Member,
) -> Result<Option<LeftRoom>, MatrixError> {
    let is_new = match answer.since() {
        Some(since) => member.position.0 > since,
        None => answer.filter.room.include_leave && !member.forgotten,
    };
    if !is_new || !filter::room_passes(&answer.filter.room, room_id) {
        return Ok(None);
    }
    let until = member.position.0.min(answer.until());
    let known = match answer.since() {
        Some(since) => {
            let root = answer.view.root_at(room_id, since)?;
            let was_in = root.map_or(Ok(false), |root| answer.view.is_joined_in(&root, answer.user_id()))?;
            root.filter(|_| was_in && !answer.request.full_state)
        }
        None => None,
    };
    let mut viewer = Viewer::new(answer.view, room_id, answer.user_id())?;
    let since = i64::try_from(answer.since_position()).unwrap_or(i64::MAX);
    // Who left before that, and was banned since, has everything but that.
    let has_all = viewer.left().is_some_and(|left| left <= since) && !answer.request.full_state;
    let range = Range {
        after: if known.is_some() || has_all { since } else { i64::MIN },
        until: i64::try_from(until).unwrap_or(i64::MAX),
        limit: filter::timeline_limit(&answer.filter.room.timeline),
    };
    let selected = select(answer.view, room_id, range, &answer.filter.room.timeline, &mut viewer)?;
    let mut room = LeftRoom::default();
    // What the state became after he left is not for him.
    let until = u64::try_from(viewer.until(room_id)?).map_or(0, |last| last.min(until));
    if until > 0
        && !has_all
        && let Some(end) = answer.view.root_at(room_id, until)?
    {
        let events = state_events(answer, room_id, (known, end), &selected, &mut viewer)?;
        room.state = answer.state_section(events);
    }
    room.account_data = Events { events: answer.room_account_data(room_id) };
    room.timeline = timeline(answer, member, &selected)?;
    Ok(Some(room))
}

fn state_events(
    answer: &Answer<'_>,
    room_id: &RoomId,
    (known, end): (Option<Root>, Root),
    selected: &Selected,
    viewer: &mut Viewer<'_>,
) -> Result<Vec<RawEvent>, MatrixError> {
    let start = selected.events.first().and_then(|(_, held)| held.meta.state_before);
    let span =
        Span { known, start: start.unwrap_or(end), end, is_after: answer.request.state_after.is_some() };
    let lazy: Option<BTreeSet<String>> =
        filter::lazy_loads(answer.filter).then(|| state::needed_members(selected, answer.user_id(), &[]));
    let chosen = state::choose(answer.view, span, selected, lazy.as_ref())?;
    state::render(room_id, &chosen, viewer, answer)
}

/// The event that ended a membership. Of an invite from another server there may be
/// none here: the user's own server says so then, or his clients would take the room
/// for joined.
pub fn ending(
    view: RoomView<'_>,
    shower: &Shower<'_>,
    user_id: &UserId,
    member: &Member,
) -> Result<RawEvent, MatrixError> {
    let held = view.event(&member.event_id)?;
    if let Some(event) = held.filter(|event| event.membership().as_ref() == Some(&member.membership)) {
        return shower.show(&event, Shape::Sync, Detail::Plain);
    }
    Ok(raw_event(&json!({
        "type": "m.room.member", "state_key": user_id, "sender": member.sender,
        "event_id": format!("$ended-{}:{}", member.position.0, user_id.server_name()),
        "origin_server_ts": shower.now_ms(),
        "content": { "membership": member.membership },
    })))
}

/// The timeline; of a room that this server is not in, the event that ended the membership alone.
fn timeline(answer: &Answer<'_>, member: &Member, selected: &Selected) -> Result<Timeline, MatrixError> {
    let mut events = Vec::with_capacity(selected.events.len());
    for (_, held) in &selected.events {
        events.push(answer.show(&held.pdu, Detail::Timeline)?);
    }
    if events.is_empty() {
        events.push(ending(answer.view, &answer.shower, answer.user_id(), member)?);
    }
    let prev_batch = Some(TimelineToken(selected.start).to_string());
    Ok(Timeline { events, limited: selected.limited, prev_batch })
}
