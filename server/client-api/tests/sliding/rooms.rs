//! What is told of a room: state, timeline, names.

use serde_json::{Value, json};

use crate::{V3, bodies, common::server, required, rooms, window};

fn subscribed(room: &str, timeline_limit: u64, required_state: &Value) -> Value {
    json!({ "room_subscriptions": { room: {
        "timeline_limit": timeline_limit, "required_state": required_state,
    } } })
}

fn pair(kind: &str, key: &str) -> (String, String) {
    (kind.to_owned(), key.to_owned())
}

#[tokio::test]
async fn required_state_is_told_and_then_what_changes_of_it() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.public_room(&alice, "one").await;
    server.set_state(&alice, &room, "org.x", "a", json!({ "v": 1 })).await;
    server.set_state(&alice, &room, "org.x", "b", json!({ "v": 1 })).await;
    let some = subscribed(
        &room,
        1,
        &json!([["m.room.name", ""], ["org.x", "*"], ["m.room.member", "$ME"], ["no", "no"]]),
    );
    let first = server.sliding(&alice, None, &some).await;
    let expected = [
        pair("m.room.member", "@alice:example.org"),
        pair("m.room.name", ""),
        pair("org.x", "a"),
        pair("org.x", "b"),
    ];
    assert_eq!(required(&first["rooms"][&room]), expected);
    server.set_state(&alice, &room, "org.x", "b", json!({ "v": 2 })).await;
    server.set_state(&alice, &room, "m.room.topic", "", json!({ "topic": "t" })).await;
    let second = server.sliding(&alice, Some(&first), &some).await;
    assert_eq!(required(&second["rooms"][&room]), [pair("org.x", "b")]);
    assert_eq!(second["rooms"][&room].get("name"), None, "unchanged");

    // More of it is told at once when it is asked for, and only the more.
    let more = subscribed(&room, 1, &json!([["m.room.name", ""], ["org.x", "*"], ["m.room.topic", ""]]));
    let third = server.sliding(&alice, Some(&second), &more).await;
    assert_eq!(required(&third["rooms"][&room]), [pair("m.room.topic", "")]);
    let fourth = server.sliding(&alice, Some(&third), &more).await;
    assert_eq!(fourth["rooms"], json!({}));
    let all = server.sliding(&alice, Some(&fourth), &subscribed(&room, 1, &json!([["*", "*"]]))).await;
    let told = required(&all["rooms"][&room]);
    assert!(
        told.contains(&pair("m.room.create", ""))
            && told.contains(&pair("m.room.member", "@alice:example.org"))
    );
    assert!(!told.contains(&pair("m.room.topic", "")), "it was told before: {told:?}");

    // Name and picture come and go.
    server.set_state(&alice, &room, "m.room.name", "", json!({ "name": "" })).await;
    server.set_state(&alice, &room, "m.room.avatar", "", json!({ "url": "mxc://example.org/a" })).await;
    let all = server.sliding(&alice, Some(&all), &more).await;
    let shown = &all["rooms"][&room];
    assert_eq!((&shown["name"], &shown["avatar"]), (&Value::Null, &json!("mxc://example.org/a")));
    assert!(shown.as_object().is_some_and(|shown| shown.contains_key("name")), "{shown}");
}

#[tokio::test]
async fn lazy_members_are_those_whom_the_timeline_shows() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = server.public_room(&alice, "one").await;
    server.join(&carol, &room).await;
    server.join(&bob, &room).await;
    server.say(&bob, &room, "hi").await;
    let lazy = subscribed(&room, 1, &json!([["m.room.member", "$LAZY"], ["m.room.member", "$ME"]]));
    let first = server.sliding(&alice, None, &lazy).await;
    let member = |name: &str| pair("m.room.member", &format!("@{name}:example.org"));
    assert_eq!(required(&first["rooms"][&room]), [member("alice"), member("bob")]);
    server
        .put(&format!("{V3}/profile/@carol:example.org/displayname"), &carol, json!({ "displayname": "C" }))
        .await
        .ok();
    let second = server.sliding(&alice, Some(&first), &lazy).await;
    assert_eq!(required(&second["rooms"][&room]), [member("carol")]);
    assert_eq!(second["rooms"][&room]["joined_count"], 3);
    let all_but_members = subscribed(&room, 1, &json!([["*", "*"], ["m.room.member", "$LAZY"]]));
    let third = server.sliding(&alice, None, &all_but_members).await;
    let told = required(&third["rooms"][&room]);
    assert!(told.contains(&pair("m.room.create", "")), "{told:?}");
    let members: Vec<_> = told.iter().filter(|(kind, _)| kind == "m.room.member").collect();
    assert_eq!(members, [&member("carol")]);
}

