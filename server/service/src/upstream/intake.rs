//! What happened in the upstream's rooms, as far as it concerns shared spaces: events in the
//! order in which they came, until they were followed.
//!
//! They come by transactions of the upstream, which may be repeated, late, lost or out of
//! order, and by /sync, which brings all of them at last and in order. So an event may be here
//! twice: following it again is harmless, and leaving one out is harmless only if it was taken
//! after all that comes before it.
//!
//! Not here: asking for them, and whether clients see them; who takes something in knows that
//! (`deeds`, of which something may be written, are confirmed before).
//!
//! Invariants: what is taken in is durable before anybody hears that it was; how far a source
//! was heard moves in the batch of the last event that it brought.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use causeway_storage::{
    Batch, Database, Full, StorageError, StreamPosition,
    rooms::Place,
    shared_space::{
        notices,
        pasts::{self, PastRow},
        queues::{self, Queue},
    },
    upstream::{self as rows, Arrived, RoomRow},
};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::value::RawValue;

use super::{
    bearing::{Bearing, bearing, is_about_servers, is_ours},
    facts::Facts,
    ours::Ours,
    strangers::Strangers,
};
use crate::{
    cache::Cache,
    notify::{Notifier, Topic},
    room_event::{RoomEvent, ShownEvent},
    shared_space::ITEM_TYPE,
};

/// Events that may wait to be followed, and their bytes.
pub const WAITING_MAX: Full = Full { rows: 100_000, bytes: 64 << 20 };
/// Transactions whose id is remembered.
const TRANSACTIONS_MAX: usize = 64;
/// Rooms with a shared space.
const ROOMS_MAX: usize = 100_000;
/// Rows in one batch.
const BATCH_ROWS_MAX: usize = 500;
/// Events that are known to be in the intake, in one of two generations.
const RECENT_MAX: usize = 4_096;
/// Why nothing was taken in.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// Too much waits to be followed: the same is to be brought again later.
    #[error("too many events of the homeserver wait to be followed")]
    Full,
    /// Storage failed.
    #[error("events of the homeserver could not be kept")]
    Storage(#[from] StorageError),
}

/// An event as the upstream showed it.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Its room.
    pub room_id: OwnedRoomId,
    /// In the client format; it is checked when it is taken in.
    pub event: Box<RawValue>,
}

/// What brought them.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// A transaction with this id.
    Transaction(&'a str),
    /// This user's /sync, which goes on at that place.
    Sync(&'a UserId, &'a str),
    /// The room's past as it is shown now: the upstream may not know what each event replaced,
    /// and need not say so.
    Past,
    /// They were asked for one by one.
    Asked,
}

/// Events that wait to be followed.
#[derive(Debug)]
pub struct Intake {
    db: Database,
    facts: Arc<Facts>,
    notifier: Arc<Notifier>,
    ours: Ours,
    /// Rooms that are none of ours, and of which others speak.
    strangers: Strangers,
    /// Ids of transactions, oldest first. Held while something is taken in.
    transactions: Mutex<VecDeque<String>>,
    /// Where the last events are.
    recent: Cache<OwnedEventId, u64>,
    /// Where the last event is of those that /sync brought of a room: they are all there, in
    /// its order.
    heard: Mutex<HashMap<OwnedRoomId, u64>>,
    waiting: AtomicUsize,
    /// Nothing waits up to here.
    followed: Mutex<StreamPosition>,
    /// Whether the upstream says what an event replaced.
    tells_replaced: Mutex<bool>,
}

impl Intake {
    /// Over the sidecar's database.
    ///
    /// # Errors
    /// It could not be read.
    pub fn open(db: Database, facts: Arc<Facts>, notifier: Arc<Notifier>) -> Result<Self, StorageError> {
        let rooms = rows::rooms(&db, None, ROOMS_MAX)?.into_iter().map(|(room, _)| room).collect();
        let transactions = rows::transactions(&db)?.into();
        let everything = StreamPosition(u64::MAX);
        let waiting = rows::positions(&db, StreamPosition(0), everything, WAITING_MAX.rows)?.len();
        let tells_replaced = rows::tells_replaced(&db)?;
        Ok(Self {
            db,
            facts,
            notifier,
            ours: Ours::of(rooms),
            strangers: Strangers::default(),
            transactions: Mutex::new(transactions),
            recent: Cache::new(RECENT_MAX),
            heard: Mutex::default(),
            waiting: AtomicUsize::new(waiting),
            followed: Mutex::default(),
            tells_replaced: Mutex::new(tells_replaced),
        })
    }

