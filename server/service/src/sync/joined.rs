//! A room that the user is in, as one answer tells it.

use std::collections::BTreeSet;

use causeway_room::Root;
use causeway_storage::{StreamPosition, rooms::Member};
use ruma::{OwnedRoomId, OwnedUserId, RoomId};

use super::{
    answer::Answer,
    filter,
    progress::{Told, ToldState},
    response::{Events, JoinedRoom, RawEvent, StateSection, Summary, Timeline},
    state::{self, Span},
    summary,
    timeline::{Range, Selected, select},
    token::TimelineToken,
};
use crate::{error::MatrixError, shown::Detail, visible::Viewer};

/// Builds the room's part of the answer; `None` if there is nothing to tell.
pub fn joined_room(
    answer: &mut Answer<'_>,
    room_id: &OwnedRoomId,
    member: &Member,
) -> Result<Option<JoinedRoom>, MatrixError> {
    let known = known_state(answer, room_id, member)?;
    let since = known.map(|_| answer.since_position());
    let mut viewer = Viewer::new(answer.view, room_id, answer.user_id())?;
    let selected = selected(answer, room_id, since, &mut viewer)?;
    if !filter::room_passes(&answer.filter.room, room_id) {
        note_hidden(answer, room_id, known.is_none() || selected.any);
        return Ok(None);
    }
    let Some(span) = span(answer, room_id, known, &selected)? else { return Ok(None) };
    let mut room = JoinedRoom::default();
    let members_changed = summary::may_differ(answer.view, known, &span.end)?;
    if members_changed {
        let mut summary = summary::summary(answer.view, room_id, answer.user_id())?;
        if summary::is_named(answer.view, &span.end)? {
            summary.heroes.clear();
        }
        room.summary = Some(summary);
    }
    room.state = state_section(answer, room_id, span, (&selected, &mut viewer), room.summary.as_ref())?;
    note_told(answer, room_id, known, span, &selected);
    room.ephemeral.events = ephemeral(answer, room_id, since.unwrap_or(0))?;
    room.account_data = Events { events: answer.room_account_data(room_id) };
    room.timeline = timeline(answer, &selected)?;
    let has_news = !room.timeline.events.is_empty()
        || room.timeline.limited
        || !room.state.events().is_empty()
        || !room.ephemeral.events.is_empty()
        || !room.account_data.events.is_empty()
        || members_changed
        || span.known.is_none();
    if !has_news {
        return Ok(None);
    }
    let counts = answer.counter.unread(room_id, &span.end)?;
    if answer.filter.room.timeline.unread_thread_notifications {
        room.unread_notifications = counts.main;
        room.unread_thread_notifications = counts.threads;
    } else {
        room.unread_notifications = counts.total();
    }
    Ok(Some(room))
}

/// The state that the device has: that at `since`, if the user was joined then
/// and the request does not ask for everything.
fn known_state(answer: &Answer<'_>, room_id: &RoomId, member: &Member) -> Result<Option<Root>, MatrixError> {
    let Some(since) = answer.since() else { return Ok(None) };
    let Some(root) = answer.view.root_at(room_id, since)? else { return Ok(None) };
    let was_joined = member.position.0 <= since || answer.view.is_joined_in(&root, answer.user_id())?;
    Ok(was_joined.then_some(root))
}

fn selected(
    answer: &Answer<'_>,
    room_id: &RoomId,
    since: Option<u64>,
    viewer: &mut Viewer<'_>,
) -> Result<Selected, MatrixError> {
    let range = Range {
        after: since.map_or(i64::MIN, |since| i64::try_from(since).unwrap_or(i64::MAX)),
        until: i64::try_from(answer.until()).unwrap_or(i64::MAX),
        limit: filter::timeline_limit(&answer.filter.room.timeline),
    };
    select(answer.view, room_id, range, &answer.filter.room.timeline, viewer)
}

