//! Rooms that two servers of one kind share: a join of a room with much state, and
//! what was written while they were cut off, beside a pair of Synapses.
//!
//! Each pair has the machine for itself in turn, the other one idle. Synapse runs as
//! its documentation's first steps leave it: one process, `SQLite`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use causeway_tests::{
    client::{Client, segment},
    cluster::Cluster,
    link::Cut,
    process, program,
    result::{Failure, Result, ensure},
    synapse::Synapse,
    user::{User, text},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    figures::{Figures, number},
    load,
};

/// State events of the rooms that are joined. A Synapse takes its time to make such a
/// room, so that it has the first only.
const STATES: [usize; 2] = [5_000, 30_000];
/// Of the state of such a room, one of so many is about a member.
const MEMBER_EACH: usize = 3;
/// Between two messages that somebody else sends meanwhile.
const PAUSE: Duration = Duration::from_millis(20);
/// State events written while the servers are cut off, and how many are in flight.
const MISSED: usize = 500;
const IN_FLIGHT: usize = 16;
/// The type of the state events.
const KIND: &str = "org.example.state";
const MEMBER: &str = "m.room.member";
/// How long a join, and what follows it, may take.
const PATIENCE: Duration = Duration::from_mins(20);
/// After how long without news no more are waited for.
const SETTLED: Duration = Duration::from_mins(5);
/// Events on a page of history.
const PAGE: usize = 1_000;

/// One server of a pair.
struct Side {
    /// Its number among those whose links can be cut.
    index: usize,
    name: String,
    client: Client,
    pid: u32,
}

/// Two servers of one kind.
struct Pair {
    kind: &'static str,
    north: Side,
    south: Side,
}

/// Measures each pair by itself, one after the other.
pub async fn measure(cluster: &Cluster, scale: usize, figures: &mut Figures) -> Result<()> {
    let ours = |index: usize| -> Result<Side> {
        let server = &cluster[index];
        let pid = server.pid().ok_or_else(gone)?;
        Ok(Side { index, name: server.name.clone(), client: server.client().clone(), pid })
    };
    let pair = Pair { kind: "causeway", north: ours(0)?, south: ours(1)? };
    of_pair(cluster, &pair, &STATES, scale, figures).await?;
    let python = tokio::task::spawn_blocking(program::python).await??;
    let mut synapses = cluster.add_synapses(&python, 2).await?;
    let theirs = |at: usize| -> Result<Side> {
        let synapse: &Synapse = &synapses[at];
        let pid = synapse.pid().ok_or_else(gone)?;
        Ok(Side { index: 2 + at, name: synapse.name.clone(), client: synapse.client().clone(), pid })
    };
    let pair = Pair { kind: "synapse", north: theirs(0)?, south: theirs(1)? };
    of_pair(cluster, &pair, &STATES[..1], scale, figures).await?;
    for synapse in &mut synapses {
        synapse.kill().await?;
    }
    Ok(())
}

fn gone() -> Failure {
    Failure::new("a server is down")
}

async fn of_pair(
    cluster: &Cluster,
    pair: &Pair,
    states: &[usize],
    scale: usize,
    figures: &mut Figures,
) -> Result<()> {
    let alice = Arc::new(User::register_with(&pair.north.client, "alice").await?);
    let bob = User::register_with(&pair.south.client, "bob").await?;
    let carol = User::register_with(&pair.south.client, "carol").await?;
    for state in states {
        join(pair, (&alice, &bob, &carol), state / scale, figures).await?;
    }
    catch_up(cluster, pair, (&alice, &bob), MISSED / scale, figures).await
}

