//! Positions, retries, several connections, and what counts as given to a device.

use std::time::Duration;

use causeway_service::sync::{CONNECTIONS_MAX, given};
use ruma::{RoomId, device_id, user_id};
use serde_json::json;

use crate::{V3, bodies, common::server, rooms, window};

#[tokio::test]
async fn it_is_advertised_and_needs_a_token() {
    let server = server();
    let versions = server.ask("GET", "/_matrix/client/versions", None, None).await.ok();
    assert_eq!(versions["unstable_features"]["org.matrix.simplified_msc3575"], true);
    server.ask("POST", crate::SLIDING, None, Some(json!({}))).await.is_error(401, "M_MISSING_TOKEN");
    let alice = server.register("alice").await;
    let empty = server.sliding(&alice, None, &json!({})).await;
    assert_eq!((&empty["rooms"], &empty["lists"]), (&json!({}), &json!({})));
}

#[tokio::test]
async fn a_repeated_request_gets_its_answer_again_and_an_old_one_none() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.public_room(&alice, "one").await;
    let first = server.sliding(&alice, None, &window(9, 5)).await;
    server.say(&alice, &room, "hello").await;
    let second = server.sliding(&alice, Some(&first), &window(9, 5)).await;
    assert_eq!(bodies(&second["rooms"][&room]), ["hello"]);
    let again = server.sliding(&alice, Some(&first), &window(9, 5)).await;
    assert_eq!(bodies(&again["rooms"][&room]), ["hello"], "the answer may have been lost");
    assert_eq!(again["rooms"][&room].get("initial"), None);
    let third = server.sliding(&alice, Some(&again), &window(9, 5)).await;
    assert_eq!(third["rooms"], json!({}));

    // A new room needs a new generation, and what was before it is left behind.
    let other = server.public_room(&alice, "two").await;
    let fourth = server.sliding(&alice, Some(&third), &window(9, 5)).await;
    assert_eq!(rooms(&fourth), [&other]);
    let fifth = server.sliding(&alice, Some(&fourth), &window(9, 5)).await;
    assert_eq!(fifth["rooms"], json!({}));
    let old = server.ask_sliding(&alice, Some(&third), "", &window(9, 5)).await;
    old.is_error(400, "M_UNKNOWN_POS");
}

#[tokio::test]
async fn a_position_of_somebody_else_is_unknown() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({ "preset": "private_chat" })).await;
    let hers = server.sliding(&alice, None, &window(9, 5)).await;
    server.ask_sliding(&bob, Some(&hers), "", &window(9, 5)).await.is_error(400, "M_UNKNOWN_POS");
    server.sliding(&bob, None, &window(9, 5)).await;
    server.ask_sliding(&bob, Some(&hers), "", &window(9, 5)).await.is_error(400, "M_UNKNOWN_POS");
    for pos in ["s1.0.7", "nonsense", "s99999999999.0.0", "t5"] {
        let answer = server.ask_sliding(&alice, Some(&json!({ "pos": pos })), "", &window(9, 5)).await;
        answer.is_error(400, "M_UNKNOWN_POS");
    }
    let subscribed = json!({ "room_subscriptions": { &room: {
        "timeline_limit": 10, "required_state": [["*", "*"]],
    } } });
    let told = server.sliding(&bob, None, &subscribed).await;
    assert_eq!(told["rooms"], json!({}), "not his room");
}

#[tokio::test]
async fn connections_of_one_device_know_nothing_of_each_other() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.public_room(&alice, "one").await;
    let named = |name: &str| {
        let mut body = window(9, 5);
        body["conn_id"] = name.into();
        body
    };
    let a = server.sliding(&alice, None, &named("a")).await;
    let b = server.sliding(&alice, None, &named("b")).await;
    assert_eq!((rooms(&a), rooms(&b)), (vec![&*room], vec![&*room]));
    server.ask_sliding(&alice, Some(&a), "", &named("b")).await.is_error(400, "M_UNKNOWN_POS");
    server.say(&alice, &room, "hello").await;
    let a = server.sliding(&alice, Some(&a), &named("a")).await;
    let b = server.sliding(&alice, Some(&b), &named("b")).await;
    assert_eq!(
        (bodies(&a["rooms"][&room]), bodies(&b["rooms"][&room])),
        (vec!["hello".into()], vec!["hello".into()])
    );

    for number in 0..CONNECTIONS_MAX - 1 {
        server.clock.advance(Duration::from_secs(1));
        server.sliding(&alice, Some(&b), &named("b")).await;
        server.sliding(&alice, None, &named(&format!("more{number}"))).await;
    }
    let dropped = server.ask_sliding(&alice, Some(&a), "", &named("a")).await;
    dropped.is_error(400, "M_UNKNOWN_POS");
}

