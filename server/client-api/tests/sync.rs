//! Endpoint tests of /sync: what it tells, what it wakes for, and what a device
//! counts as having been given.

mod common;

use std::time::Duration;

use causeway_service::sync::given;
use causeway_storage::to_device;
use common::{Server, server};
use ruma::{RoomId, device_id, user_id};
use serde_json::{Value, json, value::to_raw_value};

const V3: &str = "/_matrix/client/v3";

/// An unreserved spelling of a filter for a query.
fn encoded(filter: &Value) -> String {
    let digits: Vec<String> = filter.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
    digits.concat()
}

impl Server {
    async fn say(&self, token: &str, room: &str, text: &str) -> String {
        let path = format!("{V3}/rooms/{room}/send/m.room.message/{text}");
        let sent = self.put(&path, token, json!({ "msgtype": "m.text", "body": text })).await.ok();
        sent["event_id"].as_str().expect("an event id").to_owned()
    }

    async fn sync(&self, token: &str, query: &str) -> Value {
        self.get(&format!("{V3}/sync?{query}"), token).await.ok()
    }

    async fn sync_since(&self, token: &str, since: &Value) -> Value {
        self.sync(token, &format!("since={}", since["next_batch"].as_str().expect("a token"))).await
    }
}

fn bodies(room: &Value) -> Vec<String> {
    let events = room["timeline"]["events"].as_array().expect("a timeline");
    events.iter().filter_map(|event| Some(event["content"]["body"].as_str()?.to_owned())).collect()
}

fn state_types(section: &Value) -> Vec<String> {
    let events = section["events"].as_array().expect("a state section");
    events.iter().map(|event| event["type"].as_str().expect("a type").to_owned()).collect()
}

#[tokio::test]
async fn an_initial_sync_tells_all_and_the_next_only_what_is_new() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({ "name": "Plans", "preset": "public_chat" })).await;
    server.say(&alice, &room, "one").await;
    let first = server.sync(&alice, "").await;
    let joined = &first["rooms"]["join"][&room];
    assert_eq!(bodies(joined), ["one"]);
    assert_eq!(joined["timeline"]["limited"], false);
    assert_eq!(joined["timeline"]["events"][0]["type"], "m.room.create", "{joined}");
    assert_eq!(joined["summary"]["m.joined_member_count"], 1);
    assert!(first["device_one_time_keys_count"].is_object() && first["to_device"]["events"].is_array());
    assert!(first["device_unused_fallback_key_types"].is_array());

    let nothing = server.sync_since(&alice, &first).await;
    assert!(nothing.get("rooms").is_none(), "{nothing}");

    let event_id = server.say(&alice, &room, "two").await;
    let next = server.sync_since(&alice, &nothing).await;
    let joined = &next["rooms"]["join"][&room];
    assert_eq!(bodies(joined), ["two"]);
    let event = &joined["timeline"]["events"][0];
    assert_eq!(event["event_id"], event_id.as_str());
    assert_eq!(event["unsigned"]["transaction_id"], "two", "for the device that sent it");
    assert_eq!(event["unsigned"]["membership"], "join");
    assert!(event.get("room_id").is_none() && event.get("signatures").is_none());
}

#[tokio::test]
async fn a_gap_is_limited_and_messages_goes_on_from_its_start() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({})).await;
    let first = server.sync(&alice, "").await;
    for number in 0..15 {
        server.say(&alice, &room, &format!("m{number}")).await;
    }
    let path = format!("{V3}/rooms/{room}/state/m.room.topic/");
    server.put(&path, &alice, json!({ "topic": "t" })).await.ok();
    let filter = encoded(&json!({ "room": { "timeline": { "limit": 3, "types": ["m.room.message"] } } }));
    let since = first["next_batch"].as_str().expect("a token");
    let gap = server.sync(&alice, &format!("since={since}&filter={filter}")).await;
    let joined = &gap["rooms"]["join"][&room];
    assert_eq!(bodies(joined), ["m12", "m13", "m14"]);
    assert_eq!(joined["timeline"]["limited"], true);
    assert_eq!(state_types(&joined["state"]), ["m.room.topic"], "changed unseen by the timeline");
    let from = joined["timeline"]["prev_batch"].as_str().expect("a token");
    let page =
        server.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=4&from={from}"), &alice).await.ok();
    let texts: Vec<_> =
        page["chunk"].as_array().expect("a page").iter().map(|e| &e["content"]["body"]).collect();
    assert_eq!(texts, ["m11", "m10", "m9", "m8"]);
    let end = page["end"].as_str().expect("more");
    let page = server.get(&format!("{V3}/rooms/{room}/messages?dir=f&limit=2&from={end}"), &alice).await.ok();
    let texts: Vec<_> =
        page["chunk"].as_array().expect("a page").iter().map(|e| &e["content"]["body"]).collect();
    assert_eq!(texts, ["m8", "m9"]);
}

