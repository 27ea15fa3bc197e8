//! The sender: tells services their transactions.
//!
//! One task for each service, so that none waits for another. A transaction is repeated
//! under its id and with its body until it is acknowledged, over a restart too
//! (`causeway_service::appservice_feed`). Pauses between attempts grow, and end when the
//! service is heard from or registered anew.
//!
//! Invariant: one transaction in flight for each service.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use causeway_service::{
    appservice_feed::{Interest, Next, Transaction},
    appservices::Registration,
    error::MatrixError,
    notify::Topic,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use tokio::{
    sync::Notify,
    task::{Id, JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use super::Host;

/// How long a service may work on a transaction.
const PATIENCE: Duration = Duration::from_mins(1);

/// Pauses after failures: the first, and the longest.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    /// After the first failure.
    pub first: Duration,
    /// No pause is longer.
    pub longest: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_mins(5) }
    }
}

impl Pauses {
    /// After so many failures in a row; `jitter`, in 0..1, shortens it by up to half.
    fn after(self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.longest).mul_f64(1.0 - jitter / 2.0)
    }
}

/// Ends the pauses of services that are heard from.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<Mutex<HashMap<Arc<str>, Arc<Notify>>>>);

impl Heard {
    pub(super) fn from(&self, service: &str) {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notify) = waiting.get(service) {
            notify.notify_one();
        }
    }

    fn of(&self, service: &Arc<str>) -> Arc<Notify> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(waiting.entry(Arc::clone(service)).or_default())
    }

    fn forget(&self, service: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(service);
    }
}

/// Sends until `stop`.
pub(super) async fn run(host: Host, stop: CancellationToken) {
    let news = host.services.notifier.subscribe([Topic::Appservices]);
    let mut tasks: JoinSet<()> = JoinSet::new();
    let mut running: HashMap<Id, Arc<str>> = HashMap::new();
    loop {
        for service in host.services.appservices.all().iter().filter(|service| service.url.is_some()) {
            if !running.values().any(|id| *id == service.id) {
                let task = Task::new(host.clone(), Arc::clone(service));
                running.insert(tasks.spawn(task.run(stop.clone())).id(), Arc::clone(&service.id));
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = news.changed() => {}
            Some(ended) = tasks.join_next_with_id() => {
                let id = ended.as_ref().map_or_else(tokio::task::JoinError::id, |(id, ())| *id);
                let service = running.remove(&id);
                host.heard.forget(service.as_deref().unwrap_or_default());
                if let Err(error) = ended {
                    tracing::error!(%error, service = service.as_deref(), "telling an application service failed");
                }
            }
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// What tells one service.
struct Task {
    host: Host,
    service: Arc<Registration>,
    interest: Interest,
    failures: u32,
    heard: Arc<Notify>,
}

/// Why a transaction is not acknowledged.
type Failure = String;

impl Task {
    fn new(host: Host, service: Arc<Registration>) -> Self {
        let heard = host.heard.of(&service.id);
        Self { host, service, interest: Interest::default(), failures: 0, heard }
    }

    /// Runs until `stop`, or until the service is registered no longer.
    async fn run(mut self, stop: CancellationToken) {
        let news = self.host.services.notifier.subscribe([Topic::Stream, Topic::Appservices]);
        while self.is_registered() {
            let work = async {
                match self.next().await {
                    Ok(Next::Transaction(transaction)) => self.tell(&transaction).await,
                    Ok(Next::More) => {}
                    Ok(Next::Nothing) => news.changed().await,
                    Err(error) => self.failed(&error.to_string()).await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = work => {}
            }
        }
    }

    /// Takes over what changed of its registration.
    fn is_registered(&mut self) -> bool {
        let now = self.host.services.appservices.by_id(&self.service.id);
        let Some(now) = now.filter(|now| now.url.is_some()) else { return false };
        if !Arc::ptr_eq(&now, &self.service) {
            (self.service, self.interest) = (now, Interest::default());
        }
        true
    }

    async fn next(&mut self) -> Result<Next, MatrixError> {
        let (services, service) = (Arc::clone(&self.host.services), Arc::clone(&self.service));
        let mut interest = std::mem::take(&mut self.interest);
        let looked = spawn_blocking(move || {
            let next = services.appservice_feed.next(&service, &mut interest);
            (next, interest)
        });
        let (next, interest) = looked.await.map_err(|error| MatrixError::internal(&error))?;
        self.interest = interest;
        next
    }

    async fn tell(&mut self, transaction: &Transaction) {
        match self.send(transaction).await {
            Ok(()) => {
                if self.failures > 0 {
                    tracing::info!(service = &*self.service.id, "an application service is reached again");
                }
                let (services, id) = (Arc::clone(&self.host.services), Arc::clone(&self.service.id));
                let noted = spawn_blocking(move || services.appservice_feed.acknowledged(&id)).await;
                match noted.map_err(|error| MatrixError::internal(&error)).flatten() {
                    Ok(()) => self.failures = 0,
                    Err(error) => self.failed(&error.to_string()).await,
                }
            }
            Err(failure) => self.failed(&failure).await,
        }
    }

    #[tracing::instrument(name = "appservice.transaction.send", level = "debug", skip_all)]
    async fn send(&self, transaction: &Transaction) -> Result<(), Failure> {
        let id = utf8_percent_encode(&transaction.id, NON_ALPHANUMERIC);
        let path = format!("/_matrix/app/v1/transactions/{id}");
        let body = Some(Bytes::from(transaction.body.get().to_owned()));
        let sent = self.host.client.ask(&self.service, Method::PUT, &path, body, PATIENCE).await;
        let answer = sent.map_err(|error| error.to_string())?;
        if answer.status.is_success() { Ok(()) } else { Err(format!("it answered {}", answer.status)) }
    }

    /// Waits before the next attempt.
    async fn failed(&mut self, failure: &str) {
        self.failures = self.failures.saturating_add(1);
        let pause = self.host.pauses.after(self.failures, rand::random());
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(
            service = &*self.service.id,
            pause_ms,
            failure,
            "an application service can't be told"
        );
        let (services, before) = (Arc::clone(&self.host.services), Arc::clone(&self.service));
        let registered = services.notifier.subscribe([Topic::Appservices]);
        let is_anew = async {
            while services.appservices.by_id(&before.id).is_some_and(|now| Arc::ptr_eq(&now, &before)) {
                registered.changed().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.heard.notified() => {}
            () = is_anew => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses = Pauses { first: Duration::from_secs(1), longest: Duration::from_secs(10) };
        let seconds: Vec<u64> = (1..7).map(|failures| pauses.after(failures, 0.0).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
        assert_eq!(pauses.after(u32::MAX, 1.0), Duration::from_secs(5));
    }
}
