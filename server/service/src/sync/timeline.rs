//! Which events of a room's timeline go into an answer.

use causeway_storage::{
    Direction,
    rooms::{self as rows, TimelineRow},
};
use ruma::RoomId;

use super::filter::{EventFilter, EventHead, event_passes};
use crate::{error::MatrixError, room_view::RoomView, rooms::Held, visible::Viewer};

/// Rows read at once.
const PAGE: usize = 32;

/// Rows looked at for one answer: a filter that lets nothing through must not
/// walk through a whole room. What is left is a gap.
const SCANNED_MAX: usize = 2_000;

/// Relations looked at for one answer, to find out which events have one that is wanted;
/// beyond them an event counts as having none.
const RELATIONS_MAX: usize = 5_000;

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
    filter: &EventFilter,
    viewer: &mut Viewer<'_>,
) -> Result<Selected, MatrixError> {
    let mut selected = Selected { start: range.until, ..Selected::default() };
    let mut sieve = Sieve::new(view, room_id, filter);
    let mut scanned = 0;
    loop {
        let page = view.timeline(room_id, Some(selected.start), Direction::Backward, PAGE)?;
        let is_last = page.len() < PAGE;
        for row in page {
            if row.position <= range.after {
                return Ok(finished(selected, false));
            }
            selected.any = true;
            if selected.events.len() >= range.limit || scanned + sieve.looked_at >= SCANNED_MAX {
                return Ok(finished(selected, true));
            }
            scanned += 1;
            selected.start = row.position - 1;
            match view.held(&row.event_id)? {
                // It was a message, and is nothing to anybody.
                Some(held) if held.meta.is_purged() => {}
                Some(held) if viewer.may_see(&held)? => {
                    if sieve.lets_through(&held, viewer)? {
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

/// A filter, applied to the events of a room.
pub struct Sieve<'a> {
    view: RoomView<'a>,
    room_id: &'a RoomId,
    filter: &'a EventFilter,
    /// Relations read so far: to be counted as the events are.
    pub looked_at: usize,
}

impl<'a> Sieve<'a> {
    /// For this room.
    pub fn new(view: RoomView<'a>, room_id: &'a RoomId, filter: &'a EventFilter) -> Self {
        Self { view, room_id, filter, looked_at: 0 }
    }

    /// Whether the filter lets the event through.
    pub fn lets_through(&mut self, held: &Held, viewer: &mut Viewer<'_>) -> Result<bool, MatrixError> {
        let has_url = self.filter.url_filter.is_some() && held.pdu.content_object().contains_key("url");
        let head = EventHead { kind: held.pdu.kind_text(), sender: held.pdu.sender().as_str(), has_url };
        Ok(event_passes(self.filter, self.room_id, head) && self.is_related(held, viewer)?)
    }

    /// Whether an event relates to this one as the filter wants it. Of those that the
    /// viewer may see, the last are looked at first; what is redacted relates to nothing.
    fn is_related(&mut self, held: &Held, viewer: &mut Viewer<'_>) -> Result<bool, MatrixError> {
        let wanted = &self.filter.related_by;
        if wanted.is_any() {
            return Ok(true);
        }
        let database = self.view.database();
        let mut from = None;
        while self.looked_at < RELATIONS_MAX {
            let step = rows::relations(database, held.pdu.event_id(), from, Direction::Backward, PAGE)?;
            let is_last = step.len() < PAGE;
            from = step.last().and_then(|last| last.position.checked_sub(1));
            self.looked_at += step.len();
            if self.is_any_wanted(step, viewer)? {
                return Ok(true);
            }
            if is_last || from.is_none() {
                break;
            }
        }
        Ok(false)
    }

    fn is_any_wanted(
        &self,
        relations: Vec<rows::Related>,
        viewer: &mut Viewer<'_>,
    ) -> Result<bool, MatrixError> {
        let (wanted, database) = (&self.filter.related_by, self.view.database());
        for relation in relations {
            if wanted.rel_types.as_ref().is_some_and(|types| !types.contains(&relation.rel_type)) {
                continue;
            }
            let Some(by) = self.view.event_in(self.room_id, &relation.event_id)? else { continue };
            let is_wanted = wanted
                .senders
                .as_ref()
                .is_none_or(|senders| senders.iter().any(|user| user == by.pdu.sender()));
            if is_wanted
                && viewer.may_see(&by)?
                && rows::redaction_of(database, &relation.event_id)?.is_none()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn finished(mut selected: Selected, limited: bool) -> Selected {
    selected.events.reverse();
    selected.limited = limited;
    selected
}
