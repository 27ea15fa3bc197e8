//! Events whose past could not be had because nobody answered: tried again after a while.
//! Who sent them may never do so again (a Synapse does not), and nobody else may have a
//! reason to write in their room.
//!
//! Not here: trying, and the rows that keep them over restarts ([`crate::incoming::again`]).
//!
//! Invariants: of one sender in one room only the deepest is kept, which names the others
//! as its past; how many there are, how often they are tried and how many at once is bounded.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use causeway_room::Pdu;
use causeway_service::rooms::{KeptEvent, VersionRules};
use ruma::{OwnedRoomId, OwnedServerName};
use tokio::sync::Notify;

/// Events that wait, in all and of one server.
pub(crate) const WAITING_MAX: usize = 512;
const WAITING_OF_ONE_MAX: usize = 32;
/// How often one is tried: for half an hour.
const TRIES_MAX: u32 = 10;
/// Before the first time; doubled each time.
const PAUSE: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_mins(10);

/// The room, and who sent the event.
pub(crate) type Key = (OwnedRoomId, OwnedServerName);

/// An event that waits.
#[derive(Clone)]
pub(crate) struct Waiting {
    pub(crate) version: Arc<VersionRules>,
    pub(crate) pdu: Pdu,
    pub(crate) tries: u32,
    /// When it is tried, unless it is being tried.
    at: Option<Instant>,
}

/// What waits.
#[derive(Default)]
pub(crate) struct Later {
    waiting: Mutex<BTreeMap<Key, Waiting>>,
    /// Held while a row is made what is kept here. Lock order: before `waiting`.
    pub(crate) writing: Mutex<()>,
    pub(crate) news: Notify,
}

impl Later {
    /// An event that the server of `key` sent, signatures checked, or that was tried again
    /// in vain.
    pub(crate) fn put(&self, key: Key, version: &Arc<VersionRules>, pdu: Pdu, now: Instant) {
        let mut waiting = self.lock();
        let (_, origin) = &key;
        let (tries, pdu) = match waiting.remove(&key) {
            Some(known) if known.pdu.depth() > pdu.depth() => (known.tries + 1, known.pdu),
            Some(known) => (known.tries + 1, pdu),
            None => (0, pdu),
        };
        let of_one = waiting.keys().filter(|(_, of)| of == origin).count();
        if tries >= TRIES_MAX || waiting.len() >= WAITING_MAX || of_one >= WAITING_OF_ONE_MAX {
            tracing::info!(%origin, event_id = %pdu.event_id(), tries, "its past is not asked for again");
            return;
        }
        let pause = PAUSE.saturating_mul(1 << tries.min(TRIES_MAX)).min(PAUSE_MAX);
        waiting.insert(key, Waiting { version: Arc::clone(version), pdu, tries, at: Some(now + pause) });
        drop(waiting);
        self.news.notify_one();
    }

    /// One that is due, or how long none is.
    pub(crate) fn next(&self, now: Instant) -> Result<(Key, Waiting), Option<Duration>> {
        let mut waiting = self.lock();
        let first = waiting.iter_mut().filter(|(_, one)| one.at.is_some()).min_by_key(|(_, one)| one.at);
        match first {
            Some((key, one)) if one.at.is_some_and(|at| at <= now) => {
                one.at = None;
                Ok((key.clone(), one.clone()))
            }
            Some((_, one)) => Err(one.at.map(|at| at.saturating_duration_since(now))),
            None => Err(None),
        }
    }

    /// One that was kept over a restart.
    pub(crate) fn restore(&self, kept: KeptEvent, now: Instant) {
        let KeptEvent { room_id, origin, version, pdu, tries } = kept;
        let waiting = Waiting { version, pdu, tries, at: Some(now + PAUSE) };
        self.lock().entry((room_id, origin)).or_insert(waiting);
        self.news.notify_one();
    }

    /// It was tried; if nobody answered again, it has been put back by now. Whether it is over.
    pub(crate) fn tried(&self, key: &Key) -> bool {
        let mut waiting = self.lock();
        let is_over = waiting.get(key).is_some_and(|one| one.at.is_none());
        if is_over {
            waiting.remove(key);
        }
        is_over
    }

    /// What waits, if something does.
    pub(crate) fn of(&self, key: &Key) -> Option<Waiting> {
        self.lock().get(key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