#[tokio::test]
async fn state_after_is_named_as_it_was_asked_for_and_holds_what_the_timeline_shows() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({})).await;
    let first = server.sync(&alice, "use_state_after=true").await;
    let joined = &first["rooms"]["join"][&room];
    assert!(joined.get("state").is_none());
    assert!(state_types(&joined["state_after"]).contains(&"m.room.create".to_owned()));
    let path = format!("{V3}/rooms/{room}/state/m.room.name");
    server.put(&path, &alice, json!({ "name": "new" })).await.ok();
    let since = first["next_batch"].as_str().expect("a token");
    let query = format!("since={since}&org.matrix.msc4222.use_state_after=true");
    let next = server.sync(&alice, &query).await;
    let joined = &next["rooms"]["join"][&room];
    assert_eq!(state_types(&joined["org.matrix.msc4222.state_after"]), ["m.room.name"]);
    let next = server.sync(&alice, &format!("since={since}")).await;
    assert_eq!(state_types(&next["rooms"]["join"][&room]["state"]), Vec::<String>::new());
}

#[tokio::test]
async fn invites_show_stripped_state_and_leaving_shows_the_end() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let start = server.sync(&bob, "").await;
    let body = json!({ "name": "Plans", "invite": ["@bob:example.org"] });
    let room = server.room(&alice, body).await;
    let invited = server.sync_since(&bob, &start).await;
    let state = &invited["rooms"]["invite"][&room]["invite_state"];
    let types = state_types(state);
    assert!(
        types.contains(&"m.room.name".to_owned()) && types.contains(&"m.room.member".to_owned()),
        "{state}"
    );

    server.post(&format!("{V3}/rooms/{room}/join"), &bob, json!({})).await.ok();
    let joined = server.sync_since(&bob, &invited).await;
    let shown = &joined["rooms"]["join"][&room];
    assert!(shown["timeline"]["events"].as_array().is_some_and(|events| !events.is_empty()));
    assert!(joined["rooms"].get("invite").is_none());

    server.say(&alice, &room, "before").await;
    server.post(&format!("{V3}/rooms/{room}/leave"), &bob, json!({})).await.ok();
    server.say(&alice, &room, "after").await;
    let left = server.sync_since(&bob, &joined).await;
    assert_eq!(bodies(&left["rooms"]["leave"][&room]), ["before"]);
    assert!(left["rooms"].get("join").is_none());
    let later = server.sync_since(&bob, &left).await;
    assert!(later.get("rooms").is_none(), "{later}");
    server.get(&format!("{V3}/rooms/{room}/joined_members"), &bob).await.is_error(403, "M_FORBIDDEN");
}

/// Polls with a long timeout while something happens, and expects to be woken by it.
async fn woken_by<F: Future<Output = ()>>(server: &Server, token: &str, happens: F) -> Value {
    let start = server.sync(token, "").await;
    let since = start["next_batch"].as_str().expect("a token").to_owned();
    let query = format!("since={since}&timeout=60000");
    let poll = server.sync(token, &query);
    let both = async { tokio::join!(poll, happens).0 };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("woken long before its timeout")
}

#[tokio::test]
async fn a_long_poll_wakes_for_everything_that_it_tells() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({ "preset": "public_chat" })).await;
    server.post(&format!("{V3}/join/{room}"), &bob, json!({})).await.ok();
    let event_id = server.say(&alice, &room, "first").await;

    let told = woken_by(&server, &bob, async { drop(server.say(&alice, &room, "hello").await) }).await;
    assert_eq!(bodies(&told["rooms"]["join"][&room]), ["hello"]);
    assert_eq!(told["rooms"]["join"][&room]["unread_notifications"]["notification_count"], 2);

    let told = woken_by(&server, &bob, async {
        let path = format!("{V3}/rooms/{room}/typing/@alice:example.org");
        server.put(&path, &alice, json!({ "typing": true, "timeout": 30000 })).await.ok();
    })
    .await;
    let ephemeral = &told["rooms"]["join"][&room]["ephemeral"]["events"][0];
    assert_eq!(*ephemeral, json!({ "type": "m.typing", "content": { "user_ids": ["@alice:example.org"] } }));

    let told = woken_by(&server, &bob, async {
        let path = format!("{V3}/rooms/{room}/receipt/m.read/{event_id}");
        server.post(&path, &alice, json!({})).await.ok();
    })
    .await;
    let receipt = &told["rooms"]["join"][&room]["ephemeral"]["events"][0];
    assert!(receipt["content"][&event_id]["m.read"]["@alice:example.org"]["ts"].is_u64(), "{receipt}");

    let told = woken_by(&server, &bob, async {
        let path = format!("{V3}/user/@bob:example.org/account_data/org.test");
        server.put(&path, &bob, json!({ "x": 1 })).await.ok();
    })
    .await;
    assert_eq!(told["account_data"]["events"], json!([{ "type": "org.test", "content": { "x": 1 } }]));

    let told = woken_by(&server, &bob, async {
        let other = server.room(&alice, json!({ "invite": ["@bob:example.org"] })).await;
        assert!(!other.is_empty());
    })
    .await;
    assert!(told["rooms"]["invite"].is_object(), "{told}");
}

