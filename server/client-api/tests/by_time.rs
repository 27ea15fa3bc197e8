//! Endpoint tests of finding the event closest to a time.

mod common;

use std::time::Duration;

use common::server;
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

#[tokio::test]
async fn the_closest_event_that_one_may_see_is_found() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let visibility = json!({ "type": "m.room.history_visibility", "state_key": "",
        "content": { "history_visibility": "joined" } });
    let body = json!({ "preset": "public_chat", "initial_state": [visibility] });
    let made = server.post(&format!("{V3}/createRoom"), &alice, body).await.ok();
    let room = made["room_id"].as_str().expect("an id").to_owned();
    let start = server.clock.now_ms();
    let say = async |n: u64| {
        let path = format!("{V3}/rooms/{room}/send/m.room.message/{n}");
        let sent = server.put(&path, &alice, json!({ "body": n.to_string() })).await.ok();
        sent["event_id"].as_str().expect("an id").to_owned()
    };
    let path =
        |ts: u64, dir: &str| format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event?ts={ts}&dir={dir}");
    let tick = || server.clock.advance(Duration::from_secs(1));
    server.get(&path(start, "f"), &bob).await.is_error(403, "M_FORBIDDEN");
    tick();
    let first = say(1).await;
    tick();
    server.post(&format!("{V3}/rooms/{room}/join"), &bob, json!({})).await.ok();
    tick();
    let second = say(2).await;
    tick();
    server.post(&format!("{V3}/rooms/{room}/leave"), &bob, json!({})).await.ok();
    tick();
    let third = say(3).await;

    let found = async |token: &str, ts: u64, dir: &str| -> (Value, Value) {
        let found = server.get(&path(ts, dir), token).await.ok();
        (found["event_id"].clone(), found["origin_server_ts"].clone())
    };
    assert_eq!(found(&alice, start + 1_000, "f").await, (json!(first), json!(start + 1_000)));
    assert_eq!(found(&alice, start + 1_999, "b").await.0, json!(first));
    assert_eq!(found(&alice, start + 4_500, "f").await, (json!(third), json!(start + 5_000)));
    assert_eq!(found(&alice, start + 99_000, "b").await.0, json!(third));
    // Bob may see his own coming and going, and what was said between.
    assert_eq!(found(&bob, start + 2_500, "f").await.0, json!(second));
    assert_eq!(found(&bob, start + 3_500, "b").await.0, json!(second));
    let before = found(&bob, start + 1_000, "f").await;
    assert_eq!(before.1, json!(start + 2_000), "what was before him is not found: {before:?}");
    assert_eq!(found(&bob, start + 99_000, "b").await.1, json!(start + 4_000));
    server.get(&path(start + 4_500, "f"), &bob).await.is_error(404, "M_NOT_FOUND");
    server.get(&path(start - 1, "b"), &alice).await.is_error(404, "M_NOT_FOUND");
    server.get(&path(start, "x"), &alice).await.is_error(400, "M_INVALID_PARAM");
}