#[tokio::test]
async fn a_lazily_loaded_member_is_told_once() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.public_room(&alice, "one").await;
    server.join(&bob, &room).await;
    server.say(&bob, &room, "one").await;
    let lazy = subscribed(&room, 2, &json!([["m.room.member", "$LAZY"]]));
    let mut answer = server.sliding(&alice, None, &lazy).await;
    let member = |name: &str| pair("m.room.member", &format!("@{name}:example.org"));
    assert_eq!(required(&answer["rooms"][&room]), [member("bob")]);
    for text in ["two", "three"] {
        server.say(&bob, &room, text).await;
        answer = server.sliding(&alice, Some(&answer), &lazy).await;
        assert_eq!(bodies(&answer["rooms"][&room]), [text]);
        assert!(required(&answer["rooms"][&room]).is_empty(), "{answer}");
    }
    server.say(&alice, &room, "four").await;
    answer = server.sliding(&alice, Some(&answer), &lazy).await;
    assert_eq!(required(&answer["rooms"][&room]), [member("alice")]);
    // Who is told of after a gap is told of again: he may have changed in it.
    for text in ["five", "six", "seven"] {
        server.say(&bob, &room, text).await;
    }
    answer = server.sliding(&alice, Some(&answer), &lazy).await;
    assert_eq!(answer["rooms"][&room]["limited"], true);
    assert_eq!(required(&answer["rooms"][&room]), [member("bob")]);
}

#[tokio::test]
async fn who_is_ignored_brings_no_room_up() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let first = server.public_room(&alice, "one").await;
    server.join(&bob, &first).await;
    let second = server.public_room(&alice, "two").await;
    let ignored = json!({ "ignored_users": { "@bob:example.org": {} } });
    let path = format!("{V3}/user/@alice:example.org/account_data/m.ignored_user_list");
    server.put(&path, &alice, ignored).await.ok();
    let start = server.sliding(&alice, None, &window(9, 5)).await;
    for n in 0..20 {
        server.say(&bob, &first, &n.to_string()).await;
    }
    let next = server.sliding(&alice, Some(&start), &window(9, 5)).await;
    assert_eq!(next["rooms"], json!({}));
    let top = server.sliding(&alice, None, &window(0, 5)).await;
    assert!(top["rooms"].get(&second).is_some() && top["rooms"].get(&first).is_none(), "{top}");
}

#[tokio::test]
async fn a_longer_timeline_is_told_at_once() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.public_room(&alice, "one").await;
    for number in 0..6 {
        server.say(&alice, &room, &format!("m{number}")).await;
    }
    let first = server.sliding(&alice, None, &window(9, 1)).await;
    assert_eq!(bodies(&first["rooms"][&room]), ["m5"]);
    let more = subscribed(&room, 4, &json!([]));
    let second = server.sliding(&alice, Some(&first), &more).await;
    let shown = &second["rooms"][&room];
    assert_eq!(bodies(shown), ["m2", "m3", "m4", "m5"]);
    assert_eq!(
        (&shown["unstable_expanded_timeline"], &shown["limited"], &shown["num_live"]),
        (&json!(true), &json!(true), &json!(0))
    );
    assert_eq!(shown.get("initial"), None);
    let from = shown["prev_batch"].as_str().expect("a token");
    let page =
        server.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=2&from={from}"), &alice).await.ok();
    assert_eq!(page["chunk"][0]["content"]["body"], "m1");
    let pos = second["pos"].as_str().expect("a position");
    let page = server.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=1&from={pos}"), &alice).await.ok();
    assert_eq!(page["chunk"][0]["content"]["body"], "m5", "a position does for /messages");
    let third = server.sliding(&alice, Some(&second), &more).await;
    assert_eq!(third["rooms"], json!({}));
    // The shorter one again, then the longer one: nothing that was told comes again.
    server.say(&alice, &room, "m6").await;
    let fourth = server.sliding(&alice, Some(&third), &window(9, 1)).await;
    assert_eq!(bodies(&fourth["rooms"][&room]), ["m6"]);
    assert_eq!(
        (&fourth["rooms"][&room]["num_live"], &fourth["rooms"][&room]["limited"]),
        (&json!(1), &json!(false))
    );
    let fifth = server.sliding(&alice, Some(&fourth), &more).await;
    assert_eq!(fifth["rooms"], json!({}));
}