#[tokio::test]
async fn too_much_and_wrong_shapes_are_refused() {
    let server = server();
    let alice = server.register("alice").await;
    let list = json!({ "ranges": [[0, 1]], "timeline_limit": 1, "required_state": [] });
    let many: serde_json::Map<_, _> = (0..101).map(|number| (format!("l{number}"), list.clone())).collect();
    let config = json!({ "timeline_limit": 1, "required_state": [] });
    let subscriptions: serde_json::Map<_, _> =
        (0..101).map(|number| (format!("!r{number}:example.org"), config.clone())).collect();
    let wide = vec![json!(["a", "b"]); 1_000];
    let lists = |entries: usize, key_bytes: usize, is_same: bool| {
        let list = |number: usize| {
            let kind = if is_same { "t".to_owned() } else { format!("t{number}") };
            let key = |entry: usize| format!("{entry:0>key_bytes$}");
            let required: Vec<_> = (0..entries).map(|entry| json!([kind, key(entry)])).collect();
            (format!("l{number}"), json!({ "timeline_limit": 1, "required_state": required }))
        };
        (0..11).map(list).collect::<serde_json::Map<_, _>>()
    };
    let (different, long) = (lists(100, 3, false), lists(50, 200, false));
    server.sliding(&alice, None, &json!({ "lists": lists(100, 3, true) })).await;
    let names: Vec<_> = (0..51).map(|number| format!("n{number}")).collect();
    let with_filter =
        |filters: serde_json::Value| json!({ "lists": { "a": { "timeline_limit": 1, "filters": filters } } });
    server.sliding(&alice, None, &with_filter(json!({ "tags": vec!["same"; 500] }))).await;
    for (body, errcode) in [
        (json!({ "lists": many }), "M_INVALID_PARAM"),
        (json!({ "room_subscriptions": subscriptions }), "M_INVALID_PARAM"),
        (json!({ "conn_id": "x".repeat(1_000) }), "M_INVALID_PARAM"),
        (json!({ "lists": { "a": { "ranges": [[5, 1]], "timeline_limit": 1 } } }), "M_INVALID_PARAM"),
        (json!({ "lists": { "a": { "timeline_limit": 1, "required_state": wide } } }), "M_INVALID_PARAM"),
        (json!({ "lists": { "a": { "ranges": [[0, 1]] } } }), "M_BAD_JSON"),
        (json!({ "lists": { "a": { "ranges": [[-1, 1]], "timeline_limit": 1 } } }), "M_BAD_JSON"),
        (json!({ "lists": [] }), "M_BAD_JSON"),
        (json!({ "extensions": { "to_device": { "enabled": true, "since": "x" } } }), "M_INVALID_PARAM"),
        (json!({ "lists": different }), "M_INVALID_PARAM"),
        (json!({ "lists": long }), "M_INVALID_PARAM"),
        (with_filter(json!({ "tags": names })), "M_INVALID_PARAM"),
        (with_filter(json!({ "spaces": names })), "M_INVALID_PARAM"),
        (with_filter(json!({ "room_types": names })), "M_INVALID_PARAM"),
        (with_filter(json!({ "tags": ["x".repeat(1_000)] })), "M_INVALID_PARAM"),
    ] {
        server.post(crate::SLIDING, &alice, body).await.is_error(400, errcode);
    }
    let huge = json!({ "lists": { "a": { "ranges": [[0, u64::MAX]], "timeline_limit": u64::MAX } } });
    server.sliding(&alice, None, &huge).await;
}

#[tokio::test]
async fn a_device_is_given_what_its_connection_acknowledged() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.public_room(&alice, "one").await;
    let room_id = RoomId::parse(&room).expect("a room id");
    let known = || {
        let given =
            given(&server.services.rooms, user_id!("@alice:example.org"), device_id!("DEV"), &room_id);
        given.expect("readable").pop()
    };
    let items = json!({ "lists": { "all": {
        "ranges": [[0, 9]], "timeline_limit": 5, "required_state": [["org.causeway.item", "*"]],
    } } });
    let first = server.sliding(&alice, None, &items).await;
    assert_eq!(known(), None, "not acknowledged");
    let second = server.sliding(&alice, Some(&first), &items).await;
    let whole = known().expect("acknowledged");
    assert!(whole.state.is_some());

    for number in 0..15 {
        server.say(&alice, &room, &format!("m{number}")).await;
    }
    let gap = server.sliding(&alice, Some(&second), &items).await;
    assert_eq!(gap["rooms"][&room]["limited"], true);
    assert_eq!(known().map(|given| given.after), Some(whole.after), "the gap is not acknowledged");
    let after = server.sliding(&alice, Some(&gap), &items).await;
    let later = known().expect("acknowledged");
    assert!(later.after > whole.up_to && later.state.is_some(), "{later:?}");

    // Out of every list nothing more is given.
    let nothing = server.sliding(&alice, Some(&after), &json!({})).await;
    server.say(&alice, &room, "unseen").await;
    let nothing = server.sliding(&alice, Some(&nothing), &json!({})).await;
    server.sliding(&alice, Some(&nothing), &json!({})).await;
    let unseen = known().expect("acknowledged");
    assert!(unseen.up_to <= later.up_to + 1 && unseen.after == later.after, "{later:?} {unseen:?}");

    // Without the items' state only the timeline gives.
    let bare = server.sliding(&alice, None, &window(9, 1)).await;
    server.sliding(&alice, Some(&bare), &window(9, 1)).await;
    let bare = known().expect("acknowledged");
    assert!(bare.state.is_none() && bare.after > unseen.after, "{bare:?}");

    server.post(&format!("{V3}/logout"), &alice, json!({})).await.ok();
    assert_eq!(known(), None, "the device is gone");
}