/// A room of another server is joined: until the client is answered, and until its
/// server holds all the state; and how long somebody else of that server had to wait meanwhile.
async fn join(
    pair: &Pair,
    (alice, bob, carol): (&Arc<User>, &User, &User),
    count: usize,
    figures: &mut Figures,
) -> Result<()> {
    let room = Arc::new(create(alice).await?);
    // One after the other with a Synapse: it forks the room otherwise, and the join brings less.
    let in_flight = if pair.kind == "synapse" { 1 } else { IN_FLIGHT };
    write(alice, &room, count, in_flight, Some(MEMBER_EACH)).await?;
    let elsewhere = create(carol).await?;
    let before = Processor::of(pair)?;
    for side in [&pair.north, &pair.south] {
        process::forget_peak(side.pid)?;
    }
    let begin = Instant::now();
    let joining = bob.join(&room, &pair.north.name);
    let (answered, slowest) = slowest_meanwhile(carol, &elsewhere, joining).await?;
    let named = |what: &str| format!("join_{what}_{count}_state");
    let mut figure = |what: &str, value: f64, unit: &'static str| {
        figures.compare(pair.kind, &named(what), value, unit);
    };
    figure("answered", answered, "s");
    figure("slowest_other_message", slowest, "s");
    let (lacks, took) = until_whole(bob, &room, count, begin).await?;
    figure("whole", took, "s");
    figure("lacks", lacks, "events");
    let (north, south) = before.since(pair)?;
    figure("processor_time_of_joined", north, "s");
    figure("processor_time_of_joining", south, "s");
    let mebibytes = |bytes: u64| Ok::<_, Failure>(number(usize::try_from(bytes / (1 << 20))?));
    figure("peak_memory_of_joined", mebibytes(process::peak_bytes(pair.north.pid)?)?, "MiB");
    figure("peak_memory_of_joining", mebibytes(process::peak_bytes(pair.south.pid)?)?, "MiB");
    figure("memory_of_joining", mebibytes(process::resident_bytes(pair.south.pid)?)?, "MiB");
    Ok(())
}

/// How long something took, and the slowest message that a user sent meanwhile, in seconds.
pub async fn slowest_meanwhile(
    user: &User,
    room: &str,
    what: impl Future<Output = Result<()>>,
) -> Result<(f64, f64)> {
    let (begin, is_done) = (Instant::now(), AtomicBool::new(false));
    let doing = async {
        what.await?;
        is_done.store(true, Ordering::Relaxed);
        Ok(begin.elapsed())
    };
    let writing = async {
        let (mut ticks, mut slowest) = (tokio::time::interval(PAUSE), Duration::ZERO);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !is_done.load(Ordering::Relaxed) {
            ticks.tick().await;
            let sent = Instant::now();
            user.send(room, "m.room.message", &json!({ "msgtype": "m.text", "body": "meanwhile" })).await?;
            slowest = slowest.max(sent.elapsed());
        }
        Ok::<_, Failure>(slowest)
    };
    let (took, slowest) = tokio::try_join!(doing, writing)?;
    Ok((took.as_secs_f64(), slowest.as_secs_f64()))
}

/// State is written on one server while the other can't be reached; then it can.
async fn catch_up(
    cluster: &Cluster,
    pair: &Pair,
    (alice, bob): (&Arc<User>, &User),
    count: usize,
    figures: &mut Figures,
) -> Result<()> {
    let room = Arc::new(create(alice).await?);
    bob.join(&room, &pair.north.name).await?;
    cluster.cut(pair.north.index, pair.south.index, Cut::Refused)?;
    let before = Processor::of(pair)?;
    let begin = Instant::now();
    write(alice, &room, count, IN_FLIGHT, None).await?;
    let took = begin.elapsed().as_secs_f64();
    figures.compare(pair.kind, "cut_off_state_events", number(count) / took, "events/s");
    cluster.heal(pair.north.index, pair.south.index)?;
    let healed = Instant::now();
    let (lacks, took) = until_whole(bob, &room, count, healed).await?;
    figures.compare(pair.kind, "cut_off_state_caught_up", took, "s");
    figures.compare(pair.kind, "cut_off_state_lacks", lacks, "events");
    let (north, south) = before.since(pair)?;
    let each = |seconds: f64| seconds * 1_000.0 / number(count);
    figures.compare(pair.kind, "cut_off_processor_time_of_writer", each(north), "ms/event");
    figures.compare(pair.kind, "cut_off_processor_time_of_other", each(south), "ms/event");
    let in_history = number(history_count(bob, &room).await?);
    figures.compare(pair.kind, "cut_off_events_in_history", in_history, "events");
    Ok(())
}

