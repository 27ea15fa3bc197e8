//! Endpoint tests of rooms: making and joining them, what is said in them, and
//! who may see it.

mod common;

use common::{Server, server};
use serde_json::json;

const V3: &str = "/_matrix/client/v3";

impl Server {
    async fn say(&self, token: &str, room: &str, text: &str) -> String {
        let path = format!("{V3}/rooms/{room}/send/m.room.message/{text}");
        let sent = self.put(&path, token, json!({ "msgtype": "m.text", "body": text })).await.ok();
        sent["event_id"].as_str().expect("an event id").to_owned()
    }
}

#[tokio::test]
async fn a_room_is_made_as_it_was_asked_for() {
    let server = server();
    let alice = server.register("alice").await;
    let body = json!({
        "preset": "public_chat", "name": "Plans", "topic": "All of them", "room_alias_name": "plans",
        "visibility": "public", "creation_content": { "org.test": 1 },
        "power_level_content_override": { "events": { "org.test": 50 } },
        "initial_state": [{ "type": "org.test", "state_key": "k", "content": { "x": 1 } }],
    });
    let room = server.room(&alice, body).await;
    let state = server.get(&format!("{V3}/rooms/{room}/state"), &alice).await.ok();
    let find = |kind: &str| {
        let events = state.as_array().expect("a list");
        events.iter().find(|event| event["type"] == kind).unwrap_or_else(|| panic!("no {kind}"))["content"]
            .clone()
    };
    assert_eq!(find("m.room.create")["org.test"], 1);
    assert_eq!(find("m.room.create")["room_version"], "12");
    assert_eq!(find("m.room.name")["name"], "Plans");
    assert_eq!(find("m.room.join_rules")["join_rule"], "public");
    assert_eq!(find("m.room.power_levels")["events"]["org.test"], 50);
    assert_eq!(find("org.test"), json!({ "x": 1 }));

    let alias =
        server.ask("GET", &format!("{V3}/directory/room/%23plans:example.org"), None, None).await.ok();
    assert_eq!(alias["room_id"], room.as_str());
    let listed = server.ask("GET", &format!("{V3}/publicRooms"), None, None).await.ok();
    assert_eq!(listed["chunk"][0]["name"], "Plans");
    assert_eq!(listed["chunk"][0]["num_joined_members"], 1);
    let body = json!({ "filter": { "generic_search_term": "nothing like it" } });
    assert_eq!(server.post(&format!("{V3}/publicRooms"), &alice, body).await.ok()["chunk"], json!([]));
    let taken = json!({ "room_alias_name": "plans" });
    server.post(&format!("{V3}/createRoom"), &alice, taken).await.is_error(400, "M_ROOM_IN_USE");
    let old = json!({ "room_version": "1" });
    server.post(&format!("{V3}/createRoom"), &alice, old).await.is_error(400, "M_UNSUPPORTED_ROOM_VERSION");
}

#[tokio::test]
async fn items_are_no_initial_state() {
    let server = server();
    let alice = server.register("alice").await;
    let item = json!({ "type": "org.causeway.item", "state_key": "a", "content": { "text": "a" } });
    let body = json!({ "initial_state": [item] });
    server.post(&format!("{V3}/createRoom"), &alice, body).await.is_error(400, "M_INVALID_PARAM");
    let joined = server.get(&format!("{V3}/joined_rooms"), &alice).await.ok();
    assert_eq!(joined["joined_rooms"], json!([]));
}

#[tokio::test]
async fn a_room_that_was_asked_for_wrongly_is_not_made() {
    let server = server();
    let alice = server.register("alice").await;
    for (body, status, errcode) in [
        (json!({ "preset": "zz" }), 400, "M_BAD_JSON"),
        (json!({ "visibility": "zz" }), 400, "M_BAD_JSON"),
        (json!({ "invite": ["@nobody:example.org"] }), 404, "M_NOT_FOUND"),
    ] {
        server.post(&format!("{V3}/createRoom"), &alice, body).await.is_error(status, errcode);
    }
    assert_eq!(server.get(&format!("{V3}/joined_rooms"), &alice).await.ok()["joined_rooms"], json!([]));
}

