//! Answers what the service asks of the upstream ([`causeway_service::upstream::request`]).
//!
//! Facts are asked for in the name of a user who is in the room: homeservers answer one who has
//! left with the state as it was when he left, and without an error. So each answer is looked at
//! together with the membership of the one in whose name it was asked for.
//!
//! Invariants: whatever is asked is answered within [`PATIENCE`]; so many requests go to the
//! upstream at once and no more.

use std::sync::Arc;

use causeway_service::upstream::request::{
    Fact, PATIENCE, UpstreamError as Failure, UpstreamRequest, Wanted,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ruma::{EventId, OwnedUserId, RoomId, UserId};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    client::{Speaker, UpstreamError},
    shared::Shared,
};

/// Rooms that are asked about at once.
const ROOMS_MAX: usize = 16;
/// Facts of one room that are asked for at once.
const AT_ONCE_MAX: usize = 4;
/// Users in whose names something is tried.
const SPEAKERS_MAX: usize = 3;

/// Answers until `stop`.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut requests: mpsc::Receiver<UpstreamRequest>,
    stop: CancellationToken,
) {
    let free = Arc::new(Semaphore::new(ROOMS_MAX));
    let mut tasks = JoinSet::new();
    loop {
        let request = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = tasks.join_next() => continue,
            request = requests.recv() => request,
        };
        let Some(UpstreamRequest::Facts { room_id, author, wanted, reply }) = request else { break };
        let (shared, free) = (Arc::clone(&shared), Arc::clone(&free));
        tasks.spawn(async move {
            let asking = async {
                let _turn = free.acquire().await.map_err(|_| Failure::Silent)?;
                facts(&shared, &room_id, author, &wanted).await
            };
            let answer = timeout(PATIENCE, asking).await.unwrap_or(Err(Failure::Silent));
            if matches!(answer, Err(Failure::Silent)) {
                shared.gate.silent.notify_one();
            }
            // Who asked may have gone.
            let _gone = reply.send(answer);
        });
    }
}

async fn facts(
    shared: &Shared,
    room: &RoomId,
    author: Option<OwnedUserId>,
    wanted: &[Wanted],
) -> Result<Vec<Fact>, Failure> {
    let mut speakers: Vec<OwnedUserId> = author.into_iter().collect();
    let mut looked_up = false;
    let mut tried = 0;
    loop {
        if tried == speakers.len().min(SPEAKERS_MAX) {
            if looked_up {
                return Err(Failure::NotInRoom);
            }
            looked_up = true;
            let others = shared.readers.of(room).await.map_err(|error| failure(&error))?;
            speakers.extend(others.into_iter().filter(|other| !speakers.contains(other)).collect::<Vec<_>>());
            continue;
        }
        match facts_for(shared, room, &speakers[tried], wanted).await {
            Ok(Some(facts)) => return Ok(facts),
            Ok(None) => {}
            Err(UpstreamError::Refused(refusal)) if refusal.status.as_u16() == 403 => {}
            Err(error) => return Err(failure(&error)),
        }
        shared.readers.forget(room);
        tried += 1;
    }
}

/// `None`: the speaker is not in the room.
async fn facts_for(
    shared: &Shared,
    room: &RoomId,
    speaker: &UserId,
    wanted: &[Wanted],
) -> Result<Option<Vec<Fact>>, UpstreamError> {
    let member = ("m.room.member", speaker.as_str());
    let is_his =
        |wanted: &Wanted| matches!(wanted, Wanted::State { kind, key } if (&**kind, &**key) == member);
    let asks_state = wanted.iter().any(|wanted| matches!(wanted, Wanted::State { .. }));
    let asked = stream::iter(wanted.to_vec()).map(|wanted| fact(shared, room, speaker, wanted));
    let facts = asked.buffered(AT_ONCE_MAX).try_collect::<Vec<Fact>>();
    let (facts, own) = if asks_state && !wanted.iter().any(is_his) {
        let own = shared.client.state_event(room, member, Speaker::User(speaker));
        let (facts, own) = tokio::try_join!(facts, own)?;
        (facts, Some(own))
    } else {
        (facts.await?, None)
    };
    let own = own.or_else(|| {
        let at = wanted.iter().position(is_his)?;
        let Fact::Event(event) = &facts[at] else { return None };
        Some(event.clone())
    });
    let in_room = own.is_none_or(|own| own.as_deref().is_some_and(is_joined));
    Ok(in_room.then_some(facts))
}

async fn fact(
    shared: &Shared,
    room: &RoomId,
    speaker: &UserId,
    wanted: Wanted,
) -> Result<Fact, UpstreamError> {
    let client = &shared.client;
    Ok(match wanted {
        Wanted::State { kind, key } => {
            Fact::Event(client.state_event(room, (&kind, &key), Speaker::User(speaker)).await?)
        }
        Wanted::Event(id) => {
            let event = event(shared, room, &id, Some(speaker)).await?;
            if event.is_none() {
                shared.gate.lacks(room);
            }
            Fact::Event(event)
        }
        Wanted::Rights(id) => {
            let filter = json!({
                "lazy_load_members": true,
                "types": ["m.room.create", "m.room.power_levels", "m.room.member"],
            });
            let around = client.surroundings(room, &id, &filter, Speaker::User(speaker)).await?;
            Fact::Events(around.map_or_else(Vec::new, |around| around.state))
        }
        Wanted::Servers => {
            let joined = shared.readers.joined(room).await?;
            Fact::Servers(joined.0.keys().cloned().collect())
        }
    })
}

/// An event as clients see it. Not everybody sees every event of a room that he is in, so that
/// it is not there only if nobody of several sees it; `first` is asked before the others.
pub(super) async fn event(
    shared: &Shared,
    room: &RoomId,
    id: &EventId,
    first: Option<&UserId>,
) -> Result<Option<Box<RawValue>>, UpstreamError> {
    let mut is_there = None;
    if let Some(first) = first {
        is_there = seen_by(shared, room, id, first).await?;
    }
    if is_there.is_none() {
        let others = shared.readers.of(room).await?;
        for other in others.iter().filter(|other| Some(&***other) != first).take(SPEAKERS_MAX) {
            is_there = seen_by(shared, room, id, other).await?;
            if is_there.is_some() {
                break;
            }
        }
    }
    Ok(is_there)
}

async fn seen_by(
    shared: &Shared,
    room: &RoomId,
    id: &EventId,
    user: &UserId,
) -> Result<Option<Box<RawValue>>, UpstreamError> {
    match shared.client.event(room, id, Speaker::User(user)).await {
        Err(UpstreamError::Refused(refusal)) if refusal.status.as_u16() == 403 => Ok(None),
        asked => asked,
    }
}

fn is_joined(member: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Member {
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        membership: String,
    }
    serde_json::from_str::<Member>(member.get()).is_ok_and(|member| member.content.membership == "join")
}

fn failure(error: &UpstreamError) -> Failure {
    if error.is_outage() { Failure::Silent } else { Failure::Odd(error.to_string()) }
}
