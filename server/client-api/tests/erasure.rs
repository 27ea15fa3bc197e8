//! Endpoint tests of what is left of a user who was erased: who was there keeps
//! what he was told, who comes later is told that something was said.

mod common;

use common::{Server, server};
use ruma::user_id;
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

impl Server {
    async fn say(&self, token: &str, room: &str, text: &str) -> String {
        let path = format!("{V3}/rooms/{room}/send/m.room.message/{text}");
        let sent = self.put(&path, token, json!({ "msgtype": "m.text", "body": text })).await.ok();
        sent["event_id"].as_str().expect("an event id").to_owned()
    }

    async fn join(&self, token: &str, room: &str) {
        self.post(&format!("{V3}/join/{room}"), token, json!({})).await.ok();
    }

    /// What the messages of a room say to this user, latest first; `-` for one that says nothing.
    async fn told(&self, token: &str, room: &str) -> Vec<String> {
        let page = self.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=100"), token).await.ok();
        let events = page["chunk"].as_array().expect("a chunk").iter();
        let messages = events.filter(|event| event["type"] == "m.room.message");
        messages.map(|event| event["content"]["body"].as_str().unwrap_or("-").to_owned()).collect()
    }

    async fn hits(&self, token: &str, word: &str) -> Value {
        let body = json!({ "search_categories": { "room_events": { "search_term": word } } });
        let found = self.post(&format!("{V3}/search"), token, body).await.ok();
        found["search_categories"]["room_events"]["count"].clone()
    }
}

#[tokio::test]
async fn who_was_there_keeps_what_an_erased_user_said_and_nobody_else_gets_it() {
    let server = server();
    let (alice, bob, mallory) =
        (server.register("alice").await, server.register("bob").await, server.register("mallory").await);
    let made =
        server.post(&format!("{V3}/createRoom"), &alice, json!({ "preset": "public_chat" })).await.ok();
    let room = made["room_id"].as_str().expect("a room id").to_owned();
    server.join(&mallory, &room).await;
    let first = server.say(&mallory, &room, "first").await;
    // Who came in between could see it, by the room's visibility.
    server.join(&bob, &room).await;
    server.say(&mallory, &room, "second").await;
    server.say(&alice, &room, "answer").await;
    let data = format!("{V3}/user/@mallory:example.org/account_data/org.example");
    server.put(&data, &mallory, json!({ "secret": 1 })).await.ok();

    let auth = json!({ "type": "m.login.password", "user": "mallory", "password": "pw" });
    server
        .post(&format!("{V3}/account/deactivate"), &mallory, json!({ "auth": auth, "erase": true }))
        .await
        .ok();
    let dora = server.register("dora").await;
    server.join(&dora, &room).await;

    for token in [&alice, &bob] {
        assert_eq!(server.told(token, &room).await, ["answer", "second", "first"]);
        assert_eq!(server.hits(token, "first").await, 1);
    }
    assert_eq!(server.told(&dora, &room).await, ["answer", "-", "-"]);
    let sync = server.get(&format!("{V3}/sync"), &dora).await.ok();
    let told = sync["rooms"]["join"][&room]["timeline"]["events"].to_string();
    assert!(told.contains("answer") && !told.contains("first") && !told.contains("second"), "{told}");
    let event = server.get(&format!("{V3}/rooms/{room}/event/{first}"), &dora).await.ok();
    assert_eq!((&event["content"], &event["sender"]), (&json!({}), &json!("@mallory:example.org")));
    let context = server.get(&format!("{V3}/rooms/{room}/context/{first}"), &dora).await.ok();
    assert!(!context.to_string().contains("second"), "{context}");
    assert_eq!(server.hits(&dora, "first").await, 0, "what is not shown is not found either");
    assert_eq!(server.hits(&dora, "answer").await, 1);

    let (data, id) = (&server.services.account_data, user_id!("@mallory:example.org"));
    assert_eq!(data.get(id, None, "org.example").expect_err("forgotten").status, 404);
}

#[tokio::test]
async fn who_only_leaves_is_not_forgotten() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let made =
        server.post(&format!("{V3}/createRoom"), &alice, json!({ "preset": "public_chat" })).await.ok();
    let room = made["room_id"].as_str().expect("a room id").to_owned();
    server.join(&bob, &room).await;
    server.say(&bob, &room, "said").await;
    let auth = json!({ "type": "m.login.password", "user": "bob", "password": "pw" });
    server.post(&format!("{V3}/account/deactivate"), &bob, json!({ "auth": auth })).await.ok();
    let dora = server.register("dora").await;
    server.join(&dora, &room).await;
    assert_eq!(server.told(&dora, &room).await, ["said"]);
}
