//! The state section of a room.
//!
//! Without MSC4222 it holds what changed between `since` and the start of the
//! timeline, and beside that what state resolution changed without an event of
//! the timeline saying so. With it, what changed between `since` and the end.

use std::collections::BTreeSet;

use causeway_room::{Root, StateKey};
use ruma::{OwnedEventId, RoomId, UserId};

use super::{
    answer::Answer,
    response::RawEvent,
    timeline::{Selected, Sieve},
};
use crate::{error::MatrixError, room_view::RoomView, shown::Detail, visible::Viewer};

const MEMBER: &str = "m.room.member";

/// What state a device has and is to have.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The state that the device has; `None` if it has none.
    pub known: Option<Root>,
    /// The state at the start of the timeline.
    pub start: Root,
    /// The state at its end.
    pub end: Root,
    /// Whether the section is as of the end (MSC4222).
    pub is_after: bool,
}

/// Chooses the events of the section.
///
/// `lazy` is set when memberships are to be left out, except those of the
/// senders of timeline events, of the user and of `needed`.
pub fn choose(
    view: RoomView<'_>,
    span: Span,
    timeline: &Selected,
    lazy: Option<&BTreeSet<String>>,
) -> Result<Vec<OwnedEventId>, MatrixError> {
    let target = if span.is_after { span.end } else { span.start };
    let mut chosen: Vec<(StateKey, OwnedEventId)> = match span.known {
        None => view.state_entries(&target)?,
        Some(known) => changed(view, &known, &target)?,
    };
    if let (Some(known), false) = (span.known, span.is_after) {
        chosen.extend(changed_unseen(view, &known, span.end, timeline, &chosen)?);
    }
    if let Some(needed) = lazy {
        let whole = span.known.is_none() || timeline.limited;
        chosen.retain(|(key, _)| key.kind != MEMBER || !whole || needed.contains(&key.key));
        add_senders(view, target, timeline, needed, &mut chosen)?;
    }
    chosen.sort();
    chosen.dedup();
    Ok(chosen.into_iter().map(|(_, event_id)| event_id).collect())
}

/// The members whose membership a lazily loading client needs.
pub fn needed_members(
    timeline: &Selected,
    user_id: &UserId,
    heroes: &[ruma::OwnedUserId],
) -> BTreeSet<String> {
    let senders = timeline.events.iter().map(|(_, held)| held.pdu.sender().to_string());
    let heroes = heroes.iter().map(ToString::to_string);
    senders.chain(heroes).chain([user_id.to_string()]).collect()
}

/// Renders the events of the section that pass the filter.
pub fn render(
    room_id: &RoomId,
    chosen: &[OwnedEventId],
    viewer: &mut Viewer<'_>,
    answer: &Answer<'_>,
) -> Result<Vec<RawEvent>, MatrixError> {
    let mut events = Vec::with_capacity(chosen.len());
    let mut sieve = Sieve::new(answer.view, room_id, &answer.filter.room.state);
    for event_id in chosen {
        let Some(held) = answer.view.held(event_id)? else { continue };
        if sieve.lets_through(&held, viewer)? {
            events.push(answer.show(&held.pdu, Detail::Plain)?);
        }
    }
    Ok(events)
}

fn changed(view: RoomView<'_>, old: &Root, new: &Root) -> Result<Vec<(StateKey, OwnedEventId)>, MatrixError> {
    let differences = view.state_diff(old, new)?;
    Ok(differences.into_iter().filter_map(|difference| Some((difference.key, difference.new?))).collect())
}

/// What changed up to the end of the timeline, and neither the timeline nor
/// what was chosen says so.
fn changed_unseen(
    view: RoomView<'_>,
    known: &Root,
    end: Root,
    timeline: &Selected,
    chosen: &[(StateKey, OwnedEventId)],
) -> Result<Vec<(StateKey, OwnedEventId)>, MatrixError> {
    let in_timeline: BTreeSet<(&str, &str)> = timeline
        .events
        .iter()
        .filter_map(|(_, held)| Some((held.pdu.kind_text(), held.pdu.state_key()?)))
        .collect();
    let mut unseen = changed(view, known, &end)?;
    unseen.retain(|(key, _)| {
        !in_timeline.contains(&(&*key.kind, &*key.key)) && !chosen.iter().any(|(chosen, _)| chosen == key)
    });
    Ok(unseen)
}

/// A lazily loading client is given the membership of every sender anew: it
/// may have it already, but which it has is not kept.
fn add_senders(
    view: RoomView<'_>,
    target: Root,
    timeline: &Selected,
    needed: &BTreeSet<String>,
    chosen: &mut Vec<(StateKey, OwnedEventId)>,
) -> Result<(), MatrixError> {
    let senders: BTreeSet<&str> =
        timeline.events.iter().map(|(_, held)| held.pdu.sender().as_str()).collect();
    for sender in senders.into_iter().filter(|sender| needed.contains(*sender)) {
        if let Some(member) = view.state(&target, MEMBER, sender)? {
            chosen.push((StateKey::new(MEMBER, sender), member.event_id().to_owned()));
        }
    }
    Ok(())
}
