//! Endpoint tests of `GET /notifications`: who is told of what, in which order,
//! page by page.

mod common;

use common::{Server, server};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

impl Server {
    async fn public_room(&self, token: &str) -> String {
        let made =
            self.post(&format!("{V3}/createRoom"), token, json!({ "preset": "public_chat" })).await.ok();
        made["room_id"].as_str().expect("a room id").to_owned()
    }

    async fn say(&self, token: &str, room: &str, text: &str, content: Value) -> String {
        let mut content = content;
        content["msgtype"] = "m.text".into();
        content["body"] = text.into();
        let path = format!("{V3}/rooms/{room}/send/m.room.message/{text}");
        let sent = self.put(&path, token, content).await.ok();
        sent["event_id"].as_str().expect("an event id").to_owned()
    }

    async fn notifications(&self, token: &str, query: &str) -> Value {
        self.get(&format!("{V3}/notifications?{query}"), token).await.ok()
    }
}

fn bodies(page: &Value) -> Vec<&str> {
    let list = page["notifications"].as_array().expect("a list");
    list.iter().filter_map(|one| one["event"]["content"]["body"].as_str()).collect()
}

#[tokio::test]
async fn the_latest_of_all_rooms_come_first_and_the_list_is_walked_through() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (one, two) = (server.public_room(&alice).await, server.public_room(&alice).await);
    server.say(&alice, &one, "before", json!({})).await;
    for room in [&one, &two] {
        server.post(&format!("{V3}/join/{room}"), &bob, json!({})).await.ok();
    }
    for number in 0..40 {
        let room = if number % 3 == 0 { &one } else { &two };
        server.say(&alice, room, &format!("m{number}"), json!({})).await;
    }
    server.say(&bob, &one, "own", json!({})).await;
    let mut seen: Vec<String> = Vec::new();
    let mut query = "limit=7".to_owned();
    loop {
        let page = server.notifications(&bob, &query).await;
        assert!(page["notifications"].as_array().expect("a list").len() <= 7);
        seen.extend(bodies(&page).into_iter().map(ToOwned::to_owned));
        let Some(next) = page["next_token"].as_str() else { break };
        query = format!("limit=7&from={next}");
    }
    let expected: Vec<String> = (0..40).rev().map(|number| format!("m{number}")).collect();
    assert_eq!(seen, expected);
    assert!(bodies(&server.notifications(&alice, "").await).contains(&"own"));
    server.get(&format!("{V3}/notifications?from=x"), &bob).await.is_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn it_says_what_highlights_and_what_is_read() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.public_room(&alice).await;
    server.post(&format!("{V3}/join/{room}"), &bob, json!({})).await.ok();
    server.say(&alice, &room, "plain", json!({})).await;
    let mention = json!({ "m.mentions": { "user_ids": ["@bob:example.org"] } });
    let loud = server.say(&alice, &room, "loud", mention).await;
    let root = server.say(&alice, &room, "root", json!({})).await;
    let thread = json!({ "m.relates_to": { "rel_type": "m.thread", "event_id": root } });
    server.say(&alice, &room, "thread", thread).await;
    let gone = server.say(&alice, &room, "gone", json!({})).await;
    let redact = format!("{V3}/rooms/{room}/redact/{gone}/r");
    server.put(&redact, &alice, json!({})).await.ok();

    let all = server.notifications(&bob, "").await;
    assert_eq!(bodies(&all), ["thread", "root", "loud", "plain"]);
    let one = &all["notifications"][2];
    assert_eq!(
        (&one["room_id"], &one["read"], &one["event"]["event_id"]),
        (&json!(room), &json!(false), &json!(loud))
    );
    assert!(one["actions"].as_array().expect("a list").contains(&json!("notify")), "{one}");
    assert!(one["ts"].is_u64() && one["event"].get("room_id").is_none(), "{one}");
    assert_eq!(bodies(&server.notifications(&bob, "only=highlight").await), ["loud"]);

    let receipt = format!("{V3}/rooms/{room}/receipt/m.read/{root}");
    server.post(&receipt, &bob, json!({ "thread_id": "main" })).await.ok();
    let all = server.notifications(&bob, "").await;
    let read: Vec<_> =
        all["notifications"].as_array().expect("a list").iter().map(|one| &one["read"]).collect();
    assert_eq!(read, [&json!(false), &json!(true), &json!(true), &json!(true)], "the thread has its own");

    let ignore = format!("{V3}/user/@bob:example.org/account_data/m.ignored_user_list");
    server.put(&ignore, &bob, json!({ "ignored_users": { "@alice:example.org": {} } })).await.ok();
    assert_eq!(bodies(&server.notifications(&bob, "").await).len(), 0);
    server.put(&ignore, &bob, json!({})).await.ok();
    server.post(&format!("{V3}/rooms/{room}/leave"), &bob, json!({})).await.ok();
    assert_eq!(bodies(&server.notifications(&bob, "").await).len(), 0, "of rooms that he is in");
}