#[tokio::test]
async fn unnamed_rooms_have_heroes_and_direct_chats_are_said_to_be_that() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    server
        .put(&format!("{V3}/profile/@bob:example.org/displayname"), &bob, json!({ "displayname": "Bob" }))
        .await
        .ok();
    let room = server.room(&alice, json!({ "preset": "public_chat" })).await;
    let first = server.sliding(&alice, None, &window(9, 1)).await;
    assert_eq!(first["rooms"][&room]["heroes"], json!([]));
    server.join(&bob, &room).await;
    let second = server.sliding(&alice, Some(&first), &window(9, 1)).await;
    assert_eq!(
        second["rooms"][&room]["heroes"],
        json!([{ "user_id": "@bob:example.org", "displayname": "Bob" }])
    );
    let path = format!("{V3}/user/@alice:example.org/account_data/m.direct");
    server.put(&path, &alice, json!({ "@bob:example.org": [room] })).await.ok();
    let third = server.sliding(&alice, Some(&second), &window(9, 1)).await;
    assert_eq!(third["rooms"][&room]["is_dm"], true);
    server.put(&path, &alice, json!({})).await.ok();
    let fourth = server.sliding(&alice, Some(&third), &window(9, 1)).await;
    assert_eq!(fourth["rooms"][&room]["is_dm"], false);
}

#[tokio::test]
async fn history_before_joining_stays_hidden() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let hidden = json!([{ "type": "m.room.history_visibility", "state_key": "",
        "content": { "history_visibility": "joined" } }]);
    let room = server.room(&alice, json!({ "preset": "public_chat", "initial_state": hidden })).await;
    server.say(&alice, &room, "secret").await;
    server.join(&bob, &room).await;
    server.say(&alice, &room, "shown").await;
    let told = server.sliding(&bob, None, &window(9, 50)).await;
    assert_eq!(bodies(&told["rooms"][&room]), ["shown"]);
    assert_eq!(rooms(&told), [&room]);
}

#[tokio::test]
async fn unread_events_are_counted() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.public_room(&alice, "one").await;
    server.join(&bob, &room).await;
    server.say(&alice, &room, "one").await;
    let first = server.sliding(&bob, None, &window(9, 1)).await;
    assert_eq!(first["rooms"][&room]["notification_count"], 1);
    assert_eq!(first["rooms"][&room]["highlight_count"], 0);
}

#[tokio::test]
async fn many_different_required_states_are_told_once() {
    let server = server();
    let alice = server.register("alice").await;
    let mut subscriptions = serde_json::Map::new();
    for number in 0..12 {
        let room = server.public_room(&alice, "one").await;
        let required = json!([["m.room.name", ""], [format!("org.{number}"), ""]]);
        subscriptions.insert(room, json!({ "timeline_limit": 1, "required_state": required }));
    }
    let body = json!({ "room_subscriptions": subscriptions });
    let first = server.sliding(&alice, None, &body).await;
    assert!(
        rooms(&first).iter().all(|room| required(&first["rooms"][room]) == [pair("m.room.name", "")]),
        "{first}"
    );
    let second = server.sliding(&alice, Some(&first), &body).await;
    assert_eq!((rooms(&first).len(), &second["rooms"]), (12, &json!({})));
}
