//! A room's past, for those who may see it: single events, pages, what is
//! around an event, what relates to it, state and members.
//!
//! Every event goes through [`Viewer::may_see`] before it is shown. Here is
//! also noted which item events a device has been shown directly.

mod relations;
mod walk;

use std::{collections::BTreeSet, sync::Arc};

use causeway_room::Root;
pub use causeway_storage::Direction;
use ruma::{
    DeviceId, EventId, OwnedUserId, RoomId, UserId, api::client::filter::LazyLoadOptions,
    events::room::member::MembershipState,
};
use serde_json::value::RawValue;

pub use self::relations::{RECURSION_DEPTH, Relating};
use self::walk::{SCANNED_MAX, Walk};
use crate::{
    client_event::Shape,
    clock::Clock,
    error::MatrixError,
    ignored::ignored_users,
    room_view::RoomView,
    rooms::{Held, Rooms},
    shown::{Detail, Shower},
    sync::{Sieve, filter::EventFilter, token::TimelineToken},
    visible::Viewer,
};

/// Events on one page, whatever the client asks for.
pub const PAGE_MAX: usize = 1_000;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The user.
    pub user_id: &'a UserId,
    /// The device.
    pub device_id: &'a DeviceId,
}

/// Which page.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where it begins; `None` is the end that `direction` comes from.
    pub from: Option<TimelineToken>,
    /// Where it ends at the latest.
    pub to: Option<TimelineToken>,
    /// Which way.
    pub direction: Direction,
    /// At most so many events.
    pub limit: usize,
    /// Which events.
    pub filter: EventFilter,
}

/// A page of a room's past.
#[derive(Debug)]
pub struct Page {
    /// Where it begins.
    pub start: TimelineToken,
    /// Where the next one begins; `None` when there is none.
    pub end: Option<TimelineToken>,
    /// The events in the order asked for.
    pub chunk: Vec<Box<RawValue>>,
    /// Members that a lazily loading client needs for them.
    pub state: Vec<Box<RawValue>>,
    /// Who sent what is on it.
    senders: BTreeSet<OwnedUserId>,
    /// The state after its last event, where it is known.
    state_at_end: Option<Root>,
    /// Whether the page ends at a hole of what this server holds.
    pub is_at_hole: bool,
}

/// An event and what is around it.
#[derive(Debug)]
pub struct Context {
    /// The event.
    pub event: Box<RawValue>,
    /// What is before it, latest first.
    pub before: Page,
    /// What is after it, earliest first.
    pub after: Page,
    /// The state after the last of these events.
    pub state: Vec<Box<RawValue>>,
}

/// See the module.
pub struct History {
    rooms: Arc<Rooms>,
    clock: Clock,
}

impl History {
    /// Over these rooms.
    pub fn new(rooms: Arc<Rooms>, clock: Clock) -> Self {
        Self { rooms, clock }
    }

