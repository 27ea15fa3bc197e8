//! What application services are told: one transaction after the other for each, made of
//! the stream's events that concern it and of what waits for it beside them
//! (application service API, "Pushing events"; MSC3202, MSC4203).
//!
//! Follows the stream from a durable position, so that an event costs its writer nothing.
//! Not here: sending, which is the host door's work.
//!
//! Invariants: a transaction is stored, with the position after it, before it is told, and
//! stays as it is until it is acknowledged; the next one is made after that; events are in
//! the order of the stream, and none that concerns the service is left out.

mod beside;
mod interest;

use std::sync::Arc;

pub use causeway_storage::appservices::Transaction;
use causeway_storage::{
    Database, StreamPosition,
    appservices::{self as rows, Progress},
    key_changes::{self, KeyChange},
    rooms::{self as stream, Place},
};
use ruma::{DeviceId, OwnedUserId, events::room::member::MembershipState};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

pub use self::interest::Interest;
use crate::{
    appservices::{Appservices, Registration},
    client_event::Shape,
    clock::Clock,
    error::MatrixError,
    presence::Presence,
    room_view::RoomView,
    rooms::Rooms,
    secrets,
    shown::{Detail, Shower},
    typing::Typing,
};

/// Events of one transaction.
pub const EVENTS_MAX: usize = 100;
/// Bytes of events in a transaction, unless the last one passes it.
const BYTES_MAX: usize = 1 << 20;
/// Rows of the queue, and short-lived things, in one transaction, each.
const BESIDE_MAX: usize = 100;
/// Changes of keys that are looked at for one transaction.
const KEY_CHANGES_MAX: usize = 1_000;
/// Events of the stream that are looked at in one step.
const STEP_MAX: usize = 100;
/// Steps before what was looked at is noted.
const STEPS_MAX: usize = 20;
/// Services of which something may be stored.
const KNOWN_MAX: usize = 10_000;
/// Characters of the part of a transaction's id that is left to chance: a restored copy
/// of the database must not use an id again.
const ID_CHARS: usize = 16;

/// What is to be done for a service.
#[derive(Debug)]
pub enum Next {
    /// To be told.
    Transaction(Transaction),
    /// To look again.
    More,
    /// To wait for news.
    Nothing,
}

/// See the module.
pub struct Feed {
    database: Database,
    rooms: Arc<Rooms>,
    appservices: Arc<Appservices>,
    typing: Arc<Typing>,
    presence: Arc<Presence>,
    clock: Clock,
}

/// A transaction in the making.
#[derive(Default)]
struct Draft {
    events: Vec<Box<RawValue>>,
    bytes: usize,
    /// Members who are not the service's, as the events say.
    members: Vec<(OwnedUserId, MembershipState)>,
    ephemeral: Vec<Value>,
    to_device: Vec<Value>,
    /// Devices whose keys are counted.
    counted: Vec<(OwnedUserId, ruma::OwnedDeviceId)>,
    lists: Option<Value>,
    /// Rows that it takes out of the queue.
    rows: Vec<StreamPosition>,
}

impl Draft {
    fn is_full(&self) -> bool {
        self.events.len() >= EVENTS_MAX || self.bytes >= BYTES_MAX
    }

    fn is_empty(&self) -> bool {
        let nothing = self.events.is_empty() && self.ephemeral.is_empty() && self.to_device.is_empty();
        nothing && self.counted.is_empty() && self.lists.is_none()
    }

    fn push(&mut self, event: Box<RawValue>) {
        self.bytes += event.get().len();
        self.events.push(event);
    }
}

impl Feed {
    /// Over these services.
    pub fn new(
        rooms: Arc<Rooms>,
        appservices: Arc<Appservices>,
        typing: Arc<Typing>,
        presence: Arc<Presence>,
        clock: Clock,
    ) -> Self {
        let database = RoomView::new(&rooms).database().clone();
        Self { database, rooms, appservices, typing, presence, clock }
    }

    /// Begins to follow the stream for services that are new, and forgets those that are gone.
    pub(crate) fn begin(&self, registrations: &[Registration]) -> Result<(), MatrixError> {
        let mut batch = self.database.batch();
        for gone in rows::known(&self.database, KNOWN_MAX)? {
            if registrations.iter().all(|service| *service.id != *gone || service.url.is_none()) {
                rows::forget(&mut batch, &gone);
            }
        }
        for service in registrations.iter().filter(|service| service.url.is_some()) {
            if rows::progress(&self.database, &service.id)?.is_none() {
                // What was before is not its news.
                rows::put_progress(&mut batch, &service.id, &Progress { position: self.database.visible() });
            }
        }
        if !batch.is_empty() {
            self.database.commit_durable(batch)?;
        }
        Ok(())
    }

