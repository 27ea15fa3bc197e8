//! Badges: whose push gateways are to be told a new number of unread messages, because
//! the user has read something, on whatever device (push gateway API: "or update the
//! number of unread notifications a user has").
//!
//! Kept in memory only: what a restart forgets is told with the next notification.
//! Not here: counting ([`crate::sync`]), what is told and when it is sent
//! ([`crate::pushes`]).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use causeway_storage::{
    Database, StorageError,
    push_queue::{self as queue, PusherKey},
};
use ruma::UserId;

use crate::{clock::Clock, pushers::gateway};

/// How long a badge waits after something was read: who scrolls reads much in a moment.
const DELAY_MS: u64 = 1_000;

/// Pushers that may wait at once; of more, the badge waits for the next notification.
const WAITING_MAX: usize = 10_000;

/// Numbers that are remembered as told; beyond it they are forgotten, and told again.
const TOLD_MAX: usize = 100_000;

/// Pushers of one user that are told.
const PUSHERS_MAX: usize = 100;

/// See the module.
pub struct Badges {
    database: Database,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// From when on each may be told, in milliseconds since the epoch.
    due: HashMap<PusherKey, u64>,
    /// What each was told last.
    told: HashMap<PusherKey, u64>,
}

impl Badges {
    /// Nobody waits.
    pub fn new(database: Database, clock: Clock) -> Self {
        Self { database, clock, state: Mutex::default() }
    }

    /// The user has read something; whether any gateway waits for that.
    pub fn read(&self, user_id: &UserId) -> Result<bool, StorageError> {
        let now_ms = self.clock.now_ms();
        let mut waits = false;
        for (key, pusher) in queue::pushers_of(&self.database, user_id, PUSHERS_MAX)? {
            let pusher: serde_json::Value = serde_json::from_str(pusher.get()).unwrap_or_default();
            let mut state = self.lock();
            let has_room = state.due.len() < WAITING_MAX || state.due.contains_key(&key);
            if gateway(&pusher).is_none() || !has_room {
                continue;
            }
            waits = true;
            // One that is being told now may have been counted before this.
            let due = state.due.entry(key).or_insert(0);
            if *due <= now_ms {
                *due = now_ms.saturating_add(DELAY_MS);
            }
        }
        Ok(waits)
    }

    /// Pushers whose badge is due, at most `limit`.
    pub fn due(&self, limit: usize) -> Vec<PusherKey> {
        let now_ms = self.clock.now_ms();
        let state = self.lock();
        let due = state.due.iter().filter(|(_, due)| **due <= now_ms);
        due.take(limit).map(|(key, _)| key.clone()).collect()
    }

    /// Since when the badge of this one is due; `None` if it is not.
    pub fn due_since(&self, key: &PusherKey) -> Option<u64> {
        self.lock().due.get(key).copied().filter(|due| *due <= self.clock.now_ms())
    }

    /// How long until the next is due, in milliseconds; `None` if none waits for that.
    pub fn next_ms(&self) -> Option<u64> {
        let now_ms = self.clock.now_ms();
        let state = self.lock();
        state.due.values().filter(|due| **due > now_ms).map(|due| due - now_ms).min()
    }

    /// Whether this is the number that it was told last.
    pub fn knows(&self, key: &PusherKey, unread: u64) -> bool {
        self.lock().told.get(key) == Some(&unread)
    }

    /// It was told this number, which was counted when its badge was due `since`, if it was.
    pub fn told(&self, key: &PusherKey, unread: u64, since: Option<u64>) {
        let mut state = self.lock();
        if state.told.len() >= TOLD_MAX {
            state.told.clear();
        }
        state.told.insert(key.clone(), unread);
        if since.is_some() && state.due.get(key).copied() == since {
            state.due.remove(key);
        }
    }

    /// There is no such pusher any more.
    pub fn forget(&self, key: &PusherKey) {
        let mut state = self.lock();
        state.due.remove(key);
        state.told.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ruma::{device_id, owned_user_id};
    use serde_json::json;

    use super::*;
    use crate::{account_data::AccountData, notify::Notifier, pushers::GATEWAY_PATH};

    #[test]
    fn many_receipts_make_one_badge() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(folder.path(), &causeway_storage::Options::default()).expect("opens");
        let (bob, clock) = (owned_user_id!("@bob:b.c"), Clock::manual(1_000_000));
        let badges = Badges::new(database.clone(), clock.clone());
        assert!(!badges.read(&bob).expect("reads"), "there is no pusher");
        let pusher = json!({ "app_id": "a", "pushkey": "k", "kind": "http", "app_display_name": "a",
            "device_display_name": "d", "lang": "en",
            "data": { "url": format!("https://push.test{GATEWAY_PATH}") } });
        let account_data = AccountData::new(database, std::sync::Arc::new(Notifier::default()));
        account_data.set_pusher(&bob, device_id!("DEV"), &pusher).expect("is set");
        for _ in 0..3 {
            assert!(badges.read(&bob).expect("reads"));
        }
        assert_eq!((badges.due(9).len(), badges.next_ms()), (0, Some(DELAY_MS)));
        clock.advance(Duration::from_millis(DELAY_MS));
        let key = badges.due(9).pop().expect("is due");
        let since = badges.due_since(&key);
        // Something is read while it is told: then it is told again.
        badges.read(&bob).expect("reads");
        badges.told(&key, 3, since);
        assert!(badges.knows(&key, 3) && badges.next_ms().is_some());
        clock.advance(Duration::from_millis(DELAY_MS));
        badges.told(&key, 2, badges.due_since(&key));
        assert!(badges.due(9).is_empty() && badges.knows(&key, 2));
    }
}