/// A room in which everybody may send state.
async fn create(alice: &User) -> Result<String> {
    let levels = json!({ "state_default": 0, "events_default": 0 });
    let body = json!({ "preset": "public_chat", "power_level_content_override": levels });
    let made = alice.call(Method::POST, "/_matrix/client/v3/createRoom", Some(&body)).await?;
    text(&made, "room_id")
}

/// Writes so many pieces of state; one of each `members` says that somebody is banned.
async fn write(
    alice: &Arc<User>,
    room: &Arc<String>,
    count: usize,
    in_flight: usize,
    members: Option<usize>,
) -> Result<()> {
    let (alice, room) = (Arc::clone(alice), Arc::clone(room));
    let put = move |at: usize| {
        let (alice, room) = (Arc::clone(&alice), Arc::clone(&room));
        async move {
            let pad = "x".repeat(100);
            let (kind, key, content) = if members.is_some_and(|each| at.is_multiple_of(each)) {
                (MEMBER, format!("@{at}:elsewhere.invalid"), json!({ "membership": "ban", "reason": pad }))
            } else {
                (KIND, at.to_string(), json!({ "number": at, "pad": pad }))
            };
            alice.put_state(&room, kind, &key, &content).await.map(drop)
        }
    };
    load::run(count, in_flight, put).await.map(drop)
}

/// Waits until the user's server shows so many, or no more come; how many it lacks
/// then, and how long that took from `begin`, in seconds. Asks for the last first: to
/// show all each time would cost it more than what is measured.
async fn until_whole(user: &User, room: &str, count: usize, begin: Instant) -> Result<(f64, f64)> {
    let last = count.saturating_sub(1).to_string();
    let (mut held, mut changed) = (0, begin);
    wait::until_within(PATIENCE, "all state to be there, or no more to come", async || {
        if user.state(room, KIND, &last).await?.is_some() || changed.elapsed() > SETTLED {
            let now = state_count(user, room).await?;
            if now > held {
                (held, changed) = (now, Instant::now());
            }
        }
        Ok((held >= count || changed.elapsed() > SETTLED).then_some(()))
    })
    .await?;
    Ok((number(count.saturating_sub(held)), (changed - begin).as_secs_f64()))
}

/// How many of the written state events the user's server shows.
async fn state_count(user: &User, room: &str) -> Result<usize> {
    let path = format!("/_matrix/client/v3/rooms/{}/state", segment(room));
    let state = user.call(Method::GET, &path, None).await?;
    let events = state.as_array().ok_or_else(|| Failure::new("no state"))?;
    let is_written = |event: &&Value| {
        event["type"] == KIND || (event["type"] == MEMBER && event["content"]["membership"] == "ban")
    };
    Ok(events.iter().filter(is_written).count())
}

/// How many of them its history shows.
async fn history_count(user: &User, room: &str) -> Result<usize> {
    let (mut count, mut from) = (0, String::new());
    loop {
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit={PAGE}{from}", segment(room));
        let page = user.call(Method::GET, &path, None).await?;
        let events = page["chunk"].as_array().map(Vec::as_slice).unwrap_or_default();
        count += events.iter().filter(|event: &&Value| event["type"] == KIND).count();
        match page["end"].as_str() {
            Some(end) if !events.is_empty() => from = format!("&from={}", segment(end)),
            _ => return Ok(count),
        }
        ensure(count < 1_000_000, || "history does not end".to_owned())?;
    }
}

/// Processor time of both servers so far, in seconds.
struct Processor(f64, f64);

impl Processor {
    fn of(pair: &Pair) -> Result<Self> {
        let seconds = |pid| process::processor_time(pid).map(|time| time.as_secs_f64());
        Ok(Self(seconds(pair.north.pid)?, seconds(pair.south.pid)?))
    }

    fn since(&self, pair: &Pair) -> Result<(f64, f64)> {
        let now = Self::of(pair)?;
        Ok((now.0 - self.0, now.1 - self.1))
    }
}
