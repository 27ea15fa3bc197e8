//! What relates to an event, directly or through others.

use std::collections::BTreeSet;

use causeway_storage::{
    Direction,
    rooms::{self as rows, Related},
};
use ruma::{EventId, OwnedEventId, RoomId};

use super::{History, PAGE_MAX, Page, Reader, Wanted, is_message_of};
use crate::{
    client_event::Shape, error::MatrixError, ignored::ignored_users, shown::Detail,
    sync::token::TimelineToken, visible::Viewer,
};

/// How many relations may be between an event and another that is told with it.
pub const RECURSION_DEPTH: usize = 3;

/// Rows looked at for what relates to an event through others, on each page. Beyond it
/// such events are left out, of the oldest ones first.
const LOOKED_AT_MAX: usize = 10_000;

/// Rows read at once.
const STEP: usize = 128;

/// Which of the events that relate to one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Relating<'a> {
    /// With this `rel_type`.
    pub rel_type: Option<&'a str>,
    /// Of this type.
    pub kind: Option<&'a str>,
    /// Also those that relate to it through others, up to [`RECURSION_DEPTH`].
    pub recurse: bool,
}

impl History {
    /// Events that relate to an event, latest first unless asked otherwise.
    ///
    /// # Errors
    /// 404 when the event does not exist or the user may not see it.
    pub fn relations(
        &self,
        reader: Reader<'_>,
        room_id: &RoomId,
        target: &EventId,
        relating: Relating<'_>,
        wanted: &Wanted,
    ) -> Result<Page, MatrixError> {
        self.visible(reader, room_id, target)?;
        let mut viewer = Viewer::new(self.view(), room_id, reader.user_id)?;
        let backward = wanted.direction == Direction::Backward;
        let limit = wanted.limit.min(PAGE_MAX);
        let related = self.related(target, relating, wanted, limit)?;
        let is_full = related.len() == limit;
        let mut page = Page {
            start: wanted.from.unwrap_or(TimelineToken(related.first().map_or(0, |(position, _)| *position))),
            end: None,
            chunk: Vec::new(),
            state: Vec::new(),
            senders: BTreeSet::new(),
            state_at_end: None,
            is_at_hole: false,
        };
        let ignored = ignored_users(self.view().database(), reader.user_id)?;
        for (position, event_id) in related {
            if wanted.to.is_some_and(|to| if backward { position <= to.0 } else { position > to.0 }) {
                return Ok(Page { end: None, ..page });
            }
            page.end = is_full.then_some(TimelineToken(if backward { position - 1 } else { position }));
            if let Some(held) = self.view().held(&event_id)?
                && *held.meta.room_id == *room_id
                && !is_message_of(&held, &ignored)
                && viewer.may_see(&held)?
                && self.rooms.redaction_of(&event_id)?.is_none()
            {
                page.chunk.push(self.shower(reader).show(&held.pdu, Shape::Full, Detail::Timeline)?);
            }
        }
        Ok(page)
    }

    /// Where they stand and which they are, in the order asked for, at most `limit`.
    fn related(
        &self,
        target: &EventId,
        Relating { rel_type, kind, recurse }: Relating<'_>,
        wanted: &Wanted,
        limit: usize,
    ) -> Result<Vec<(i64, OwnedEventId)>, MatrixError> {
        let backward = wanted.direction == Direction::Backward;
        let from = wanted.from.map(|token| if backward { token.0 } else { token.0.saturating_add(1) });
        let direct = self.rooms.relations(target, rel_type, kind, from, wanted.direction, limit)?;
        let direct = direct.into_iter().map(|(position, pdu)| (position, pdu.event_id().to_owned()));
        let mut related: Vec<_> = direct.collect();
        if !recurse {
            return Ok(related);
        }
        let is_wanted = |event: &Related| {
            rel_type.is_none_or(|rel_type| event.rel_type == rel_type)
                && kind.is_none_or(|kind| event.kind == kind)
                && from.is_none_or(
                    |from| {
                        if backward { event.position <= from } else { event.position >= from }
                    },
                )
        };
        let indirect = self.indirect(target)?.into_iter().filter(is_wanted);
        related.extend(indirect.map(|event| (event.position, event.event_id)));
        related.sort();
        related.dedup();
        if backward {
            related.reverse();
        }
        related.truncate(limit);
        Ok(related)
    }

    /// What relates to what relates to an event, and so on.
    fn indirect(&self, target: &EventId) -> Result<Vec<Related>, MatrixError> {
        let mut found: Vec<Related> = Vec::new();
        let mut known = BTreeSet::from([target.to_owned()]);
        let mut parents = vec![target.to_owned()];
        let mut looked_at = 0;
        for depth in 0..RECURSION_DEPTH {
            let mut children = Vec::new();
            for parent in parents {
                if looked_at >= LOOKED_AT_MAX {
                    return Ok(found);
                }
                let of_parent = self.children(&parent, LOOKED_AT_MAX - looked_at)?;
                looked_at += 1 + of_parent.len();
                // Whoever names an event may be named by it: no circles.
                let new = of_parent.into_iter().filter(|child| known.insert(child.event_id.clone()));
                for child in new {
                    children.push(child.event_id.clone());
                    if depth > 0 {
                        found.push(child);
                    }
                }
            }
            parents = children;
        }
        Ok(found)
    }

    /// What relates to an event directly, the latest first, at most `max`.
    fn children(&self, parent: &EventId, max: usize) -> Result<Vec<Related>, MatrixError> {
        let (mut children, mut from) = (Vec::new(), None);
        while children.len() < max {
            let limit = STEP.min(max - children.len());
            let step = rows::relations(self.view().database(), parent, from, Direction::Backward, limit)?;
            let is_last = step.len() < limit;
            from = step.last().and_then(|last| last.position.checked_sub(1));
            children.extend(step);
            if is_last || from.is_none() {
                break;
            }
        }
        Ok(children)
    }
}
