//! Who is typing where. In memory only: it is gone after a restart, as it
//! would be a few seconds later anyway.
//!
//! Each change of a room's list takes the next number of one counter, which
//! /sync puts into its tokens. The counter starts at the wall clock's
//! milliseconds, so that numbers of an earlier run are below those of this one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::{Future, pending},
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use tokio::sync::Notify;

use crate::{
    appservices::{Appservices, news::Passing},
    clock::Clock,
    notify::{Notifier, Topic},
};

/// Longest time that one request makes somebody type, in milliseconds.
pub const TYPING_TIMEOUT_MAX_MS: u64 = 120_000;

/// Most users shown as typing in one room; those who come later are not shown.
pub const TYPING_USERS_MAX: usize = 100;

/// What changed since somebody looked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TypingChanges {
    /// The number of the last change.
    pub changes: u64,
    /// Who types now, for each room where that changed.
    pub by_room: BTreeMap<OwnedRoomId, Vec<OwnedUserId>>,
}

/// The typing notifications of all rooms.
#[derive(Debug)]
pub struct Typing {
    rooms: Mutex<Rooms>,
    clock: Clock,
    notifier: Arc<Notifier>,
    appservices: Arc<Appservices>,
    /// Somebody has begun, who may be the next to stop.
    begun: Notify,
}

#[derive(Debug)]
struct Rooms {
    changes: u64,
    by_room: HashMap<OwnedRoomId, RoomTyping>,
    /// Where somebody stopped by himself, of which application services are not told yet.
    ended: BTreeSet<OwnedRoomId>,
}

#[derive(Debug, Default)]
struct RoomTyping {
    /// The number of its last change.
    changed: u64,
    /// Until when, in milliseconds since the epoch.
    until_ms: BTreeMap<OwnedUserId, u64>,
}

impl Typing {
    /// Nobody types yet.
    pub fn new(clock: Clock, notifier: Arc<Notifier>, appservices: Arc<Appservices>) -> Self {
        let rooms = Rooms { changes: clock.now_ms(), by_room: HashMap::new(), ended: BTreeSet::new() };
        Self { rooms: Mutex::new(rooms), clock, notifier, appservices, begun: Notify::new() }
    }

    /// `user_id` types for `timeout_ms` from now on, or, with `None`, no longer.
    pub fn set(&self, room_id: &RoomId, user_id: &UserId, timeout_ms: Option<u64>) {
        let now_ms = self.clock.now_ms();
        let mut rooms = self.lock();
        let changes = rooms.changes + 1;
        let room = rooms.by_room.entry(room_id.to_owned()).or_default();
        let changed = match timeout_ms {
            Some(timeout_ms)
                if room.until_ms.len() < TYPING_USERS_MAX || room.until_ms.contains_key(user_id) =>
            {
                let until_ms = now_ms.saturating_add(timeout_ms.min(TYPING_TIMEOUT_MAX_MS));
                room.until_ms.insert(user_id.to_owned(), until_ms).is_none()
            }
            Some(_) => false,
            None => room.until_ms.remove(user_id).is_some(),
        };
        if changed {
            room.changed = changes;
            rooms.changes = changes;
        }
        drop(rooms);
        if changed {
            self.notifier.notify([&Topic::Room(room_id.to_owned())]);
            self.appservices.pass(&Passing::Typing(room_id.to_owned()));
        }
        if timeout_ms.is_some() {
            self.begun.notify_one();
        }
    }

    /// Tells application services of who has stopped by himself, which no client's request says;
    /// when somebody will next, if any service wants to know (ms since the epoch).
    fn tell_of_ends(&self) -> Option<u64> {
        let is_wanted = self.appservices.all().iter().any(|service| service.ephemeral.is_some());
        let now_ms = self.clock.now_ms();
        let mut rooms = self.lock();
        if !is_wanted {
            rooms.ended.clear();
            return None;
        }
        let all: Vec<OwnedRoomId> = rooms.by_room.keys().cloned().collect();
        for room_id in &all {
            rooms.expire(room_id, now_ms);
        }
        let ended = mem::take(&mut rooms.ended);
        let next = rooms.by_room.values().filter_map(|room| room.until_ms.values().min()).min().copied();
        drop(rooms);
        for room_id in ended {
            self.appservices.pass(&Passing::Typing(room_id));
        }
        next
    }

    /// Who types in a room.
    pub(crate) fn now(&self, room_id: &RoomId) -> Vec<OwnedUserId> {
        let now_ms = self.clock.now_ms();
        let mut rooms = self.lock();
        rooms.expire(room_id, now_ms);
        rooms.by_room.get(room_id).map(|room| room.until_ms.keys().cloned().collect()).unwrap_or_default()
    }

