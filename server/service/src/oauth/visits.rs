//! What the page where users manage their accounts remembers: who just logged in there,
//! and which device may replace its user's cross-signing keys.
//!
//! In memory only, for ten minutes, bounded; the oldest give way. A visit is known by a
//! token that only its browser has, and opens nothing but that page. An approval is for
//! one login of one device, so that no other program of the same user can take it away,
//! and for once.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use causeway_storage::devices::TokenHash;
use ruma::{OwnedDeviceId, OwnedUserId};

use crate::{clock::Clock, credential::Credential, devices::Standing, secrets};

/// How long visits and approvals last, in milliseconds.
pub const LIFETIME_MS: u64 = 10 * 60 * 1000;
/// Of each at once.
const ENTRIES_MAX: usize = 10_000;

/// What ends by itself.
type Timed<K, V> = Mutex<HashMap<K, (u64, V)>>;

/// See the module.
pub struct Visits {
    clock: Clock,
    /// By hash of the visit's token.
    begun: Timed<[u8; 32], (OwnedUserId, Credential)>,
    /// By device and its login.
    approvals: Timed<(OwnedUserId, OwnedDeviceId, Option<TokenHash>), ()>,
}

impl Visits {
    /// None yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, begun: Mutex::default(), approvals: Mutex::default() }
    }

    /// The token of a visit by a user who proved who he is.
    pub fn begin(&self, user_id: OwnedUserId, credential: Credential) -> String {
        let token = secrets::token();
        self.put(&self.begun, secrets::hash(&token), (user_id, credential));
        token
    }

    /// Whose visit it is, and what he showed for it.
    pub fn of(&self, token: &str) -> Option<(OwnedUserId, Credential)> {
        let visits = lock(&self.begun);
        let (until_ms, visitor) = visits.get(&secrets::hash(token))?;
        (*until_ms > self.clock.now_ms()).then(|| visitor.clone())
    }

    /// Ends a visit.
    pub fn end(&self, token: &str) {
        lock(&self.begun).remove(&secrets::hash(token));
    }

    /// Lets a device replace its user's cross-signing keys, as long as nobody logs in
    /// to it again.
    pub fn approve(&self, user_id: OwnedUserId, device_id: OwnedDeviceId, login: Option<TokenHash>) {
        self.put(&self.approvals, (user_id, device_id, login), ());
    }

    /// Whether the device may; it may no more after that.
    pub fn take_approval(&self, standing: &Standing) -> bool {
        let Standing { session, login } = standing;
        let key = (session.user_id.clone(), session.device_id.clone(), *login);
        lock(&self.approvals).remove(&key).is_some_and(|(until_ms, ())| until_ms > self.clock.now_ms())
    }

    fn put<K: Eq + Hash + Clone, V>(&self, entries: &Timed<K, V>, key: K, value: V) {
        let now_ms = self.clock.now_ms();
        let mut entries = lock(entries);
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, (until_ms, _)| *until_ms > now_ms);
        }
        if entries.len() >= ENTRIES_MAX {
            let oldest =
                entries.iter().min_by_key(|(_, (until_ms, _))| *until_ms).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| entries.remove(&oldest));
        }
        entries.insert(key, (now_ms.saturating_add(LIFETIME_MS), value));
    }
}

/// A map is whole between statements, so a panic elsewhere is no reason to stop.
fn lock<T>(entries: &Mutex<T>) -> MutexGuard<'_, T> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ruma::{owned_device_id, user_id};

    use super::*;
    use crate::devices::Session;

    #[test]
    fn a_visit_ends_by_itself_or_when_its_user_leaves() {
        let clock = Clock::manual(0);
        let visits = Visits::new(clock.clone());
        let begin = || visits.begin(user_id!("@a:x").to_owned(), Credential::of("hash".to_owned()));
        let (left, late) = (begin(), begin());
        assert_eq!(visits.of(&left).expect("a visit").0, "@a:x");
        visits.end(&left);
        assert!(visits.of(&left).is_none() && visits.of(&late).is_some() && visits.of("").is_none());
        clock.advance(Duration::from_millis(LIFETIME_MS));
        assert!(visits.of(&late).is_none());
    }

    #[test]
    fn an_approval_is_one_devices_once_and_soon() {
        let clock = Clock::manual(0);
        let visits = Visits::new(clock.clone());
        let standing = |device: &str, login: u8| {
            let user_id = user_id!("@a:x").to_owned();
            let session = Session::of(user_id, device.into());
            Standing { session, login: Some([login; 32]) }
        };
        let approve = || {
            visits.approve(user_id!("@a:x").to_owned(), owned_device_id!("D"), Some([1; 32]));
        };
        approve();
        assert!(!visits.take_approval(&standing("E", 1)));
        assert!(!visits.take_approval(&standing("D", 2)), "who logged in to it since");
        assert!(visits.take_approval(&standing("D", 1)) && !visits.take_approval(&standing("D", 1)));
        approve();
        clock.advance(Duration::from_millis(LIFETIME_MS));
        assert!(!visits.take_approval(&standing("D", 1)));
    }
}
