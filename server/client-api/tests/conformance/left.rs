//! What became of a room after somebody had left it is told to him by no route, though
//! his own later memberships are.

use serde_json::{Value, json};

use super::{V1, V3, encoded, id, user};
use crate::common::{Server, server};

const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

/// A room that bob was put out of, and what happened in it then; all of that says "later".
struct Left {
    server: Server,
    alice: String,
    bob: String,
    room: String,
    /// Said while he was in it: what is edited later, what is redacted later, what a thread begins at.
    said: [String; 3],
    /// Said later.
    late: Vec<String>,
    /// His own membership, later.
    own: String,
    /// A place in the timeline, later.
    place: String,
}

impl Left {
    async fn send(&self, kind: &str, content: Value) -> String {
        let path = format!("{V3}/rooms/{}/send/{kind}/{}", self.room, self.late.len());
        self.server.put(&path, &self.alice, content).await.ok()["event_id"]
            .as_str()
            .expect("an id")
            .to_owned()
    }

    /// He is banned or invited again, or neither.
    async fn new(then: &str) -> Self {
        let server = server();
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let carol = server.register("carol").await;
        let wishes = json!({ "preset": "private_chat", "name": "then", "invite": [id("bob"), id("carol")] });
        let room = server.room(&alice, wishes).await;
        server.act(&bob, &room, "join", json!({})).await.ok();
        server.act(&carol, &room, "join", json!({})).await.ok();
        let mut said = Vec::new();
        for text in ["then1", "then2", "then3"] {
            said.push(server.say(&alice, &room, text).await);
        }
        let said = said.try_into().expect("three");
        let (late, own, place) = (Vec::new(), String::new(), String::new());
        let mut left = Self { server, alice, bob, room, said, late, own, place };
        left.reply("then reply").await;
        left.act("kick").await;
        left.go_on(&carol).await;
        if !then.is_empty() {
            left.act(then).await;
        }
        left.own = left.server.membership(&left.alice, &left.room, "bob").await;
        let place = left.server.sync(&left.alice, "").await;
        place["next_batch"].as_str().expect("a token").clone_into(&mut left.place);
        left
    }

    async fn act(&self, verb: &str) {
        self.server.act(&self.alice, &self.room, verb, user("bob")).await.ok();
    }

    async fn reply(&mut self, text: &str) {
        let content = json!({ "msgtype": "m.text", "body": text,
            "m.relates_to": { "rel_type": "m.thread", "event_id": self.said[2] } });
        let event = self.send("m.room.message", content).await;
        self.late.push(event);
    }

    async fn go_on(&mut self, carol: &str) {
        self.late.clear();
        let (server, room) = (&self.server, self.room.clone());
        server.set(&self.alice, &room, "m.room.name", json!({ "name": "later" })).await.ok();
        server.set(&self.alice, &room, "m.room.topic", json!({ "topic": "later" })).await.ok();
        let named = json!({ "membership": "join", "displayname": "later" });
        server.set(carol, &room, &format!("m.room.member/{}", id("carol")), named).await.ok();
        let alias = format!("{V3}/directory/room/%23later:example.org");
        server.put(&alias, &self.alice, json!({ "room_id": room })).await.ok();
        let redact = format!("{V3}/rooms/{room}/redact/{}/later", self.said[1]);
        server.put(&redact, &self.alice, json!({ "reason": "later" })).await.ok();
        let message = json!({ "msgtype": "m.text", "body": "later then" });
        let edit = json!({ "msgtype": "m.text", "body": "later", "m.new_content": message,
            "m.relates_to": { "rel_type": "m.replace", "event_id": self.said[0] } });
        let reaction = json!({ "m.relates_to":
            { "rel_type": "m.annotation", "event_id": self.said[0], "key": "later" } });
        for (number, (kind, content)) in
            [("m.room.message", message), ("m.room.message", edit), ("m.reaction", reaction)]
                .into_iter()
                .enumerate()
        {
            let path = format!("{V3}/rooms/{room}/send/{kind}/later{number}");
            let sent = server.put(&path, &self.alice, content).await.ok();
            self.late.push(sent["event_id"].as_str().expect("an id").to_owned());
        }
        self.reply("later").await;
    }

    /// Whether somebody is told of what happened later.
    async fn tells(&self, token: &str, path: &str, body: Option<&Value>) -> bool {
        let method = if body.is_some() { "POST" } else { "GET" };
        let answer = self.server.ask(method, path, Some(token), body.cloned()).await;
        assert!(answer.status.is_success() || answer.status.is_client_error(), "{path}");
        let text = String::from_utf8_lossy(&answer.bytes);
        // An error may say which id there is nothing under.
        answer.status.is_success()
            && (text.contains("later") || self.late.iter().any(|late| text.contains(late)))
    }

