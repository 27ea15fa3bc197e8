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
//! The events themselves are on disk only: here is when each is due.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use causeway_service::outbox::again::{SHORT_PAUSE_MS_MAX, TRIES_MAX, pause_ms};
use ruma::{OwnedRoomId, OwnedServerName, ServerName};
use tokio::sync::Notify;

/// Events that wait, in all and of one server; and their bytes together, on disk.
const WAITING_MAX: Full = Full { events: 100_000, bytes: 512 << 20 };
const WAITING_OF_ONE_MAX: Full = Full { events: 10_000, bytes: 64 << 20 };
/// Of one server, tried at once: others' must not wait for one that stalls.
const OF_ONE_AT_ONCE: usize = 2;
/// No pause of one whose sender is heard from is longer.
const PAUSE_MAX_HEARD: Duration = Duration::from_millis(SHORT_PAUSE_MS_MAX);

/// The room, and who sent the event.
pub(crate) type Key = (OwnedRoomId, OwnedServerName);

/// What is known of an event that waits without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) depth: u64,
    pub(crate) bytes: usize,
}

/// What is to be kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// The event that came, with so many tries.
    New(u32),
    /// The one that was there, with so many tries.
    Old(u32),
    /// None of that room and server.
    Nothing,
}

/// Too much.
#[derive(Clone, Copy)]
struct Full {
    events: usize,
    bytes: usize,
}

/// When an event is due.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    about: About,
    pub(crate) tries: u32,
    /// When it is tried, unless it is being tried.
    at: Option<Instant>,
    /// Whether its pause was shortened.
    is_hurried: bool,
}

/// What of one server waits.
#[derive(Default)]
struct OfOne {
    rooms: BTreeMap<OwnedRoomId, Waiting>,
    /// Those that are not being tried.
    due: BTreeSet<(Instant, OwnedRoomId)>,
    bytes: usize,
}

impl OfOne {
    fn trying(&self) -> usize {
        self.rooms.len() - self.due.len()
    }

    fn remove(&mut self, room_id: &OwnedRoomId) -> Option<Waiting> {
        let waiting = self.rooms.remove(room_id)?;
        if let Some(at) = waiting.at {
            self.due.remove(&(at, room_id.clone()));
        }
        self.bytes -= waiting.about.bytes;
        Some(waiting)
    }

    fn insert(&mut self, room_id: OwnedRoomId, waiting: Waiting) {
        if let Some(at) = waiting.at {
            self.due.insert((at, room_id.clone()));
        }
        self.bytes += waiting.about.bytes;
        self.rooms.insert(room_id, waiting);
    }
}

/// Servers of which nothing waits are not in it.
#[derive(Default)]
struct Index {
    servers: BTreeMap<OwnedServerName, OfOne>,
    events: usize,
    bytes: usize,
}

impl Index {
    fn get(&self, (room_id, origin): &Key) -> Option<&Waiting> {
        self.servers.get(origin)?.rooms.get(room_id)
    }

    fn remove(&mut self, (room_id, origin): &Key) -> Option<Waiting> {
        let of_one = self.servers.get_mut(origin)?;
        let waiting = of_one.remove(room_id)?;
        if of_one.rooms.is_empty() {
            self.servers.remove(origin);
        }
        self.events -= 1;
        self.bytes -= waiting.about.bytes;
        Some(waiting)
    }

    fn insert(&mut self, (room_id, origin): Key, waiting: Waiting) {
        self.remove(&(room_id.clone(), origin.clone()));
        self.events += 1;
        self.bytes += waiting.about.bytes;
        self.servers.entry(origin).or_default().insert(room_id, waiting);
    }

    /// Whether one more of `origin` is one too many.
    fn is_full(&self, origin: &ServerName, bytes: usize) -> bool {
        let (events_of_one, bytes_of_one) =
            self.servers.get(origin).map_or((0, 0), |of_one| (of_one.rooms.len(), of_one.bytes));
        events_of_one >= WAITING_OF_ONE_MAX.events
            || bytes_of_one + bytes > WAITING_OF_ONE_MAX.bytes
            || self.events >= WAITING_MAX.events
            || self.bytes + bytes > WAITING_MAX.bytes
    }
}