    /// Whether a transaction was taken in before.
    pub fn has_transaction(&self, id: &str) -> bool {
        lock(&self.transactions).iter().any(|taken| taken == id)
    }

    /// Whether a room has a shared space, as far as is known here.
    pub fn is_ours(&self, room: &RoomId) -> bool {
        self.ours.has(room)
    }

    /// Rooms with a shared space that came to be known since this was last asked; at first, all.
    /// Their topics are [`Topic::Spaces`] and [`Topic::Upstream`].
    pub fn take_new(&self) -> Vec<OwnedRoomId> {
        self.ours.take_new()
    }

    /// Rooms that are none of ours, and of which others speak.
    pub(super) fn strangers(&self) -> &Strangers {
        &self.strangers
    }

    /// What happens in the upstream's rooms is told before it is confirmed: what is known of
    /// them is stale from now on.
    pub fn heard(&self, events: &[Incoming]) -> Vec<Option<RoomEvent>> {
        let read = |incoming: &Incoming| {
            let event = ShownEvent::parse(&incoming.room_id, incoming.event.get());
            let event = event
                .inspect_err(|error| {
                    let error = crate::error::Chain(error);
                    tracing::debug!(room = %incoming.room_id, %error, "an event can't be read");
                })
                .ok()?;
            let event = RoomEvent::from(event);
            self.facts.happened(&event);
            if is_about_servers(&event) {
                self.strangers.forget(event.room_id());
            }
            Some(event)
        };
        events.iter().map(read).collect()
    }

    /// Takes in what concerns shared spaces; how much that was. What can't be read is left out.
    ///
    /// # Errors
    /// Nothing, or only the first of them, was taken in: all are to be brought again.
    pub fn take(&self, events: &[Incoming], origin: Origin<'_>) -> Result<usize, IntakeError> {
        let read = self.heard(events);
        let mut transactions = lock(&self.transactions);
        if let Origin::Transaction(id) = origin
            && transactions.iter().any(|taken| taken == id)
        {
            return Ok(0);
        }
        if self.waiting.load(Ordering::Relaxed) + events.len() > WAITING_MAX.rows
            || rows::is_full(&self.db, Full { rows: usize::MAX, ..WAITING_MAX })?
        {
            return Err(IntakeError::Full);
        }
        let mut wanted: Vec<(&Incoming, RoomEvent)> = Vec::with_capacity(events.len());
        // An event makes its room one of ours, also for those that came with it.
        let new: HashSet<OwnedRoomId> = read
            .iter()
            .flatten()
            .filter(|event| is_ours(event) && self.is_wanted(event))
            .map(|event| event.room_id().to_owned())
            .collect();
        let is_wanted = |event: &RoomEvent| self.is_wanted_in(event, new.contains(event.room_id()));
        for (incoming, event) in events.iter().zip(read) {
            wanted.extend(event.filter(is_wanted).map(|event| (incoming, event)));
        }
        let is_heard = matches!(origin, Origin::Sync(..) | Origin::Past);
        if is_heard {
            wanted = self.not_taken_in_order(wanted);
        }
        let confirmed = !matches!(origin, Origin::Transaction(_));
        for (_, event) in &wanted {
            if confirmed || bearing(event) == Bearing::Deed {
                self.facts.note(event);
            }
        }
        let taken = wanted.len();
        let mut chunks: Vec<_> = wanted.chunks(BATCH_ROWS_MAX).collect();
        let last = chunks.pop().unwrap_or_default();
        for chunk in chunks {
            self.put(chunk, origin, |_| {})?;
        }
        let mut ids = transactions.clone();
        self.put(last, origin, |batch| mark(batch, origin, &mut ids))?;
        if is_heard {
            self.heard_in_order(&wanted);
        }
        *transactions = ids;
        drop(transactions);
        let mut topics = BTreeSet::from([Topic::Stream]);
        let moved = wanted.iter().filter(|(_, event)| is_about_servers(event));
        topics.extend(moved.map(|(_, event)| Topic::Room(event.room_id().to_owned())));
        self.notifier.notify(&topics);
        Ok(taken)
    }

    /// Whether an event is to be followed. A room becomes one of ours by an event of ours.
    pub fn is_wanted(&self, event: &RoomEvent) -> bool {
        self.is_wanted_in(event, is_ours(event))
    }

    fn is_wanted_in(&self, event: &RoomEvent, room_is_ours: bool) -> bool {
        let soft_failed = event.shown().is_some_and(|shown| shown.is_soft_failed());
        !soft_failed && bearing(event) != Bearing::None && (room_is_ours || self.is_ours(event.room_id()))
    }

