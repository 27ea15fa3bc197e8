//! Sends what is queued for the upstream: in each room one after the other, in several rooms at
//! once.
//!
//! What room state shows is read just before an item's face is sent, so that nothing is covered
//! that was never heard of. A refusal is the end of an event; an answer that was lost is not: the
//! room is closed until all was heard that happened there ([`super::gate`]).
//!
//! Invariants: one request in flight for each room; so many in all; a room that was slow is left
//! alone longer.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use causeway_service::{
    notify::Topic,
    outbox::StorageError,
    room_event::{RoomEvent, ShownEvent},
    upstream::{
        intake::{Incoming, Origin},
        outbox::{Sending, Step, UpstreamOutbox},
    },
};
use ruma::{OwnedRoomId, RoomId};
use serde_json::value::RawValue;
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{
    client::{Refusal, Speaker, UpstreamError},
    requests::DEVICE,
    shared::Shared,
};

/// Rooms that are sent to at once.
const ROOMS_MAX: usize = 16;
/// Pauses after failures: the first; they double.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// No pause is longer.
const PAUSE_LAST: Duration = Duration::from_mins(5);
/// How often a closed room is asked to be heard.
const PAUSE_CLOSED: Duration = Duration::from_secs(5);
/// How often is looked at least.
const LOOK: Duration = Duration::from_secs(30);
/// A room is left alone so many times as long as it took to answer.
const SLACK: u32 = 2;
/// And so long at least.
const SLACK_LEAST: Duration = Duration::from_millis(20);

/// How an attempt ended.
#[derive(Debug)]
enum Outcome {
    /// The row is gone; what is next may be sent after this.
    Done(Duration),
    /// Not now.
    Later(Option<Duration>),
}

/// What is known of a room that is sent to.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Failures in a row.
    failures: u32,
    /// Not before (ms since the epoch).
    due_ms: u64,
}

/// Sends until `stop`.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let news = shared.notifier.subscribe([Topic::Outbox]);
    let mut paces: HashMap<OwnedRoomId, Pace> = HashMap::new();
    let mut busy: HashSet<OwnedRoomId> = HashSet::new();
    let mut tasks: JoinSet<(OwnedRoomId, Outcome)> = JoinSet::new();
    loop {
        let next = match due(&shared, &paces, &busy).await {
            Ok(next) => next,
            Err(error) => {
                tracing::error!(%error, "what is to be sent to the homeserver can't be read");
                Due::default()
            }
        };
        for room in next.rooms {
            busy.insert(room.clone());
            let shared = Arc::clone(&shared);
            tasks.spawn(async move {
                let outcome = attempt(&shared, &room).await;
                (room, outcome)
            });
        }
        paces.retain(|room, _| next.waiting.contains(room) || busy.contains(room));
        tokio::select! {
            () = stop.cancelled() => break,
            () = news.changed() => {}
            () = shared.gate.opened.notified() => {}
            () = tokio::time::sleep(next.after) => {}
            Some(ended) = tasks.join_next() => match ended {
                Ok((room, outcome)) => {
                    busy.remove(&room);
                    let pace = paces.entry(room).or_default();
                    *pace = pace.after(&outcome, shared.clock.now_ms());
                }
                Err(error) => {
                    tracing::error!(%error, "sending to the homeserver failed");
                    busy.clear();
                    tasks.abort_all();
                }
            }
        }
    }
}

impl Pace {
    fn after(self, outcome: &Outcome, now_ms: u64) -> Self {
        let (failures, pause) = match outcome {
            Outcome::Done(pause) => (0, *pause),
            Outcome::Later(said) => {
                let doubled = PAUSE_FIRST.saturating_mul(1 << self.failures.min(16)).min(PAUSE_LAST);
                (self.failures.saturating_add(1), said.unwrap_or(doubled).min(PAUSE_LAST))
            }
        };
        Self { failures, due_ms: now_ms.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)) }
    }
}

/// What is to be done now.
#[derive(Debug)]
struct Due {
    /// Rooms that may be sent to.
    rooms: Vec<OwnedRoomId>,
    /// All rooms that something waits for.
    waiting: HashSet<OwnedRoomId>,
    /// When to look again.
    after: Duration,
}

impl Default for Due {
    fn default() -> Self {
        Self { rooms: Vec::new(), waiting: HashSet::new(), after: LOOK }
    }
}

async fn due(
    shared: &Arc<Shared>,
    paces: &HashMap<OwnedRoomId, Pace>,
    busy: &HashSet<OwnedRoomId>,
) -> Result<Due, StorageError> {
    let reading = Arc::clone(shared);
    let waiting = spawn_blocking(move || {
        let mut waiting: Vec<OwnedRoomId> = Vec::new();
        while let Some(room) = reading.outbox.next_room(waiting.last().map(|room| &**room))? {
            waiting.push(room);
        }
        Ok::<_, StorageError>(waiting)
    });
    let waiting = waiting.await.unwrap_or_else(|_: JoinError| Ok(Vec::new()))?;
    let now_ms = shared.clock.now_ms();
    let mut due = Due::default();
    let mut is_closed = false;
    for room in waiting.iter().filter(|room| !busy.contains(*room)) {
        let due_ms = paces.get(room).map_or(0, |pace| pace.due_ms);
        if !shared.gate.is_open(room) {
            is_closed = true;
        } else if due_ms > now_ms {
            due.after = due.after.min(Duration::from_millis(due_ms - now_ms));
        } else if busy.len() + due.rooms.len() < ROOMS_MAX {
            due.rooms.push(room.clone());
        }
    }
    if is_closed {
        // A room that was not heard of yet.
        shared.gate.hear_now.notify_one();
        due.after = due.after.min(PAUSE_CLOSED);
    }
    due.waiting = waiting.into_iter().collect();
    Ok(due)
}

