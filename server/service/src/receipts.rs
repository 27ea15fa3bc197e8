//! Read receipts: setting them, and telling of them in /sync.
//!
//! A receipt never moves backwards. Private ones are told to their owner only.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use causeway_storage::{
    Database, StorageError, StreamPosition,
    receipts::{self, FiledReceipt},
};
use ruma::{EventId, OwnedEventId, RoomId, UserId};
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{
    appservices::{Appservices, news::Passing},
    badges::Badges,
    clock::Clock,
    error::MatrixError,
    notify::{Notifier, Topic},
    room_view::RoomView,
    rooms::Rooms,
};

/// Seen by the room.
pub const READ: &str = "m.read";

/// Seen by its owner only.
pub const READ_PRIVATE: &str = "m.read.private";

/// Receipts told of one room in one answer; of more, the latest.
pub const RECEIPTS_TOLD_MAX: usize = 1_000;

/// Receipts that one user has in one room: two types, and threads.
const RECEIPTS_OF_ONE_MAX: usize = 200;

/// How far a user has read a room, as places in its timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadUpTo {
    /// In every thread.
    pub everything: i64,
    /// Outside of threads.
    pub main: i64,
    /// In threads, by their roots.
    pub threads: BTreeMap<OwnedEventId, i64>,
}

impl Default for ReadUpTo {
    fn default() -> Self {
        Self { everything: i64::MIN, main: i64::MIN, threads: BTreeMap::new() }
    }
}

impl ReadUpTo {
    /// In this thread, or outside of threads.
    pub fn of(&self, thread: Option<&EventId>) -> i64 {
        let own = match thread {
            None => self.main,
            Some(root) => self.threads.get(root).copied().unwrap_or(i64::MIN),
        };
        own.max(self.everything)
    }
}

/// The receipts of all rooms.
pub struct Receipts {
    database: Database,
    rooms: Arc<Rooms>,
    notifier: Arc<Notifier>,
    clock: Clock,
    appservices: Arc<Appservices>,
    badges: Badges,
    /// Held from reading the old receipt to committing the new one.
    writing: Mutex<()>,
}

impl Receipts {
    /// Over these rooms.
    pub fn new(
        database: Database,
        rooms: Arc<Rooms>,
        notifier: Arc<Notifier>,
        clock: Clock,
        appservices: Arc<Appservices>,
    ) -> Self {
        let badges = Badges::new(database.clone(), clock.clone());
        Self { database, rooms, notifier, clock, appservices, badges, writing: Mutex::new(()) }
    }

    /// Whose gateways are to be told what was read.
    pub(crate) fn badges(&self) -> &Badges {
        &self.badges
    }

