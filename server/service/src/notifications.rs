//! The list of what a user was notified of (client-server API,
//! `GET /notifications`).
//!
//! Nothing is stored for it: the user's rooms are walked back together, latest
//! event first, and judged by the rules as they are now. Listed is what came
//! while the user was in a room that he is still in. Not here: counting
//! ([`crate::sync`]) and telling gateways ([`crate::pushes`]).
//!
//! Invariant: one request looks at [`LOOKED_AT_MAX`] events at most; what is
//! further back is the next one's.

use std::{
    collections::{BTreeSet, BinaryHeap, VecDeque},
    sync::Arc,
};

use causeway_storage::{
    Direction,
    rooms::{self as rows, TimelineRow},
};
use ruma::{
    OwnedRoomId,
    events::room::member::MembershipState,
    push::{Action, PushConditionRoomCtx, Ruleset},
};
use serde_json::value::RawValue;

use crate::{
    client_event::Shape,
    clock::Clock,
    error::MatrixError,
    history::Reader,
    ignored::ignored_users,
    push_rules,
    receipts::{ReadUpTo, Receipts},
    room_view::RoomView,
    rooms::{Held, Rooms},
    shown::{Detail, Shower},
    sync::{counting::thread_of, token::TimelineToken},
};

/// Notifications on one page, whatever the client asks for.
pub const PAGE_MAX: usize = 100;

/// Events looked at for one page.
pub const LOOKED_AT_MAX: usize = 2_000;

/// Rows of one room read at once.
const STEP: usize = 16;

/// Which page.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Where it begins; `None` is the latest event.
    pub from: Option<TimelineToken>,
    /// Only what highlights.
    pub highlights: bool,
    /// At most so many.
    pub limit: usize,
}

/// One notification.
#[derive(Debug)]
pub struct Notification {
    /// Where it happened.
    pub room_id: OwnedRoomId,
    /// What, as /sync shows it.
    pub event: Box<RawValue>,
    /// What the user's rules want.
    pub actions: Vec<Action>,
    /// Whether a receipt of the user covers it.
    pub is_read: bool,
    /// The event's time, in milliseconds since the epoch.
    pub ts: u64,
}

/// A page of notifications.
#[derive(Debug, Default)]
pub struct Page {
    /// The latest first.
    pub notifications: Vec<Notification>,
    /// Where the next one begins.
    pub next: Option<TimelineToken>,
}

/// See the module.
pub struct Notifications {
    rooms: Arc<Rooms>,
    receipts: Arc<Receipts>,
    clock: Clock,
}

impl Notifications {
    /// Over these.
    pub fn new(rooms: Arc<Rooms>, receipts: Arc<Receipts>, clock: Clock) -> Self {
        Self { rooms, receipts, clock }
    }

    /// A page of the user's notifications.
    ///
    /// # Errors
    /// Storage.
    pub fn page(&self, reader: Reader<'_>, wanted: Wanted) -> Result<Page, MatrixError> {
        let view = RoomView::new(&self.rooms);
        let joined = self.rooms.memberships_of(reader.user_id)?.into_iter();
        let joined = joined.filter(|(_, member)| member.membership == MembershipState::Join);
        let mut walk = Walk::begin(view, joined.map(|(room_id, _)| room_id), wanted.from)?;
        let judge = Judge {
            view,
            reader,
            receipts: &self.receipts,
            rules: push_rules::rules_of(view.database(), reader.user_id)?,
            ignored: ignored_users(view.database(), reader.user_id)?,
        };
        let shower = Shower::new(view, (reader.user_id, reader.device_id), self.clock.now_ms());
        let mut page = Page::default();
        for _ in 0..LOOKED_AT_MAX {
            if page.notifications.len() >= wanted.limit.clamp(1, PAGE_MAX) {
                break;
            }
            let Some((room, row)) = walk.next(view)? else { return Ok(page) };
            let Some((held, actions, is_read)) = judge.verdict(room, &row)? else { continue };
            if wanted.highlights && !actions.iter().any(Action::is_highlight) {
                continue;
            }
            page.notifications.push(Notification {
                room_id: room.id.clone(),
                event: shower.show(&held.pdu, Shape::Sync, Detail::Timeline)?,
                actions,
                is_read,
                ts: held.pdu.origin_server_ts(),
            });
        }
        page.next = walk.at().map(TimelineToken);
        Ok(page)
    }
}

