//! What is noticed of other servers at this moment: who is reachable again.
//!
//! In memory only. How long to leave a silent server alone is kept by the
//! outbound queue.

use ruma::OwnedServerName;
use tokio::sync::broadcast;

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
