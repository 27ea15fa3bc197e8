//! Whose turn it is: how much is being done at a time for each of many, as requests of an
//! origin or writes to a room, so that none of them takes what the others need.
//!
//! In memory only. Invariant: who has no turn waits without a thread.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Those that are counted before idle ones are forgotten.
const COUNTED_MAX: usize = 10_000;

/// Counts what is being done for each of many: requests of an origin, say.
#[derive(Debug)]
pub struct Turns<K> {
    each: usize,
    counted: Mutex<HashMap<K, Arc<Semaphore>>>,
}

impl<K: Eq + Hash> Turns<K> {
    /// At most `each` at once for each.
    pub fn new(each: usize) -> Self {
        Self { each: each.max(1), counted: Mutex::default() }
    }

    /// Waits for a turn of `key`.
    ///
    /// # Panics
    /// Never: the semaphores are not closed.
    pub async fn take<Q>(&self, key: &Q) -> OwnedSemaphorePermit
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        self.semaphore(key).acquire_owned().await.expect("these semaphores are never closed")
    }

    /// Waits for a turn of `key`, unless `waiting_max` wait already.
    pub async fn take_among<Q>(&self, key: &Q, waiting_max: usize) -> Option<OwnedSemaphorePermit>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let semaphore = self.semaphore(key);
        // Who holds or awaits a turn holds the semaphore, and so do the map and this.
        if Arc::strong_count(&semaphore) > self.each + waiting_max + 1 {
            return None;
        }
        semaphore.acquire_owned().await.ok()
    }

    /// A turn of `key`, if there is one now.
    pub fn try_take<Q>(&self, key: &Q) -> Option<OwnedSemaphorePermit>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        self.semaphore(key).try_acquire_owned().ok()
    }

    fn semaphore<Q>(&self, key: &Q) -> Arc<Semaphore>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = counted.get(key) {
            return Arc::clone(semaphore);
        }
        if counted.len() >= COUNTED_MAX {
            // Who holds or awaits a turn holds the semaphore, too.
            counted.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        }
        let semaphore = Arc::new(Semaphore::new(self.each));
        counted.insert(key.to_owned(), Arc::clone(&semaphore));
        semaphore
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use ruma::{OwnedServerName, server_name};

    use super::*;

    #[tokio::test]
    async fn one_origin_does_not_take_the_turns_of_another() {
        let turns = Turns::<OwnedServerName>::new(1);
        let held = turns.take(server_name!("a.example")).await;
        assert_eq!(turns.semaphore(server_name!("a.example")).available_permits(), 0);
        let _other = turns.take(server_name!("b.example")).await;
        drop(held);
        let _again = turns.take(server_name!("a.example")).await;
    }

    #[tokio::test]
    async fn a_queue_that_is_long_is_not_joined() {
        let turns = Turns::<OwnedServerName>::new(1);
        let name = server_name!("a.example");
        let held = turns.take_among(name, 2).await.expect("nobody waits");
        let (mut first, mut second) =
            (Box::pin(turns.take_among(name, 2)), Box::pin(turns.take_among(name, 2)));
        assert!(first.as_mut().now_or_never().is_none(), "waits");
        assert!(second.as_mut().now_or_never().is_none(), "waits");
        assert!(turns.take_among(name, 2).await.is_none(), "is one too many");
        drop(held);
        assert!(first.await.is_some(), "has its turn");
        assert!(turns.try_take(name).is_none() || second.await.is_some(), "who waits is next");
    }
}