#[tokio::test]
async fn reading_clears_the_unread_count() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({ "preset": "public_chat" })).await;
    server.post(&format!("{V3}/join/{room}"), &bob, json!({})).await.ok();
    server.say(&alice, &room, "one").await;
    let last = server.say(&alice, &room, "two").await;
    let first = server.sync(&bob, "").await;
    assert_eq!(first["rooms"]["join"][&room]["unread_notifications"]["notification_count"], 2);
    let body = json!({ "m.fully_read": last, "m.read": last });
    server.post(&format!("{V3}/rooms/{room}/read_markers"), &bob, body).await.ok();
    let next = server.sync_since(&bob, &first).await;
    let shown = &next["rooms"]["join"][&room];
    assert_eq!(shown["unread_notifications"]["notification_count"], 0, "{shown}");
    assert_eq!(shown["account_data"]["events"][0]["type"], "m.fully_read");
}

#[tokio::test]
async fn lazy_loading_leaves_out_members_who_said_nothing() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({ "preset": "public_chat", "name": "n" })).await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    for token in [&bob, &carol] {
        server.post(&format!("{V3}/join/{room}"), token, json!({})).await.ok();
    }
    for number in 0..3 {
        server.say(&bob, &room, &format!("m{number}")).await;
    }
    let filter = json!({ "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": 2 } } });
    let first = server.sync(&bob, &format!("filter={}", encoded(&filter))).await;
    let state = first["rooms"]["join"][&room]["state"]["events"].as_array().expect("state").clone();
    let members: Vec<_> = state
        .iter()
        .filter(|event| event["type"] == "m.room.member")
        .map(|event| &event["state_key"])
        .collect();
    assert!(members.contains(&&json!("@bob:example.org")), "{members:?}");
    // Heroes are among them: they name the room.
    assert_eq!(first["rooms"]["join"][&room]["summary"]["m.joined_member_count"], 3);
}

#[tokio::test]
async fn to_device_messages_come_once_and_go_when_acknowledged() {
    let server = server();
    let bob = server.register("bob").await;
    let start = server.sync(&bob, "").await;
    let event = json!({ "type": "org.test", "sender": "@alice:example.org", "content": { "hello": 1 } });
    let event = to_raw_value(&event).expect("JSON");
    let mut batch = server.services.database.batch();
    let position = batch.position();
    let recipient = user_id!("@bob:example.org");
    to_device::put(&mut batch, (recipient, device_id!("DEV")), recipient, position, &event);
    server.services.database.commit_durable(batch).expect("committed");
    let told = server.sync_since(&bob, &start).await;
    assert_eq!(told["to_device"]["events"][0]["content"], json!({ "hello": 1 }), "{told}");
    let again = server.sync_since(&bob, &start).await;
    assert_eq!(again["to_device"]["events"][0]["content"], json!({ "hello": 1 }), "not acknowledged yet");
    let next = server.sync_since(&bob, &told).await;
    assert_eq!(next["to_device"]["events"], json!([]));
}

