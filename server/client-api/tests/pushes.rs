//! What waits for a push gateway, of what was said while its user was in the room and
//! has not read.

mod common;

use common::{Server, server};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

async fn say(server: &Server, token: &str, room: &str, txn: &str, extra: Value) -> String {
    let mut content = json!({ "msgtype": "m.text", "body": txn });
    for (key, value) in extra.as_object().expect("an object") {
        content[key] = value.clone();
    }
    let path = format!("{V3}/rooms/{room}/send/m.room.message/{txn}");
    let sent = server.put(&path, token, content).await.ok();
    sent["event_id"].as_str().expect("an event id").to_owned()
}

/// What the gateway of the only pusher is told next, and has then.
fn told(server: &Server) -> Option<Value> {
    let pushes = &server.services.pushes;
    pushes.follow().expect("follows");
    let key = pushes.waiting(9).expect("reads").pop()?;
    let push = pushes.next(&key).expect("reads")?;
    pushes.done(&key, push.of).expect("writes");
    Some(push.body["notification"].clone())
}

/// Alice, and bob who has a pusher.
async fn users(server: &Server) -> (String, String) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    server.services.pushes.follow().expect("follows");
    let pusher = json!({ "app_id": "a", "pushkey": "k", "kind": "http", "app_display_name": "a",
        "device_display_name": "d", "lang": "en",
        "data": { "url": "https://push.example.org/_matrix/push/v1/notify" } });
    server.post(&format!("{V3}/pushers/set"), &bob, pusher).await.ok();
    (alice, bob)
}

#[tokio::test]
async fn what_was_said_before_somebody_came_is_not_pushed_to_him() {
    let server = server();
    let (alice, bob) = users(&server).await;
    let room = server.room(&alice, json!({ "preset": "public_chat" })).await;
    say(&server, &alice, &room, "before", json!({})).await;
    server.post(&format!("{V3}/join/{room}"), &bob, json!({})).await.ok();
    // Only now it is looked at.
    assert_eq!(told(&server), None);
    say(&server, &alice, &room, "after", json!({})).await;
    assert_eq!(told(&server).expect("waits")["content"]["body"], "after");
    // An invite is of who was not there before.
    let other = server.room(&alice, json!({ "invite": ["@bob:example.org"] })).await;
    let invite = told(&server).expect("waits");
    assert_eq!((&invite["room_id"], &invite["user_is_target"]), (&json!(other), &json!(true)));
}

#[tokio::test]
async fn what_waits_is_passed_over_once_its_own_thread_is_read() {
    let server = server();
    let (alice, bob) = users(&server).await;
    let room = server.room(&alice, json!({ "preset": "public_chat" })).await;
    server.post(&format!("{V3}/join/{room}"), &bob, json!({})).await.ok();
    let root = say(&server, &alice, &room, "root", json!({})).await;
    let in_thread = json!({ "m.relates_to": { "rel_type": "m.thread", "event_id": root } });
    let first = say(&server, &alice, &room, "first", in_thread.clone()).await;
    say(&server, &alice, &room, "second", in_thread).await;
    let main = say(&server, &alice, &room, "main", json!({})).await;
    for (event, thread) in [(&main, "main"), (&first, &root)] {
        let path = format!("{V3}/rooms/{room}/receipt/m.read/{event}");
        server.post(&path, &bob, json!({ "thread_id": thread })).await.ok();
    }
    assert_eq!(told(&server).expect("waits")["content"]["body"], "second");
    assert_eq!(told(&server), None);
}
