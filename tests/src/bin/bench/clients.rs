//! What clients of one server notice, beside a Synapse under the same load: a large
//! room's first sync, messages, their way to another's sync, and memory.
//!
//! Synapse runs as its documentation's first steps leave it: one process, `SQLite`.
//! Each server has the machine for itself in turn, the other one idle.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use causeway_tests::{
    client::Client,
    cluster::Cluster,
    process, program,
    result::{Failure, Result, ensure},
    user::{User, text, timeline},
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    figures::{Figures, number, quantile},
    load,
};

/// State events of the large room, beside those that each room has.
const STATE_EVENTS: usize = 5_000;
/// First syncs of it.
const FIRST_SYNCS: usize = 5;
/// Messages for the rate, and how many are in flight.
const MESSAGES: usize = 1_000;
const IN_FLIGHT: usize = 16;
/// Messages that are followed to another device.
const FOLLOWED: usize = 100;
/// Rooms with people in them, people in each, and the messages of all rooms.
const ROOMS: usize = 50;
const PEOPLE: usize = 4;
const CROWD_MESSAGES: usize = 10_000;

/// A server under load.
struct Peer {
    name: &'static str,
    client: Client,
    pid: u32,
}

/// Measures each server by itself, one after the other.
pub async fn measure(cluster: &Cluster, scale: usize, figures: &mut Figures) -> Result<()> {
    let python = tokio::task::spawn_blocking(program::python).await??;
    let mut synapse = cluster.add_synapse(&python).await?;
    let gone = || Failure::new("a server is down");
    let peers = [
        Peer {
            name: "causeway",
            client: cluster[0].client().clone(),
            pid: cluster[0].pid().ok_or_else(gone)?,
        },
        Peer { name: "synapse", client: synapse.client().clone(), pid: synapse.pid().ok_or_else(gone)? },
    ];
    for peer in &peers {
        of_one(peer, scale, figures).await?;
    }
    synapse.kill().await
}

async fn of_one(peer: &Peer, scale: usize, figures: &mut Figures) -> Result<()> {
    figures.compare(peer.name, "memory_idle", mebibytes(peer)?, "MiB");
    let alice = Arc::new(User::register_with(&peer.client, "alice").await?);
    let bob = User::register_with(&peer.client, "bob").await?;
    first_syncs(peer, &alice, scale, figures).await?;
    let room = Arc::new(alice.create_room("talk").await?);
    bob.call(Method::POST, &format!("/_matrix/client/v3/join/{}", *room), Some(&json!({}))).await?;
    messages(peer, &alice, &room, scale, figures).await?;
    follow(peer, &alice, &bob, &room, scale, figures).await?;
    crowd(peer, scale, figures).await
}

/// Makes a room with this state, one after the other: a Synapse needs minutes to make a
/// room of so much at once, and forks it when they come together.
async fn fill(alice: &User, state: &[Value]) -> Result<()> {
    let body = json!({ "preset": "private_chat" });
    let room = alice.call(Method::POST, "/_matrix/client/v3/createRoom", Some(&body)).await?;
    let room = text(&room, "room_id")?;
    for event in state {
        let key = text(event, "state_key")?;
        alice.put_state(&room, "org.example.state", &key, &event["content"]).await?;
    }
    Ok(())
}

/// How long a new device's first sync takes when its room has much state.
async fn first_syncs(peer: &Peer, alice: &Arc<User>, scale: usize, figures: &mut Figures) -> Result<()> {
    let state: Vec<Value> = (0..STATE_EVENTS / scale)
        .map(|number| {
            let content = json!({ "number": number, "pad": "x".repeat(100) });
            json!({ "type": "org.example.state", "state_key": format!("{number}"), "content": content })
        })
        .collect();
    fill(alice, &state).await?;
    let mut took = Vec::new();
    let before = processor_seconds(peer)?;
    for _ in 0..FIRST_SYNCS {
        let begin = Instant::now();
        // A filter of its own, as a cached answer would measure nothing.
        let path =
            format!("/_matrix/client/v3/sync?filter={{\"presence\":{{\"limit\":{}}}}}", took.len() + 1);
        let answer = alice.call(Method::GET, &path, None).await?;
        took.push(begin.elapsed().as_secs_f64() * 1_000.0);
        let events = answer["rooms"]["join"].as_object().into_iter().flatten().map(|(_, room)| {
            let count = |part: &str| room[part]["events"].as_array().map_or(0, Vec::len);
            count("state") + count("timeline")
        });
        let events: usize = events.sum();
        ensure(events >= STATE_EVENTS / scale, || format!("only {events} events came"))?;
    }
    figures.compare(peer.name, "first_sync_of_much_state_p50", quantile(&mut took, 0.5), "ms");
    let each = (processor_seconds(peer)? - before) * 1_000.0 / number(FIRST_SYNCS);
    figures.compare(peer.name, "first_sync_of_much_state_processor_time", each, "ms");
    Ok(())
}

