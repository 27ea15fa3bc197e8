//! The task of one destination: one transaction after the other, with pauses.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use causeway_service::{
    error::Chain,
    outbox::{Outbox, StorageError, TRANSACTION_ROWS_MAX, Transaction},
};
use http::Method;
use ruma::{OwnedEventId, OwnedServerName, ServerName};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::{Sender, tasks::Slot};
use crate::{
    backoff::Backoff,
    client::{ClientError, Request, escape},
    peers::PeerEvent,
};

/// Longest answer to a transaction, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// When a transaction has been under way for this long and its destination is
/// heard from, the answer is taken to be lost and it is sent anew. Doubled each
/// time, so that a destination that is merely slow is given its time.
const STALLED_AFTER: Duration = Duration::from_secs(5);

pub(super) struct Task {
    sender: Sender,
    server: OwnedServerName,
    slot: Arc<Slot>,
    backoff: Backoff,
    /// Of our own disk: what can't be noted down would be sent again and again.
    disk: Backoff,
    /// Rows of the next transaction, at most: fewer after a refusal.
    rows_max: usize,
}

/// The outbox could not be read, which the log says.
struct Unread;

/// The body of `PUT /_matrix/federation/v1/send/{txnId}`.
#[derive(Serialize)]
struct Body<'a> {
    origin: &'a str,
    origin_server_ts: u64,
    pdus: &'a [Box<RawValue>],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    edus: &'a [Box<RawValue>],
}

impl Task {
    pub(super) fn new(sender: Sender, server: OwnedServerName, slot: Arc<Slot>) -> Self {
        Self {
            sender,
            server,
            slot,
            backoff: Backoff::default(),
            disk: Backoff::default(),
            rows_max: TRANSACTION_ROWS_MAX,
        }
    }