    /// Without those that were taken in before, after all that comes before them. What comes
    /// after one that was not is taken in again: it may mean something only now.
    fn not_taken_in_order<'e>(
        &self,
        events: Vec<(&'e Incoming, RoomEvent)>,
    ) -> Vec<(&'e Incoming, RoomEvent)> {
        let mut heard = lock(&self.heard);
        let mut again: HashSet<OwnedRoomId> = HashSet::new();
        let mut left = Vec::with_capacity(events.len());
        for (incoming, event) in events {
            let room = event.room_id();
            let position = self.recent.get(event.event_id()).unwrap_or_default();
            if !again.contains(room) && position > heard.get(room).copied().unwrap_or_default() {
                heard.insert(room.to_owned(), position);
            } else {
                again.insert(room.to_owned());
                left.push((incoming, event));
            }
        }
        left
    }

    /// These were brought by /sync, and are in its order now.
    fn heard_in_order(&self, events: &[(&Incoming, RoomEvent)]) {
        let mut heard = lock(&self.heard);
        for (_, event) in events {
            let position = self.recent.get(event.event_id()).unwrap_or_default();
            heard.insert(event.room_id().to_owned(), position);
        }
    }

    fn put(
        &self,
        events: &[(&Incoming, RoomEvent)],
        origin: Origin<'_>,
        also: impl FnOnce(&mut Batch),
    ) -> Result<(), StorageError> {
        let mut batch = self.db.batch();
        let mut tells = *lock(&self.tells_replaced);
        // What came by itself was new to the upstream, which looked then at what it replaced.
        let is_new = matches!(origin, Origin::Transaction(_) | Origin::Sync(..));
        let mut rooms: HashSet<OwnedRoomId> = HashSet::new();
        let mut positions = Vec::with_capacity(events.len());
        for (incoming, event) in events {
            let room = event.room_id();
            if is_ours(event) && !self.is_ours(room) && rooms.insert(room.to_owned()) {
                rows::put_room(&mut batch, room, &RoomRow::default());
            }
            if event.state_key().is_some() {
                let replaces = event.shown().and_then(|shown| shown.replaces());
                if replaces.is_some() && !tells {
                    tells = true;
                    rows::put_tells_replaced(&mut batch);
                }
                if event.kind_text() == ITEM_TYPE {
                    note_past(&mut batch, event, replaces, tells && is_new);
                }
            }
            let (room_id, event_id) = (room.to_owned(), event.event_id().to_owned());
            let arrived = Arrived { room_id, event_id: event_id.clone(), event: incoming.event.clone() };
            // Their order in the batch is that of their positions.
            let position = batch.position();
            rows::put_arrived(&mut batch, position, &arrived);
            positions.push((event_id, position.0));
        }
        also(&mut batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.db.commit_durable(batch)?;
        *lock(&self.tells_replaced) |= tells;
        self.waiting.fetch_add(positions.len(), Ordering::Relaxed);
        for (event_id, position) in positions {
            self.recent.insert(event_id, position);
        }
        self.are_ours(rooms);
        Ok(())
    }

    /// Rooms have a shared space, which may be news.
    fn are_ours(&self, rooms: impl IntoIterator<Item = OwnedRoomId>) {
        if self.ours.add(rooms) {
            self.notifier.notify([&Topic::Spaces, &Topic::Upstream]);
        }
    }

    /// It is known that the upstream says what an event replaced: one that says nothing
    /// replaced nothing.
    ///
    /// # Errors
    /// Storage.
    pub fn tells_replaced(&self) -> Result<(), StorageError> {
        let mut tells = lock(&self.tells_replaced);
        if !*tells {
            let mut batch = self.db.batch();
            rows::put_tells_replaced(&mut batch);
            self.db.commit_durable(batch)?;
            *tells = true;
        }
        Ok(())
    }

    /// Events after `after` that are to be followed, in order.
    ///
    /// # Errors
    /// Storage.
    pub fn stream(&self, after: StreamPosition, limit: usize) -> Result<Vec<Place>, StorageError> {
        let arrived = rows::arrived(&self.db, after, self.db.visible(), limit)?;
        let mut places = Vec::with_capacity(arrived.len());
        for (position, Arrived { room_id, event_id, event }) in arrived {
            // After a restart nothing else has it at hand.
            if self.facts.known_event(&room_id, &event_id).is_none()
                && let Ok(event) = ShownEvent::parse(&room_id, event.get())
            {
                self.facts.note(&event.into());
            }
            places.push(Place { position, room_id, event_id });
        }
        Ok(places)
    }

    /// The event at a position, while it is not followed.
    ///
    /// # Errors
    /// Storage.
    pub fn at(&self, position: StreamPosition) -> Result<Option<RoomEvent>, StorageError> {
        let before = StreamPosition(position.0.saturating_sub(1));
        let Some((_, arrived)) = rows::arrived(&self.db, before, position, 1)?.pop() else { return Ok(None) };
        Ok(ShownEvent::parse(&arrived.room_id, arrived.event.get()).ok().map(Into::into))
    }

    /// Where an event stands in the stream, if it came not long ago.
    pub fn position(&self, event: &EventId) -> Option<u64> {
        self.recent.get(event)
    }

    /// All up to here were followed, and go.
    ///
    /// # Errors
    /// Storage.
    pub fn followed(&self, up_to: StreamPosition) -> Result<(), StorageError> {
        let mut followed = lock(&self.followed);
        // Deleted rows cost a scan time until they are compacted away.
        while *followed < up_to {
            let from = StreamPosition(followed.0 + 1);
            let positions = rows::positions(&self.db, from, up_to, BATCH_ROWS_MAX)?;
            let mut batch = self.db.batch();
            for position in &positions {
                rows::delete_arrived(&mut batch, *position);
            }
            // Losing it in a crash makes them be followed again.
            let _unsynced = self.db.commit(batch)?;
            self.waiting.fetch_sub(positions.len(), Ordering::Relaxed);
            *followed = match positions.last() {
                Some(last) if positions.len() == BATCH_ROWS_MAX => *last,
                _ => up_to,
            };
        }
        Ok(())
    }

    /// Whether an event has had its effect here, or is about to.
    ///
    /// # Errors
    /// Storage.
    pub fn is_taken(&self, event: &RoomEvent) -> Result<bool, StorageError> {
        let (room, id) = (event.room_id(), event.event_id());
        Ok(self.recent.get(id).is_some()
            || notices::change_of_event(&self.db, room, id)?.is_some()
            || queues::queued(&self.db, Queue::Adoption, room, id.as_str())?.is_some()
            || !notices::notices_at(&self.db, room, id, 1)?.is_empty())
    }

    /// Where a reader's /sync goes on.
    ///
    /// # Errors
    /// Storage.
    pub fn since(&self, reader: &UserId) -> Result<Option<String>, StorageError> {
        rows::since(&self.db, reader)
    }

    /// The upstream does not know that place any more, or never did: all that `reader` hears
    /// is to be taken in once more.
    ///
    /// # Errors
    /// Storage.
    pub fn begin_anew(&self, reader: &UserId) -> Result<(), StorageError> {
        let mut batch = self.db.batch();
        rows::delete_since(&mut batch, reader);
        for (room, row) in self.all_rooms()? {
            if row.reader.as_deref() == Some(reader) {
                rows::put_room(&mut batch, &room, &RoomRow { whole: false, ..row });
            }
        }
        self.db.commit_durable(batch)?;
        Ok(())
    }

    /// The rooms with a shared space, and how far they are heard.
    ///
    /// # Errors
    /// Storage.
    pub fn all_rooms(&self) -> Result<Vec<(OwnedRoomId, RoomRow)>, StorageError> {
        rows::rooms(&self.db, None, ROOMS_MAX)
    }

    /// A room is heard by this reader's /sync from now on; `whole`: all that it shows was taken in.
    ///
    /// # Errors
    /// Storage.
    pub fn hear(&self, room: &RoomId, reader: Option<OwnedUserId>, whole: bool) -> Result<(), StorageError> {
        let mut batch = self.db.batch();
        rows::put_room(&mut batch, room, &RoomRow { reader, whole });
        self.db.commit_durable(batch)?;
        self.are_ours([room.to_owned()]);
        Ok(())
    }
}

fn mark(batch: &mut Batch, origin: Origin<'_>, ids: &mut VecDeque<String>) {
    match origin {
        Origin::Transaction(id) => {
            ids.push_back(id.to_owned());
            while ids.len() > TRANSACTIONS_MAX {
                ids.pop_front();
            }
            let ids: Vec<String> = ids.iter().cloned().collect();
            rows::put_transactions(batch, &ids);
        }
        Origin::Sync(reader, since) => rows::put_since(batch, reader, since),
        Origin::Past | Origin::Asked => {}
    }
}

/// What state showed before an item's event, which an adoption of it ends.
fn note_past(batch: &mut Batch, event: &RoomEvent, replaces: Option<&EventId>, tells: bool) {
    let row = match replaces {
        Some(replaced) => PastRow::Shown(replaced.to_owned()),
        None if tells => PastRow::Nothing,
        None => return,
    };
    pasts::put_past(batch, event.room_id(), event.event_id(), &row);
}

/// What is held is whole between statements, so a panic elsewhere is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
