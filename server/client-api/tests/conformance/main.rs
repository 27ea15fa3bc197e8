//! What the public suites of conformance check of the client-server API and the other
//! endpoint tests do not: the results are in `tests/CONFORMANCE-CLIENT.md`.

#[path = "../common/mod.rs"]
mod common;

mod accounts;
mod crossing;
mod files;
mod history;
mod left;
mod membership;
mod messages;
mod powers;
mod rules;
mod syncing;
mod uploads;
mod waking;

use common::{Answer, Server};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";
const V1: &str = "/_matrix/client/v1";

impl Server {
    /// A public room of the first, in which all are.
    async fn shared(&self, tokens: &[&str]) -> String {
        let room = self.room(tokens[0], json!({ "preset": "public_chat" })).await;
        for token in &tokens[1..] {
            self.act(token, &room, "join", json!({})).await.ok();
        }
        room
    }

    async fn act(&self, token: &str, room: &str, verb: &str, body: Value) -> Answer {
        self.post(&format!("{V3}/rooms/{room}/{verb}"), token, body).await
    }

    async fn say(&self, token: &str, room: &str, text: &str) -> String {
        let path = format!("{V3}/rooms/{room}/send/m.room.message/{text}");
        let sent = self.put(&path, token, json!({ "msgtype": "m.text", "body": text })).await.ok();
        sent["event_id"].as_str().expect("an event id").to_owned()
    }

    async fn set(&self, token: &str, room: &str, kind: &str, content: Value) -> Answer {
        self.put(&format!("{V3}/rooms/{room}/state/{kind}"), token, content).await
    }

    async fn state(&self, token: &str, room: &str, kind: &str) -> Value {
        self.get(&format!("{V3}/rooms/{room}/state/{kind}"), token).await.ok()
    }

    /// The id of somebody's membership event.
    async fn membership(&self, token: &str, room: &str, name: &str) -> String {
        let path = format!("{V3}/rooms/{room}/state/m.room.member/{}?format=event", id(name));
        self.get(&path, token).await.ok()["event_id"].as_str().expect("an event id").to_owned()
    }

    async fn sync(&self, token: &str, query: &str) -> Value {
        self.get(&format!("{V3}/sync?{query}"), token).await.ok()
    }

    async fn sync_since(&self, token: &str, since: &Value) -> Value {
        self.sync(token, &format!("since={}", since["next_batch"].as_str().expect("a token"))).await
    }

    async fn login(&self, name: &str, device_id: &str) -> String {
        let body = json!({ "type": "m.login.password", "password": "pw", "device_id": device_id,
            "identifier": { "type": "m.id.user", "user": name } });
        let answer = self.ask("POST", &format!("{V3}/login"), None, Some(body)).await.ok();
        answer["access_token"].as_str().expect("a token").to_owned()
    }
}

fn id(name: &str) -> String {
    format!("@{name}:example.org")
}

fn user(name: &str) -> Value {
    json!({ "user_id": id(name) })
}

/// An unreserved spelling of a filter, or of anything else, for a query.
fn encoded(filter: &Value) -> String {
    let text = filter.as_str().map_or_else(|| filter.to_string(), str::to_owned);
    let digits: Vec<String> = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    digits.concat()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn bodies(events: &Value) -> Vec<&str> {
    list(events).iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

/// The senders or subjects of the membership events of a section of state.
fn members(section: &Value) -> Vec<&str> {
    let events = list(&section["events"]).iter().filter(|event| event["type"] == "m.room.member");
    let mut found: Vec<_> = events.filter_map(|event| event["state_key"].as_str()).collect();
    found.sort_unstable();
    found
}