#[tokio::test]
async fn members_come_and_go() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({})).await;
    let at = |verb: &str| format!("{V3}/rooms/{room}/{verb}");
    let bob_id = json!({ "user_id": "@bob:example.org" });
    server.post(&at("join"), &bob, json!({})).await.is_error(403, "M_FORBIDDEN");
    server
        .post(&at("invite"), &alice, json!({ "user_id": "@nobody:example.org" }))
        .await
        .is_error(404, "M_NOT_FOUND");
    server.post(&at("invite"), &alice, bob_id.clone()).await.ok();
    server.ask("POST", &at("join"), Some(&bob), None).await.ok();
    let members = server.get(&at("members?membership=join"), &bob).await.ok();
    assert_eq!(members["chunk"].as_array().map(Vec::len), Some(2));
    let joined = server.get(&at("joined_members"), &bob).await.ok();
    assert!(joined["joined"]["@alice:example.org"].is_object());
    assert_eq!(server.get(&format!("{V3}/joined_rooms"), &bob).await.ok()["joined_rooms"], json!([room]));

    server
        .post(&at("kick"), &bob, json!({ "user_id": "@alice:example.org" }))
        .await
        .is_error(403, "M_FORBIDDEN");
    server.post(&at("ban"), &alice, bob_id.clone()).await.ok();
    server.post(&at("join"), &bob, json!({})).await.is_error(403, "M_FORBIDDEN");
    server.post(&at("unban"), &alice, bob_id.clone()).await.ok();
    server.post(&at("forget"), &bob, json!({})).await.ok();
    server.post(&at("invite"), &alice, bob_id).await.ok();
    server.post(&at("leave"), &bob, json!({})).await.ok();
    server
        .post(&format!("{V3}/join/!nowhere:other.example"), &bob, json!({}))
        .await
        .is_error(503, "M_UNKNOWN");
    server
        .post(&format!("{V3}/join/%23none:example.org"), &bob, json!({}))
        .await
        .is_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn state_is_read_and_set_with_and_without_a_key() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({})).await;
    let at = |rest: &str| format!("{V3}/rooms/{room}/state/{rest}");
    for (number, path) in ["org.test", "org.test/"].into_iter().enumerate() {
        server.put(&at(path), &alice, json!({ "n": number })).await.ok();
        assert_eq!(server.get(&at("org.test"), &alice).await.ok(), json!({ "n": number }));
        assert_eq!(server.get(&at("org.test/"), &alice).await.ok(), json!({ "n": number }));
    }
    server.put(&at("org.test/key%2F%C3%A4%201"), &alice, json!({ "text": "größer" })).await.ok();
    let event = server.get(&at("org.test/key%2F%C3%A4%201?format=event"), &alice).await.ok();
    assert_eq!(event["state_key"], "key/ä 1");
    assert_eq!(event["content"]["text"], "größer");
    server.get(&at("org.none"), &alice).await.is_error(404, "M_NOT_FOUND");
    server.put(&at("org.test"), &alice, json!([])).await.is_error(400, "M_BAD_JSON");
    server.put(&at("org.test"), &alice, json!({ "x": 1.5 })).await.is_error(400, "M_BAD_JSON");
    server
        .put(&at("org.test"), &alice, json!({ "x": "y".repeat(70_000) }))
        .await
        .is_error(413, "M_TOO_LARGE");
    let alias = json!({ "alias": "#none:example.org" });
    server.put(&at("m.room.canonical_alias"), &alice, alias).await.is_error(400, "M_BAD_ALIAS");
    let bob = server.register("bob").await;
    server.get(&at("org.test"), &bob).await.is_error(403, "M_FORBIDDEN");
    server.put(&at("org.test"), &bob, json!({})).await.is_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_message_is_sent_once_redacted_and_found_again() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({})).await;
    let first = server.say(&alice, &room, "hello").await;
    assert_eq!(server.say(&alice, &room, "hello").await, first, "the same transaction");
    let second = server.say(&alice, &room, "again").await;
    assert_ne!(first, second);
    let context = server.get(&format!("{V3}/rooms/{room}/context/{first}?limit=2"), &alice).await.ok();
    assert_eq!(context["event"]["event_id"], first.as_str());
    assert_eq!(context["events_after"][0]["event_id"], second.as_str());
    assert_eq!(context["events_before"].as_array().map(Vec::len), Some(1));

    let path = format!("{V3}/rooms/{room}/redact/{first}/r1");
    let redaction = server.put(&path, &alice, json!({ "reason": "typo" })).await.ok();
    assert_eq!(server.put(&path, &alice, json!({ "reason": "typo" })).await.ok(), redaction);
    let event = server.get(&format!("{V3}/rooms/{room}/event/{first}"), &alice).await.ok();
    assert_eq!(event["content"], json!({}));
    assert_eq!(event["unsigned"]["redacted_because"]["content"]["reason"], "typo");
    assert_eq!(event["unsigned"]["redacted_because"]["redacts"], first.as_str());
    server.get(&format!("{V3}/rooms/{room}/event/$nonsense"), &alice).await.is_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn relations_are_listed_and_bundled() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({})).await;
    let target = server.say(&alice, &room, "original").await;
    let reaction = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": target, "key": "1️⃣" } });
    let path = format!("{V3}/rooms/{room}/send/m.reaction/t1");
    server.put(&path, &alice, reaction).await.ok();
    let edit = json!({
        "msgtype": "m.text", "body": "* new", "m.new_content": { "msgtype": "m.text", "body": "new" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": target },
    });
    server.put(&format!("{V3}/rooms/{room}/send/m.room.message/t2"), &alice, edit).await.ok();
    let v1 = format!("/_matrix/client/v1/rooms/{room}/relations/{target}");
    let all = server.get(&v1, &alice).await.ok();
    assert_eq!(all["chunk"].as_array().map(Vec::len), Some(2), "{all}");
    let reactions = server.get(&format!("{v1}/m.annotation/m.reaction"), &alice).await.ok();
    assert_eq!(reactions["chunk"].as_array().map(Vec::len), Some(1));
    assert_eq!(reactions["chunk"][0]["content"]["m.relates_to"]["key"], "1️⃣");
    let page = server.get(&format!("{v1}?limit=1"), &alice).await.ok();
    let next = page["next_batch"].as_str().expect("there is more").to_owned();
    let rest = server.get(&format!("{v1}?limit=1&from={next}"), &alice).await.ok();
    assert_eq!(rest["chunk"][0]["type"], "m.reaction", "{rest}");
    let event = server.get(&format!("{V3}/rooms/{room}/event/{target}"), &alice).await.ok();
    let bundled = &event["unsigned"]["m.relations"]["m.replace"];
    assert_eq!(bundled["content"]["m.new_content"]["body"], "new", "{event}");
}