/// Decides what one user is notified of.
struct Judge<'a> {
    view: RoomView<'a>,
    reader: Reader<'a>,
    receipts: &'a Receipts,
    rules: Ruleset,
    ignored: BTreeSet<String>,
}

impl Judge<'_> {
    /// The event, what the rules want, and whether it is read; `None` if it notifies nobody.
    fn verdict(
        &self,
        room: &mut Room,
        row: &TimelineRow,
    ) -> Result<Option<(Held, Vec<Action>, bool)>, MatrixError> {
        let (view, user_id) = (self.view, self.reader.user_id);
        let Some(held) = view.event_in(&room.id, &row.event_id)? else { return Ok(None) };
        let sender = held.pdu.sender();
        if sender == user_id || held.meta.is_purged() || self.ignored.contains(sender.as_str()) {
            return Ok(None);
        }
        let Some(before) = held.meta.state_before else { return Ok(None) };
        if !view.is_joined_in(&before, user_id)?
            || rows::redaction_of(view.database(), &row.event_id)?.is_some()
        {
            return Ok(None);
        }
        let (context, read) = room.judged_by(self)?;
        let actions = push_rules::actions(&self.rules, context, held.pdu.raw()).to_vec();
        if !actions.iter().any(Action::should_notify) {
            return Ok(None);
        }
        let is_read = row.position <= read.of(thread_of(&held).as_deref());
        Ok(Some((held, actions, is_read)))
    }
}

/// A room that is walked back.
struct Room {
    id: OwnedRoomId,
    /// The next rows, latest first.
    rows: VecDeque<TimelineRow>,
    /// Whether nothing is before them.
    is_done: bool,
    /// What its events are judged by, once it is needed.
    judged_by: Option<(PushConditionRoomCtx, ReadUpTo)>,
}

impl Room {
    fn judged_by(&mut self, judge: &Judge<'_>) -> Result<&(PushConditionRoomCtx, ReadUpTo), MatrixError> {
        let known = if let Some(known) = self.judged_by.take() {
            known
        } else {
            let (root, user_id) = (judge.view.current_root(&self.id)?, judge.reader.user_id);
            let context = push_rules::context(judge.view, &self.id, &root, user_id)?;
            (context, judge.receipts.read_up_to(&self.id, user_id)?)
        };
        Ok(self.judged_by.insert(known))
    }

    /// Reads on where the rows have come to an end; where the next one stands.
    fn fill(&mut self, view: RoomView<'_>, from: Option<i64>) -> Result<Option<i64>, MatrixError> {
        if self.rows.is_empty() && !self.is_done {
            self.rows = view.timeline(&self.id, from, Direction::Backward, STEP)?.into();
            // History that was fetched later was nobody's news.
            self.rows.retain(|row| row.position >= 0);
            self.is_done = self.rows.len() < STEP;
        }
        Ok(self.rows.front().map(|row| row.position))
    }
}

/// Rooms walked back together, the latest event first.
struct Walk {
    rooms: Vec<Room>,
    /// Where the next row of each room stands, with its place in `rooms`.
    next: BinaryHeap<(i64, usize)>,
}

impl Walk {
    fn begin(
        view: RoomView<'_>,
        room_ids: impl Iterator<Item = OwnedRoomId>,
        from: Option<TimelineToken>,
    ) -> Result<Self, MatrixError> {
        let mut walk = Self { rooms: Vec::new(), next: BinaryHeap::new() };
        for (index, id) in room_ids.enumerate() {
            let mut room = Room { id, rows: VecDeque::new(), is_done: false, judged_by: None };
            if let Some(position) = room.fill(view, from.map(|from| from.0))? {
                walk.next.push((position, index));
            }
            walk.rooms.push(room);
        }
        Ok(walk)
    }

    fn next(&mut self, view: RoomView<'_>) -> Result<Option<(&mut Room, TimelineRow)>, MatrixError> {
        let Some((_, index)) = self.next.pop() else { return Ok(None) };
        let room = &mut self.rooms[index];
        let Some(row) = room.rows.pop_front() else { return Ok(None) };
        if let Some(position) = room.fill(view, Some(row.position.saturating_sub(1)))? {
            self.next.push((position, index));
        }
        Ok(Some((room, row)))
    }

    /// Where it goes on.
    fn at(&self) -> Option<i64> {
        self.next.peek().map(|(position, _)| *position)
    }
}
