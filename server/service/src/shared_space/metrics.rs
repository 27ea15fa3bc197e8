//! What is counted in shared spaces.
//!
//! The instruments belong to the global meter; without an exporter they cost
//! nothing. No room, user or key is an attribute: only kinds and reasons. What is
//! measured by room and peer is in [`super::gauges`].

use std::time::Duration;

use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Histogram},
};

/// Upper bounds of what a change may have taken to come here (s): from a fast link to a month apart.
const ARRIVAL_BOUNDARIES_S: [f64; 16] = [
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
    30.0,
    120.0,
    600.0,
    3_600.0,
    21_600.0,
    86_400.0,
    2_592_000.0,
];

/// The instruments.
#[derive(Debug)]
pub struct Metrics {
    writes: Counter<u64>,
    joined: Counter<u64>,
    arrival: Histogram<f64>,
    refused: Counter<u64>,
    conflicts: Counter<u64>,
    told: Counter<u64>,
    settlements: Counter<u64>,
}

impl Metrics {
    /// The instruments of the global meter.
    pub fn new() -> Self {
        let meter = global::meter("causeway");
        let counter = |name: &'static str, what: &'static str| {
            meter.u64_counter(name).with_description(what).with_unit("{change}").build()
        };
        // What steps only now and then is there from the start: the first step shows only beside a zero.
        let rare = |name, what| {
            let counter = counter(name, what);
            counter.add(0, &[]);
            counter
        };
        Self {
            writes: counter("causeway.space.writes", "Changes written on this server and acknowledged"),
            joined: counter("causeway.space.joined", "Changes of other servers that became held"),
            arrival: meter
                .f64_histogram("causeway.space.arrival.duration")
                .with_unit("s")
                .with_description(
                    "Time from a change's writing, by its server's clock, until it was held here",
                )
                .with_boundaries(ARRIVAL_BOUNDARIES_S.to_vec())
                .build(),
            refused: counter(
                "causeway.space.refused",
                "Changes of other servers that were refused, and messages that can't be read, by reason",
            ),
            conflicts: rare("causeway.space.conflicts", "Items that came to be in conflict"),
            told: rare("causeway.space.conflicts.told", "Conflicts that were told in a room by this server"),
            settlements: rare("causeway.space.settlements", "Conflicts settled by a reaction or a reply"),
        }
    }

    /// Changes were written, by this way (`api`, `state`, `settlement`, `adoption`).
    pub fn wrote(&self, count: u64, way: &'static str) {
        self.writes.add(count, &[KeyValue::new("way", way)]);
    }

    /// Changes of others became held, so long (ms) after each was written.
    pub fn joined(&self, took_ms: &[u64]) {
        self.joined.add(took_ms.len() as u64, &[]);
        for took_ms in took_ms {
            self.arrival.record(Duration::from_millis(*took_ms).as_secs_f64(), &[]);
        }
    }

    /// A change of another server was refused.
    pub fn refused(&self, reason: &'static str) {
        self.refused.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// Items came to be in conflict.
    pub fn conflicts(&self, count: u64) {
        self.conflicts.add(count, &[]);
    }

    /// A conflict was told.
    pub fn told(&self) {
        self.told.add(1, &[]);
    }

    /// A conflict was settled from a room.
    pub fn settled(&self) {
        self.settlements.add(1, &[]);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
