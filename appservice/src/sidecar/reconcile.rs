//! Hearing all that the upstream has to say, in rounds: /sync of the service user from where the
//! last one ended, and of rooms in which he is not, their last pages.
//!
//! Transactions bring events sooner, but may be lost; a round makes sure. One is due at a start,
//! when the upstream answers again, a while after transactions came, when a room turns out to have
//! a shared space, and when the outcome of a request is unknown.
//!
//! Invariant: where the next /sync begins moves in the batch of what the last one brought.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use causeway_service::{
    notify::{Subscription, Topic},
    upstream::{
        bearing::SYNCED_TYPES,
        intake::{Incoming, IntakeError, Origin},
    },
};
use ruma::{OwnedEventId, OwnedRoomId, RoomId};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::{
    client::{Speaker, UpstreamError},
    shared::Shared,
    walk::{self, Walked, Way},
};

/// Between a transaction and the round that makes sure of it; without another it doubles.
const PAUSE_FIRST: Duration = Duration::from_mins(1);
/// No pause is longer.
const PAUSE_LAST: Duration = Duration::from_mins(15);
/// After a round that failed.
const PAUSE_FAILED: Duration = Duration::from_secs(2);
/// Between two rounds at least.
const PAUSE_LEAST: Duration = Duration::from_millis(200);
/// Events of a room that /sync brings at once.
const TIMELINE_MAX: usize = 100;
/// Between two looks back into a room's past for what the upstream lacks; they double.
const BACK_FIRST: Duration = Duration::from_mins(1);
/// No longer.
const BACK_LAST: Duration = Duration::from_hours(1);
/// Rooms of which is kept in mind when they were looked back into.
const BACK_ROOMS_MAX: usize = 10_000;
/// Rooms that are asked for as a whole at once.
const WHOLE_ROOMS_MAX: usize = 10;
/// Rooms without the service user that are looked at in a round.
const OTHER_ROOMS_MAX: usize = 1_000;

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("{0}")]
    Upstream(#[from] UpstreamError),
    #[error("{0}")]
    Intake(#[from] IntakeError),
    #[error("the homeserver is where it was before")]
    WentBack,
    #[error("the homeserver's /sync can't be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("{0}")]
    Storage(#[from] causeway_service::outbox::StorageError),
    #[error("{0}")]
    Task(#[from] tokio::task::JoinError),
}

#[derive(Debug, Deserialize)]
struct Synced {
    next_batch: String,
    #[serde(default)]
    rooms: Rooms,
}

#[derive(Debug, Default, Deserialize)]
struct Rooms {
    #[serde(default)]
    join: BTreeMap<OwnedRoomId, Room>,
}

#[derive(Debug, Default, Deserialize)]
struct Room {
    #[serde(default)]
    timeline: Timeline,
    #[serde(default)]
    state: Events,
}

#[derive(Debug, Default, Deserialize)]
struct Timeline {
    #[serde(default)]
    events: Vec<Box<RawValue>>,
    #[serde(default)]
    limited: bool,
}

#[derive(Debug, Default, Deserialize)]
struct Events {
    #[serde(default)]
    events: Vec<Box<RawValue>>,
}

/// Hears in rounds until `stop`.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let rooms = shared.notifier.subscribe([Topic::Upstream]);
    let mut hearing = Hearing { shared, rooms, newest: HashMap::new(), looked_back: HashMap::new() };
    let mut pause = PAUSE_FIRST;
    loop {
        let round = tokio::select! {
            () = stop.cancelled() => break,
            round = hearing.round() => round,
        };
        let wait = match round {
            Ok(()) => pause,
            Err(error) => {
                tracing::warn!(%error, "what happened at the homeserver can't be heard");
                if matches!(&error, RoundError::Upstream(error) if error.is_outage()) {
                    hearing.shared.gate.silent.notify_one();
                }
                PAUSE_FAILED
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            next = hearing.rest(wait, pause) => pause = next,
        }
    }
}

struct Hearing {
    shared: Arc<Shared>,
    /// A room turned out to have a shared space.
    rooms: Subscription,
    /// The newest event of a room's last walk.
    newest: HashMap<OwnedRoomId, OwnedEventId>,
    /// When a room was looked back into, and how long not again (ms).
    looked_back: HashMap<OwnedRoomId, (u64, u64)>,
}

impl Hearing {
    /// Until the next round is due; the pause after it.
    async fn rest(&mut self, wait: Duration, mut pause: Duration) -> Duration {
        let shared = Arc::clone(&self.shared);
        let now = || tokio::time::Instant::from_std(shared.clock.instant());
        let mut due = now() + wait;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => return (pause * 2).min(PAUSE_LAST),
                () = shared.gate.hear_now.notified() => {
                    tokio::time::sleep(PAUSE_LEAST).await;
                    return pause;
                }
                () = self.rooms.changed() => {
                    tokio::time::sleep(PAUSE_LEAST).await;
                    return pause;
                }
                () = shared.gate.traffic.notified() => {
                    pause = PAUSE_FIRST;
                    due = due.min(now() + PAUSE_FIRST);
                }
                () = shared.gate.gap.notified() => self.look_back().await,
            }
        }
    }

    #[tracing::instrument(name = "upstream.round.hear", level = "debug", skip_all)]
    async fn round(&mut self) -> Result<(), RoundError> {
        let number = self.shared.gate.begin_round();
        let service = self.shared.service_user.clone();
        let speaker = Speaker::User(&service);
        let joined: BTreeSet<OwnedRoomId> =
            self.shared.client.joined_rooms(speaker).await?.into_iter().collect();
        let since = self.since(&joined, speaker).await?;
        let shared = Arc::clone(&self.shared);
        let (known, sending) =
            spawn_blocking(move || Ok::<_, RoundError>((shared.intake.all_rooms()?, sending(&shared)?)))
                .await??;
        let partly: Vec<OwnedRoomId> = known
            .iter()
            .filter(|(room, row)| !row.whole && joined.contains(room))
            .map(|(room, _)| room.clone())
            .collect();
        for rooms in partly.chunks(WHOLE_ROOMS_MAX) {
            self.hear_whole(rooms, speaker).await?;
        }
        self.hear_since(&since, speaker).await?;
        let all: BTreeSet<OwnedRoomId> = known.into_iter().map(|(room, _)| room).chain(sending).collect();
        for room in all.intersection(&joined) {
            self.shared.gate.heard(room, number);
        }
        for room in all.difference(&joined).take(OTHER_ROOMS_MAX) {
            match self.hear_beside(room).await {
                Ok(()) => self.shared.gate.heard(room, number),
                Err(RoundError::Upstream(error)) if !error.is_outage() => {
                    tracing::warn!(%room, %error, "a room can't be heard");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Asks for pages of the past of rooms of which the upstream lacks events: it fetches what
    /// it was not sent while it could not be reached. What comes of it is taken in.
    async fn look_back(&mut self) {
        let now_ms = self.shared.clock.now_ms();
        for room in self.shared.gate.take_gaps() {
            if self.looked_back.len() >= BACK_ROOMS_MAX {
                self.looked_back.clear();
            }
            let (last_ms, pause_ms) = self.looked_back.get(&room).copied().unwrap_or_default();
            if now_ms < last_ms.saturating_add(pause_ms) {
                continue;
            }
            let doubled = Duration::from_millis(pause_ms * 2).clamp(BACK_FIRST, BACK_LAST);
            let pause_ms = u64::try_from(doubled.as_millis()).unwrap_or(u64::MAX);
            self.looked_back.insert(room.clone(), (now_ms, pause_ms));
            if let Err(error) = self.walk_beside(&room, Way::Fetching).await {
                tracing::info!(%room, %error, "what the homeserver lacks can't be asked for");
            }
        }
    }

    /// Where /sync goes on. If that is nowhere yet, it begins now, and all rooms are heard as a
    /// whole: of those that are not known one may be a shared space since long.
    async fn since(
        &self,
        joined: &BTreeSet<OwnedRoomId>,
        speaker: Speaker<'_>,
    ) -> Result<String, RoundError> {
        let (intake, service) = (Arc::clone(&self.shared.intake), self.shared.service_user.clone());
        if let Some(since) = spawn_blocking(move || intake.since(&service)).await?? {
            return Ok(since);
        }
        let nothing = filter(&json!([]), 1);
        let synced: Synced =
            serde_json::from_slice(&self.shared.client.sync(None, &nothing, speaker).await?)?;
        let joined: Vec<OwnedRoomId> = joined.iter().cloned().collect();
        for rooms in joined.chunks(WHOLE_ROOMS_MAX) {
            self.hear_whole(rooms, speaker).await?;
        }
        self.take(Vec::new(), synced.next_batch.clone()).await?;
        Ok(synced.next_batch)
    }

    /// What came since.
    async fn hear_since(&self, since: &str, speaker: Speaker<'_>) -> Result<(), RoundError> {
        let asked = self.shared.client.sync(Some(since), &filter(&Value::Null, TIMELINE_MAX), speaker).await;
        let body = match asked {
            Err(UpstreamError::Refused(refusal)) if refusal.status.as_u16() == 400 => {
                self.begin_anew().await?;
                return Err(UpstreamError::Refused(refusal).into());
            }
            asked => asked?,
        };
        let synced: Synced = serde_json::from_slice(&body)?;
        drop(body);
        if is_before(&synced.next_batch, since) {
            // A Synapse whose database was restored says no more than that.
            self.begin_anew().await?;
            return Err(RoundError::WentBack);
        }
        let mut events = Vec::new();
        for (room, heard) in synced.rooms.join {
            events.extend(self.take_room(&room, heard, Some(since), speaker).await?);
        }
        self.take(events, synced.next_batch).await
    }

    async fn begin_anew(&self) -> Result<(), RoundError> {
        tracing::warn!("the homeserver does not know where it was: all is heard anew");
        let (intake, service) = (Arc::clone(&self.shared.intake), self.shared.service_user.clone());
        spawn_blocking(move || intake.begin_anew(&service)).await??;
        self.shared.gate.hear_now.notify_one();
        Ok(())
    }

    /// All that some rooms show: their items, and their last events.
    async fn hear_whole(&self, rooms: &[OwnedRoomId], speaker: Speaker<'_>) -> Result<(), RoundError> {
        let asked = self.shared.client.sync(None, &filter(&json!(rooms), TIMELINE_MAX), speaker).await;
        let body = match asked {
            // By itself each may fit; what does not is left to transactions and walks.
            Err(UpstreamError::TooLarge) if rooms.len() > 1 => {
                for room in rooms {
                    Box::pin(self.hear_whole(std::slice::from_ref(room), speaker)).await?;
                }
                return Ok(());
            }
            Err(UpstreamError::TooLarge) => {
                tracing::error!(room = %rooms[0], "a room shows more than can be read at once");
                return self.note_whole(rooms).await;
            }
            asked => asked?,
        };
        let mut synced: Synced = serde_json::from_slice(&body)?;
        drop(body);
        for room in rooms {
            if let Some(heard) = synced.rooms.join.remove(room) {
                self.take_room(room, heard, None, speaker).await?;
            }
        }
        self.note_whole(rooms).await
    }

    async fn note_whole(&self, rooms: &[OwnedRoomId]) -> Result<(), RoundError> {
        let (intake, rooms) = (Arc::clone(&self.shared.intake), rooms.to_vec());
        let service = self.shared.service_user.clone();
        let noting = move || {
            // What is none is not made one by having been looked at.
            let mut ours = rooms.iter().filter(|room| intake.is_ours(room));
            ours.try_for_each(|room| intake.hear(room, Some(service.clone()), true))
        };
        Ok(spawn_blocking(noting).await??)
    }

    /// Takes in what /sync brought of a room, and what it left out, but for what is new since the
    /// last time: that is given back.
    async fn take_room(
        &self,
        room: &RoomId,
        heard: Room,
        since: Option<&str>,
        speaker: Speaker<'_>,
    ) -> Result<Vec<Incoming>, RoundError> {
        let mut past: Vec<Incoming> = placed(room, heard.state.events).collect();
        let is_limited = heard.timeline.limited;
        if let Some(since) = since.filter(|_| is_limited) {
            match walk::walk(&self.shared, room, Way::On(since), speaker).await {
                Ok(walked) => past.extend(walked.events),
                Err(error) if error.is_outage() => return Err(error.into()),
                // No room keeps the others from being heard.
                Err(error) => tracing::warn!(%room, %error, "what /sync left out can't be read"),
            }
        }
        let mut live: Vec<Incoming> = placed(room, heard.timeline.events).collect();
        if is_limited || since.is_none() {
            // The room may be new to the user, and these its last events, however they came.
            past.append(&mut live);
        }
        self.take_past(past).await?;
        Ok(live)
    }

    /// A room in which the service user is not. Where nobody is to ask for, there is nothing to
    /// be heard; what is to be sent there is refused.
    async fn hear_beside(&mut self, room: &RoomId) -> Result<(), RoundError> {
        let newest = self.newest.get(room).cloned();
        let walked = self.walk_beside(room, Way::Back(newest.as_ref())).await?;
        let newest = walked.and_then(|walked| walked.newest);
        self.newest.extend(newest.map(|newest| (room.to_owned(), newest)));
        Ok(())
    }

    /// Walks from a room's end, and takes in what that brings; none if nobody is there to ask for.
    async fn walk_beside(&self, room: &RoomId, way: Way<'_>) -> Result<Option<Walked>, RoundError> {
        let readers = self.shared.readers.of(room).await?;
        let Some(reader) = readers.first() else { return Ok(None) };
        let mut walked = match walk::walk(&self.shared, room, way, Speaker::User(reader)).await {
            Err(error) => {
                self.shared.readers.forget(room);
                return Err(error.into());
            }
            Ok(walked) => walked,
        };
        self.take_past(std::mem::take(&mut walked.events)).await?;
        Ok(Some(walked))
    }

    async fn take(&self, events: Vec<Incoming>, since: String) -> Result<(), RoundError> {
        let (intake, service) = (Arc::clone(&self.shared.intake), self.shared.service_user.clone());
        let taking = move || intake.take(&events, Origin::Sync(&service, &since));
        spawn_blocking(taking).await??;
        Ok(())
    }

    async fn take_past(&self, events: Vec<Incoming>) -> Result<(), RoundError> {
        if !events.is_empty() {
            let intake = Arc::clone(&self.shared.intake);
            spawn_blocking(move || intake.take(&events, Origin::Past)).await??;
        }
        Ok(())
    }
}

fn placed(room: &RoomId, events: Vec<Box<RawValue>>) -> impl Iterator<Item = Incoming> {
    events.into_iter().map(|event| Incoming { room_id: room.to_owned(), event })
}

/// Whether a place in /sync is before another one, where that can be told: places of a Synapse
/// begin with the number of its event stream.
fn is_before(place: &str, other: &str) -> bool {
    let number = |place: &str| place.strip_prefix('s')?.split('_').next()?.parse::<u64>().ok();
    number(place).zip(number(other)).is_some_and(|(place, other)| place < other)
}

/// Rooms that something is to be sent to.
fn sending(shared: &Shared) -> Result<Vec<OwnedRoomId>, causeway_service::outbox::StorageError> {
    let mut rooms: Vec<OwnedRoomId> = Vec::new();
    while rooms.len() < OTHER_ROOMS_MAX
        && let Some(room) = shared.outbox.next_room(rooms.last().map(|room| &**room))?
    {
        rooms.push(room);
    }
    Ok(rooms)
}

/// Of these rooms, or of all, and nothing of what is the user's own.
fn filter(rooms: &Value, timeline_max: usize) -> Value {
    let none = json!({ "types": [] });
    let mut room = json!({
        "timeline": { "limit": timeline_max, "types": SYNCED_TYPES },
        "state": { "types": ["org.causeway.*"] },
        "ephemeral": none,
        "account_data": none,
        "include_leave": false,
    });
    if !rooms.is_null() {
        room["rooms"] = rooms.clone();
    }
    json!({ "presence": none, "account_data": none, "room": room })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_before_the_last_one_is_known_where_it_can_be() {
        assert!(is_before("s142_6_0", "s999_1_0"));
        assert!(!is_before("s142_6_0", "s142_1_0") && !is_before("s1000_6", "s999_7"));
        assert!(!is_before("opaque", "s999_1") && !is_before("", ""));
    }
}