    /// Runs until nothing waits, or `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) -> OwnedServerName {
        self.load_backoff().await;
        let mut pending: Option<Transaction> = None;
        let mut patience = STALLED_AFTER;
        loop {
            if !self.pause(&stop).await {
                break;
            }
            if pending.is_none() {
                self.slot.take_again();
                let Ok(next) = self.next().await else {
                    self.disk_failed();
                    continue;
                };
                pending = next;
            }
            let Some(transaction) = pending.take() else {
                self.sender.0.metrics.waiting(&self.server, 0);
                if !self.rests(&stop).await && self.end() {
                    break;
                }
                continue;
            };
            let sent = tokio::select! {
                () = stop.cancelled() => break,
                sent = self.send(&transaction) => Some(sent),
                () = self.stalled(patience) => None,
            };
            match sent {
                Some(Ok(refused)) => {
                    patience = STALLED_AFTER;
                    self.delivered(transaction, refused).await;
                }
                Some(Err(error)) if error.is_about_content() => {
                    pending = self.refused(transaction, &error).await;
                }
                Some(Err(error)) => {
                    self.failed(&error).await;
                    pending = Some(transaction);
                }
                None => {
                    tracing::info!(server = %self.server, "heard from while it owes an answer: sending again");
                    patience = patience.saturating_mul(2);
                    pending = Some(transaction);
                }
            }
        }
        self.server
    }

    /// Returns when the destination is heard from, `patience` from now at the
    /// earliest: its being heard from earlier says nothing about the attempt.
    async fn stalled(&self, patience: Duration) {
        tokio::time::sleep(patience).await;
        self.slot.take_heard();
        while !self.slot.take_heard() {
            self.slot.woken().await;
        }
    }

    /// Waits until something that the destination could not take is queued again, or there
    /// is something else to do; false when there is nothing of the kind.
    async fn rests(&self, stop: &CancellationToken) -> bool {
        let now_ms = self.sender.0.clock.now_ms();
        let next = self.write(move |outbox, server| outbox.send_again(server, now_ms)).await;
        let Some(next_ms) = next.flatten() else { return false };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(next_ms.saturating_sub(now_ms))) => {}
            () = self.slot.woken() => {}
        }
        true
    }

    /// Ends the task unless something new came: decided under the lock that
    /// whoever brings something new takes first.
    fn end(&self) -> bool {
        let mut slots = self.sender.slots();
        if self.slot.take_again() {
            return false;
        }
        slots.remove(&self.server);
        true
    }

    /// Waits until an attempt may be made; false when told to stop.
    async fn pause(&mut self, stop: &CancellationToken) -> bool {
        loop {
            if stop.is_cancelled() {
                return false;
            }
            let now_ms = self.sender.0.clock.now_ms();
            let waits = [self.backoff, self.disk].map(|one| one.wait(self.sender.0.policy, now_ms));
            let Some(wait) = waits.into_iter().flatten().max() else { return true };
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(wait) => {}
                () = self.slot.woken() => {}
            }
            if self.slot.take_heard() {
                self.backoff.retry_at_ms = 0;
            }
        }
    }

    async fn next(&self) -> Result<Option<Transaction>, Unread> {
        let (outbox, server) = (Arc::clone(&self.sender.0.outbox), self.server.clone());
        let now_ms = self.sender.0.clock.now_ms();
        let fresh_id = fresh_id(now_ms);
        let rows_max = self.rows_max;
        let found =
            tokio::task::spawn_blocking(move || outbox.next(&server, &fresh_id, now_ms, rows_max)).await;
        match found {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                tracing::error!(server = %self.server, error = %Chain(&error), "the outbox can't be read");
                Err(Unread)
            }
            Err(error) => {
                tracing::error!(server = %self.server, %error, "the outbox can't be read");
                Err(Unread)
            }
        }
    }

    #[tracing::instrument(name = "federation.transaction.send", level = "debug", skip_all,
        fields(server.address = %self.server, pdus = transaction.pdus.len(), edus = transaction.edus.len()))]
    async fn send(&self, transaction: &Transaction) -> Result<BTreeSet<OwnedEventId>, ClientError> {
        let body = Body {
            origin: self.sender.0.client.server_name().as_str(),
            origin_server_ts: transaction.origin_server_ts,
            pdus: &transaction.pdus,
            edus: &transaction.edus,
        };
        let path = format!("/_matrix/federation/v1/send/{}", escape(&transaction.id));
        let mut request = Request::new(&self.server, Method::PUT, &path).json(&body)?;
        request.response_bytes_max = ANSWER_BYTES_MAX;
        let sent = request.body.as_ref().map_or(0, Vec::len);
        let answer = self.sender.0.client.send_ok(request).await?;
        self.sender.0.metrics.exchanged(sent + answer.body.len());
        Ok(self.refused_of(transaction, &answer.body))
    }

    /// The events that the peer took with an error, each worth a line: it tells of a
    /// disagreement, or of what the peer could not get.
    fn refused_of(&self, transaction: &Transaction, answer: &[u8]) -> BTreeSet<OwnedEventId> {
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Answer {
            pdus: BTreeMap<OwnedEventId, Refused>,
        }
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Refused {
            error: Option<String>,
        }
        let Ok(mut answer) = serde_json::from_slice::<Answer>(answer) else { return BTreeSet::new() };
        let mut refused = BTreeSet::new();
        for event_id in transaction.events() {
            if let Some(error) = answer.pdus.remove(event_id).and_then(|result| result.error) {
                tracing::warn!(server = %self.server, %event_id, error, "an event was refused");
                refused.insert(event_id.clone());
            }
        }
        refused
    }

    /// The destination will not have this transaction, which may be for the sake
    /// of one thing in it. Synapse repeats such a transaction, with pauses, until
    /// they are so long that it turns to the last events of each room. Here it is
    /// halved until what is refused stands alone, and that is set aside: repeated
    /// for ever it would keep back everything after it. It is not lost to the
    /// destination: the next event of its room names it, and that failing, the
    /// room's last events are sent again later ([`Outbox::catch_up`]). A
    /// destination that refuses even an empty transaction refuses us, not what we
    /// send: that is an outage like any other.
    ///
    /// Answers what is to be sent again as it is.
    ///
    /// [`Outbox::catch_up`]: causeway_service::outbox::Outbox::catch_up
    async fn refused(&mut self, transaction: Transaction, error: &ClientError) -> Option<Transaction> {
        if transaction.rows() == 0 {
            // Short-lived units only: not worth a second try.
            self.failed(error).await;
            return None;
        }
        if transaction.units() > 1 {
            self.rows_max = (transaction.rows() / 2).max(1);
            tracing::info!(server = %self.server, rows = self.rows_max, error = %Chain(error),
                "a transaction is refused: sending less at once");
            let abandoned = self.write(Outbox::abandon).await;
            self.noted(abandoned);
            return None;
        }
        let now_ms = self.sender.0.clock.now_ms();
        if let Err(refusal) = self.send(&Transaction::empty(fresh_id(now_ms), now_ms)).await {
            self.failed(&refusal).await;
            return Some(transaction);
        }
        tracing::warn!(server = %self.server, error = %Chain(error), events = ?transaction.events(),
            "it is refused by itself and set aside");
        self.sender.0.metrics.set_aside();
        let set_aside =
            self.write(move |outbox, server| outbox.set_aside(server, &transaction, now_ms)).await;
        self.noted(set_aside);
        None
    }

    async fn delivered(&mut self, transaction: Transaction, refused: BTreeSet<OwnedEventId>) {
        self.sender.0.metrics.delivered(transaction.pdus.len());
        self.rows_max = self.rows_max.saturating_mul(2).min(TRANSACTION_ROWS_MAX);
        let now_ms = self.sender.0.clock.now_ms();
        let was_away = self.backoff.failures > 0;
        let acknowledged = self.write(move |outbox, server| {
            outbox.answered(server, &transaction, &refused, now_ms)?;
            outbox.acknowledged(server, &transaction)?;
            if was_away {
                outbox.send_again_at_once(server, now_ms)?;
            }
            if !transaction.pdus.is_empty() {
                outbox.catch_up(server, now_ms)?;
            }
            Ok(())
        });
        let acknowledged = acknowledged.await;
        self.noted(acknowledged);
        if self.backoff.failures > 0 {
            tracing::info!(server = %self.server, failures = self.backoff.failures, "reachable again");
            self.backoff = Backoff::default();
            self.slot.set_pausing(false);
            self.keep_backoff().await;
            self.sender.0.peers.tell(PeerEvent::Up(self.server.clone()));
        }
    }

    /// What was to be noted down was, or not: then the next attempt waits.
    fn noted(&mut self, written: Option<()>) {
        match written {
            Some(()) => self.disk = Backoff::default(),
            None => self.disk_failed(),
        }
    }

    fn disk_failed(&mut self) {
        let now_ms = self.sender.0.clock.now_ms();
        self.disk = self.disk.failed(self.sender.0.policy, now_ms, rand::random());
    }

    async fn failed(&mut self, error: &ClientError) {
        let now_ms = self.sender.0.clock.now_ms();
        let first = self.backoff.failures == 0;
        self.backoff = self.backoff.failed(self.sender.0.policy, now_ms, rand::random());
        if let ClientError::Status { retry_after_ms: Some(after), .. } = error {
            let longest = u64::try_from(self.sender.0.policy.longest.as_millis()).unwrap_or(u64::MAX);
            self.backoff.retry_at_ms = self.backoff.retry_at_ms.max(now_ms + (*after).min(longest));
        }
        let pause_ms = self.backoff.retry_at_ms.saturating_sub(now_ms);
        tracing::info!(server = %self.server, pause_ms, error = %Chain(error), "can't be reached");
        // What was heard before this attempt failed says nothing of after it.
        self.slot.take_heard();
        self.slot.set_pausing(true);
        self.sender.0.metrics.not_delivered();
        self.keep_backoff().await;
        if first {
            self.sender.0.peers.tell(PeerEvent::Down(self.server.clone()));
        }
    }

    async fn load_backoff(&mut self) {
        let (outbox, server) = (Arc::clone(&self.sender.0.outbox), self.server.clone());
        if let Ok(Ok(met)) = tokio::task::spawn_blocking(move || outbox.met(&server)).await {
            self.backoff = Backoff { failures: met.failures, retry_at_ms: met.retry_at_ms };
            self.slot.set_pausing(met.failures > 0);
        }
    }

    async fn keep_backoff(&self) {
        let Backoff { failures, retry_at_ms } = self.backoff;
        // Counting reads what waits.
        let counts = self.sender.0.metrics.are_read();
        let kept = self.write(move |outbox, server| {
            outbox.set_pause(server, failures, retry_at_ms)?;
            counts.then(|| outbox.depth(server)).transpose()
        });
        if let Some(Some(depth)) = kept.await {
            self.sender.0.metrics.waiting(&self.server, depth);
        }
    }

    /// Does something with the outbox on a blocking thread.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Outbox, &ServerName) -> Result<T, StorageError> + Send + 'static,
    ) -> Option<T> {
        let (outbox, server) = (Arc::clone(&self.sender.0.outbox), self.server.clone());
        match tokio::task::spawn_blocking(move || work(&outbox, &server)).await {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(error)) => {
                tracing::error!(server = %self.server, error = %Chain(&error), "the outbox can't be written");
            }
            Err(error) => tracing::error!(server = %self.server, %error, "the outbox can't be written"),
        }
        None
    }
}

fn fresh_id(now_ms: u64) -> String {
    format!("{now_ms}-{:016x}", rand::random::<u64>())
}
