//! The driver that fetches device lists of other servers' users: those of which
//! a change was missed, and those that were asked for and are to be held.
//!
//! What is to be fetched is in storage, so nothing is forgotten over a restart.
//! Invariants: one attempt at a time for each user, a few at once for each server
//! and for all ([`Turns`]), and pauses that grow after each failure.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use causeway_service::{
    error::{Chain, MatrixError},
    keys::remote::{Due, Stale, Turns},
    notify::Topic,
};
use http::Method;
use ruma::{OwnedUserId, UserId};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::{Backoff, BackoffPolicy},
    client::{ClientError, Request, escape},
    error::blocking,
    state::FederationState,
};

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest wait for one answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Pauses after failures. A change that is heard of ends them.
const PAUSES: BackoffPolicy =
    BackoffPolicy { first: Duration::from_secs(5), longest: Duration::from_hours(1) };
/// Pauses of a server after failures: short at their longest, since a server that
/// is back does not always say so.
const SERVER_PAUSES: BackoffPolicy =
    BackoffPolicy { first: Duration::from_secs(2), longest: Duration::from_mins(5) };
/// Longest sleep when nothing is known to be due: a bound on what a missed wake-up costs.
const IDLE: Duration = Duration::from_mins(10);

/// What came of an attempt.
struct Ended {
    user_id: OwnedUserId,
    failed: bool,
}

/// Turns are whole between calls, so a panic elsewhere breaks nothing.
fn lock(turns: &Mutex<Turns>) -> MutexGuard<'_, Turns> {
    turns.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fetches until `stop`.
pub(crate) async fn run(state: FederationState, stop: CancellationToken) {
    let subscription = state.services().notifier.subscribe([Topic::DeviceLists]);
    let mut tasks: JoinSet<Ended> = JoinSet::new();
    let turns = Arc::new(Mutex::new(Turns::default()));
    loop {
        let due = due(&state, &turns).await;
        for (user_id, stale) in due.lists {
            tasks.spawn(fetch(state.clone(), user_id, stale));
        }
        let now_ms = state.clock().now_ms();
        let wait = due.next_at_ms.map_or(IDLE, |at| Duration::from_millis(at.saturating_sub(now_ms)));
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = tasks.join_next() => match ended {
                Ok(ended) => note(&mut lock(&turns), &ended, state.clock().now_ms()),
                Err(error) => {
                    tracing::error!(%error, "fetching a device list failed");
                    tasks.shutdown().await;
                    *lock(&turns) = Turns::default();
                }
            },
            () = subscription.changed() => {}
            () = tokio::time::sleep(wait.min(IDLE)) => {}
        }
    }
    tasks.shutdown().await;
}

async fn due(state: &FederationState, turns: &Arc<Mutex<Turns>>) -> Due {
    let (services, begun) = (state.services().clone(), Arc::clone(turns));
    blocking(move || services.keys.due_lists(&mut lock(&begun))).await.unwrap_or_else(|error| {
        tracing::error!(error = %Chain(&error), "stale device lists can't be read");
        // What was begun and is not known would never end.
        *lock(turns) = Turns::default();
        Due::default()
    })
}

fn note(turns: &mut Turns, ended: &Ended, now_ms: u64) {
    let backoff = Backoff { failures: turns.failures(ended.user_id.server_name()), retry_at_ms: 0 };
    let paused = ended.failed.then(|| backoff.failed(SERVER_PAUSES, now_ms, rand::random()).retry_at_ms);
    turns.ended(&ended.user_id, paused);
}

/// One attempt.
async fn fetch(state: FederationState, user_id: OwnedUserId, stale: Stale) -> Ended {
    let fetched = ask(&state, &user_id).await;
    let (services, of) = (state.services().clone(), user_id.clone());
    let now_ms = state.clock().now_ms();
    let noted = blocking(move || match fetched {
        Ok(answer) => match services.keys.list_fetched(&of, stale, &answer) {
            Ok(()) => Ok(false),
            Err(error) => {
                tracing::info!(user_id = %of, error = %Chain(&error), "a device list can't be used");
                pause(&services.keys, &of, stale, now_ms)
            }
        },
        Err(ClientError::Status { status, .. }) if status == http::StatusCode::NOT_FOUND => {
            services.keys.forget_list(&of).map(|()| false)
        }
        Err(error) => {
            tracing::debug!(user_id = %of, error = %Chain(&error), "a device list can't be fetched");
            pause(&services.keys, &of, stale, now_ms)
        }
    });
    let failed = noted.await.unwrap_or_else(|error| {
        tracing::error!(%user_id, error = %Chain(&error), "a fetched device list can't be noted");
        true
    });
    Ended { user_id, failed }
}

/// Notes a failure, which is the answer.
fn pause(
    keys: &causeway_service::keys::Keys,
    user_id: &UserId,
    stale: Stale,
    now_ms: u64,
) -> Result<bool, MatrixError> {
    let backoff = Backoff { failures: stale.failures, retry_at_ms: stale.retry_at_ms };
    let Backoff { failures, retry_at_ms } = backoff.failed(PAUSES, now_ms, rand::random());
    keys.list_not_fetched(user_id, failures, retry_at_ms).map(|()| true)
}

async fn ask(state: &FederationState, user_id: &UserId) -> Result<Value, ClientError> {
    let server = user_id.server_name();
    let path = format!("/_matrix/federation/v1/user/devices/{}", escape(user_id));
    let mut request = Request::new(server, Method::GET, &path);
    request.response_bytes_max = ANSWER_BYTES_MAX;
    request.timeout = Some(FETCH_TIMEOUT);
    let response = state.client().send_ok(request).await?;
    serde_json::from_slice(&response.body)
        .map_err(|error| ClientError::Answer(server.to_owned(), error.to_string()))
}
