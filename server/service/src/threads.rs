//! The list of a room's threads, and which events may begin one.
//!
//! Invariant: a thread is listed for those who may see its root and one of its
//! events at least.

use std::sync::Arc;

use causeway_storage::rooms as rows;
use ruma::{EventId, RoomId, UserId};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, value::RawValue};

use crate::{
    client_event::Shape,
    clock::Clock,
    error::MatrixError,
    history::Reader,
    ignored::ignored_users,
    room_view::RoomView,
    rooms::{Held, Rooms},
    shown::{Detail, Shower},
    sync::token::TimelineToken,
    visible::Viewer,
};

/// Threads on one page, whatever the client asks for.
pub const PAGE_MAX: usize = 100;

/// Threads looked at for one page.
const SCANNED_MAX: usize = 2_000;

/// Read at once.
const STEP: usize = 64;

/// Which page.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Where it begins; `None` is the thread with the latest event.
    pub from: Option<TimelineToken>,
    /// Only those that the reader took part in.
    pub participated: bool,
    /// At most so many.
    pub limit: usize,
}

/// A page of threads.
#[derive(Debug, Default)]
pub struct Page {
    /// The roots; the one whose thread has the latest event first.
    pub chunk: Vec<Box<RawValue>>,
    /// Where the next one begins.
    pub next: Option<TimelineToken>,
}

/// See the module.
pub struct Threads {
    rooms: Arc<Rooms>,
    clock: Clock,
}

impl Threads {
    /// Over these rooms.
    pub fn new(rooms: Arc<Rooms>, clock: Clock) -> Self {
        Self { rooms, clock }
    }

    /// A page of the room's threads.
    ///
    /// # Errors
    /// 403 for those who may see nothing of the room.
    pub fn page(&self, reader: Reader<'_>, room_id: &RoomId, wanted: Wanted) -> Result<Page, MatrixError> {
        let view = RoomView::new(&self.rooms);
        let mut viewer = Viewer::new(view, room_id, reader.user_id)?;
        viewer.require_some_access(room_id)?;
        let shower = Shower::new(view, (reader.user_id, reader.device_id), self.clock.now_ms());
        let ignored = ignored_users(view.database(), reader.user_id)?;
        let mut page = Page::default();
        let mut at = wanted.from.map_or(i64::MAX, |token| token.0);
        let mut scanned = 0;
        loop {
            let step = rows::threads(view.database(), room_id, at, STEP)?;
            let is_last = step.len() < STEP;
            for (latest, root) in step {
                if page.chunk.len() >= wanted.limit.clamp(1, PAGE_MAX) || scanned >= SCANNED_MAX {
                    page.next = Some(TimelineToken(latest));
                    return Ok(page);
                }
                scanned += 1;
                at = latest.saturating_sub(1);
                let Some(held) = view.event_in(room_id, &root)? else { continue };
                if wanted.participated && !self.took_part(reader, &held)? || !viewer.may_see(&held)? {
                    continue;
                }
                let shown = if ignored.contains(held.pdu.sender().as_str()) {
                    shower.show_emptied(&held.pdu, Shape::Full)?
                } else {
                    shower.show(&held.pdu, Shape::Full, Detail::Timeline)?
                };
                // All of it may be hidden, or the reader's part of it taken back.
                if participation(&shown).is_some_and(|took_part| took_part || !wanted.participated) {
                    page.chunk.push(shown);
                }
            }
            if is_last {
                return Ok(page);
            }
        }
    }

    fn took_part(&self, reader: Reader<'_>, root: &Held) -> Result<bool, MatrixError> {
        let database = RoomView::new(&self.rooms).database();
        Ok(root.pdu.sender() == reader.user_id
            || rows::is_participant(database, &root.meta.room_id, root.pdu.event_id(), reader.user_id)?)
    }

    /// Refuses content that would begin a thread at an event that relates to
    /// another ("Validation of `m.thread` relationships").
    ///
    /// # Errors
    /// 400 `M_UNKNOWN`.
    pub fn check_root(&self, room_id: &RoomId, sender: &UserId, content: &Value) -> Result<(), MatrixError> {
        let relates_to = &content["m.relates_to"];
        // Who is not in the room is told nothing of its events, and refused later.
        if relates_to["rel_type"] != "m.thread" || !self.rooms.is_joined(room_id, sender)? {
            return Ok(());
        }
        let root = relates_to["event_id"].as_str().and_then(|id| <&EventId>::try_from(id).ok());
        let Some(root) = root else { return Ok(()) };
        let held = RoomView::new(&self.rooms).event_in(room_id, root)?;
        let relates = held.is_some_and(|held| {
            let content = held.pdu.content_object();
            content.get("m.relates_to").is_some_and(|relates_to| relates_to.get("rel_type").is_some())
        });
        if relates {
            return Err(MatrixError::new(
                400,
                "M_UNKNOWN",
                "No thread can begin at an event that relates to another",
            ));
        }
        Ok(())
    }
}

/// Whether the viewer took part, as the bundled summary says; `None` if there is none.
fn participation(shown: &RawValue) -> Option<bool> {
    #[derive(Deserialize)]
    struct Shown {
        unsigned: Unsigned,
    }
    #[derive(Deserialize)]
    struct Unsigned {
        #[serde(rename = "m.relations")]
        relations: Relations,
    }
    #[derive(Deserialize)]
    struct Relations {
        #[serde(rename = "m.thread")]
        thread: Thread,
    }
    #[derive(Deserialize)]
    struct Thread {
        current_user_participated: bool,
        #[serde(rename = "latest_event")]
        _latest: IgnoredAny,
    }
    let shown: Shown = serde_json::from_str(shown.get()).ok()?;
    Some(shown.unsigned.relations.thread.current_user_participated)
}