/// What waits.
#[derive(Default)]
pub(crate) struct Later {
    index: Mutex<Index>,
    /// Held while a row is made what is known here. Lock order: before `index`.
    pub(crate) writing: Mutex<()>,
    pub(crate) news: Notify,
}

impl Later {
    /// An event that the server of `key` sent, its signatures checked or to be checked when it is
    /// tried; or one that was tried again in vain. Says what is to be kept.
    pub(crate) fn put(&self, key: Key, about: About, now: Instant) -> Kept {
        let mut index = self.lock();
        let before = index.remove(&key);
        // One that comes meanwhile is no other try of what waits, and does not put it off.
        let tries = before.as_ref().map_or(0, |before| before.tries + u32::from(before.at.is_none()));
        let due = now + pause(tries);
        let at = before.as_ref().and_then(|before| before.at).map_or(due, |at| at.min(due));
        let deeper = before.as_ref().map(|before| before.about).filter(|old| old.depth > about.depth);
        let waiting = Waiting { about: deeper.unwrap_or(about), tries, at: Some(at), is_hurried: false };
        if tries >= TRIES_MAX || index.is_full(&key.1, waiting.about.bytes) {
            tracing::info!(origin = %key.1, room = %key.0, tries, "an event is not tried again");
            return Kept::Nothing;
        }
        index.insert(key, waiting);
        drop(index);
        self.news.notify_one();
        if deeper.is_some() { Kept::Old(tries) } else { Kept::New(tries) }
    }

    /// One that is due, or how long none is.
    pub(crate) fn next(&self, now: Instant) -> Result<Key, Option<Duration>> {
        let mut index = self.lock();
        let may = index.servers.iter_mut().filter(|(_, of_one)| of_one.trying() < OF_ONE_AT_ONCE);
        let first = may.filter_map(|(origin, of_one)| {
            let first = of_one.due.first().cloned()?;
            Some((first, origin, of_one))
        });
        let Some(((at, room_id), origin, of_one)) = first.min_by_key(|((at, _), ..)| *at) else {
            return Err(None);
        };
        if at > now {
            return Err(Some(at.saturating_duration_since(now)));
        }
        if let Some(waiting) = of_one.rooms.get_mut(&room_id) {
            waiting.at = None;
        }
        of_one.due.remove(&(at, room_id.clone()));
        Ok((room_id, origin.clone()))
    }

    /// One that was kept over a restart; whether there is room for more.
    pub(crate) fn restore(&self, key: Key, about: About, tries: u32, now: Instant) -> bool {
        let mut index = self.lock();
        if index.events >= WAITING_MAX.events {
            return false;
        }
        if index.get(&key).is_none() {
            let at = Some(now + pause(0));
            index.insert(key, Waiting { about, tries, at, is_hurried: false });
        }
        drop(index);
        self.news.notify_one();
        true
    }

    /// `origin` is alive: what it sent is tried again soon.
    pub(crate) fn heard_from(&self, origin: &ServerName) {
        let mut index = self.lock();
        let Some(of_one) = index.servers.get_mut(origin) else { return };
        let mut is_sooner = false;
        for (room_id, one) in &mut of_one.rooms {
            let sooner = pause(one.tries).saturating_sub(PAUSE_MAX_HEARD);
            // Once, however often it is heard from.
            if let (Some(at), false, false) = (one.at, one.is_hurried, sooner.is_zero())
                && let Some(earlier) = at.checked_sub(sooner)
            {
                of_one.due.remove(&(at, room_id.clone()));
                of_one.due.insert((earlier, room_id.clone()));
                one.at = Some(earlier);
                one.is_hurried = true;
                is_sooner = true;
            }
        }
        drop(index);
        if is_sooner {
            self.news.notify_one();
        }
    }

    /// It was tried; if nobody answered again, it has been put back by now. Whether it is over.
    pub(crate) fn tried(&self, key: &Key) -> bool {
        let mut index = self.lock();
        let is_over = index.get(key).is_some_and(|one| one.at.is_none());
        if is_over {
            index.remove(key);
        }
        is_over
    }