#[tokio::test]
async fn history_is_shown_to_those_who_may_see_it() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let body = json!({
        "preset": "public_chat",
        "initial_state": [{ "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } }],
    });
    let room = server.room(&alice, body).await;
    let secret = server.say(&alice, &room, "secret").await;
    let path = format!("{V3}/rooms/{room}/event/{secret}");
    server.get(&path, &bob).await.is_error(404, "M_NOT_FOUND");
    server.get(&format!("{V3}/rooms/{room}/messages?dir=b"), &bob).await.is_error(403, "M_FORBIDDEN");
    server.post(&format!("{V3}/join/{room}"), &bob, json!({})).await.ok();
    server.get(&path, &bob).await.is_error(404, "M_NOT_FOUND");
    server.say(&alice, &room, "open").await;
    let page = server.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=50"), &bob).await.ok();
    let text = page.to_string();
    assert!(text.contains("open") && !text.contains("secret"), "{page}");
    server.post(&format!("{V3}/rooms/{room}/leave"), &bob, json!({})).await.ok();
    server.say(&alice, &room, "later").await;
    let page = server.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=50"), &bob).await.ok();
    assert!(page.to_string().contains("open") && !page.to_string().contains("later"), "{page}");
}

#[tokio::test]
async fn an_upgraded_room_points_to_its_successor() {
    let server = server();
    let alice = server.register("alice").await;
    let body = json!({ "name": "Plans", "room_version": "11", "room_alias_name": "plans" });
    let room = server.room(&alice, body).await;
    let item = |room: &str| format!("{V3}/rooms/{room}/state/org.causeway.item/plan");
    server.put(&item(&room), &alice, json!({ "text": "kept" })).await.ok();
    let answer =
        server.post(&format!("{V3}/rooms/{room}/upgrade"), &alice, json!({ "new_version": "12" })).await.ok();
    let new = answer["replacement_room"].as_str().expect("a room id").to_owned();
    let tombstone = server.get(&format!("{V3}/rooms/{room}/state/m.room.tombstone"), &alice).await.ok();
    assert_eq!(tombstone["replacement_room"], new.as_str());
    let items = format!("/_matrix/client/unstable/org.causeway/rooms/{new}/items");
    let items = server.get(&items, &alice).await.ok();
    assert_eq!(items["items"][0]["siblings"][0]["value"]["text"], "kept", "{items}");
    let create = server.get(&format!("{V3}/rooms/{new}/state/m.room.create"), &alice).await.ok();
    assert_eq!(create["predecessor"]["room_id"], room.as_str());
    assert_eq!(
        server.get(&format!("{V3}/rooms/{new}/state/m.room.name"), &alice).await.ok()["name"],
        "Plans"
    );
    let alias =
        server.ask("GET", &format!("{V3}/directory/room/%23plans:example.org"), None, None).await.ok();
    assert_eq!(alias["room_id"], new.as_str());
}

#[tokio::test]
async fn a_new_name_reaches_the_rooms() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({})).await;
    let path = format!("{V3}/profile/@alice:example.org/displayname");
    server.put(&path, &alice, json!({ "displayname": "Alice" })).await.ok();
    let members = server.get(&format!("{V3}/rooms/{room}/joined_members"), &alice).await.ok();
    assert_eq!(members["joined"]["@alice:example.org"]["display_name"], "Alice");
}