    /// The transaction that the service has not acknowledged, or the next one.
    pub fn next(&self, service: &Registration, interest: &mut Interest) -> Result<Next, MatrixError> {
        if let Some(waiting) = rows::transaction(&self.database, &service.id)? {
            return Ok(Next::Transaction(waiting));
        }
        // None: it is registered no longer.
        let Some(Progress { position: from }) = rows::progress(&self.database, &service.id)? else {
            return Ok(Next::Nothing);
        };
        let visible = self.database.visible();
        let changes = self.key_changes(service, from, visible)?;
        let end = if changes.len() < KEY_CHANGES_MAX { visible } else { last_of(&changes, visible) };
        let mut draft = Draft::default();
        let at = self.add_events(service, interest, (from, end), &mut draft)?;
        self.add_queued(service, visible, &mut draft)?;
        self.add_passing(service, interest, &mut draft)?;
        if service.follows_devices {
            let changed = changes.into_iter().filter(|change| change.position <= at);
            self.add_lists(service, interest, changed, &mut draft)?;
        }
        let mut batch = self.database.batch();
        for row in &draft.rows {
            rows::delete_queued(&mut batch, &service.id, *row);
        }
        if at != from {
            rows::put_progress(&mut batch, &service.id, &Progress { position: at });
        }
        if draft.is_empty() {
            if !batch.is_empty() {
                let _unsynced = self.database.commit(batch)?;
            }
            return Ok(if at < visible || !draft.rows.is_empty() { Next::More } else { Next::Nothing });
        }
        let id = format!("{}-{}", self.clock.now_ms(), secrets::alphanumeric(ID_CHARS));
        let transaction = Transaction { id, body: self.body(service, draft)? };
        rows::put_transaction(&mut batch, &service.id, &transaction);
        self.database.commit_durable(batch)?;
        Ok(Next::Transaction(transaction))
    }

    /// The service has the transaction.
    pub fn acknowledged(&self, service: &str) -> Result<(), MatrixError> {
        let mut batch = self.database.batch();
        rows::delete_transaction(&mut batch, service);
        // Lost, it is told once more, under its id.
        let _unsynced = self.database.commit(batch)?;
        Ok(())
    }

    /// Whether something short-lived came since the last transaction was made.
    pub fn has_passing(&self, service: &str) -> bool {
        self.appservices.has_passing(service)
    }

    fn key_changes(
        &self,
        service: &Registration,
        from: StreamPosition,
        until: StreamPosition,
    ) -> Result<Vec<KeyChange>, MatrixError> {
        if !service.follows_devices {
            return Ok(Vec::new());
        }
        Ok(key_changes::between(&self.database, from, until, KEY_CHANGES_MAX)?)
    }

    /// Adds events after a position and up to another, as many as there is room for; up to
    /// where all are in it.
    fn add_events(
        &self,
        service: &Registration,
        interest: &mut Interest,
        (from, end): (StreamPosition, StreamPosition),
        draft: &mut Draft,
    ) -> Result<StreamPosition, MatrixError> {
        let mut at = from;
        for _ in 0..STEPS_MAX {
            let places = stream::stream(&self.database, at, end, STEP_MAX)?;
            for place in &places {
                if draft.is_full() {
                    return Ok(at);
                }
                self.add_event(service, interest, place, draft)?;
                at = place.position;
            }
            if places.len() < STEP_MAX {
                return Ok(end.max(from));
            }
        }
        Ok(at)
    }

    fn add_event(
        &self,
        service: &Registration,
        interest: &mut Interest,
        place: &Place,
        draft: &mut Draft,
    ) -> Result<(), MatrixError> {
        let Some(event) = self.rooms.event(&place.event_id)? else { return Ok(()) };
        if !interest.concerns(&self.rooms, service, place, &event)? {
            return Ok(());
        }
        if let (Some(membership), Some(user_id)) = (event.membership(), event.state_key())
            && let Ok(user_id) = OwnedUserId::try_from(user_id)
            && !service.owns_user(&user_id)
        {
            draft.members.push((user_id, membership));
        }
        let none = <&DeviceId>::from("");
        let shower = Shower::new(RoomView::new(&self.rooms), (&service.sender, none), self.clock.now_ms());
        draft.push(shower.show(&event, Shape::Full, Detail::Timeline)?);
        Ok(())
    }

    fn body(&self, service: &Registration, draft: Draft) -> Result<Box<RawValue>, MatrixError> {
        let mut body = Map::new();
        if let Some(name) = service.ephemeral.filter(|_| !draft.ephemeral.is_empty()) {
            body.insert(name.to_owned(), draft.ephemeral.into());
        }
        if !draft.to_device.is_empty() {
            body.insert("de.sorunome.msc2409.to_device".to_owned(), draft.to_device.into());
        }
        if let Some(lists) = draft.lists {
            body.insert("org.matrix.msc3202.device_lists".to_owned(), lists);
        }
        if !draft.counted.is_empty() {
            let (counts, unused) = self.counts(&draft.counted)?;
            body.insert("org.matrix.msc3202.device_one_time_keys_count".to_owned(), counts);
            body.insert("org.matrix.msc3202.device_unused_fallback_key_types".to_owned(), unused);
        }
        let internal = |error: serde_json::Error| MatrixError::internal(&error);
        let beside = body.into_iter().map(|(name, value)| Ok((name, to_raw_value(&value)?)));
        let mut whole: std::collections::BTreeMap<String, Box<RawValue>> =
            beside.collect::<Result<_, _>>().map_err(internal)?;
        whole.insert("events".to_owned(), to_raw_value(&draft.events).map_err(internal)?);
        to_raw_value(&whole).map_err(internal)
    }
}

fn last_of(changes: &[KeyChange], otherwise: StreamPosition) -> StreamPosition {
    changes.last().map_or(otherwise, |change| change.position)
}