#[tokio::test]
async fn a_device_is_given_what_it_acknowledged_and_no_more() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({})).await;
    let room_id = RoomId::parse(&room).expect("a room id");
    let known = || {
        given(&server.services.rooms, user_id!("@alice:example.org"), device_id!("DEV"), &room_id)
            .expect("readable")
            .pop()
    };
    let first = server.sync(&alice, "").await;
    assert_eq!(known(), None, "not acknowledged");
    let second = server.sync_since(&alice, &first).await;
    let whole = known().expect("acknowledged");
    assert!(whole.state.is_some());

    for number in 0..15 {
        server.say(&alice, &room, &format!("m{number}")).await;
    }
    let gap = server.sync_since(&alice, &second).await;
    assert_eq!(gap["rooms"]["join"][&room]["timeline"]["limited"], true);
    assert_eq!(known().map(|given| given.after), Some(whole.after), "the gap is not acknowledged");
    let after_gap = server.sync_since(&alice, &gap).await;
    let later = known().expect("acknowledged");
    assert!(later.after > whole.up_to && later.state.is_some(), "{later:?}");

    server.say(&alice, &room, "hidden").await;
    let since = after_gap["next_batch"].as_str().expect("a token");
    let filter = encoded(&json!({ "room": { "timeline": { "types": ["m.room.message"] } } }));
    let filtered = server.sync(&alice, &format!("since={since}&filter={filter}")).await;
    server.sync_since(&alice, &filtered).await;
    let filtered_out = known().expect("acknowledged");
    assert_eq!(filtered_out.after, filtered_out.up_to, "a filter without items gives none: {filtered_out:?}");

    server.get(&format!("{V3}/sync?since=nonsense"), &alice).await.is_error(400, "M_INVALID_PARAM");
    server.get(&format!("{V3}/sync?since=s99999999999.0.0"), &alice).await.is_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_filter_picks_fields_and_the_form_of_events() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({ "name": "Plans" })).await;
    let said = server.say(&alice, &room, "one").await;
    let fields = encoded(&json!({ "event_fields": ["event_id", "content.body", "content.no.such"] }));
    let answer = server.sync(&alice, &format!("filter={fields}")).await;
    let timeline = answer["rooms"]["join"][&room]["timeline"]["events"].as_array().expect("events");
    assert_eq!(timeline.last(), Some(&json!({ "event_id": said, "content": { "body": "one" } })));
    let form = encoded(&json!({ "event_format": "federation", "room": { "timeline": { "limit": 1 } } }));
    let answer = server.sync(&alice, &format!("filter={form}")).await;
    let joined = &answer["rooms"]["join"][&room];
    for event in [&joined["timeline"]["events"][0], &joined["state"]["events"][0]] {
        assert!(event["hashes"].is_object() && event["signatures"].is_object(), "{event}");
        assert!(event["event_id"].is_string() && event["unsigned"]["age"].is_u64(), "{event}");
        assert_eq!(event["room_id"], room);
    }
}

#[tokio::test]
async fn a_filter_picks_events_by_what_relates_to_them() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({ "preset": "public_chat" })).await;
    server.post(&format!("{V3}/rooms/{room}/join"), &bob, json!({})).await.ok();
    let mut said = Vec::new();
    for text in ["none", "reaction", "thread", "undone"] {
        said.push(server.say(&alice, &room, text).await);
    }
    let relating = async |token: &str, rel_type: &str, target: &str| {
        let relates_to = json!({ "rel_type": rel_type, "event_id": target, "key": "k" });
        let path = format!("{V3}/rooms/{room}/send/m.test/{}", &target[1..]);
        let sent = server.put(&path, token, json!({ "m.relates_to": relates_to })).await.ok();
        sent["event_id"].as_str().expect("an id").to_owned()
    };
    relating(&bob, "m.annotation", &said[1]).await;
    relating(&alice, "m.thread", &said[2]).await;
    let undone = relating(&bob, "m.thread", &said[3]).await;
    server.put(&format!("{V3}/rooms/{room}/redact/{undone}/r"), &bob, json!({})).await.ok();
    let by_bob = [server.get(&format!("{V3}/account/whoami"), &bob).await.ok()["user_id"].clone()];
    let either = ["m.thread", "m.annotation"];
    let messages = format!("{V3}/rooms/{room}/messages?dir=f&filter=");
    for (filter, expected) in [
        (json!({ "related_by_rel_types": ["m.thread"] }), vec!["thread"]),
        (json!({ "related_by_rel_types": either }), vec!["reaction", "thread"]),
        (json!({ "related_by_senders": by_bob }), vec!["reaction"]),
        (json!({ "related_by_rel_types": ["m.thread"], "related_by_senders": by_bob }), vec![]),
        (json!({ "related_by_rel_types": [] }), vec![]),
    ] {
        let page = server.get(&format!("{messages}{}", encoded(&filter)), &alice).await.ok();
        let chunk = json!({ "timeline": { "events": page["chunk"] } });
        assert_eq!(bodies(&chunk), expected, "{filter}: {page}");
        let in_sync = encoded(&json!({ "room": { "timeline": filter } }));
        let answer = server.sync(&alice, &format!("filter={in_sync}")).await;
        assert_eq!(bodies(&answer["rooms"]["join"][&room]), expected, "{filter}: {answer}");
        let path = format!("{V3}/rooms/{room}/context/{}?filter={}", said[0], encoded(&filter));
        let context = server.get(&path, &alice).await.ok();
        let after = json!({ "timeline": { "events": context["events_after"] } });
        assert_eq!(bodies(&after), expected, "{filter}: {context}");
    }
}

#[tokio::test]
async fn nothing_is_told_twice_where_nothing_has_happened_yet() {
    let server = server();
    let alice = server.register("alice").await;
    let first = server.sync(&alice, "").await;
    assert!(first["account_data"]["events"].as_array().is_some_and(|events| !events.is_empty()), "{first}");
    let second = server.sync_since(&alice, &first).await;
    let third = server.sync_since(&alice, &second).await;
    for answer in [&second, &third] {
        assert!(answer["account_data"].get("events").is_none_or(|events| events == &json!([])), "{answer}");
    }
}
