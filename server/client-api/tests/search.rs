//! Endpoint tests of searching: who finds what, in which order, and with what around it.

mod common;

use common::{Server, server};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

impl Server {
    async fn act(&self, token: &str, room: &str, verb: &str, body: Value) {
        self.post(&format!("{V3}/rooms/{room}/{verb}"), token, body).await.ok();
    }

    async fn say(&self, token: &str, room: &str, text: &str) -> String {
        let id: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
        let path = format!("{V3}/rooms/{room}/send/m.room.message/{id}");
        let sent = self.put(&path, token, json!({ "msgtype": "m.text", "body": text })).await.ok();
        sent["event_id"].as_str().expect("an event id").to_owned()
    }

    async fn set(&self, token: &str, room: &str, kind: &str, content: Value) {
        self.put(&format!("{V3}/rooms/{room}/state/{kind}/"), token, content).await.ok();
    }

    async fn find_with(&self, token: &str, next: &str, criteria: Value) -> Value {
        let body = json!({ "search_categories": { "room_events": criteria } });
        let found = self.post(&format!("{V3}/search?next_batch={next}"), token, body).await.ok();
        found["search_categories"]["room_events"].clone()
    }

    /// Bodies, names and topics of what is found, the last first.
    async fn find(&self, token: &str, term: &str) -> Vec<String> {
        let found = self.find_with(token, "", json!({ "search_term": term, "order_by": "recent" })).await;
        texts(&found)
    }
}

fn texts(found: &Value) -> Vec<String> {
    let results = found["results"].as_array().expect("a list").iter();
    let text = |result: &Value| {
        let content = &result["result"]["content"];
        ["body", "name", "topic"].iter().find_map(|field| content[field].as_str()).expect("a text").to_owned()
    };
    results.map(text).collect()
}

fn open(visibility: &str) -> Value {
    json!({ "preset": "public_chat", "initial_state": [{ "type": "m.room.history_visibility",
        "state_key": "", "content": { "history_visibility": visibility } }] })
}

#[tokio::test]
async fn a_ban_from_a_room_that_somebody_never_was_in_breaks_nothing() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let own = server.room(&bob, open("shared")).await;
    server.say(&bob, &own, "word of his own").await;
    for visibility in ["shared", "world_readable"] {
        let room = server.room(&alice, open(visibility)).await;
        server.say(&alice, &room, "word of spam").await;
        server.act(&alice, &room, "ban", json!({ "user_id": "@bob:example.org" })).await;
    }
    assert_eq!(server.find(&bob, "word").await, ["word of his own"]);
}

#[tokio::test]
async fn forged_tokens_and_endless_filters_are_no_trouble() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, open("shared")).await;
    server.say(&alice, &room, "word").await;
    let next = format!("{}_{}_{room}", usize::MAX, i64::MAX);
    for order in ["recent", "rank"] {
        server.find_with(&alice, &next, json!({ "search_term": "word", "order_by": order })).await;
    }
    let senders: Vec<_> = (0..1_001).map(|n| format!("@user{n}:example.org")).collect();
    let criteria = json!({ "search_term": "word", "filter": { "not_senders": senders } });
    let body = json!({ "search_categories": { "room_events": criteria } });
    assert_eq!(server.post(&format!("{V3}/search"), &alice, body).await.status.as_u16(), 400);
}

#[tokio::test]
async fn nobody_finds_what_he_may_not_see() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let own = server.room(&alice, open("shared")).await;
    server.say(&alice, &own, "secret alone").await;
    let invited = server.room(&alice, open("shared")).await;
    server.say(&alice, &invited, "secret of those inside").await;
    server.act(&alice, &invited, "invite", json!({ "user_id": "@bob:example.org" })).await;
    let room = server.room(&alice, open("joined")).await;
    server.say(&alice, &room, "secret before").await;
    server.act(&bob, &room, "join", json!({})).await;
    server.say(&alice, &room, "secret shared").await;
    assert_eq!(server.find(&bob, "secret").await, ["secret shared"]);
    server.act(&bob, &room, "leave", json!({})).await;
    server.say(&alice, &room, "secret after").await;
    assert_eq!(server.find(&bob, "secret").await, ["secret shared"]);
    let around = json!({ "search_term": "secret", "event_context": {}, "include_state": true,
        "groupings": { "group_by": [{ "key": "room_id" }, { "key": "sender" }] } });
    let found = server.find_with(&bob, "", around.clone()).await;
    assert_eq!(found["count"], 1);
    let text = found.to_string();
    for hidden in ["before", "after", "alone", "inside"] {
        assert!(!text.contains(&format!("secret {hidden}")), "{text}");
    }
    // Naming a room does not open it, nor does claiming that one replaced it.
    let claims = json!({ "creation_content": { "predecessor": { "room_id": own, "event_id": "$x" } } });
    let mine = server.room(&bob, claims).await;
    let by_name = json!({ "search_term": "secret", "filter": { "rooms": [own, invited, mine] } });
    assert_eq!(server.find_with(&bob, "", by_name).await["count"], 0);
    let place = format!("0_{}_{own}", i64::MAX);
    let found = server.find_with(&bob, &place, around).await;
    assert_eq!(found["count"], 1, "a made-up place opens nothing: {found}");
    assert_eq!(server.find(&alice, "secret").await.len(), 5);
    let body = json!({ "search_categories": { "room_events": { "search_term": "secret" } } });
    server.ask("POST", &format!("{V3}/search"), None, Some(body)).await.is_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn what_is_taken_back_ignored_or_encrypted_is_not_found() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, open("shared")).await;
    server.act(&bob, &room, "join", json!({})).await;
    let gone = server.say(&alice, &room, "words to regret").await;
    server.say(&bob, &room, "words of bob").await;
    server.put(&format!("{V3}/rooms/{room}/redact/{gone}/r"), &alice, json!({})).await.ok();
    assert_eq!(server.find(&alice, "words").await, ["words of bob"]);
    let ignored = json!({ "ignored_users": { "@bob:example.org": {} } });
    let path = format!("{V3}/user/@alice:example.org/account_data/m.ignored_user_list");
    server.put(&path, &alice, ignored).await.ok();
    assert!(server.find(&alice, "words").await.is_empty());
    assert_eq!(server.find(&bob, "words").await, ["words of bob"]);
    server.set(&alice, &room, "m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await;
    server.say(&bob, &room, "words in an encrypted room").await;
    assert!(server.find(&bob, "words").await.is_empty());
}

