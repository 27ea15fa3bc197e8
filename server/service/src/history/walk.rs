//! Walking along a room's timeline for a page of it, a bounded part at a time.
//!
//! Not here: who may see what is found.

use std::collections::VecDeque;

use causeway_storage::{Direction, rooms::TimelineRow};
use ruma::RoomId;

use super::Wanted;
use crate::{error::MatrixError, room_view::RoomView};

/// Rows looked at for one page: a filter that lets nothing through must not
/// walk through a whole room in one request.
pub(super) const SCANNED_MAX: usize = 5_000;

/// Rows read at once.
const STEP: usize = 128;

/// A walk along a timeline. A token is the place *after* the event at its
/// position, so backwards its own event comes first and forwards it doesn't.
pub(super) struct Walk {
    backward: bool,
    /// Where the next step begins, as a token.
    pub(super) at: i64,
    /// The token of the first event's own side.
    pub(super) first: Option<i64>,
    to: Option<i64>,
    last: i64,
    scanned: usize,
    read: VecDeque<TimelineRow>,
    pub(super) is_done: bool,
}

impl Walk {
    pub(super) fn begin(at: i64, wanted: &Wanted, last: i64) -> Self {
        Self {
            backward: wanted.direction == Direction::Backward,
            at,
            first: None,
            to: wanted.to.map(|token| token.0),
            last,
            scanned: 0,
            read: VecDeque::new(),
            is_done: false,
        }
    }

    pub(super) fn next(
        &mut self,
        view: RoomView<'_>,
        room_id: &RoomId,
    ) -> Result<Option<TimelineRow>, MatrixError> {
        if self.scanned >= SCANNED_MAX {
            return Ok(None);
        }
        if self.read.is_empty() {
            let (from, direction) = if self.backward {
                (self.at, Direction::Backward)
            } else {
                (self.at.saturating_add(1), Direction::Forward)
            };
            self.read = view.timeline(room_id, Some(from), direction, STEP)?.into();
        }
        let Some(row) = self.read.pop_front() else {
            self.is_done = true;
            return Ok(None);
        };
        let is_beyond = match (self.backward, self.to) {
            (true, Some(to)) => row.position <= to,
            (false, Some(to)) => row.position > to || row.position > self.last,
            (true, None) => false,
            (false, None) => row.position > self.last,
        };
        if is_beyond {
            self.is_done = true;
            return Ok(None);
        }
        self.scanned += 1;
        self.first.get_or_insert(if self.backward { row.position } else { row.position - 1 });
        self.at = if self.backward { row.position - 1 } else { row.position };
        Ok(Some(row))
    }
}
