//! Endpoint tests of simplified sliding sync (MSC4186): which rooms a connection
//! is told of, what of them, and that nothing is lost or told to somebody else.

#[path = "../common/mod.rs"]
mod common;
mod connections;
mod extensions;
mod leaving;
mod lists;
mod rooms;

use common::{Answer, Server};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";
const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

impl Server {
    async fn public_room(&self, token: &str, name: &str) -> String {
        self.room(token, json!({ "preset": "public_chat", "name": name })).await
    }

    async fn join(&self, token: &str, room: &str) {
        self.post(&format!("{V3}/join/{room}"), token, json!({})).await.ok();
    }

    async fn say(&self, token: &str, room: &str, text: &str) -> String {
        let path = format!("{V3}/rooms/{room}/send/m.room.message/{text}");
        let sent = self.put(&path, token, json!({ "msgtype": "m.text", "body": text })).await.ok();
        sent["event_id"].as_str().expect("an event id").to_owned()
    }

    async fn set_state(&self, token: &str, room: &str, kind: &str, key: &str, content: Value) -> String {
        let set = self.put(&format!("{V3}/rooms/{room}/state/{kind}/{key}"), token, content).await.ok();
        set["event_id"].as_str().expect("an event id").to_owned()
    }

    async fn ask_sliding(&self, token: &str, pos: Option<&Value>, query: &str, body: &Value) -> Answer {
        let pos = pos.map_or_else(String::new, |answer| {
            format!("pos={}&", answer["pos"].as_str().expect("a position"))
        });
        self.post(&format!("{SLIDING}?{pos}{query}"), token, body.clone()).await
    }

    /// An answer at once.
    async fn sliding(&self, token: &str, pos: Option<&Value>, body: &Value) -> Value {
        self.ask_sliding(token, pos, "timeout=0", body).await.ok()
    }
}

/// A request with one list of all rooms up to `last`.
fn window(last: u64, timeline_limit: u64) -> Value {
    json!({ "lists": { "all": {
        "ranges": [[0, last]], "timeline_limit": timeline_limit, "required_state": [],
    } } })
}

fn bodies(room: &Value) -> Vec<String> {
    let events = room["timeline"].as_array().map_or(&[][..], Vec::as_slice);
    events.iter().filter_map(|event| Some(event["content"]["body"].as_str()?.to_owned())).collect()
}

/// Types and state keys of the required state, in order.
fn required(room: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let events = room["required_state"].as_array().map_or(&[][..], Vec::as_slice);
    let mut pairs: Vec<_> =
        events.iter().map(|event| (text(&event["type"]), text(&event["state_key"]))).collect();
    pairs.sort();
    pairs
}

fn rooms(answer: &Value) -> Vec<&str> {
    answer["rooms"].as_object().expect("rooms").keys().map(String::as_str).collect()
}
