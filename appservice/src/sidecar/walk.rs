//! A room's events by pages: what a gap of /sync left out, and what was said where the service
//! user is not.
//!
//! Pages are in the order of the room's graph, not in that in which events came. What was
//! written on the other side of a partition comes late and low in the graph: it is found from
//! the place in /sync on, never from the end back. So a walk never says how far was heard.
//!
//! Invariant: a walk's pages, events and bytes are bounded; what is too large is passed over
//! with a line in the log.

use std::sync::Arc;

use causeway_service::{
    room_event::{RoomEvent, ShownEvent},
    upstream::{
        bearing::{Bearing, bearing},
        intake::Incoming,
    },
};
use ruma::{OwnedEventId, RoomId};
use serde_json::{json, value::RawValue};
use tokio::task::spawn_blocking;

use super::{
    client::{Speaker, UpstreamError},
    requests::Towards,
    shared::Shared,
};

/// Pages of one walk.
const PAGES_MAX: usize = 100;
/// Pages of a walk that is to make the upstream fetch what it lacks.
const PAGES_FETCHING_MAX: usize = 5;
/// Events of a page.
const PAGE_MAX: usize = 100;
/// Bytes of what one walk brings.
const WALK_BYTES_MAX: usize = 32 << 20;
/// Types that a walk asks for.
const TYPES: [&str; 4] = ["org.causeway.*", "m.reaction", "m.room.message", "m.room.redaction"];

/// Which events a walk is to find.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way<'a> {
    /// All that came after a place of /sync, in the order of the graph: first what is new, from
    /// the least depth on, then all that is deeper.
    On(&'a str),
    /// From the room's end back to where all was taken in before, or to the newest event of the
    /// walk before, if that is known.
    Back(Option<&'a OwnedEventId>),
    /// A few pages from the room's end: a homeserver that is asked for what it lacks fetches it.
    Fetching,
}

/// What a walk brought.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// In the order in which things happened.
    pub(super) events: Vec<Incoming>,
    /// The first of all events that were looked at: of those from the end, the newest.
    pub(super) newest: Option<OwnedEventId>,
}

/// Walks. What it brings is not taken in yet.
pub(super) async fn walk(
    shared: &Arc<Shared>,
    room: &RoomId,
    way: Way<'_>,
    speaker: Speaker<'_>,
) -> Result<Walked, UpstreamError> {
    let filter = json!({ "types": TYPES });
    let (towards, mut place, until) = match way {
        Way::On(place) => (Towards::Present, Some(place.to_owned()), None),
        Way::Back(until) => (Towards::Past, None, until),
        Way::Fetching => (Towards::Past, None, None),
    };
    let pages_max = if matches!(way, Way::Fetching) { PAGES_FETCHING_MAX } else { PAGES_MAX };
    let (mut limit, mut bytes, mut is_whole) = (PAGE_MAX, 0, false);
    let mut walked = Walked::default();
    for _ in 0..pages_max {
        let asked = (towards, place.as_deref(), limit);
        let page = match shared.client.messages(room, asked, &filter, speaker).await {
            Err(UpstreamError::TooLarge) if limit > 1 => {
                limit = (limit / 4).max(1);
                continue;
            }
            Err(UpstreamError::TooLarge) => {
                tracing::warn!(%room, "an event is too large to be read; what comes after it is not heard of");
                break;
            }
            page => page?,
        };
        bytes += page.chunk.iter().map(|event| event.get().len()).sum::<usize>();
        let is_empty = page.chunk.is_empty();
        let (kept, is_known) = look(shared, room, page.chunk, until, &mut walked.newest).await?;
        walked.events.extend(kept);
        place = page.end;
        is_whole = place.is_none()
            || (is_known && matches!(way, Way::Back(_)))
            || (is_empty && towards == Towards::Present);
        if is_whole || bytes > WALK_BYTES_MAX {
            break;
        }
    }
    if !is_whole && !matches!(way, Way::Fetching) {
        tracing::warn!(%room, "more was missed than is looked at");
    }
    if towards == Towards::Past {
        walked.events.reverse();
    }
    Ok(walked)
}

/// What of a page bears on shared spaces, and whether all before it is known.
async fn look(
    shared: &Arc<Shared>,
    room: &RoomId,
    chunk: Vec<Box<RawValue>>,
    until: Option<&OwnedEventId>,
    newest: &mut Option<OwnedEventId>,
) -> Result<(Vec<Incoming>, bool), UpstreamError> {
    let (intake, room, until) = (Arc::clone(&shared.intake), room.to_owned(), until.cloned());
    let looking = spawn_blocking(move || {
        let (mut kept, mut first) = (Vec::new(), None);
        let (mut deeds, mut new, mut is_met) = (0, 0, false);
        for event in chunk {
            let Ok(shown) = ShownEvent::parse(&room, event.get()) else { continue };
            let shown = RoomEvent::from(shown);
            first.get_or_insert_with(|| shown.event_id().to_owned());
            is_met |= until.as_deref() == Some(shown.event_id());
            if bearing(&shown) == Bearing::Deed {
                deeds += 1;
                new += usize::from(!intake.is_taken(&shown).unwrap_or(false));
                kept.push(Incoming { room_id: room.clone(), event });
            }
        }
        (kept, first, is_met || (deeds > 0 && new == 0))
    });
    let looked = looking.await.map_err(|error| UpstreamError::Broken(error.to_string()))?;
    let (kept, first, is_known) = looked;
    if newest.is_none() {
        *newest = first;
    }
    Ok((kept, is_known))
}
