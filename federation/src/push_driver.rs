//! The driver of push notifications: tells gateways what waits for them.
//!
//! Here, beside federation, because it needs what federation has: a client that
//! never connects to a denied address, however it is spelled. Which events are
//! told, and how, is decided in `causeway_service::pushes`.
//!
//! Invariants: one request in flight for each pusher, in the order of its queue;
//! a notification goes away after a 2xx, or when the gateway refuses it; a
//! gateway that does not answer is left alone for pauses that grow.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use causeway_service::{
    Services,
    error::{Chain, MatrixError},
    notify::Topic,
    pushes::PusherKey,
};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::{Backoff, BackoffPolicy},
    client::FederationClient,
    state::FederationState,
};

/// Pushers told at once.
const TASKS_MAX: usize = 16;
/// Pushers looked at in one round.
const WAITING_MAX: usize = 1_000;
/// Failures remembered; beyond it they are forgotten, which only shortens pauses.
const FAILURES_MAX: usize = 10_000;
/// The longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_mins(5);
/// The shortest.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// What became of a pusher's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is empty.
    Told,
    /// The gateway did not answer.
    Failed,
}

/// Tells gateways until `stop`.
pub async fn run(state: FederationState, stop: CancellationToken) {
    let services = Arc::clone(state.services());
    let news = services.notifier.subscribe([Topic::Stream, Topic::Badges]);
    let mut telling = Telling {
        client: state.client().clone(),
        policy: state.settings().backoff,
        services,
        tasks: JoinSet::new(),
        busy: HashSet::new(),
        failures: HashMap::new(),
    };
    loop {
        let pause = telling.start().await;
        tokio::select! {
            () = stop.cancelled() => break,
            () = news.changed() => {}
            Some(ended) = telling.tasks.join_next() => telling.note(ended),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

struct Telling {
    client: FederationClient,
    policy: BackoffPolicy,
    services: Arc<Services>,
    tasks: JoinSet<(PusherKey, Outcome)>,
    busy: HashSet<PusherKey>,
    failures: HashMap<PusherKey, Backoff>,
}

impl Telling {
    /// Queues what is new, and starts as many tasks as may run; says how long nothing more is due.
    async fn start(&mut self) -> Duration {
        let services = Arc::clone(&self.services);
        let looked = tokio::task::spawn_blocking(move || {
            services.pushes.follow()?;
            Ok::<_, MatrixError>(services.pushes.waiting(WAITING_MAX)?)
        });
        let waiting = match looked.await {
            Ok(Ok(waiting)) => waiting,
            Ok(Err(error)) => {
                tracing::error!(%error, "notifications can't be queued");
                return PAUSE_MAX;
            }
            Err(error) => {
                tracing::error!(%error, "notifications can't be queued");
                return PAUSE_MAX;
            }
        };
        let now_ms = self.services.clock.now_ms();
        let mut pause =
            self.services.pushes.next_ms().map_or(PAUSE_MAX, Duration::from_millis).min(PAUSE_MAX);
        for pusher in waiting {
            if self.busy.contains(&pusher) {
                continue;
            }
            let failures = self.failures.get(&pusher).copied().unwrap_or_default();
            if let Some(wait) = failures.wait(self.policy, now_ms) {
                pause = pause.min(wait);
            } else if self.busy.len() < TASKS_MAX {
                self.busy.insert(pusher.clone());
                self.tasks.spawn(tell(Arc::clone(&self.services), self.client.clone(), pusher));
            }
        }
        pause.max(PAUSE_MIN)
    }

    fn note(&mut self, ended: Result<(PusherKey, Outcome), tokio::task::JoinError>) {
        match ended {
            Ok((pusher, outcome)) => {
                self.busy.remove(&pusher);
                let before = self.failures.remove(&pusher).unwrap_or_default();
                if outcome == Outcome::Failed {
                    if self.failures.len() >= FAILURES_MAX {
                        self.failures.clear();
                    }
                    let now_ms = self.services.clock.now_ms();
                    self.failures.insert(pusher, before.failed(self.policy, now_ms, rand::random()));
                }
            }
            // Which one is not known: all may be told again.
            Err(error) => {
                tracing::error!(%error, "telling a gateway failed");
                self.tasks.abort_all();
                self.tasks = JoinSet::new();
                self.busy.clear();
            }
        }
    }
}

/// Tells a gateway what waits for one pusher, one after the other.
async fn tell(services: Arc<Services>, client: FederationClient, pusher: PusherKey) -> (PusherKey, Outcome) {
    loop {
        match tell_next(&services, &client, &pusher).await {
            Ok(true) => {}
            Ok(false) => return (pusher, Outcome::Told),
            Err(error) => {
                tracing::info!(error = %Chain(&*error), "a push gateway can't be told");
                return (pusher, Outcome::Failed);
            }
        }
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Whether there was something to tell.
async fn tell_next(
    services: &Arc<Services>,
    client: &FederationClient,
    pusher: &PusherKey,
) -> Result<bool, AnyError> {
    #[derive(Default, Deserialize)]
    struct Answer {
        #[serde(default)]
        rejected: Vec<String>,
    }
    let (asking, key) = (Arc::clone(services), pusher.clone());
    let push = tokio::task::spawn_blocking(move || asking.pushes.next(&key)).await??;
    let Some(push) = push else { return Ok(false) };
    let response = client.notify_gateway(&push.url, &push.body).await?;
    // It will not like it better the next time; all else may be the gateway's state.
    let is_refused = matches!(response.status.as_u16(), 400 | 413);
    if !response.status.is_success() && !is_refused {
        return Err(format!("the gateway answered {}", response.status).into());
    }
    let answer: Answer = serde_json::from_slice(&response.body).unwrap_or_default();
    let is_rejected = response.status.is_success() && answer.rejected.contains(&pusher.push_key);
    let (noting, key) = (Arc::clone(services), pusher.clone());
    let noted = tokio::task::spawn_blocking(move || {
        if is_rejected { noting.pushes.forget(&key) } else { noting.pushes.done(&key, push.of) }
    });
    noted.await??;
    Ok(true)
}
