//! Endpoint tests of unread counts: what counts, in which thread, and what a
//! receipt resets.

mod common;

use common::{Server, server};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

/// `{"room":{"timeline":{"unread_thread_notifications":true}}}`
const THREADED: &str =
    "filter=%7B%22room%22%3A%7B%22timeline%22%3A%7B%22unread_thread_notifications%22%3Atrue%7D%7D%7D";

struct Chat {
    server: Server,
    alice: String,
    bob: String,
    room: String,
    said: std::cell::Cell<u32>,
}

impl Chat {
    async fn new() -> Self {
        let server = server();
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let made =
            server.post(&format!("{V3}/createRoom"), &alice, json!({ "preset": "public_chat" })).await.ok();
        let room = made["room_id"].as_str().expect("a room id").to_owned();
        server.post(&format!("{V3}/join/{room}"), &bob, json!({})).await.ok();
        Self { server, alice, bob, room, said: std::cell::Cell::default() }
    }

    async fn send(&self, token: &str, kind: &str, content: Value) -> String {
        let number = self.said.replace(self.said.get() + 1);
        let path = format!("{V3}/rooms/{}/send/{kind}/t{number}", self.room);
        let sent = self.server.put(&path, token, content).await.ok();
        sent["event_id"].as_str().expect("an event id").to_owned()
    }

    async fn say(&self, extra: Value) -> String {
        let mut content = json!({ "msgtype": "m.text", "body": "hi" });
        for (key, value) in extra.as_object().expect("an object") {
            content[key] = value.clone();
        }
        self.send(&self.alice, "m.room.message", content).await
    }

    async fn read(&self, kind: &str, event_id: &str, body: Value) {
        let path = format!("{V3}/rooms/{}/receipt/{kind}/{event_id}", self.room);
        self.server.post(&path, &self.bob, body).await.ok();
    }

    /// Bob's counts: all, in the main timeline, and by thread.
    async fn counts(&self) -> (Value, Value, Value) {
        let all = self.server.get(&format!("{V3}/sync"), &self.bob).await.ok();
        let threaded = self.server.get(&format!("{V3}/sync?{THREADED}"), &self.bob).await.ok();
        let (all, threaded) = (&all["rooms"]["join"][&self.room], &threaded["rooms"]["join"][&self.room]);
        assert!(all.get("unread_thread_notifications").is_none());
        let numbers = |unread: &Value| json!([unread["notification_count"], unread["highlight_count"]]);
        let threads = threaded.get("unread_thread_notifications").cloned().unwrap_or_else(|| json!({}));
        let threads = threads.as_object().expect("threads").iter();
        let threads: serde_json::Map<_, _> =
            threads.map(|(root, unread)| (root.clone(), numbers(unread))).collect();
        (numbers(&all["unread_notifications"]), numbers(&threaded["unread_notifications"]), threads.into())
    }
}

