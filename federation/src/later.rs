//! Events whose past, or the key by which they are checked, could not be had because nobody
//! answered: tried again after a while.
//! Who sent them may never do so again (a Synapse does not), and nobody else may have a
//! reason to write in their room.
//!
//! Not here: trying, and the rows that keep them over restarts ([`crate::incoming::again`]).
//!
//! When, is as for what others could not take ([`causeway_service::outbox::again`]): the pauses
//! stay short for half an hour, and one that has become long ends when the sender is heard from.
//!
//! Invariants: of one sender in one room only the deepest is kept, which names the others
//! as its past; how many there are, how often they are tried and how many at once is bounded.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use causeway_room::Pdu;
use causeway_service::{
    outbox::again::{SHORT_PAUSE_MS_MAX, TRIES_MAX, pause_ms},
    rooms::{KeptEvent, VersionRules},
};
use ruma::{OwnedRoomId, OwnedServerName, ServerName};
use tokio::sync::Notify;

/// Events that wait, in all and of one server.
pub(crate) const WAITING_MAX: usize = 512;
const WAITING_OF_ONE_MAX: usize = 32;
/// Of one server, tried at once: others' must not wait for one that stalls.
const OF_ONE_AT_ONCE: usize = 2;
/// No pause of one whose sender is heard from is longer.
const PAUSE_MAX_HEARD: Duration = Duration::from_millis(SHORT_PAUSE_MS_MAX);

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
    /// Whether its pause was shortened.
    is_hurried: bool,
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
    /// An event that the server of `key` sent, its signatures checked or to be checked when it is
    /// tried; or one that was tried again in vain.
    pub(crate) fn put(&self, key: Key, version: &Arc<VersionRules>, pdu: Pdu, now: Instant) {
        let mut waiting = self.lock();
        let (_, origin) = &key;
        let before = waiting.remove(&key);
        // One that comes meanwhile is no other try of what waits, and does not put it off.
        let tries = before.as_ref().map_or(0, |before| before.tries + u32::from(before.at.is_none()));
        let due = now + pause(tries);
        let at = before.as_ref().and_then(|before| before.at).map_or(due, |at| at.min(due));
        let pdu = match before {
            Some(before) if before.pdu.depth() > pdu.depth() => before.pdu,
            _ => pdu,
        };
        let of_one = waiting.keys().filter(|(_, of)| of == origin).count();
        if tries >= TRIES_MAX || waiting.len() >= WAITING_MAX || of_one >= WAITING_OF_ONE_MAX {
            tracing::info!(%origin, event_id = %pdu.event_id(), tries, "it is not tried again");
            return;
        }
        let version = Arc::clone(version);
        waiting.insert(key, Waiting { version, pdu, tries, at: Some(at), is_hurried: false });
        drop(waiting);
        self.news.notify_one();
    }

    /// One that is due, or how long none is.
    pub(crate) fn next(&self, now: Instant) -> Result<(Key, Waiting), Option<Duration>> {
        let mut waiting = self.lock();
        let mut trying: HashMap<OwnedServerName, usize> = HashMap::new();
        for ((_, origin), _) in waiting.iter().filter(|(_, one)| one.at.is_none()) {
            *trying.entry(origin.clone()).or_default() += 1;
        }
        let may = |origin| trying.get(origin).is_none_or(|trying| *trying < OF_ONE_AT_ONCE);
        let waits = waiting.iter_mut().filter(|((_, origin), one)| one.at.is_some() && may(origin));
        let first = waits.min_by_key(|(_, one)| one.at);
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
        let waiting = Waiting { version, pdu, tries, at: Some(now + pause(0)), is_hurried: false };
        self.lock().entry((room_id, origin)).or_insert(waiting);
        self.news.notify_one();
    }

    /// `origin` is alive: what it sent is tried again soon.
    pub(crate) fn heard_from(&self, origin: &ServerName) {
        let mut waiting = self.lock();
        let mut is_sooner = false;
        for (_, one) in waiting.iter_mut().filter(|((_, of), _)| of == origin) {
            let sooner = pause(one.tries).saturating_sub(PAUSE_MAX_HEARD);
            let at = one.at.and_then(|at| at.checked_sub(sooner)).filter(|_| !sooner.is_zero());
            // Once, however often it is heard from.
            if let (Some(at), false) = (at, one.is_hurried) {
                one.at = Some(at);
                one.is_hurried = true;
                is_sooner = true;
            }
        }
        drop(waiting);
        if is_sooner {
            self.news.notify_one();
        }
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

fn pause(tries: u32) -> Duration {
    Duration::from_millis(pause_ms(tries))
}

#[cfg(test)]
mod tests {
    use causeway_service::clock::Clock;
    use ruma::{RoomVersionId, room_id, server_name};
    use serde_json::json;

    use super::*;

    fn event(version: &VersionRules, depth: u64) -> Pdu {
        let event = json!({
            "type": "m.room.message", "room_id": "!r:a.test", "sender": "@a:b.test", "content": {},
            "depth": depth, "prev_events": [], "auth_events": [], "origin_server_ts": 1,
            "hashes": {"sha256": "x"}, "signatures": {},
        });
        Pdu::parse(&version.rules, &event.to_string()).expect("an event")
    }

    #[test]
    fn what_could_not_be_had_for_long_is_tried_as_soon_as_its_sender_is_heard_from() {
        let version = VersionRules::of(&RoomVersionId::V11).expect("is supported");
        let (later, now) = (Later::default(), Clock::System.instant());
        let key = || (room_id!("!r:a.test").to_owned(), server_name!("b.test").to_owned());
        let mut at = now;
        for _ in 0..150 {
            later.put(key(), &version, event(&version, 5), at);
            at = later.lock().get(&key()).and_then(|one| one.at).expect("waits");
            assert!(later.next(at).is_ok(), "is due");
        }
        later.put(key(), &version, event(&version, 5), at);
        let soon = at + Duration::from_millis(SHORT_PAUSE_MS_MAX);
        later.heard_from(server_name!("c.test"));
        assert!(later.next(soon).is_err(), "another says nothing of it");
        later.heard_from(server_name!("b.test"));
        assert!(later.next(soon).is_ok());
        later.put(key(), &version, event(&version, 5), soon);
        assert_eq!(later.of(&key()).map(|one| one.tries), Some(151));
    }

    #[test]
    fn events_that_come_meanwhile_neither_put_off_what_waits_nor_count_as_tries() {
        let version = VersionRules::of(&RoomVersionId::V11).expect("is supported");
        let (later, now) = (Later::default(), Clock::System.instant());
        let key = || (room_id!("!r:a.test").to_owned(), server_name!("b.test").to_owned());
        for depth in 0..2 * u64::from(TRIES_MAX) {
            later.put(key(), &version, event(&version, depth), now + Duration::from_millis(depth));
        }
        let (_, waiting) = later.next(now + pause(0)).expect("is due");
        assert_eq!((waiting.tries, waiting.pdu.depth()), (0, 2 * u64::from(TRIES_MAX) - 1));
    }

    #[test]
    fn one_server_does_not_take_all_turns() {
        let version = VersionRules::of(&RoomVersionId::V11).expect("is supported");
        let (later, now) = (Later::default(), Clock::System.instant());
        let rooms =
            ["!r:a.test", "!s:a.test", "!t:a.test"].map(|id| OwnedRoomId::try_from(id).expect("an id"));
        for room_id in &rooms {
            later.put(
                (room_id.clone(), server_name!("b.test").to_owned()),
                &version,
                event(&version, 5),
                now,
            );
        }
        let c = server_name!("c.test").to_owned();
        later.put((rooms[0].clone(), c.clone()), &version, event(&version, 5), now + pause(0));
        let due: Vec<_> = std::iter::from_fn(|| later.next(now + 2 * pause(0)).ok()).collect();
        let of_c = due.iter().filter(|((_, origin), _)| *origin == c).count();
        assert_eq!((due.len(), of_c), (OF_ONE_AT_ONCE + 1, 1));
    }
}
