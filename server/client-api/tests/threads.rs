//! Endpoint tests of threads: the list of them, and what is bundled with events.

mod common;

use common::{Server, server};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

/// A room of a few people, and who they are.
struct Room<'a> {
    server: &'a Server,
    id: String,
}

impl<'a> Room<'a> {
    async fn new(server: &'a Server, token: &str, visibility: &str) -> Self {
        let visibility = json!({ "type": "m.room.history_visibility", "state_key": "",
            "content": { "history_visibility": visibility } });
        let body = json!({ "preset": "public_chat", "initial_state": [visibility] });
        let made = server.post(&format!("{V3}/createRoom"), token, body).await.ok();
        Self { server, id: made["room_id"].as_str().expect("a room id").to_owned() }
    }

    async fn act(&self, token: &str, verb: &str) {
        self.server.post(&format!("{V3}/rooms/{}/{verb}", self.id), token, json!({})).await.ok();
    }

    async fn send(&self, token: &str, content: Value) -> String {
        let path = format!("{V3}/rooms/{}/send/m.room.message/{}", self.id, content);
        let path = path.replace([' ', '"', '{', '}', '$', ':', ','], "-");
        let sent = self.server.put(&path, token, content).await.ok();
        sent["event_id"].as_str().expect("an event id").to_owned()
    }

    async fn say(&self, token: &str, text: &str) -> String {
        self.send(token, json!({ "msgtype": "m.text", "body": text })).await
    }

    async fn relate(&self, token: &str, rel_type: &str, target: &str, text: &str) -> String {
        let relates_to = json!({ "rel_type": rel_type, "event_id": target });
        let new = json!({ "msgtype": "m.text", "body": text });
        let content =
            json!({ "msgtype": "m.text", "body": text, "m.new_content": new, "m.relates_to": relates_to });
        self.send(token, content).await
    }

    async fn reply(&self, token: &str, root: &str, text: &str) -> String {
        self.relate(token, "m.thread", root, text).await
    }

    async fn threads(&self, token: &str, query: &str) -> Value {
        self.server.get(&format!("/_matrix/client/v1/rooms/{}/threads{query}", self.id), token).await.ok()
    }

    async fn event(&self, token: &str, event_id: &str) -> Value {
        self.server.get(&format!("{V3}/rooms/{}/event/{event_id}", self.id), token).await.ok()
    }

    async fn redact(&self, token: &str, event_id: &str) {
        let path = format!("{V3}/rooms/{}/redact/{event_id}/r{}", self.id, &event_id[1..9]);
        self.server.put(&path, token, json!({})).await.ok();
    }
}

fn roots(page: &Value) -> Vec<&str> {
    let chunk = page["chunk"].as_array().expect("a list");
    chunk.iter().map(|root| root["event_id"].as_str().expect("an id")).collect()
}

fn thread(event: &Value) -> &Value {
    &event["unsigned"]["m.relations"]["m.thread"]
}

#[tokio::test]
async fn nobody_is_told_of_threads_that_he_may_not_see() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = Room::new(&server, &alice, "joined").await;
    let path = format!("/_matrix/client/v1/rooms/{}/threads", room.id);
    server.get(&path, &bob).await.is_error(403, "M_FORBIDDEN");
    server.get("/_matrix/client/v1/rooms/!none:example.org/threads", &bob).await.is_error(403, "M_FORBIDDEN");

    let before = room.say(&alice, "before bob").await;
    room.reply(&alice, &before, "a secret of before").await;
    room.act(&bob, "join").await;
    assert_eq!(room.threads(&bob, "").await["chunk"], json!([]), "its root was before him");

    let root = room.say(&alice, "bob is here").await;
    let seen = room.reply(&alice, &root, "for bob").await;
    let edited = room.say(&alice, "bob sees this").await;
    room.act(&bob, "leave").await;
    room.reply(&alice, &root, "a secret of after").await;
    room.relate(&alice, "m.replace", &edited, "an edit of after").await;
    room.relate(&alice, "m.replace", &seen, "an edit of a reply").await;
    let page = room.threads(&bob, "").await;
    assert_eq!(roots(&page), [root.as_str()]);
    assert_eq!(thread(&page["chunk"][0])["count"], 1);
    assert_eq!(thread(&page["chunk"][0])["latest_event"]["event_id"], seen.as_str());
    assert_eq!(room.event(&bob, &edited).await["unsigned"]["m.relations"], Value::Null);
    for shown in [page, room.event(&bob, &root).await, room.event(&bob, &edited).await] {
        let shown = shown.to_string();
        assert!(!shown.contains("a secret") && !shown.contains("an edit"), "{shown}");
    }
    // Nor is anybody told of an event of another room because one of his own points to it.
    let own = Room::new(&server, &bob, "shared").await;
    own.reply(&bob, &before, "from elsewhere").await;
    assert_eq!(own.threads(&bob, "").await["chunk"], json!([]));
    let whole = room.event(&alice, &before).await;
    assert_eq!(thread(&whole)["count"], 1);
    assert!(!whole.to_string().contains("from elsewhere"));
}

