//! Endpoint tests of presence: who is told what of whom.

mod common;

use std::time::Duration;

use common::{Server, server, server_with};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

impl Server {
    /// Presence by user, and the token for what follows.
    async fn seen(&self, token: &str, query: &str) -> (Value, String) {
        let sync = self.get(&format!("{V3}/sync?{query}"), token).await.ok();
        let mut seen = json!({});
        for event in sync["presence"]["events"].as_array().expect("a list") {
            assert_eq!(event["type"], "m.presence");
            seen[event["sender"].as_str().expect("a sender")] = event["content"].clone();
        }
        (seen, sync["next_batch"].as_str().expect("a token").to_owned())
    }

    async fn set(&self, name: &str, token: &str, body: Value) {
        self.put(&format!("{V3}/presence/@{name}:example.org/status"), token, body).await.ok();
    }

    async fn shared_room(&self, tokens: &[&String]) {
        let body = json!({ "preset": "public_chat" });
        let made = self.post(&format!("{V3}/createRoom"), tokens[0], body).await.ok();
        let room = made["room_id"].as_str().expect("an id").to_owned();
        for token in &tokens[1..] {
            self.post(&format!("{V3}/rooms/{room}/join"), token, json!({})).await.ok();
        }
    }
}

const BOB: &str = "@bob:example.org";

#[tokio::test]
async fn only_those_who_share_a_room_are_told_who_is_there() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let eve = server.register("eve").await;
    server.shared_room(&[&alice, &bob]).await;
    server.set("bob", &bob, json!({ "presence": "unavailable", "status_msg": "a secret" })).await;
    let (seen, _) = server.seen(&eve, "").await;
    assert_eq!(seen.get(BOB), None);
    let status = format!("{V3}/presence/{BOB}/status");
    server.get(&status, &eve).await.is_error(403, "M_FORBIDDEN");
    server.put(&status, &eve, json!({ "presence": "online" })).await.is_error(403, "M_FORBIDDEN");
    let (seen, _) = server.seen(&alice, "").await;
    assert_eq!(
        (&seen[BOB]["presence"], &seen[BOB]["status_msg"]),
        (&json!("unavailable"), &json!("a secret"))
    );
    assert_eq!(server.get(&status, &alice).await.ok()["status_msg"], "a secret");
    let ignored = json!({ "ignored_users": { BOB: {} } });
    server
        .put(&format!("{V3}/user/@alice:example.org/account_data/m.ignored_user_list"), &alice, ignored)
        .await
        .ok();
    assert_eq!(server.seen(&alice, "").await.0.get(BOB), None);
    let long = json!({ "presence": "online", "status_msg": "x".repeat(2_000) });
    server.put(&status, &bob, long).await.is_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn changes_are_told_once_and_silence_is_one() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    server.shared_room(&[&alice, &bob]).await;
    let (seen, next) = server.seen(&alice, "").await;
    assert_eq!(seen.get(BOB), None, "he was never here");
    server.seen(&bob, "set_presence=offline").await;
    let (seen, next) = server.seen(&alice, &format!("since={next}")).await;
    assert_eq!(seen, json!({}), "a client that says nothing of him");
    server.seen(&bob, "").await;
    let (seen, next) = server.seen(&alice, &format!("since={next}")).await;
    assert_eq!((&seen[BOB]["presence"], &seen[BOB]["currently_active"]), (&json!("online"), &json!(true)));
    // An idle device changes nothing while another is there.
    server.seen(&bob, "set_presence=unavailable").await;
    let (seen, next) = server.seen(&alice, &format!("since={next}")).await;
    assert_eq!(seen, json!({}));
    server.clock.advance(Duration::from_mins(5));
    let (_, next) = server.seen(&alice, &format!("since={next}")).await;
    let (again, _) = server.seen(&alice, &format!("since={next}")).await;
    assert_eq!(again, json!({}));
    let status = format!("{V3}/presence/{BOB}/status");
    assert_eq!(server.get(&status, &alice).await.ok()["presence"], "offline");
    let filter = "filter=%7B%22presence%22%3A%7B%22types%22%3A%5B%5D%7D%7D";
    assert_eq!(server.seen(&alice, filter).await.0, json!({}));
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let server = server_with(|settings| settings.presence = false);
    let alice = server.register("alice").await;
    server.set("alice", &alice, json!({ "presence": "online" })).await;
    assert_eq!(server.seen(&alice, "").await.0, json!({}));
    let status = format!("{V3}/presence/@alice:example.org/status");
    assert_eq!(server.get(&status, &alice).await.ok(), json!({ "presence": "offline" }));
}