    /// Every route by which a room's state or past is read.
    fn routes(&self) -> Vec<String> {
        let (room, lazy) = (&self.room, encoded(&json!({ "lazy_load_members": true })));
        let (place, late) = (&self.place, &self.late[0]);
        let mut routes: Vec<String> = [
            "messages?dir=b&limit=100".to_owned(),
            "messages?dir=f&limit=100".to_owned(),
            format!("messages?dir=b&limit=100&filter={lazy}"),
            format!("messages?dir=b&limit=100&from={place}"),
            "members".to_owned(),
            format!("members?at={place}"),
            "joined_members".to_owned(),
            "state".to_owned(),
            "state/m.room.name".to_owned(),
            "state/m.room.name?format=event".to_owned(),
            format!("state/m.room.member/{}", id("carol")),
            "aliases".to_owned(),
            format!("event/{late}"),
            format!("context/{late}"),
            format!("context/{}?limit=0", self.own),
            format!("context/{}?limit=50", self.own),
        ]
        .iter()
        .map(|rest| format!("{V3}/rooms/{room}/{rest}"))
        .collect();
        for said in &self.said {
            routes.push(format!("{V3}/rooms/{room}/event/{said}"));
            routes.push(format!("{V3}/rooms/{room}/context/{said}?limit=50"));
            routes.push(format!("{V1}/rooms/{room}/relations/{said}"));
            routes.push(format!("{V1}/rooms/{room}/relations/{said}?recurse=true&dir=f"));
        }
        routes.push(format!("{V1}/rooms/{room}/threads"));
        routes.push(format!("{V1}/rooms/{room}/timestamp_to_event?ts=9000000000000&dir=b"));
        routes.push(format!("{V3}/rooms/{room}/initialSync"));
        routes.push(format!("{V3}/notifications"));
        routes
    }
}

#[tokio::test]
async fn what_a_room_became_is_told_to_nobody_who_had_left_it() {
    for then in ["", "ban", "invite"] {
        let left = Left::new(then).await;
        let mut told = 0;
        for path in left.routes() {
            assert!(!left.tells(&left.bob, &path, None).await, "{path} ({then})");
            told += u32::from(left.tells(&left.alice, &path, None).await);
        }
        assert!(told > 20, "who is inside is told by nearly each of them: {told}");
        for term in ["later", "then"] {
            let search = json!({ "search_categories": { "room_events": { "search_term": term,
                "include_state": true,
                "event_context": { "before_limit": 10, "after_limit": 10, "include_profile": true } } } });
            let path = format!("{V3}/search");
            let answer = left.server.post(&path, &left.bob, search.clone()).await.ok().to_string();
            let found = answer.replace("\"highlights\":[\"later\"]", "");
            assert!(!found.contains("later"), "{term} ({then}): {found}");
            assert!(left.tells(&left.alice, &path, Some(&search)).await, "{term}");
        }
        // Whoever is invited is told what it is that he is invited to.
        if then != "invite" {
            let filter = encoded(&json!({ "room": { "include_leave": true } }));
            let list = json!({ "ranges": [[0, 9]], "timeline_limit": 20, "required_state": [["*", "*"]] });
            let sliding = json!({ "lists": { "all": list }, "room_subscriptions": { &left.room: {
                "timeline_limit": 20, "required_state": [["*", "*"]] } } });
            for (path, body) in [
                (format!("{V3}/sync?filter={filter}"), None),
                (format!("{V3}/sync?full_state=true&filter={filter}"), None),
                (SLIDING.to_owned(), Some(&sliding)),
                (format!("{V1}/room_summary/{}", left.room), None),
                (format!("{V1}/rooms/{}/hierarchy", left.room), None),
            ] {
                assert!(!left.tells(&left.bob, &path, body).await, "{path} ({then})");
                assert!(left.tells(&left.alice, &path, body).await, "{path}, inside");
            }
        }
    }
}

#[tokio::test]
async fn a_redaction_that_came_later_says_no_reason() {
    let left = Left::new("").await;
    let path = format!("{V3}/rooms/{}/event/{}", left.room, left.said[1]);
    let event = left.server.get(&path, &left.bob).await.ok();
    assert_eq!(event["content"], json!({}), "it is gone for him, too");
    let because = &event["unsigned"]["redacted_because"];
    assert_eq!(because["sender"], id("alice"), "{event}");
    assert!(because["content"].get("reason").is_none(), "{event}");
}

#[tokio::test]
async fn what_a_room_was_while_one_was_out_is_told_to_nobody_who_came_back() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let joined = json!([{ "type": "m.room.history_visibility", "state_key": "",
        "content": { "history_visibility": "joined" } }]);
    let room = server.room(&alice, json!({ "preset": "public_chat", "initial_state": joined })).await;
    server.act(&bob, &room, "join", json!({})).await.ok();
    server.say(&alice, &room, "before").await;
    server.act(&alice, &room, "ban", user("bob")).await.ok();
    let own = server.membership(&alice, &room, "bob").await;
    server.set(&alice, &room, "m.room.topic", json!({ "topic": "meanwhile" })).await.ok();
    server.act(&alice, &room, "unban", user("bob")).await.ok();
    let unban = server.membership(&alice, &room, "bob").await;
    let place = server.sync(&alice, "").await["next_batch"].as_str().expect("a token").to_owned();
    server.set(&alice, &room, "m.room.topic", json!({ "topic": "now" })).await.ok();
    server.act(&bob, &room, "join", json!({})).await.ok();
    for path in [format!("context/{own}?limit=50"), format!("context/{unban}?limit=0"), "state".to_owned()] {
        let answer = server.get(&format!("{V3}/rooms/{room}/{path}"), &bob).await.ok();
        assert!(!answer.to_string().contains("meanwhile"), "{path}: {answer}");
    }
    let then = format!("{V3}/rooms/{room}/members?at={place}");
    server.get(&then, &bob).await.is_error(403, "M_FORBIDDEN");
    server.get(&then, &alice).await.ok();
}