#[tracing::instrument(name = "upstream.event.send", level = "debug", skip_all)]
async fn attempt(shared: &Arc<Shared>, room: &RoomId) -> Outcome {
    let began = shared.clock.instant();
    let (outbox, of) = (shared.outbox.clone(), room.to_owned());
    let next = match spawn_blocking(move || outbox.next(&of)).await {
        Ok(Ok(next)) => next,
        failed => {
            tracing::error!(?failed, "what is to be sent can't be read");
            return Outcome::Later(None);
        }
    };
    let Some((order, sending)) = next else { return Outcome::Done(Duration::ZERO) };
    match send(shared, room, order, &sending).await {
        Ok(()) => {}
        Err(UpstreamError::Refused(refusal)) if is_final(&refusal) => {
            let subject = &sending.subject;
            tracing::info!(%room, subject, %refusal, "the homeserver does not take an event");
        }
        Err(error) => {
            tracing::warn!(%room, %error, "an event can't be sent to the homeserver now");
            if error.is_unknown() {
                shared.gate.close(room);
            }
            if error.is_outage() {
                shared.gate.silent.notify_one();
            }
            let said = error.refusal().and_then(|refusal| refusal.retry_after_ms);
            return Outcome::Later(said.map(Duration::from_millis));
        }
    }
    let (outbox, of) = (shared.outbox.clone(), room.to_owned());
    match spawn_blocking(move || outbox.done(&of, order, &sending)).await {
        Ok(Ok(())) => Outcome::Done((began.elapsed() * SLACK).max(SLACK_LEAST)),
        failed => {
            tracing::error!(?failed, "what was sent can't be noted");
            shared.gate.close(room);
            Outcome::Later(None)
        }
    }
}

/// Whether it will never be taken.
fn is_final(refusal: &Refusal) -> bool {
    refusal.status.is_client_error() && !refusal.is_limit() && refusal.status.as_u16() != 401
}

/// Sends an event, unless it is not to be sent any more.
async fn send(
    shared: &Arc<Shared>,
    room: &RoomId,
    order: u64,
    sending: &Sending,
) -> Result<(), UpstreamError> {
    let speaker = if sending.sender == shared.service_user {
        Speaker::Device(&sending.sender, DEVICE.into())
    } else {
        Speaker::User(&sending.sender)
    };
    let mut current = None;
    if let Some(key) = UpstreamOutbox::face_key(sending) {
        current = shared.client.state_event(room, (&sending.kind, key), speaker).await?;
    }
    match step(shared, room, (order, sending), current.clone()).await? {
        Step::Send => {}
        Step::Drop => return Ok(()),
        Step::TakeIn => return take_in(shared, room, current).await,
    }
    let content = &sending.content;
    if let Some(key) = &sending.state_key {
        shared.client.put_state(room, (&sending.kind, key), content, speaker).await?;
    } else {
        shared.client.send(room, (&sending.kind, &sending.transaction_id), content, speaker).await?;
    }
    Ok(())
}

async fn step(
    shared: &Arc<Shared>,
    room: &RoomId,
    (order, sending): (u64, &Sending),
    current: Option<Box<RawValue>>,
) -> Result<Step, UpstreamError> {
    let (outbox, room, sending) = (shared.outbox.clone(), room.to_owned(), sending.clone());
    let deciding = spawn_blocking(move || {
        let current =
            current.and_then(|event| ShownEvent::parse(&room, event.get()).ok()).map(RoomEvent::from);
        outbox.step(&room, (order, &sending), current.as_ref())
    });
    let decided = deciding.await.map_err(|error| error.to_string());
    // Nothing was sent.
    decided.and_then(|decided| decided.map_err(|error| error.to_string())).map_err(UpstreamError::Unreached)
}

/// What room state shows was never heard of: it is now, and the face has to give way to it.
async fn take_in(
    shared: &Arc<Shared>,
    room: &RoomId,
    current: Option<Box<RawValue>>,
) -> Result<(), UpstreamError> {
    let Some(event) = current else { return Ok(()) };
    let (intake, incoming) = (Arc::clone(&shared.intake), Incoming { room_id: room.to_owned(), event });
    let taking = spawn_blocking(move || intake.take(&[incoming], Origin::Asked));
    let taken = taking.await.map_err(|error| error.to_string());
    taken
        .and_then(|taken| taken.map(drop).map_err(|error| error.to_string()))
        .map_err(UpstreamError::Unreached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_what_the_upstream_says_goes_before() {
        let mut pace = Pace::default();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            pace = pace.after(&Outcome::Later(None), 1_000);
            pauses.push((pace.due_ms - 1_000) / 1_000);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        let said = pace.after(&Outcome::Later(Some(Duration::from_millis(70))), 1_000);
        assert_eq!(said.due_ms, 1_070);
        let done = said.after(&Outcome::Done(Duration::from_millis(20)), 1_000);
        assert_eq!((done.failures, done.due_ms), (0, 1_020));
    }
}
