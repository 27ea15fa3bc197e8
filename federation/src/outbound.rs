//! The sender: tells other servers what the outbox holds for them.
//!
//! One task for each destination that something waits for; it ends when nothing
//! does. A transaction is repeated under its id and with its body until it is
//! acknowledged. Pauses between attempts grow, are remembered over a restart,
//! and end at once when the destination is heard from; so does an attempt whose
//! answer seems to be lost. Of the events that are answered for with an error in a
//! transaction that was taken, the last of each room is sent again, with pauses.
//!
//! Invariants: one transaction in flight for each destination, in the order of
//! the outbox; rows go away after a 200, or when what they hold was refused by
//! itself by a server that takes other transactions.

mod destination;
mod tasks;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use causeway_service::{
    Services,
    clock::Clock,
    error::Chain,
    notify::{Notifier, Topic},
    outbox::Outbox,
};
use ruma::{OwnedServerName, ServerName};
use serde_json::value::RawValue;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::BackoffPolicy, client::FederationClient, metrics::Metrics, outbound::tasks::Slot,
    peers::PeerEvents,
};

/// Tells other servers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sender(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    outbox: Arc<Outbox>,
    notifier: Arc<Notifier>,
    client: FederationClient,
    clock: Clock,
    policy: BackoffPolicy,
    peers: PeerEvents,
    metrics: Arc<Metrics>,
    /// Destinations with a task. Locked for moments only, never across a wait.
    slots: Mutex<HashMap<OwnedServerName, Arc<Slot>>>,
}

impl Sender {
    /// A sender that sends nothing until [`Sender::run`].
    pub fn new(
        services: &Services,
        client: FederationClient,
        policy: BackoffPolicy,
        peers: PeerEvents,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (outbox, notifier) = (Arc::clone(&services.outbox), Arc::clone(&services.notifier));
        let (clock, slots) = (services.clock.clone(), Mutex::default());
        Self(Arc::new(Inner { outbox, notifier, client, clock, policy, peers, metrics, slots }))
    }

    /// Queues an advertisement (`{"edu_type", "content"}`) in memory, to leave after
    /// the events that were queued before it. It replaces one of the same `key`
    /// that has not left yet.
    pub fn queue_advertisement(&self, destination: &ServerName, key: impl Into<String>, edu: Box<RawValue>) {
        if destination != self.0.client.server_name() {
            self.0.outbox.queue_after_events(destination, key, edu);
        }
    }

    /// `server` is alive: ends its pause, or an attempt that has long been without an answer.
    pub fn heard_from(&self, server: &ServerName) {
        if let Some(slot) = self.slots().get(server) {
            slot.heard_from();
        }
    }

    /// Whether the last attempt to reach `server` failed and none succeeded since.
    pub fn is_pausing(&self, server: &ServerName) -> bool {
        self.slots().get(server).is_some_and(|slot| slot.is_pausing())
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<OwnedServerName, Arc<Slot>>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends until `stop`. To be run once.
    pub async fn run(self, stop: CancellationToken) {
        let subscription = self.0.notifier.subscribe([Topic::Outbox]);
        self.resume().await;
        let mut tasks = JoinSet::new();
        loop {
            self.start_tasks(&mut tasks, &stop).await;
            tokio::select! {
                () = stop.cancelled() => break,
                () = subscription.changed() => {}
                Some(ended) = tasks.join_next() => self.reap(ended),
            }
        }
        while let Some(ended) = tasks.join_next().await {
            self.reap(ended);
        }
    }

    /// What destinations could not take before a restart is queued again.
    async fn resume(&self) {
        let (outbox, now_ms) = (Arc::clone(&self.0.outbox), self.0.clock.now_ms());
        match tokio::task::spawn_blocking(move || outbox.send_all_again(now_ms)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = %Chain(&error), "the outbox can't be read"),
            Err(error) => tracing::error!(%error, "the outbox can't be read"),
        }
    }

    /// A task that panicked must not silence its destination for good.
    fn reap(&self, ended: Result<OwnedServerName, tokio::task::JoinError>) {
        if let Err(error) = ended {
            tracing::error!(%error, "a destination's task failed; all are looked at again");
            self.slots().retain(|_, slot| Arc::strong_count(slot) > 1);
        }
    }

    async fn start_tasks(&self, tasks: &mut JoinSet<OwnedServerName>, stop: &CancellationToken) {
        let outbox = Arc::clone(&self.0.outbox);
        let destinations = match tokio::task::spawn_blocking(move || outbox.destinations()).await {
            Ok(Ok(destinations)) => destinations,
            Ok(Err(error)) => return tracing::error!(error = %Chain(&error), "the outbox can't be read"),
            Err(error) => return tracing::error!(%error, "the outbox can't be read"),
        };
        for server in destinations {
            let slot = {
                let mut slots = self.slots();
                if let Some(slot) = slots.get(&server) {
                    slot.wake();
                    continue;
                }
                let slot = Arc::new(Slot::new(Notify::new()));
                slots.insert(server.clone(), Arc::clone(&slot));
                slot
            };
            tasks.spawn(destination::Task::new(self.clone(), server, slot).run(stop.clone()));
        }
    }
}