    /// Refuses those who don't see the room as it is now: who is not in it, unless anybody
    /// may read it.
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN`.
    pub fn require_presence(&self, room_id: &RoomId, user_id: &UserId) -> Result<(), MatrixError> {
        match Viewer::new(self.view(), room_id, user_id)?.until(room_id)? {
            i64::MAX => Ok(()),
            _ => Err(MatrixError::forbidden("You are not in this room")),
        }
    }

    /// One event.
    ///
    /// # Errors
    /// 404 when it does not exist or the user may not see it.
    pub fn event(
        &self,
        reader: Reader<'_>,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Box<RawValue>, MatrixError> {
        let held = self.visible(reader, room_id, event_id)?;
        self.shower(reader).show(&held.pdu, Shape::Full, Detail::Timeline)
    }

    /// A page of the room's timeline.
    ///
    /// # Errors
    /// 403 for those who may see nothing of the room.
    pub fn page(&self, reader: Reader<'_>, room_id: &RoomId, wanted: &Wanted) -> Result<Page, MatrixError> {
        let view = self.view();
        let mut viewer = Viewer::new(view, room_id, reader.user_id)?;
        viewer.require_some_access(room_id)?;
        let last = viewer.until(room_id)?;
        let backward = wanted.direction == Direction::Backward;
        let start = wanted.from.map_or(if backward { last } else { i64::MIN }, |token| token.0.min(last));
        let mut walk = Walk::begin(start, wanted, last);
        let mut sieve = Sieve::new(view, room_id, &wanted.filter);
        let mut senders = BTreeSet::new();
        let (mut chunk, mut state_at_end) = (Vec::new(), None);
        let limit = wanted.limit.min(PAGE_MAX);
        let ignored = ignored_users(view.database(), reader.user_id)?;
        while chunk.len() < limit
            && sieve.looked_at < SCANNED_MAX
            && let Some(row) = walk.next(view, room_id)?
        {
            let Some(held) = view.held(&row.event_id)? else { continue };
            let is_noise = is_message_of(&held, &ignored);
            if !is_noise && sieve.lets_through(&held, &mut viewer)? && viewer.may_see(&held)? {
                senders.insert(held.pdu.sender().to_owned());
                state_at_end = held.meta.state_after.or(held.meta.state_before);
                chunk.push(self.shower(reader).show(&held.pdu, Shape::Full, Detail::Timeline)?);
            }
        }
        let state = if is_lazy(&wanted.filter) {
            self.members_of(reader, &viewer, room_id, &senders)?
        } else {
            Vec::new()
        };
        let is_at_hole = walk.is_done && backward && !self.rooms.missing_events(room_id, 1)?.is_empty();
        let end = (!walk.is_done || (!backward && !chunk.is_empty())).then_some(TimelineToken(walk.at));
        let start = if start == i64::MAX || start == i64::MIN {
            walk.first.map_or(TimelineToken(0), TimelineToken)
        } else {
            TimelineToken(start)
        };
        Ok(Page { start, end, chunk, state, senders, state_at_end, is_at_hole })
    }

    /// An event with its surroundings: `limit` events in all beside it.
    ///
    /// # Errors
    /// 404 when it does not exist or the user may not see it.
    pub fn context(
        &self,
        reader: Reader<'_>,
        room_id: &RoomId,
        event_id: &EventId,
        limit: usize,
        filter: &EventFilter,
    ) -> Result<Context, MatrixError> {
        let held = self.visible(reader, room_id, event_id)?;
        let position =
            held.meta.position.ok_or_else(|| MatrixError::not_found("The event has no surroundings"))?;
        let event = self.shower(reader).show(&held.pdu, Shape::Full, Detail::Timeline)?;
        let limits = (limit.div_ceil(2), limit / 2);
        let (before, after) = self.around(reader, room_id, position, limits, filter)?;
        let state = match self.state_around(reader, &held, position, &after)? {
            Some(root) => {
                let mut entries = self.view().state_entries(&root)?;
                if is_lazy(filter) {
                    let shown = before.senders.iter().chain(&after.senders);
                    let senders: BTreeSet<&str> =
                        shown.map(|sender| sender.as_str()).chain([held.pdu.sender().as_str()]).collect();
                    entries
                        .retain(|(key, _)| key.kind != "m.room.member" || senders.contains(key.key.as_str()));
                }
                self.show_all(reader, entries.into_iter().map(|(_, event_id)| event_id))?
            }
            None => Vec::new(),
        };
        Ok(Context { event, before, after, state })
    }

    /// The state after the last of the events around one, or the one beside it that the
    /// reader may know: his own later memberships are shown to who left, what the room
    /// became since is not.
    fn state_around(
        &self,
        reader: Reader<'_>,
        held: &Held,
        position: i64,
        after: &Page,
    ) -> Result<Option<Root>, MatrixError> {
        let room_id = &held.meta.room_id;
        let mut viewer = Viewer::new(self.view(), room_id, reader.user_id)?;
        let last = viewer.until(room_id)?;
        if position > last {
            return Ok(self.rooms.state_root_at(room_id, last)?);
        }
        for root in [after.state_at_end, held.meta.state_after, held.meta.state_before].into_iter().flatten()
        {
            if viewer.may_see_state(root, position)? {
                return Ok(Some(root));
            }
        }
        Ok(None)
    }

    /// What is before and after a place, so many events on each side.
    ///
    /// # Errors
    /// 403 for those who may see nothing of the room.
    pub fn around(
        &self,
        reader: Reader<'_>,
        room_id: &RoomId,
        position: i64,
        (before, after): (usize, usize),
        filter: &EventFilter,
    ) -> Result<(Page, Page), MatrixError> {
        let side = |from, direction, limit| {
            let from = Some(TimelineToken(from));
            self.page(reader, room_id, &Wanted { from, to: None, direction, limit, filter: filter.clone() })
        };
        Ok((side(position - 1, Direction::Backward, before)?, side(position, Direction::Forward, after)?))
    }

    /// A piece of state: the current one, or, for those who left, that when they did.
    ///
    /// # Errors
    /// 403 for those who may see nothing of the room, 404 when there is none.
    pub fn state_event(
        &self,
        reader: Reader<'_>,
        room_id: &RoomId,
        kind: &str,
        state_key: &str,
    ) -> Result<Box<RawValue>, MatrixError> {
        let viewer = self.viewer(reader, room_id)?;
        let found = match self.state_root(&viewer, room_id)? {
            None => self.rooms.state_event(room_id, kind, state_key)?,
            Some(root) => self.rooms.state_at(&root, kind, state_key)?,
        };
        let pdu = found.ok_or_else(|| MatrixError::not_found("No such state"))?;
        self.shower(reader).show(&pdu, Shape::Full, Detail::Plain)
    }

    /// The same for all state.
    pub fn state(&self, reader: Reader<'_>, room_id: &RoomId) -> Result<Vec<Box<RawValue>>, MatrixError> {
        let viewer = self.viewer(reader, room_id)?;
        let root = match self.state_root(&viewer, room_id)? {
            Some(root) => root,
            None => self.rooms.state_root(room_id)?,
        };
        let entries = self.rooms.state_entries(&root)?;
        self.show_all(reader, entries.into_iter().map(|entry| entry.event_id))
    }

    /// The membership events, now or at a place of the timeline, of those whose
    /// membership `wanted` accepts.
    pub fn members(
        &self,
        reader: Reader<'_>,
        room_id: &RoomId,
        at: Option<TimelineToken>,
        wanted: impl Fn(&MembershipState) -> bool,
    ) -> Result<Vec<Box<RawValue>>, MatrixError> {
        let mut viewer = self.viewer(reader, room_id)?;
        let root = match (self.state_root(&viewer, room_id)?, at) {
            (Some(root), _) => root,
            (None, Some(at)) => self.state_root_of_place(&mut viewer, room_id, at)?,
            (None, None) => self.rooms.state_root(room_id)?,
        };
        let mut events = Vec::new();
        for entry in self.rooms.state_entries(&root)? {
            if entry.key.kind != "m.room.member" {
                continue;
            }
            let Some(held) = self.view().held(&entry.event_id)? else { continue };
            if held.pdu.membership().is_some_and(|membership| wanted(&membership)) {
                events.push(self.shower(reader).show(&held.pdu, Shape::Full, Detail::Plain)?);
            }
        }
        Ok(events)
    }

    /// One who may see something of the room.
    fn viewer<'a>(&'a self, reader: Reader<'a>, room_id: &RoomId) -> Result<Viewer<'a>, MatrixError> {
        let viewer = Viewer::new(self.view(), room_id, reader.user_id)?;
        viewer.require_some_access(room_id)?;
        Ok(viewer)
    }

    /// The state at which the reader stopped seeing the room; `None` for those
    /// who see it as it is.
    fn state_root(&self, viewer: &Viewer<'_>, room_id: &RoomId) -> Result<Option<Root>, MatrixError> {
        match viewer.until(room_id)? {
            i64::MAX => Ok(None),
            until => {
                let root = self.rooms.state_root_at(room_id, until)?;
                // Not that of today instead.
                Ok(Some(root.ok_or_else(|| MatrixError::forbidden("What the room was then is not known"))?))
            }
        }
    }

    /// The state at a place of the timeline, if the reader may know what the room was then.
    fn state_root_of_place(
        &self,
        viewer: &mut Viewer<'_>,
        room_id: &RoomId,
        at: TimelineToken,
    ) -> Result<Root, MatrixError> {
        let root = self.rooms.state_root_at(room_id, at.0)?;
        let root = root.ok_or_else(|| MatrixError::not_found("The room was not known here then"))?;
        if viewer.may_see_state(root, at.0)? {
            return Ok(root);
        }
        Err(MatrixError::forbidden("You may not see what the room was then"))
    }

    fn visible(&self, reader: Reader<'_>, room_id: &RoomId, event_id: &EventId) -> Result<Held, MatrixError> {
        let not_found = || MatrixError::not_found("No such event, or you may not see it");
        let held = self.view().event_in(room_id, event_id)?.ok_or_else(not_found)?;
        let mut viewer = Viewer::new(self.view(), room_id, reader.user_id)?;
        if viewer.may_see(&held)? { Ok(held) } else { Err(not_found()) }
    }

    /// The memberships of these users, as of when the reader stopped seeing the room.
    fn members_of(
        &self,
        reader: Reader<'_>,
        viewer: &Viewer<'_>,
        room_id: &RoomId,
        users: &BTreeSet<OwnedUserId>,
    ) -> Result<Vec<Box<RawValue>>, MatrixError> {
        let root = match self.state_root(viewer, room_id)? {
            Some(root) => root,
            None => self.rooms.state_root(room_id)?,
        };
        let mut events = Vec::with_capacity(users.len());
        for user_id in users {
            if let Some(pdu) = self.rooms.state_at(&root, "m.room.member", user_id.as_str())? {
                events.push(self.shower(reader).show(&pdu, Shape::Full, Detail::Plain)?);
            }
        }
        Ok(events)
    }

    fn show_all(
        &self,
        reader: Reader<'_>,
        ids: impl Iterator<Item = ruma::OwnedEventId>,
    ) -> Result<Vec<Box<RawValue>>, MatrixError> {
        let shower = self.shower(reader);
        let mut events = Vec::new();
        for event_id in ids {
            events.extend(shower.by_id(&event_id, Shape::Full, Detail::Plain)?);
        }
        Ok(events)
    }

    fn view(&self) -> RoomView<'_> {
        RoomView::new(&self.rooms)
    }

    fn shower<'a>(&'a self, reader: Reader<'a>) -> Shower<'a> {
        Shower::new(self.view(), (reader.user_id, reader.device_id), self.clock.now_ms())
    }
}

fn is_lazy(filter: &EventFilter) -> bool {
    matches!(filter.lazy_load_options, LazyLoadOptions::Enabled { .. })
}

/// Whether it is a message of one of these: their state is shown nevertheless.
fn is_message_of(held: &Held, users: &BTreeSet<String>) -> bool {
    held.pdu.state_key().is_none() && users.contains(held.pdu.sender().as_str())
}
