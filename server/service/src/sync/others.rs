//! Rooms that the user is not in: invited to, knocked on, left.

use std::collections::BTreeSet;

use causeway_room::Root;
use causeway_storage::rooms::{self as rows, Member};
use ruma::{OwnedRoomId, RoomId, UserId};

use super::{
    answer::Answer,
    filter,
    response::{Events, LeftRoom, RawEvent, Timeline},
    state::{self, Span},
    timeline::{Range, Selected, select},
    token::TimelineToken,
};
use crate::{
    client_event::{Shape, client_event},
    error::MatrixError,
    room_view::RoomView,
    shown::Detail,
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
        None => answer.filter.room.include_leave,
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
    let range = Range {
        after: known.map_or(i64::MIN, |_| i64::try_from(answer.since_position()).unwrap_or(i64::MAX)),
        until: i64::try_from(until).unwrap_or(i64::MAX),
        limit: filter::timeline_limit(&answer.filter.room.timeline),
    };
    let selected = select(answer.view, room_id, range, &answer.filter.room.timeline, &mut viewer)?;
    let mut room = LeftRoom::default();
    if let Some(end) = answer.view.root_at(room_id, until)?
        && viewer.until(room_id)? > i64::MIN
    {
        let events = state_events(answer, room_id, known, end, &selected)?;
        room.state = answer.state_section(events);
    }
    room.account_data = Events { events: answer.room_account_data(room_id) };
    room.timeline = timeline(answer, member, &selected)?;
    Ok(Some(room))
}

fn state_events(
    answer: &Answer<'_>,
    room_id: &RoomId,
    known: Option<Root>,
    end: Root,
    selected: &Selected,
) -> Result<Vec<RawEvent>, MatrixError> {
    let start = selected.events.first().and_then(|(_, held)| held.meta.state_before);
    let span =
        Span { known, start: start.unwrap_or(end), end, is_after: answer.request.state_after.is_some() };
    let lazy: Option<BTreeSet<String>> =
        filter::lazy_loads(answer.filter).then(|| state::needed_members(selected, answer.user_id(), &[]));
    let chosen = state::choose(answer.view, span, selected, lazy.as_ref())?;
    state::render(answer.view, room_id, &chosen, &answer.filter.room.state, &answer.shower)
}

/// The timeline; of a room that this server is not in, the event that ended the membership alone.
fn timeline(answer: &Answer<'_>, member: &Member, selected: &Selected) -> Result<Timeline, MatrixError> {
    let mut events = Vec::with_capacity(selected.events.len());
    for (_, held) in &selected.events {
        events.push(answer.shower.show(&held.pdu, Shape::Sync, Detail::Timeline)?);
    }
    if events.is_empty() {
        events.extend(answer.shower.by_id(&member.event_id, Shape::Sync, Detail::Plain)?);
    }
    let prev_batch = Some(TimelineToken(selected.start).to_string());
    Ok(Timeline { events, limited: selected.limited, prev_batch })
}