/// `None` when the room has no events here yet.
fn span(
    answer: &Answer<'_>,
    room_id: &RoomId,
    known: Option<Root>,
    selected: &Selected,
) -> Result<Option<Span>, MatrixError> {
    let Some(end) = answer.view.root_at(room_id, answer.until())? else { return Ok(None) };
    let start = match selected.events.first() {
        Some((_, held)) => held.meta.state_before.unwrap_or(end),
        None if selected.limited => end,
        None => known.unwrap_or(end),
    };
    let known = known.filter(|_| !answer.request.full_state);
    Ok(Some(Span { known, start, end, is_after: answer.request.state_after.is_some() }))
}

fn state_section(
    answer: &Answer<'_>,
    room_id: &RoomId,
    span: Span,
    (selected, viewer): (&Selected, &mut Viewer<'_>),
    summary: Option<&Summary>,
) -> Result<StateSection, MatrixError> {
    let heroes: &[OwnedUserId] = summary.map_or(&[], |summary| &summary.heroes);
    let lazy: Option<BTreeSet<String>> =
        filter::lazy_loads(answer.filter).then(|| state::needed_members(selected, answer.user_id(), heroes));
    let chosen = state::choose(answer.view, span, selected, lazy.as_ref())?;
    let events = state::render(room_id, &chosen, viewer, answer)?;
    Ok(answer.state_section(events))
}

/// Notes what of the room's items the device is given by this; see [`super::progress`].
fn note_told(
    answer: &mut Answer<'_>,
    room_id: &OwnedRoomId,
    known: Option<Root>,
    span: Span,
    selected: &Selected,
) {
    let hidden = filter::hides_items(answer.filter, room_id);
    // A user who left and came back in the meantime may not see all that happened.
    let is_unseen = i64::try_from(answer.since_position()).is_ok_and(|since| selected.unseen_until > since);
    let says_nothing_new = known.is_some() && span.known.is_some() && !selected.limited && !is_unseen;
    if says_nothing_new && (!hidden.timeline || !selected.any) {
        return;
    }
    let root = hex::encode(if span.is_after { span.end.0 } else { span.start.0 });
    let state = match (hidden.state, span.known) {
        (true, _) => ToldState::Hidden,
        (false, None) => ToldState::Whole(root),
        (false, Some(_)) if says_nothing_new => ToldState::Hidden,
        (false, Some(_)) => ToldState::Changes(root),
    };
    let start = u64::try_from(selected.start.max(selected.unseen_until)).unwrap_or(0);
    let from = if hidden.timeline { answer.until() } else { start };
    answer.told.push(Told { room_id: room_id.clone(), from, state });
}

/// The filter leaves the whole room out.
fn note_hidden(answer: &mut Answer<'_>, room_id: &OwnedRoomId, any: bool) {
    if any {
        let from = answer.until();
        answer.told.push(Told { room_id: room_id.clone(), from, state: ToldState::Hidden });
    }
}

fn ephemeral(answer: &Answer<'_>, room_id: &RoomId, since: u64) -> Result<Vec<RawEvent>, MatrixError> {
    let mut events = Vec::new();
    let wants = |kind| {
        let head = filter::EventHead { kind, sender: "", has_url: false };
        filter::event_passes(&answer.filter.room.ephemeral, room_id, head)
    };
    if wants("m.receipt") {
        let (since, until) = (StreamPosition(since), StreamPosition(answer.until()));
        events.extend(answer.services.receipts.told(room_id, answer.user_id(), since, until)?);
    }
    if wants("m.typing") {
        events.extend(answer.typing_event(room_id));
    }
    Ok(events)
}

fn timeline(answer: &Answer<'_>, selected: &Selected) -> Result<Timeline, MatrixError> {
    let mut events = Vec::with_capacity(selected.events.len());
    for (_, held) in &selected.events {
        let is_message = held.pdu.state_key().is_none();
        if is_message && answer.ignored.contains(held.pdu.sender().as_str()) {
            continue;
        }
        events.push(answer.show(&held.pdu, Detail::Timeline)?);
    }
    let prev_batch = Some(TimelineToken(selected.start).to_string());
    Ok(Timeline { events, limited: selected.limited, prev_batch })
}
