//! What is measured of shared spaces whenever a collector asks: how far each
//! peer of each room is behind, and what waits in each queue.
//!
//! Not the counters ([`super::metrics`]). Rooms and servers are attributes here,
//! so the number of series is bounded; no user and no key ever is one.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use causeway_storage::{
    StorageError,
    shared_space::queues::{self, Queue},
};
use opentelemetry::{KeyValue, global};

use super::{SharedSpace, peers::Lag};
use crate::{error::Chain, gauge::gauge};

/// Pairs of room and peer that are measured; more are left out.
const LAGS_MAX: usize = 500;
/// Rows of a queue that are counted; there may be more.
const DEPTH_MAX: usize = 10_000;
/// For how long the lags that were worked out serve: both gauges are asked at once.
const FRESH_MS: u64 = 1_000;

/// The lags as last worked out, and when (ms since the epoch).
type Fresh = Arc<Mutex<(u64, Arc<Vec<(KeyValue, KeyValue, Lag)>>)>>;

/// Registers the gauges. Only where somebody collects: each answer reads the database.
pub fn observe(space: &Arc<SharedSpace>) {
    let meter = global::meter("causeway");
    let fresh = Fresh::default();
    let lag = |name, unit, what, of: fn(&Lag) -> u64| {
        let (space, fresh) = (Arc::downgrade(space), Arc::clone(&fresh));
        gauge(&meter, (name, unit, what), move |observer| {
            for (room, peer, lag) in lags(&space, &fresh).iter() {
                observer.observe(of(lag), &[room.clone(), peer.clone()]);
            }
        });
    };
    let changes = "Changes held here that a peer did not say it holds, by room and peer";
    lag("causeway.space.lag", "{change}", changes, |lag| lag.changes);
    let age = "Age of the oldest change that a peer lacks, by room and peer";
    lag("causeway.space.lag.age", "s", age, |lag| lag.seconds);
    let space = Arc::downgrade(space);
    let depth = "What waits to be done in shared spaces, by queue; larger ones count as 10000";
    gauge(&meter, ("causeway.space.queue.depth", "{item}", depth), move |observer| {
        let Some(space) = space.upgrade() else { return };
        for (name, queue) in QUEUES {
            match queues::depth(&space.db, queue, DEPTH_MAX) {
                Ok(depth) => observer.observe(depth as u64, &[KeyValue::new("queue", name)]),
                Err(error) => tracing::warn!(error = %Chain(&error), "a queue can't be measured"),
            }
        }
    });
}

const QUEUES: [(&str, Queue); 5] = [
    ("projection", Queue::Projection),
    ("adoption", Queue::Adoption),
    ("notice", Queue::Notice),
    ("media", Queue::Media),
    ("value", Queue::Value),
];

fn lags(space: &Weak<SharedSpace>, fresh: &Fresh) -> Arc<Vec<(KeyValue, KeyValue, Lag)>> {
    let Some(space) = space.upgrade() else { return Arc::default() };
    let mut fresh = fresh.lock().unwrap_or_else(PoisonError::into_inner);
    let now_ms = space.clock.now_ms();
    if now_ms.saturating_sub(fresh.0) >= FRESH_MS {
        match measured(&space) {
            Ok(lags) => *fresh = (now_ms, Arc::new(lags)),
            Err(error) => tracing::warn!(error = %Chain(&error), "the lag of peers can't be measured"),
        }
    }
    Arc::clone(&fresh.1)
}

fn measured(space: &SharedSpace) -> Result<Vec<(KeyValue, KeyValue, Lag)>, StorageError> {
    let mut lags = Vec::new();
    for room in space.rooms_with_peers() {
        for peer in space.peers(&room)? {
            let Some(lag) = peer.lag else { continue };
            if lags.len() >= LAGS_MAX {
                tracing::debug!("more peers than are measured");
                return Ok(lags);
            }
            let room = KeyValue::new("matrix.room", room.to_string());
            lags.push((room, KeyValue::new("server.address", peer.server.to_string()), lag));
        }
    }
    Ok(lags)
}
