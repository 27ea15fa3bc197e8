//! What is counted of the traffic with other servers.
//!
//! The instruments belong to the global meter; without an exporter they cost
//! nothing. Only other servers' names, kinds and outcomes are attributes.

use causeway_service::rooms::Received;
use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Gauge},
};
use ruma::ServerName;

/// The instruments.
#[derive(Debug)]
pub struct Metrics {
    /// Whether anybody reads them: what takes work to know is not asked otherwise.
    are_read: bool,
    events_received: Counter<u64>,
    events_sent: Counter<u64>,
    transactions_sent: Counter<u64>,
    transaction_bytes: Counter<u64>,
    requests_refused: Counter<u64>,
    queue_depth: Gauge<u64>,
    inputs_waiting: Gauge<u64>,
    inputs_dropped: Counter<u64>,
}

impl Metrics {
    /// The instruments of the global meter; `are_read` says whether that collects.
    pub fn new(are_read: bool) -> Self {
        let meter = global::meter("causeway");
        let counter = |name: &'static str, unit: &'static str, what: &'static str| {
            meter.u64_counter(name).with_description(what).with_unit(unit).build()
        };
        Self {
            are_read,
            events_received: counter(
                "causeway.federation.events.received",
                "{event}",
                "Room events of other servers, by what became of them",
            ),
            events_sent: counter(
                "causeway.federation.events.sent",
                "{event}",
                "Room events that other servers acknowledged",
            ),
            transactions_sent: counter(
                "causeway.federation.transactions.sent",
                "{transaction}",
                "Attempts to deliver a transaction, by outcome",
            ),
            transaction_bytes: counter(
                "causeway.federation.transaction.size",
                "By",
                "Bodies of acknowledged transactions and of their answers",
            ),
            requests_refused: counter(
                "causeway.federation.requests.refused",
                "{request}",
                "Requests of other servers that were not authenticated, by reason",
            ),
            inputs_waiting: meter
                .u64_gauge("causeway.replication.inputs.waiting")
                .with_description("What waited to be handled in the room that was last told something")
                .with_unit("{message}")
                .build(),
            inputs_dropped: counter(
                "causeway.replication.inputs.dropped",
                "{message}",
                "Messages that a room's replication had no place for; anti-entropy makes up for them",
            ),
            queue_depth: meter
                .u64_gauge("causeway.federation.queue.depth")
                .with_description("What waits to be sent to a server, when last looked at")
                .with_unit("{item}")
                .build(),
        }
    }

    /// An event was looked at; `None`: its signatures or shape were wrong.
    pub fn received(&self, outcome: Option<&Received>) {
        let outcome = match outcome {
            Some(Received::Accepted) => "accepted",
            Some(Received::SoftFailed(_)) => "soft_failed",
            Some(Received::Rejected(_)) => "rejected",
            Some(Received::Duplicate) => "duplicate",
            Some(Received::Missing { .. }) => "incomplete",
            Some(Received::Refused(_)) => "refused",
            None => "invalid",
        };
        self.events_received.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    /// A transaction of `events` was delivered.
    pub fn delivered(&self, events: usize) {
        self.transactions_sent.add(1, &[KeyValue::new("outcome", "delivered")]);
        self.events_sent.add(events as u64, &[]);
    }

    /// The bodies of a delivered transaction and of its answer were this long.
    pub fn exchanged(&self, bytes: usize) {
        self.transaction_bytes.add(bytes as u64, &[]);
    }

    /// A transaction was not delivered.
    pub fn not_delivered(&self) {
        self.transactions_sent.add(1, &[KeyValue::new("outcome", "failed")]);
    }

    /// Something that a server refused by itself will not be sent to it again.
    pub fn set_aside(&self) {
        self.transactions_sent.add(1, &[KeyValue::new("outcome", "set_aside")]);
    }

    /// A request was not authenticated.
    pub fn refused(&self, reason: &'static str) {
        self.requests_refused.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// `waiting` messages are before a room's replication; whether the last of them found a place.
    pub fn room_input(&self, waiting: usize, taken: bool) {
        self.inputs_waiting.record(waiting as u64, &[]);
        self.inputs_dropped.add(u64::from(!taken), &[]);
    }

    /// Whether anybody reads what is measured.
    pub fn are_read(&self) -> bool {
        self.are_read
    }

    /// `depth` things wait for `server`.
    pub fn waiting(&self, server: &ServerName, depth: usize) {
        if !self.are_read {
            return;
        }
        self.queue_depth.record(depth as u64, &[KeyValue::new("server.address", server.to_string())]);
    }
}