    /// What waits, if something does.
    pub(crate) fn of(&self, key: &Key) -> Option<Waiting> {
        self.lock().get(key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pause(tries: u32) -> Duration {
    Duration::from_millis(pause_ms(tries))
}

#[cfg(test)]
mod tests {
    use causeway_service::clock::Clock;
    use ruma::{room_id, server_name};

    use super::*;

    fn about(depth: u64) -> About {
        About { depth, bytes: 100 }
    }

    fn key(number: usize, origin: &ServerName) -> Key {
        (OwnedRoomId::try_from(format!("!r{number}:a.test")).expect("an id"), origin.to_owned())
    }

    #[test]
    fn what_could_not_be_had_for_long_is_tried_as_soon_as_its_sender_is_heard_from() {
        let (later, now) = (Later::default(), Clock::System.instant());
        let key = key(0, server_name!("b.test"));
        let mut at = now;
        for _ in 0..150 {
            later.put(key.clone(), about(5), at);
            at = later.lock().get(&key).and_then(|one| one.at).expect("waits");
            assert!(later.next(at).is_ok(), "is due");
        }
        later.put(key.clone(), about(5), at);
        let soon = at + Duration::from_millis(SHORT_PAUSE_MS_MAX);
        later.heard_from(server_name!("c.test"));
        assert!(later.next(soon).is_err(), "another says nothing of it");
        later.heard_from(server_name!("b.test"));
        assert!(later.next(soon).is_ok());
        assert_eq!(later.put(key, about(5), soon), Kept::New(151));
    }

    #[test]
    fn events_that_come_meanwhile_neither_put_off_what_waits_nor_count_as_tries() {
        let (later, now) = (Later::default(), Clock::System.instant());
        let key = key(0, server_name!("b.test"));
        for depth in 0..2 * u64::from(TRIES_MAX) {
            let kept = later.put(key.clone(), about(depth), now + Duration::from_millis(depth));
            assert_eq!(kept, Kept::New(0));
        }
        assert_eq!(later.put(key.clone(), about(1), now), Kept::Old(0), "the deepest is kept");
        assert_eq!(later.next(now + pause(0)), Ok(key.clone()), "is due");
        assert_eq!(later.put(key.clone(), about(1), now), Kept::Old(1), "that was a try");
        assert_eq!(later.next(now + pause(1)), Ok(key.clone()), "is due");
        assert!(later.tried(&key) && !later.tried(&key), "it is over, once");
        let index = later.lock();
        assert_eq!((index.servers.len(), index.events, index.bytes), (0, 0, 0));
    }

    #[test]
    fn one_server_does_not_take_all_turns() {
        let (later, now) = (Later::default(), Clock::System.instant());
        let (b, c) = (server_name!("b.test"), server_name!("c.test"));
        for number in 0..3 {
            later.put(key(number, b), about(5), now);
        }
        later.put(key(0, c), about(5), now + pause(0));
        let due: Vec<_> = std::iter::from_fn(|| later.next(now + 2 * pause(0)).ok()).collect();
        let of_c = due.iter().filter(|(_, origin)| origin == c).count();
        assert_eq!((due.len(), of_c), (OF_ONE_AT_ONCE + 1, 1));
    }

    #[test]
    fn much_waits_of_one_server_but_not_without_end() {
        let (later, now) = (Later::default(), Clock::System.instant());
        let (b, c) = (server_name!("b.test"), server_name!("c.test"));
        for number in 0..WAITING_OF_ONE_MAX.events {
            assert_eq!(later.put(key(number, b), about(5), now), Kept::New(0));
        }
        assert_eq!(later.put(key(WAITING_OF_ONE_MAX.events, b), about(5), now), Kept::Nothing);
        assert_eq!(later.put(key(7, b), about(6), now), Kept::New(0), "one that is there already");
        let large = About { depth: 5, bytes: 60_000 };
        let taken = |later: &Later| {
            let all = 0..WAITING_OF_ONE_MAX.events;
            all.take_while(|number| later.put(key(*number, c), large, now) != Kept::Nothing).count()
        };
        assert_eq!(taken(&later), WAITING_OF_ONE_MAX.bytes / large.bytes);
        let room = (room_id!("!r0:a.test").to_owned(), server_name!("d.test").to_owned());
        assert!(later.restore(room.clone(), about(5), 3, now));
        assert_eq!(later.lock().get(&room).map(|one| one.tries), Some(3));
    }
}