#[tokio::test]
async fn threads_are_listed_by_their_last_event_page_by_page() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = Room::new(&server, &alice, "shared").await;
    room.act(&bob, "join").await;
    let mut all = Vec::new();
    for name in ["one", "two", "three"] {
        let root = room.say(&alice, name).await;
        room.reply(&alice, &root, &format!("first in {name}")).await;
        all.push(root);
    }
    room.say(&alice, "no thread").await;
    let last = room.reply(&bob, &all[0], "bob in one").await;
    let page = room.threads(&alice, "").await;
    assert_eq!(roots(&page), [&*all[0], &*all[2], &*all[1]]);
    assert_eq!(page.get("next_batch"), None);
    let summary = thread(&page["chunk"][0]);
    assert_eq!((&summary["count"], &summary["current_user_participated"]), (&json!(2), &json!(true)));
    assert_eq!(summary["latest_event"]["event_id"], last.as_str());
    assert_eq!(summary["latest_event"]["content"]["body"], "bob in one");

    let first = room.threads(&bob, "?limit=2").await;
    assert_eq!(roots(&first), [&*all[0], &*all[2]]);
    let next = first["next_batch"].as_str().expect("more");
    let second = room.threads(&bob, &format!("?limit=2&from={next}")).await;
    assert_eq!(roots(&second), [&*all[1]]);
    assert_eq!(second.get("next_batch"), None);
    let mine = room.threads(&bob, "?include=participated").await;
    assert_eq!(roots(&mine), [&*all[0]]);
    assert_eq!(thread(&page["chunk"][1])["current_user_participated"], true);
    assert_eq!(thread(&first["chunk"][1])["current_user_participated"], false);
    let bad = format!("/_matrix/client/v1/rooms/{}/threads?from=nonsense", room.id);
    server.get(&bad, &bob).await.is_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn what_is_taken_back_or_ignored_counts_no_more() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = Room::new(&server, &alice, "shared").await;
    room.act(&bob, "join").await;
    let (first, second) = (room.say(&alice, "first").await, room.say(&bob, "second").await);
    let early = room.reply(&alice, &first, "early").await;
    room.reply(&alice, &second, "between").await;
    let late = room.reply(&bob, &first, "late").await;
    assert_eq!(roots(&room.threads(&alice, "").await), [&*first, &*second]);
    room.redact(&bob, &late).await;
    let page = room.threads(&alice, "").await;
    assert_eq!(roots(&page), [&*second, &*first]);
    assert_eq!(thread(&page["chunk"][1])["count"], 1);
    assert_eq!(thread(&page["chunk"][1])["latest_event"]["event_id"], early.as_str());
    // The thread of a root that was taken back stays; without events it is none.
    room.redact(&alice, &first).await;
    let page = room.threads(&alice, "").await;
    assert_eq!(page["chunk"][1]["content"], json!({}));
    assert_eq!(thread(&page["chunk"][1])["count"], 1);
    room.redact(&alice, &early).await;
    assert_eq!(roots(&room.threads(&alice, "").await), [&*second]);

    let ignored = json!({ "ignored_users": { "@bob:example.org": {} } });
    let path = format!("{V3}/user/@alice:example.org/account_data/m.ignored_user_list");
    server.put(&path, &alice, ignored).await.ok();
    room.reply(&bob, &second, "nobody listens").await;
    let page = room.threads(&alice, "").await;
    assert_eq!(page["chunk"][0]["content"], json!({}), "its root is emptied");
    assert_eq!(thread(&page["chunk"][0])["count"], 1);
    assert!(!page.to_string().contains("nobody listens"));
}

#[tokio::test]
async fn aggregations_come_with_events_wherever_they_are_shown() {
    let server = server();
    let alice = server.register("alice").await;
    let room = Room::new(&server, &alice, "shared").await;
    let root = room.say(&alice, "root").await;
    let reply = room.reply(&alice, &root, "reply").await;
    let edit = room.relate(&alice, "m.replace", &root, "root, mended").await;
    let other = room.relate(&alice, "m.replace", &reply, "reply, mended").await;
    let messages = room.server.get(&format!("{V3}/rooms/{}/messages?dir=b", room.id), &alice).await.ok();
    let sync = server.get(&format!("{V3}/sync"), &alice).await.ok();
    let context = server.get(&format!("{V3}/rooms/{}/context/{root}", room.id), &alice).await.ok();
    let found = |events: &Value| {
        let mut events = events.as_array().expect("a list").iter();
        events.find(|event| event["event_id"] == root.as_str()).cloned().expect("the root")
    };
    for shown in [
        room.event(&alice, &root).await,
        found(&messages["chunk"]),
        found(&sync["rooms"]["join"][&room.id]["timeline"]["events"]),
        context["event"].clone(),
    ] {
        assert_eq!(shown["unsigned"]["m.relations"]["m.replace"]["event_id"], edit.as_str(), "{shown}");
        assert_eq!(shown["content"]["body"], "root", "the event itself stays as it was");
        let latest = &thread(&shown)["latest_event"];
        assert_eq!(latest["event_id"], reply.as_str());
        assert_eq!(latest["unsigned"]["m.relations"]["m.replace"]["event_id"], other.as_str());
    }
    let nested = json!({ "body": "x", "m.relates_to": { "rel_type": "m.thread", "event_id": reply } });
    let path = format!("{V3}/rooms/{}/send/m.room.message/nested", room.id);
    server.put(&path, &alice, nested).await.is_error(400, "M_UNKNOWN");
}