    /// Who types in those of these rooms where that changed after `since`, and
    /// the number to ask with next time. A number that this run has not reached
    /// counts as 0.
    pub fn changed_since<'a>(
        &self,
        room_ids: impl IntoIterator<Item = &'a RoomId>,
        since: u64,
    ) -> TypingChanges {
        let now_ms = self.clock.now_ms();
        let mut rooms = self.lock();
        let since = if since > rooms.changes { 0 } else { since };
        let mut by_room = BTreeMap::new();
        for room_id in room_ids {
            rooms.expire(room_id, now_ms);
            let Some(room) = rooms.by_room.get(room_id) else { continue };
            let never_told = since == 0 && room.until_ms.is_empty();
            if room.changed > since && !never_told {
                by_room.insert(room_id.to_owned(), room.until_ms.keys().cloned().collect());
            }
        }
        TypingChanges { changes: rooms.changes, by_room }
    }

    /// When the first of those who type in one of these rooms will have
    /// stopped, in milliseconds since the epoch: the time to look again. That is
    /// now if somebody has stopped since the last look, and it is said once: who
    /// looks again and again must not be kept awake by it.
    pub fn next_expiry_ms<'a>(&self, room_ids: impl IntoIterator<Item = &'a RoomId>) -> Option<u64> {
        let now_ms = self.clock.now_ms();
        let mut rooms = self.lock();
        let mut next: Option<u64> = None;
        for room_id in room_ids {
            let expiry = if rooms.expire(room_id, now_ms) {
                Some(now_ms)
            } else {
                rooms.by_room.get(room_id).and_then(|room| room.until_ms.values().min().copied())
            };
            next = next.into_iter().chain(expiry).min();
        }
        next
    }

    /// The next number, for a change of something else that is told with the same token.
    pub fn next_change(&self) -> u64 {
        let mut rooms = self.lock();
        rooms.changes += 1;
        rooms.changes
    }

    fn lock(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells application services of those who stop typing by themselves, until `stop`.
pub async fn run(typing: Arc<Typing>, stop: impl Future<Output = ()>) {
    let mut stop = pin!(stop);
    loop {
        let next_ms = typing.tell_of_ends();
        let due = async {
            match next_ms {
                None => pending().await,
                Some(next_ms) => {
                    let wait_ms = next_ms.saturating_sub(typing.clock.now_ms());
                    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                }
            }
        };
        tokio::select! {
            () = &mut stop => return,
            () = typing.begun.notified() => {}
            () = due => {}
        }
    }
}

impl Rooms {
    /// Forgets who has stopped; says whether anybody has.
    fn expire(&mut self, room_id: &RoomId, now_ms: u64) -> bool {
        let Some(room) = self.by_room.get_mut(room_id) else { return false };
        let before = room.until_ms.len();
        room.until_ms.retain(|_, until_ms| *until_ms > now_ms);
        let has_expired = room.until_ms.len() != before;
        if has_expired {
            self.changes += 1;
            room.changed = self.changes;
            self.ended.insert(room_id.to_owned());
        }
        has_expired
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ruma::{room_id, user_id};

    use super::*;

    fn users(typing: &Typing, since: u64) -> (u64, Option<usize>) {
        let room = room_id!("!a:b.c");
        let told = typing.changed_since([room], since);
        (told.changes, told.by_room.get(room).map(Vec::len))
    }

    #[test]
    fn somebody_who_falls_silent_is_no_longer_typing() {
        let clock = Clock::manual(1_000);
        let typing = Typing::new(clock.clone(), Arc::default(), Arc::new(Appservices::new(Arc::default())));
        let (room, alice) = (room_id!("!a:b.c"), user_id!("@alice:b.c"));
        let (start, nobody) = users(&typing, 0);
        assert_eq!(nobody, None);

        typing.set(room, alice, Some(30_000));
        let (told, typers) = users(&typing, start);
        assert_eq!(typers, Some(1));
        assert_eq!(users(&typing, told), (told, None));
        assert_eq!(typing.next_expiry_ms([room]), Some(31_000));

        clock.advance(Duration::from_secs(30));
        let (told, typers) = users(&typing, told);
        assert_eq!(typers, Some(0));
        typing.set(room, alice, None);
        assert_eq!(users(&typing, told), (told, None), "nothing changed");
        assert_eq!(users(&typing, 0), (told, None), "a newcomer needs no empty list");
    }

    #[test]
    fn who_waits_is_not_kept_awake_by_somebody_who_fell_silent() {
        let clock = Clock::manual(1_000);
        let typing = Typing::new(clock.clone(), Arc::default(), Arc::new(Appservices::new(Arc::default())));
        let (room, alice) = (room_id!("!a:b.c"), user_id!("@alice:b.c"));
        typing.set(room, alice, Some(30_000));
        let (told, _) = users(&typing, 0);
        clock.advance(Duration::from_secs(40));
        assert_eq!(typing.next_expiry_ms([room]), Some(41_000), "there is something to tell");
        assert_eq!(typing.next_expiry_ms([room]), None);
        assert_eq!(users(&typing, told).1, Some(0));
    }

    #[test]
    fn services_are_told_of_who_stopped_by_himself_once() {
        let clock = Clock::manual(1_000);
        let appservices = Arc::new(Appservices::new(Arc::default()));
        let typing = Typing::new(clock.clone(), Arc::default(), Arc::clone(&appservices));
        let (room, alice) = (room_id!("!a:b.c"), user_id!("@alice:b.c"));
        typing.set(room, alice, Some(30_000));
        assert_eq!(typing.tell_of_ends(), None, "nobody wants to know");
        appservices.set(vec![crate::appservices::registration::listening("irc")]);
        assert_eq!(typing.tell_of_ends(), Some(31_000));
        assert!(appservices.take_passing("irc", 9).is_empty());
        clock.advance(Duration::from_secs(30));
        // A client may be the first to notice.
        assert_eq!(users(&typing, 1).1, Some(0));
        assert_eq!(typing.tell_of_ends(), None);
        assert_eq!(appservices.take_passing("irc", 9).len(), 1);
        assert_eq!(typing.tell_of_ends(), None);
        assert!(appservices.take_passing("irc", 9).is_empty(), "once");
    }

    #[test]
    fn a_token_of_another_run_sees_everything() {
        let typing =
            Typing::new(Clock::manual(1_000), Arc::default(), Arc::new(Appservices::new(Arc::default())));
        let (room, alice) = (room_id!("!a:b.c"), user_id!("@alice:b.c"));
        typing.set(room, alice, Some(u64::MAX));
        assert_eq!(users(&typing, u64::MAX).1, Some(1));
        assert_eq!(typing.next_expiry_ms([room]), Some(1_000 + TYPING_TIMEOUT_MAX_MS));
    }
}
