//! Acknowledged item writes per second, through the batch API and as single
//! state events, in a room of 100 and of 5,000 items.

use std::sync::Arc;

use causeway_tests::{
    cluster::Cluster,
    result::Result,
    space,
    user::{self, ITEM, User},
};
use http::Method;
use serde_json::{Value, json};

use crate::{
    figures::{Figures, number},
    load::{self, Prepared},
};

/// Items in a request of the batch API, and requests in flight.
const BATCH: usize = 100;
const BATCHES_IN_FLIGHT: usize = 4;
/// Batches for one figure.
const BATCHES: usize = 200;
/// State events in flight, and for one figure.
const EVENTS_IN_FLIGHT: usize = 16;
const EVENTS: usize = 4_000;
/// Items in the small and in the large room.
const ITEMS: [usize; 2] = [100, 5_000];

/// Fills a room of each size, then overwrites its items.
pub async fn measure(cluster: &Cluster, scale: usize, figures: &mut Figures) -> Result<()> {
    let alice = Arc::new(User::register(&cluster[0], "alice").await?);
    let bob = User::register(&cluster[1], "bob").await?;
    let mut batch = Vec::new();
    let mut event = Vec::new();
    for items in ITEMS {
        let items = items / scale;
        // Each in a room of its own, shared with the other server as in real use.
        let room = shared_room(cluster, &alice, &bob, "batch").await?;
        fill(&alice, &room, items).await?;
        let before = processor_time(cluster)?;
        let rate = batch_rate(&alice, &room, items, BATCHES / scale).await?;
        figures.add(format!("batch_writes_{items}_items"), rate, "writes/s", ">= 5000");
        let each = (processor_time(cluster)? - before) / number(BATCHES / scale * BATCH);
        figures.add(format!("batch_write_processor_time_{items}_items"), each, "us", "");
        batch.push(rate);
        let room = shared_room(cluster, &alice, &bob, "events").await?;
        fill_by_events(&alice, &room, items).await?;
        let before = processor_time(cluster)?;
        let rate = event_rate(&alice, &room, items, EVENTS / scale).await?;
        figures.add(format!("state_events_16_in_flight_{items}_items"), rate, "writes/s", ">= 1000");
        let each = (processor_time(cluster)? - before) / number(EVENTS / scale);
        figures.add(format!("state_event_processor_time_{items}_items"), each, "us", "");
        event.push(rate);
    }
    figures.add("batch_writes_large_over_small", batch[1] / batch[0], "ratio", ">= 0.8");
    figures.add("state_events_large_over_small", event[1] / event[0], "ratio", ">= 0.8");
    Ok(())
}

/// Of both servers, in microseconds: a machine that is busy with other things
/// takes longer for a write, but not much more of the processor.
fn processor_time(cluster: &Cluster) -> Result<f64> {
    let time = cluster[0].processor_time()? + cluster[1].processor_time()?;
    Ok(time.as_secs_f64() * 1_000_000.0)
}

async fn shared_room(cluster: &Cluster, alice: &User, bob: &User, name: &str) -> Result<String> {
    let room = alice.create_room(name).await?;
    bob.join(&room, &cluster[0].name).await?;
    Ok(room)
}

/// 230 bytes of content, as in the comparison with other servers.
fn value(number: usize, round: usize) -> Value {
    json!({ "i": number, "round": round, "pad": "x".repeat(200) })
}

fn key(number: usize) -> String {
    format!("items/{number:06}")
}

/// Makes the items `0..items` through the batch API.
pub async fn fill(alice: &User, room: &str, items: usize) -> Result<()> {
    let all: Vec<usize> = (0..items).collect();
    for part in all.chunks(BATCH * 5) {
        let writes: Vec<Value> =
            part.iter().map(|number| json!({ "key": key(*number), "value": value(*number, 0) })).collect();
        alice.write_batch(room, &writes).await?;
    }
    Ok(())
}

async fn fill_by_events(alice: &Arc<User>, room: &str, items: usize) -> Result<()> {
    let (alice, room) = (Arc::clone(alice), room.to_owned());
    load::run(items, EVENTS_IN_FLIGHT, move |at| {
        let (alice, room) = (Arc::clone(&alice), room.clone());
        async move { alice.put_item(&room, &key(at), &value(at, 0)).await.map(drop) }
    })
    .await
    .map(drop)
}

async fn batch_rate(alice: &User, room: &str, items: usize, batches: usize) -> Result<f64> {
    let path = space::items_path(room);
    let requests = (0..batches).map(|at| {
        let numbers = (0..BATCH).map(|offset| (at * BATCH + offset) % items);
        let writes: Vec<Value> =
            numbers.map(|number| json!({ "key": key(number), "value": value(number, at + 1) })).collect();
        Prepared::new(Method::POST, path.clone(), &json!({ "writes": writes }))
    });
    let requests = requests.collect();
    let took = load::send(&alice.base(), &alice.token, requests, BATCHES_IN_FLIGHT).await?;
    Ok(number(batches * BATCH) / took.as_secs_f64())
}

async fn event_rate(alice: &User, room: &str, items: usize, events: usize) -> Result<f64> {
    let requests = (0..events).map(|at| {
        let path = user::state_path(room, ITEM, &key(at % items));
        Prepared::new(Method::PUT, path, &value(at % items, at + 1))
    });
    let requests = requests.collect();
    let took = load::send(&alice.base(), &alice.token, requests, EVENTS_IN_FLIGHT).await?;
    Ok(number(events) / took.as_secs_f64())
}
