//! What is known of other servers at this moment: which one is being served how
//! much, and who is reachable again.
//!
//! In memory only. How long to leave a silent server alone is kept by the
//! outbound queue.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ruma::{OwnedServerName, ServerName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

/// Servers whose turns are counted before idle ones are forgotten.
const COUNTED_MAX: usize = 10_000;
/// Events that a slow listener may lag behind.
const EVENTS_MAX: usize = 256;

/// Something that was noticed of another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// It answers, or asks, after it could not be reached: now is the time to
    /// catch up.
    Up(OwnedServerName),
    /// It can't be reached.
    Down(OwnedServerName),
}

/// Tells who listens of [`PeerEvent`]s.
#[derive(Clone, Debug)]
pub struct PeerEvents(broadcast::Sender<PeerEvent>);

impl Default for PeerEvents {
    fn default() -> Self {
        Self(broadcast::channel(EVENTS_MAX).0)
    }
}

impl PeerEvents {
    /// From now on. A listener that lags misses events, and is told so.
    pub fn subscribe(&self) -> broadcast::Receiver<PeerEvent> {
        self.0.subscribe()
    }

    /// Tells everybody who listens.
    pub fn tell(&self, event: PeerEvent) {
        // No listener is no error.
        let _listeners = self.0.send(event);
    }
}

/// Counts the requests of each origin that are being served.
#[derive(Debug)]
pub struct Turns {
    per_origin: usize,
    origins: Mutex<HashMap<OwnedServerName, Arc<Semaphore>>>,
}

impl Turns {
    /// At most `per_origin` at once for each origin.
    pub fn new(per_origin: usize) -> Self {
        Self { per_origin: per_origin.max(1), origins: Mutex::default() }
    }

    /// Waits for a turn of `origin`.
    ///
    /// # Panics
    /// Never: the semaphores are not closed.
    pub async fn take(&self, origin: &ServerName) -> OwnedSemaphorePermit {
        let semaphore = self.semaphore(origin);
        semaphore.acquire_owned().await.expect("this semaphore is never closed")
    }

    fn semaphore(&self, origin: &ServerName) -> Arc<Semaphore> {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        if origins.len() >= COUNTED_MAX && !origins.contains_key(origin) {
            origins.retain(|_, semaphore| semaphore.available_permits() < self.per_origin);
        }
        let fresh = || Arc::new(Semaphore::new(self.per_origin));
        Arc::clone(origins.entry(origin.to_owned()).or_insert_with(fresh))
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[tokio::test]
    async fn one_origin_does_not_take_the_turns_of_another() {
        let turns = Turns::new(1);
        let held = turns.take(server_name!("a.example")).await;
        assert_eq!(turns.semaphore(server_name!("a.example")).available_permits(), 0);
        let _other = turns.take(server_name!("b.example")).await;
        drop(held);
        let _again = turns.take(server_name!("a.example")).await;
    }
}