#[tokio::test]
async fn only_what_the_rules_say_counts() {
    let chat = Chat::new().await;
    chat.say(json!({})).await;
    assert_eq!(chat.counts().await.0, json!([1, 0]));
    chat.say(json!({ "m.mentions": { "user_ids": ["@bob:example.org"] } })).await;
    assert_eq!(chat.counts().await.0, json!([2, 1]));
    let room = json!({ "m.mentions": { "room": true } });
    chat.say(room.clone()).await;
    assert_eq!(chat.counts().await.0, json!([3, 2]), "the room's creator may notify all");
    let original = chat.say(json!({})).await;
    chat.say(json!({ "m.relates_to": { "rel_type": "m.replace", "event_id": original } })).await;
    chat.say(json!({ "msgtype": "m.notice" })).await;
    assert_eq!(chat.counts().await.0, json!([4, 2]), "no edits, no notices");
    chat.send(&chat.alice, "m.room.encrypted", json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await;
    chat.send(&chat.bob, "m.room.message", json!({ "msgtype": "m.text", "body": "own" })).await;
    assert_eq!(chat.counts().await.0, json!([5, 2]), "encrypted ones do, his own do not");
    let redact = format!("{V3}/rooms/{}/redact/{original}/r1", chat.room);
    chat.server.put(&redact, &chat.alice, json!({})).await.ok();
    assert_eq!(chat.counts().await.0, json!([4, 2]), "what was taken back");

    // Muted by his own rule.
    let rule = format!("{V3}/pushrules/global/room/{}", chat.room);
    chat.server.put(&rule, &chat.bob, json!({ "actions": [] })).await.ok();
    chat.say(json!({})).await;
    assert_eq!(chat.counts().await.0, json!([4, 2]));
}

#[tokio::test]
async fn who_may_not_notify_all_does_not() {
    let chat = Chat::new().await;
    let carol = chat.server.register("carol").await;
    chat.server.post(&format!("{V3}/join/{}", chat.room), &carol, json!({})).await.ok();
    let content = json!({ "msgtype": "m.text", "body": "hi", "m.mentions": { "room": true } });
    chat.send(&carol, "m.room.message", content).await;
    assert_eq!(chat.counts().await.0, json!([1, 0]));
}

#[tokio::test]
async fn threads_are_counted_apart_and_read_apart() {
    let chat = Chat::new().await;
    let root = chat.say(json!({})).await;
    let in_thread = json!({ "m.relates_to": { "rel_type": "m.thread", "event_id": root } });
    chat.say(in_thread.clone()).await;
    let last = chat.say(in_thread.clone()).await;
    let main = chat.say(json!({})).await;
    assert_eq!(chat.counts().await, (json!([4, 0]), json!([2, 0]), json!({ &root: [2, 0] })));
    chat.read("m.read", &main, json!({ "thread_id": "main" })).await;
    assert_eq!(chat.counts().await, (json!([2, 0]), json!([0, 0]), json!({ &root: [2, 0] })));
    chat.read("m.read.private", &last, json!({ "thread_id": root })).await;
    assert_eq!(chat.counts().await, (json!([0, 0]), json!([0, 0]), json!({})));
    let more = chat.say(in_thread).await;
    assert_eq!(chat.counts().await.2, json!({ &root: [1, 0] }));
    chat.read("m.read", &more, json!({})).await;
    assert_eq!(chat.counts().await, (json!([0, 0]), json!([0, 0]), json!({})), "without thread: everything");
}

#[tokio::test]
async fn what_ignored_users_say_does_not_count_as_long_as_they_are() {
    let chat = Chat::new().await;
    let mentioned = json!({ "m.mentions": { "user_ids": ["@bob:example.org"] } });
    let root = chat.say(mentioned.clone()).await;
    chat.say(json!({ "m.relates_to": { "rel_type": "m.thread", "event_id": root } })).await;
    let counted = (json!([2, 1]), json!([1, 1]), json!({ &root: [1, 0] }));
    assert_eq!(chat.counts().await, counted);
    let list = format!("{V3}/user/@bob:example.org/account_data/m.ignored_user_list");
    let ignoring = |users: Value| chat.server.put(&list, &chat.bob, json!({ "ignored_users": users }));
    ignoring(json!({ "@alice:example.org": {} })).await.ok();
    assert_eq!(chat.counts().await, (json!([0, 0]), json!([0, 0]), json!({})));
    chat.say(mentioned).await;
    assert_eq!(chat.counts().await.0, json!([0, 0]), "neither what comes now");
    let carol = chat.server.register("carol").await;
    chat.server.post(&format!("{V3}/join/{}", chat.room), &carol, json!({})).await.ok();
    chat.send(&carol, "m.room.message", json!({ "msgtype": "m.text", "body": "hi" })).await;
    assert_eq!(chat.counts().await.0, json!([1, 0]), "others do");
    ignoring(json!({})).await.ok();
    assert_eq!(chat.counts().await.0, json!([4, 2]), "and she again");
}

#[tokio::test]
async fn a_new_name_reads_nothing_and_who_comes_back_has_nothing_to_catch_up_with() {
    let chat = Chat::new().await;
    let mentioned = json!({ "m.mentions": { "user_ids": ["@bob:example.org"] } });
    let first = chat.say(json!({})).await;
    chat.read("m.read", &first, json!({ "thread_id": "main" })).await;
    let root = chat.say(mentioned.clone()).await;
    chat.say(json!({ "m.relates_to": { "rel_type": "m.thread", "event_id": root } })).await;
    let counted = (json!([2, 1]), json!([1, 1]), json!({ &root: [1, 0] }));
    assert_eq!(chat.counts().await, counted);
    for name in ["Bob", "Robert"] {
        let path = format!("{V3}/profile/@bob:example.org/displayname");
        chat.server.put(&path, &chat.bob, json!({ "displayname": name })).await.ok();
        assert_eq!(chat.counts().await, counted, "{name}");
    }
    // A receipt from before he left says nothing of what was said while he was out.
    chat.read("m.read", &first, json!({})).await;
    chat.server.post(&format!("{V3}/rooms/{}/leave", chat.room), &chat.bob, json!({})).await.ok();
    chat.say(mentioned).await;
    chat.server.post(&format!("{V3}/join/{}", chat.room), &chat.bob, json!({})).await.ok();
    assert_eq!(chat.counts().await.0, json!([0, 0]));
    chat.say(json!({})).await;
    assert_eq!(chat.counts().await.0, json!([1, 0]));
}
