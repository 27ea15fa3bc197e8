//! What is told beside rooms, and what a waiting request is woken by.

use std::time::Duration;

use causeway_storage::to_device;
use ruma::{device_id, user_id};
use serde_json::{Value, json, value::to_raw_value};

use crate::{
    V3, bodies,
    common::{Server, server},
    window,
};

/// A window with every extension on.
fn everything(last: u64) -> Value {
    let mut body = window(last, 5);
    let on = json!({ "enabled": true });
    body["extensions"] = json!({
        "to_device": on, "e2ee": on, "account_data": on, "receipts": on, "typing": on,
    });
    body
}

fn post_to_device(server: &Server, number: u64) {
    let event = json!({ "type": "org.test", "sender": "@alice:example.org", "content": { "n": number } });
    let event = to_raw_value(&event).expect("JSON");
    let mut batch = server.services.database.batch();
    let position = batch.position();
    let recipient = user_id!("@bob:example.org");
    to_device::put(&mut batch, (recipient, device_id!("DEV")), recipient, position, &event);
    server.services.database.commit_durable(batch).expect("committed");
}

#[tokio::test]
async fn to_device_messages_come_until_they_have_arrived() {
    let server = server();
    let bob = server.register("bob").await;
    let ask = |since: Option<&Value>, limit: u64| {
        let mut wanted = json!({ "enabled": true, "limit": limit });
        if let Some(answer) = since {
            wanted["since"] = answer["extensions"]["to_device"]["next_batch"].clone();
        }
        json!({ "conn_id": "encryption", "extensions": { "to_device": wanted } })
    };
    let numbers = |answer: &Value| {
        let events = answer["extensions"]["to_device"]["events"].as_array().expect("events");
        events.iter().map(|event| event["content"]["n"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    let start = server.sliding(&bob, None, &ask(None, 10)).await;
    assert_eq!(numbers(&start), [0; 0]);
    (1..=3).for_each(|number| post_to_device(&server, number));
    let two = server.sliding(&bob, Some(&start), &ask(Some(&start), 2)).await;
    assert_eq!(numbers(&two), [1, 2]);
    let again = server.sliding(&bob, Some(&start), &ask(Some(&start), 2)).await;
    assert_eq!(numbers(&again), [1, 2], "not acknowledged");
    let rest = server.sliding(&bob, Some(&two), &ask(Some(&two), 2)).await;
    assert_eq!(numbers(&rest), [3]);
    // A connection that begins anew without a token lacks what arrived, and has the rest.
    let anew = server.sliding(&bob, None, &ask(None, 10)).await;
    assert_eq!(numbers(&anew), [3]);
    // A token of before a restore counts as none.
    let mut later = ask(None, 10);
    later["extensions"]["to_device"]["since"] = "9999999".into();
    assert_eq!(numbers(&server.sliding(&bob, None, &later).await), [3]);
    let off = server.sliding(&bob, None, &json!({})).await;
    assert_eq!(off["extensions"], json!({}));
}

#[tokio::test]
async fn account_data_is_told_whole_and_then_what_changes() {
    let server = server();
    let alice = server.register("alice").await;
    let a = server.public_room(&alice, "a").await;
    let b = server.public_room(&alice, "b").await;
    let user = format!("{V3}/user/@alice:example.org");
    server.put(&format!("{user}/account_data/org.g"), &alice, json!({ "v": 1 })).await.ok();
    for room in [&a, &b] {
        server.put(&format!("{user}/rooms/{room}/account_data/org.r"), &alice, json!({ "v": 1 })).await.ok();
    }
    let first = server.sliding(&alice, None, &everything(0)).await;
    let data = &first["extensions"]["account_data"];
    let globals = |data: &Value| {
        let events = data["global"].as_array().cloned().unwrap_or_default();
        events.into_iter().filter(|event| event["type"] == "org.g").collect::<Vec<_>>()
    };
    assert_eq!(globals(data).len(), 1, "{data}");
    assert_eq!(data["rooms"], json!({ &b: [{ "type": "org.r", "content": { "v": 1 } }] }));
    let second = server.sliding(&alice, Some(&first), &everything(1)).await;
    let data = &second["extensions"]["account_data"];
    assert_eq!(globals(data).len(), 0);
    assert_eq!(data["rooms"], json!({ &a: [{ "type": "org.r", "content": { "v": 1 } }] }));
    server.put(&format!("{user}/rooms/{a}/account_data/org.r"), &alice, json!({ "v": 2 })).await.ok();
    let third = server.sliding(&alice, Some(&second), &everything(1)).await;
    assert_eq!(third["rooms"], json!({}), "nothing happened in the room");
    assert_eq!(third["extensions"]["account_data"]["rooms"][&a][0]["content"], json!({ "v": 2 }));

    // Switched off and on again, it is told whole.
    let off = server.sliding(&alice, Some(&third), &window(1, 5)).await;
    server.put(&format!("{user}/rooms/{a}/account_data/org.r"), &alice, json!({ "v": 3 })).await.ok();
    let off = server.sliding(&alice, Some(&off), &window(1, 5)).await;
    let on = server.sliding(&alice, Some(&off), &everything(1)).await;
    assert_eq!(on["extensions"]["account_data"]["rooms"][&a][0]["content"], json!({ "v": 3 }));
    assert_eq!(globals(&on["extensions"]["account_data"]).len(), 1);

    // Only for the lists that it is about.
    let mut about_none = everything(1);
    about_none["extensions"]["account_data"]["lists"] = json!(["other"]);
    let none = server.sliding(&alice, None, &about_none).await;
    assert_eq!(none["extensions"]["account_data"].get("rooms"), None);
}

#[tokio::test]
async fn receipts_are_those_of_what_is_shown_then_all() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.public_room(&alice, "one").await;
    server.join(&bob, &room).await;
    let old = server.say(&alice, &room, "old").await;
    server.post(&format!("{V3}/rooms/{room}/receipt/m.read/{old}"), &bob, json!({})).await.ok();
    for number in 0..6 {
        server.say(&alice, &room, &format!("m{number}")).await;
    }
    let hers = server.sliding(&alice, None, &everything(9)).await;
    assert_eq!(hers["extensions"]["receipts"]["rooms"], json!({}), "of an event that is not shown");
    let his = server.sliding(&bob, None, &everything(9)).await;
    let receipt = &his["extensions"]["receipts"]["rooms"][&room];
    assert_eq!(receipt["type"], "m.receipt");
    assert!(receipt["content"][&old]["m.read"]["@bob:example.org"].is_object(), "his own: {receipt}");

    let last = server.say(&alice, &room, "last").await;
    server.post(&format!("{V3}/rooms/{room}/receipt/m.read.private/{last}"), &bob, json!({})).await.ok();
    let hers = server.sliding(&alice, Some(&hers), &everything(9)).await;
    assert_eq!(hers["extensions"]["receipts"]["rooms"], json!({}), "private");
    let his = server.sliding(&bob, Some(&his), &everything(9)).await;
    let content = &his["extensions"]["receipts"]["rooms"][&room]["content"];
    assert!(content[&last]["m.read.private"]["@bob:example.org"].is_object(), "{content}");
    server.post(&format!("{V3}/rooms/{room}/receipt/m.read/{last}"), &bob, json!({})).await.ok();
    let hers = server.sliding(&alice, Some(&hers), &everything(9)).await;
    let content = &hers["extensions"]["receipts"]["rooms"][&room]["content"];
    assert!(content[&last]["m.read"]["@bob:example.org"].is_object(), "{content}");
    assert_eq!(hers["rooms"], json!({}));
}

/// Polls with a long timeout while something happens, and expects to be woken by it.
async fn woken_by<F: Future<Output = ()>>(server: &Server, token: &str, happens: F) -> Value {
    let start = server.sliding(token, None, &everything(0)).await;
    let body = everything(0);
    let poll = server.ask_sliding(token, Some(&start), "timeout=60000", &body);
    let both = async { tokio::join!(poll, happens).0 };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("woken long before its timeout").ok()
}

#[tokio::test]
async fn a_long_poll_wakes_for_everything_that_it_tells() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.public_room(&alice, "one").await;
    server.join(&bob, &room).await;
    let event_id = server.say(&alice, &room, "first").await;
    let told = woken_by(&server, &bob, async { drop(server.say(&alice, &room, "hello").await) }).await;
    assert_eq!(bodies(&told["rooms"][&room]), ["hello"]);
    let told = woken_by(&server, &bob, async {
        let path = format!("{V3}/rooms/{room}/typing/@alice:example.org");
        server.put(&path, &alice, json!({ "typing": true, "timeout": 30000 })).await.ok();
    })
    .await;
    let typing = &told["extensions"]["typing"]["rooms"][&room];
    assert_eq!(*typing, json!({ "type": "m.typing", "content": { "user_ids": ["@alice:example.org"] } }));
    let told = woken_by(&server, &bob, async {
        server.post(&format!("{V3}/rooms/{room}/receipt/m.read/{event_id}"), &alice, json!({})).await.ok();
    })
    .await;
    assert!(told["extensions"]["receipts"]["rooms"][&room]["content"][&event_id].is_object(), "{told}");
    let told = woken_by(&server, &bob, async {
        let path = format!("{V3}/user/@bob:example.org/account_data/org.test");
        server.put(&path, &bob, json!({ "x": 1 })).await.ok();
    })
    .await;
    assert_eq!(told["extensions"]["account_data"]["global"][0]["type"], "org.test");
    let told = woken_by(&server, &bob, async {
        drop(server.room(&alice, json!({ "invite": ["@bob:example.org"] })).await);
    })
    .await;
    let invited = told["rooms"].as_object().and_then(|rooms| rooms.values().next()).expect("a room");
    assert!(invited["invite_state"].is_array());
}

#[tokio::test]
async fn what_no_list_shows_is_not_worth_an_answer() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut shown = everything(9);
    let room = server.public_room(&alice, "one").await;
    server.join(&bob, &room).await;
    shown["lists"]["all"]["filters"] = json!({ "is_encrypted": true });
    let start = server.sliding(&bob, None, &shown).await;
    server.say(&alice, &room, "hello").await;
    let path = format!("{V3}/rooms/{room}/typing/@alice:example.org");
    server.put(&path, &alice, json!({ "typing": true, "timeout": 30000 })).await.ok();
    let quiet = server.sliding(&bob, Some(&start), &shown).await;
    assert_eq!(quiet["rooms"], json!({}));
    let extensions = &quiet["extensions"];
    assert_eq!((&extensions["typing"]["rooms"], &extensions["receipts"]["rooms"]), (&json!({}), &json!({})));
    assert_eq!(quiet["extensions"]["e2ee"]["device_one_time_keys_count"]["signed_curve25519"], 0);
    // The same request waits, woken or not, until its time is up.
    let body = shown.clone();
    let poll = server.ask_sliding(&bob, Some(&quiet), "timeout=300", &body);
    let (answer, _) = tokio::join!(poll, server.say(&alice, &room, "more"));
    assert_eq!(answer.ok()["rooms"], json!({}));
}

#[tokio::test]
async fn who_stopped_typing_is_not_shown_in_a_room_that_comes_back() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.public_room(&alice, "one").await;
    server.join(&bob, &room).await;
    let types = async |typing: bool| {
        let path = format!("{V3}/rooms/{room}/typing/@alice:example.org");
        server.put(&path, &alice, json!({ "typing": typing, "timeout": 30000 })).await.ok();
    };
    let users =
        |answer: &Value| answer["extensions"]["typing"]["rooms"][&room]["content"]["user_ids"].clone();
    types(true).await;
    let typed = server.sliding(&bob, None, &everything(9)).await;
    assert_eq!(users(&typed), json!(["@alice:example.org"]));
    let out = server.sliding(&bob, Some(&typed), &json!({})).await;
    types(false).await;
    let back = server.sliding(&bob, Some(&out), &everything(9)).await;
    assert_eq!(users(&back), json!([]));
    let quiet = server.sliding(&bob, Some(&back), &everything(9)).await;
    assert_eq!(users(&quiet), Value::Null);
}
