//! Which events of a room's timeline go into an answer.

use causeway_storage::{Direction, rooms::TimelineRow};
use ruma::{RoomId, api::client::filter::RoomEventFilter};

use super::filter::{EventHead, event_passes};
use crate::{error::MatrixError, room_view::RoomView, rooms::Held, visible::Viewer};

/// Rows read at once.
const PAGE: usize = 32;

/// Rows looked at for one answer: a filter that lets nothing through must not
/// walk through a whole room. What is left is a gap.
const SCANNED_MAX: usize = 2_000;

/// Which stretch is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// Events above this place only.
    pub after: i64,
    /// Up to this place.
    pub until: i64,
    /// At most so many.
    pub limit: usize,
}

/// The events of a stretch that go into an answer.
#[derive(Debug, Default)]
pub struct Selected {
    /// Oldest first.
    pub events: Vec<(TimelineRow, Held)>,
    /// Whether events above `after` were left out at the beginning because
    /// there were too many.
    pub limited: bool,
    /// The place before the first event: everything between it and `until` was
    /// looked at.
    pub start: i64,
    /// Whether there is anything in the stretch, shown or not.
    pub any: bool,
    /// The highest place of an event that the user may not see; above it
    /// everything that passed the filter is in `events`.
    pub unseen_until: i64,
}

/// Selects the latest events of a stretch that pass the filter and that the user may see.
pub fn select(
    view: RoomView<'_>,
    room_id: &RoomId,
    range: Range,
    filter: &RoomEventFilter,
    viewer: &mut Viewer<'_>,
) -> Result<Selected, MatrixError> {
    let mut selected = Selected { start: range.until, ..Selected::default() };
    let mut scanned = 0;
    loop {
        let page = view.timeline(room_id, Some(selected.start), Direction::Backward, PAGE)?;
        let is_last = page.len() < PAGE;
        for row in page {
            if row.position <= range.after {
                return Ok(finished(selected, false));
            }
            selected.any = true;
            if selected.events.len() >= range.limit || scanned >= SCANNED_MAX {
                return Ok(finished(selected, true));
            }
            scanned += 1;
            selected.start = row.position - 1;
            match view.held(&row.event_id)? {
                Some(held) if viewer.may_see(&held)? => {
                    if passes(filter, room_id, &held) {
                        selected.events.push((row, held));
                    }
                }
                _ => selected.unseen_until = selected.unseen_until.max(row.position),
            }
        }
        if is_last {
            return Ok(finished(selected, false));
        }
    }
}

/// Whether the filter lets the event through.
pub fn passes(filter: &RoomEventFilter, room_id: &RoomId, held: &Held) -> bool {
    let has_url = filter.url_filter.is_some() && held.pdu.content_object().contains_key("url");
    let head = EventHead { kind: held.pdu.kind_text(), sender: held.pdu.sender().as_str(), has_url };
    event_passes(filter, room_id, head)
}

fn finished(mut selected: Selected, limited: bool) -> Selected {
    selected.events.reverse();
    selected.limited = limited;
    selected
}