/// Messages that are acknowledged in a second.
async fn messages(
    peer: &Peer,
    alice: &Arc<User>,
    room: &Arc<String>,
    scale: usize,
    figures: &mut Figures,
) -> Result<()> {
    let count = MESSAGES / scale;
    let before = processor_seconds(peer)?;
    let (sender, to) = (Arc::clone(alice), Arc::clone(room));
    let took = load::run(count, IN_FLIGHT, move |at| {
        let (sender, to) = (Arc::clone(&sender), Arc::clone(&to));
        async move { say(&sender, &to, at).await.map(drop) }
    })
    .await?;
    figures.compare(peer.name, "messages_16_in_flight", number(count) / took.as_secs_f64(), "messages/s");
    let each = (processor_seconds(peer)? - before) * 1_000_000.0 / number(count);
    figures.compare(peer.name, "message_processor_time", each, "us");
    Ok(())
}

async fn say(sender: &User, room: &str, at: usize) -> Result<String> {
    let content = json!({ "msgtype": "m.text", "body": format!("message {at}") });
    sender.send(room, "m.room.message", &content).await
}

/// From a request to send to the other's long poll.
async fn follow(
    peer: &Peer,
    alice: &User,
    bob: &User,
    room: &str,
    scale: usize,
    figures: &mut Figures,
) -> Result<()> {
    bob.sync(0).await?;
    let mut took = Vec::new();
    for at in 0..FOLLOWED / scale {
        let begin = Instant::now();
        let seen = async {
            loop {
                let answer = bob.sync(10_000).await?;
                let body = format!("message {at}");
                if timeline(&answer, room).iter().any(|event| event["content"]["body"] == *body) {
                    return Ok::<_, Failure>(begin.elapsed().as_secs_f64() * 1_000.0);
                }
            }
        };
        let (sent, seen) = tokio::join!(say(alice, room, at), seen);
        sent?;
        took.push(seen?);
    }
    figures.compare(peer.name, "message_to_sync_p50", quantile(&mut took, 0.5), "ms");
    figures.compare(peer.name, "message_to_sync_p99", quantile(&mut took, 0.99), "ms");
    Ok(())
}

/// Many people in many rooms, each with a device that syncs all the time.
async fn crowd(peer: &Peer, scale: usize, figures: &mut Figures) -> Result<()> {
    let rooms = ROOMS / scale.min(ROOMS);
    let done = Arc::new(AtomicBool::new(false));
    let mut syncing: JoinSet<Result<()>> = JoinSet::new();
    let mut speakers = Vec::new();
    for at in 0..rooms {
        let speaker = User::register_with(&peer.client, &format!("speaker{at}")).await?;
        let body = json!({ "preset": "public_chat" });
        let room = text(
            &speaker.call(Method::POST, "/_matrix/client/v3/createRoom", Some(&body)).await?,
            "room_id",
        )?;
        let join = format!("/_matrix/client/v3/join/{room}");
        let speaker = Arc::new(speaker);
        syncing.spawn(listen(Arc::clone(&speaker), Arc::clone(&done)));
        for number in 1..PEOPLE {
            let listener = User::register_with(&peer.client, &format!("listener{at}x{number}")).await?;
            listener.call(Method::POST, &join, Some(&json!({}))).await?;
            syncing.spawn(listen(Arc::new(listener), Arc::clone(&done)));
        }
        speakers.push((speaker, room));
    }
    let before = processor_seconds(peer)?;
    let (count, speakers) = (CROWD_MESSAGES / scale, Arc::new(speakers));
    let took = load::run(count, IN_FLIGHT, move |at| {
        let speakers = Arc::clone(&speakers);
        async move {
            let (speaker, room) = &speakers[at % speakers.len()];
            say(speaker, room, at).await.map(drop)
        }
    })
    .await?;
    let each = (processor_seconds(peer)? - before) * 1_000_000.0 / number(count);
    figures.compare(
        peer.name,
        "crowd_messages_16_in_flight",
        number(count) / took.as_secs_f64(),
        "messages/s",
    );
    figures.compare(peer.name, "crowd_message_processor_time", each, "us");
    figures.compare(peer.name, "crowd_memory", mebibytes(peer)?, "MiB");
    done.store(true, Ordering::SeqCst);
    while let Some(ended) = syncing.join_next().await {
        ended.map_err(Failure::from)??;
    }
    Ok(())
}

/// One poll of a listener.
const POLL: Duration = Duration::from_secs(5);

async fn listen(user: Arc<User>, done: Arc<AtomicBool>) -> Result<()> {
    while !done.load(Ordering::SeqCst) {
        user.sync(u64::try_from(POLL.as_millis())?).await?;
    }
    Ok(())
}

fn processor_seconds(peer: &Peer) -> Result<f64> {
    Ok(process::processor_time(peer.pid)?.as_secs_f64())
}

fn mebibytes(peer: &Peer) -> Result<f64> {
    let kibibytes = process::resident_bytes(peer.pid)? / 1024;
    Ok(number(usize::try_from(kibibytes)?) / 1024.0)
}