#[tokio::test]
async fn all_words_are_looked_for_in_bodies_names_and_topics() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({ "name": "Green plans", "topic": "Martians and men" })).await;
    server.say(&alice, &room, "The MEN came, green with envy").await;
    server.say(&alice, &room, "green men").await;
    server.say(&alice, &room, "menthol").await;
    let all = ["green men", "The MEN came, green with envy", "Martians and men"];
    assert_eq!(server.find(&alice, "men").await, all);
    assert_eq!(server.find(&alice, "green, men!").await, all[..2]);
    assert!(server.find(&alice, "blue men").await.is_empty());
    assert!(server.find(&alice, "?!").await.is_empty());
    let named = json!({ "search_term": "green", "keys": ["content.name"] });
    assert_eq!(texts(&server.find_with(&alice, "", named).await), ["Green plans"]);
    let typed = json!({ "search_term": "men", "filter": { "types": ["m.room.topic"] } });
    assert_eq!(texts(&server.find_with(&alice, "", typed).await), [all[2]]);
    let ranked = server.find_with(&alice, "", json!({ "search_term": "green men" })).await;
    assert_eq!(texts(&ranked)[0], "green men");
    assert_eq!(ranked["highlights"], json!(["green", "men"]));
    assert_eq!(ranked["count"], 2);
    assert!(ranked["results"][0]["rank"].as_f64() > ranked["results"][1]["rank"].as_f64());
    let none = server.post(&format!("{V3}/search"), &alice, json!({ "search_categories": {} })).await.ok();
    assert_eq!(none, json!({ "search_categories": {} }));
    let path = format!("{V3}/search?next_batch=nonsense");
    let body = json!({ "search_categories": { "room_events": { "search_term": "men" } } });
    server.post(&path, &alice, body).await.is_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn hits_come_in_pages_with_what_is_around_them() {
    let server = server();
    let alice = server.register("alice").await;
    let path = format!("{V3}/profile/@alice:example.org/displayname");
    server.put(&path, &alice, json!({ "displayname": "Alice" })).await.ok();
    let rooms = [server.room(&alice, json!({})).await, server.room(&alice, json!({})).await];
    for n in 0..6 {
        server.say(&alice, &rooms[n % 2], &format!("between {n}")).await;
        server.say(&alice, &rooms[n % 2], &format!("hit {n}")).await;
    }
    for (order, expected) in [("recent", [5, 4, 3, 2, 1, 0]), ("rank", [5, 4, 3, 2, 1, 0])] {
        let (mut all, mut next) = (Vec::new(), String::new());
        for pages in 1.. {
            let criteria = json!({ "search_term": "hit", "order_by": order, "filter": { "limit": 4 } });
            let page = server.find_with(&alice, &next, criteria).await;
            all.extend(texts(&page));
            assert_eq!(page["count"], 6);
            let Some(token) = page["next_batch"].as_str() else {
                assert_eq!(pages, 2);
                break;
            };
            next = token.to_owned();
        }
        assert_eq!(all, expected.map(|n| format!("hit {n}")), "{order}");
    }
    let around = json!({ "before_limit": 1, "after_limit": 1, "include_profile": true });
    let criteria = json!({ "search_term": "3 hit", "event_context": around, "include_state": true,
        "groupings": { "group_by": [{ "key": "room_id" }, { "key": "sender" }] } });
    let found = server.find_with(&alice, "", criteria).await;
    let (hit, context) = (&found["results"][0]["result"], &found["results"][0]["context"]);
    assert_eq!(context["events_before"][0]["content"]["body"], "between 3");
    assert_eq!(context["events_after"][0]["content"]["body"], "between 5");
    assert_eq!(context["events_before"].as_array().map(Vec::len), Some(1));
    assert_eq!(context["profile_info"]["@alice:example.org"]["displayname"], "Alice");
    for (key, of) in [("room_id", &*rooms[1]), ("sender", "@alice:example.org")] {
        assert_eq!(found["groups"][key][of]["results"], json!([hit["event_id"]]));
    }
    assert!(found["state"][&rooms[1]].as_array().is_some_and(|state| !state.is_empty()));
    let path =
        format!("{V3}/rooms/{}/messages?dir=f&from={}", rooms[1], context["end"].as_str().expect("one"));
    let after = server.get(&path, &alice).await.ok();
    assert_eq!(after["chunk"][0]["content"]["body"], "hit 5");
}

#[tokio::test]
async fn the_rooms_that_a_room_replaced_are_searched_with_it() {
    let server = server();
    let alice = server.register("alice").await;
    let old = server.room(&alice, json!({})).await;
    server.say(&alice, &old, "said long ago").await;
    let body = json!({ "new_version": "12" });
    let new = server.post(&format!("{V3}/rooms/{old}/upgrade"), &alice, body).await.ok();
    let criteria = json!({ "search_term": "said ago", "filter": { "rooms": [new["replacement_room"]] } });
    assert_eq!(texts(&server.find_with(&alice, "", criteria).await), ["said long ago"]);
}