    fn view(&self) -> RoomView<'_> {
        RoomView::new(&self.rooms)
    }

    /// The user has read up to `event_id`. `kind` is [`READ`] or
    /// [`READ_PRIVATE`]; `thread` is `main`, a thread's root or empty.
    ///
    /// # Errors
    /// 404 when the event is not in the room's timeline.
    pub fn set(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        kind: &str,
        thread: &str,
        event_id: &EventId,
    ) -> Result<(), MatrixError> {
        let Some(at) = self.view().position(room_id, event_id)? else {
            return Err(MatrixError::not_found("The event is not in this room"));
        };
        {
            let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            let previous = receipts::receipt(&self.database, room_id, user_id, kind, thread)?;
            if let Some(previous) = &previous
                && self.view().position(room_id, &previous.event_id)?.is_some_and(|before| before >= at)
            {
                return Ok(());
            }
            let mut batch = self.database.batch();
            let now_ms = self.clock.now_ms();
            receipts::put_receipt(
                &mut batch,
                room_id,
                (user_id, kind, thread),
                (event_id, now_ms),
                previous.as_ref(),
            );
            self.database.commit_durable(batch)?;
        }
        match kind {
            READ_PRIVATE => self.notifier.notify([&Topic::User(user_id.to_owned())]),
            _ => self.notifier.notify([&Topic::Room(room_id.to_owned())]),
        }
        if self.badges.read(user_id)? {
            self.notifier.notify([&Topic::Badges]);
        }
        self.appservices.pass(&Passing::Receipt {
            room_id: room_id.to_owned(),
            user_id: user_id.to_owned(),
            kind: kind.to_owned(),
            thread: thread.to_owned(),
        });
        Ok(())
    }

    /// How far the user has read the room, by receipts of either kind.
    pub fn read_up_to(&self, room_id: &RoomId, user_id: &UserId) -> Result<ReadUpTo, MatrixError> {
        let mut read = ReadUpTo::default();
        let place = |event_id: &EventId| self.view().position(room_id, event_id);
        // These by name: of receipts in threads there may be very many.
        for kind in [READ, READ_PRIVATE] {
            for (thread, furthest) in [("", &mut read.everything), ("main", &mut read.main)] {
                if let Some(receipt) = receipts::receipt(&self.database, room_id, user_id, kind, thread)? {
                    *furthest = (*furthest).max(place(&receipt.event_id)?.unwrap_or(i64::MIN));
                }
            }
        }
        for filed in receipts::receipts_of(&self.database, room_id, user_id, RECEIPTS_OF_ONE_MAX)? {
            if let Ok(root) = OwnedEventId::try_from(filed.thread.as_str())
                && let Some(at) = place(&filed.receipt.event_id)?
            {
                let furthest = read.threads.entry(root).or_insert(at);
                *furthest = at.max(*furthest);
            }
        }
        Ok(read)
    }

    /// The `m.receipt` event that tells `user_id` of what was set in
    /// `(since, until]`; `None` if nothing was.
    pub fn told(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        since: StreamPosition,
        until: StreamPosition,
    ) -> Result<Option<Box<RawValue>>, StorageError> {
        let mut set = receipts::receipts_since(&self.database, room_id, since, until, RECEIPTS_TOLD_MAX)?;
        set.retain(|filed| filed.kind != READ_PRIVATE || filed.user_id == user_id);
        Ok(event(&set))
    }

    /// The `m.receipt` event that tells `user_id` of the receipts of these
    /// events, and of his own, up to `until`; `None` if there are none.
    pub fn told_of(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        events: &[Box<RawValue>],
        until: StreamPosition,
    ) -> Result<Option<Box<RawValue>>, StorageError> {
        #[derive(serde::Deserialize)]
        struct Head {
            event_id: OwnedEventId,
        }
        let shown = events.iter().filter_map(|event| serde_json::from_str::<Head>(event.get()).ok());
        let shown: BTreeSet<OwnedEventId> = shown.map(|head| head.event_id).collect();
        let mut set = if shown.is_empty() {
            Vec::new()
        } else {
            let start = StreamPosition(0);
            receipts::receipts_since(&self.database, room_id, start, until, RECEIPTS_TOLD_MAX)?
        };
        set.retain(|filed| {
            filed.user_id != user_id && filed.kind != READ_PRIVATE && shown.contains(&filed.receipt.event_id)
        });
        let own = receipts::receipts_of(&self.database, room_id, user_id, RECEIPTS_OF_ONE_MAX)?;
        set.extend(own.into_iter().filter(|filed| filed.receipt.position <= until));
        Ok(event(&set))
    }
}

/// The `m.receipt` event of one receipt, if there is one.
pub(crate) fn receipt_event(
    database: &Database,
    room_id: &RoomId,
    user_id: &UserId,
    kind: &str,
    thread: &str,
) -> Result<Option<Value>, StorageError> {
    let receipt = receipts::receipt(database, room_id, user_id, kind, thread)?;
    Ok(receipt.map(|receipt| {
        let (kind, thread) = (kind.to_owned(), thread.to_owned());
        let set = [FiledReceipt { user_id: user_id.to_owned(), kind, thread, receipt }];
        json!({ "type": "m.receipt", "content": content(&set) })
    }))
}

fn event(set: &[FiledReceipt]) -> Option<Box<RawValue>> {
    if set.is_empty() {
        return None;
    }
    to_raw_value(&json!({ "type": "m.receipt", "content": content(set) })).ok()
}

/// event id -> type -> user id -> time and thread.
fn content(set: &[FiledReceipt]) -> Value {
    let mut content: BTreeMap<&str, BTreeMap<&str, Map<String, Value>>> = BTreeMap::new();
    for FiledReceipt { user_id, kind, thread, receipt } in set {
        let mut entry = json!({ "ts": receipt.ts_ms });
        if !thread.is_empty() {
            entry["thread_id"] = thread.as_str().into();
        }
        let users = content.entry(receipt.event_id.as_str()).or_default().entry(kind).or_default();
        // There is room for one: that for everything says more (MSC4102).
        if thread.is_empty() || !users.contains_key(user_id.as_str()) {
            users.insert(user_id.to_string(), entry);
        }
    }
    json!(content)
}
