//! Endpoint tests of the shared space: batches, bad bodies, and what counts as read.

mod common;

use common::{Server, server};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

async fn room(server: &Server, token: &str) -> String {
    let made = server.post(&format!("{V3}/createRoom"), token, json!({})).await.ok();
    made["room_id"].as_str().expect("a room id").to_owned()
}

fn space(room: &str, rest: &str) -> String {
    format!("/_matrix/client/unstable/org.causeway/rooms/{room}/{rest}")
}

fn state(room: &str, key: &str) -> String {
    format!("{V3}/rooms/{room}/state/org.causeway.item/{key}")
}

#[tokio::test]
async fn a_write_that_can_not_be_read_keeps_no_other_from_being_written() {
    let server = server();
    let alice = server.register("alice").await;
    let room = room(&server, &alice).await;
    let writes = json!([
        { "key": "good", "value": { "n": 1 } },
        { "key": "@bad", "value": { "n": 1 } },
        { "key": "float", "value": { "n": 1.5 } },
        { "key": "both", "value": { "n": 1 }, "delete": true },
        { "key": "neither" },
        { "key": 7, "value": { "n": 1 } },
        ["list", { "n": 1 }],
        { "key": "token", "value": { "n": 1 }, "token": "none" },
        { "key": "fine", "value": { "n": 2 } },
    ]);
    let answer = server.post(&space(&room, "items"), &alice, json!({ "writes": writes })).await.ok();
    let results: Vec<&str> = answer["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|result| result["errcode"].as_str().unwrap_or("written"))
        .collect();
    let expected = [
        "written",
        "M_INVALID_PARAM",
        "M_BAD_JSON",
        "M_BAD_JSON",
        "M_BAD_JSON",
        "M_BAD_JSON",
        "M_BAD_JSON",
        "M_INVALID_PARAM",
        "written",
    ];
    assert_eq!(results, expected, "{answer}");
    for (key, n) in [("good", 1), ("fine", 2)] {
        let read = server.get(&space(&room, &format!("items/{key}")), &alice).await.ok();
        assert_eq!(read["siblings"][0]["value"]["n"], n);
    }
}

#[tokio::test]
async fn a_batch_is_bounded_and_a_list_is_no_object() {
    let server = server();
    let alice = server.register("alice").await;
    let room = room(&server, &alice).await;
    let items = space(&room, "items");
    let writes = |count: usize| {
        let writes: Vec<Value> = (0..count).map(|n| json!({ "key": "k", "value": { "n": n } })).collect();
        json!({ "writes": writes })
    };
    server.post(&items, &alice, writes(501)).await.is_error(413, "M_TOO_LARGE");
    server.get(&space(&room, "items/k"), &alice).await.is_error(404, "M_NOT_FOUND");
    let written = server.post(&items, &alice, writes(500)).await.ok();
    assert_eq!(written["results"].as_array().map(Vec::len), Some(500));
    // Field by field these would pass for objects.
    server.post(&items, &alice, json!([[]])).await.is_error(400, "M_BAD_JSON");
    let put = json!([{ "n": 1 }, null, "keep"]);
    server.put(&space(&room, "items/list"), &alice, put).await.is_error(400, "M_BAD_JSON");
    server.post(&format!("{V3}/createRoom"), &alice, json!([])).await.is_error(400, "M_BAD_JSON");
}

#[tokio::test]
async fn a_pull_is_bounded_and_says_so() {
    let server = server();
    let alice = server.register("alice").await;
    let room = room(&server, &alice).await;
    let changes = space(&room, "changes");
    let ask = |filling: usize| json!({ "after": {}, "filling": "x".repeat(filling) });
    server.post(&changes, &alice, ask(600 << 10)).await.is_error(413, "M_TOO_LARGE");
    server.post(&changes, &alice, ask(400 << 10)).await.ok();
}

#[tokio::test]
async fn a_room_that_was_replaced_takes_no_more_items() {
    let server = server();
    let alice = server.register("alice").await;
    let old = room(&server, &alice).await;
    let value = json!({ "value": { "n": 1 } });
    server.put(&space(&old, "items/plan"), &alice, value.clone()).await.ok();
    let upgraded =
        server.post(&format!("{V3}/rooms/{old}/upgrade"), &alice, json!({ "new_version": "12" })).await.ok();
    let new = upgraded["replacement_room"].as_str().expect("a room id");
    for refused in [
        server.put(&space(&old, "items/plan"), &alice, value.clone()).await,
        server.ask("DELETE", &space(&old, "items/plan"), Some(&alice), None).await,
        server.put(&state(&old, "plan"), &alice, json!({ "n": 2 })).await,
    ] {
        let error = refused.is_error(403, "M_FORBIDDEN");
        assert!(error["error"].as_str().is_some_and(|text| text.contains(new)), "{error}");
    }
    // It can be read there, and goes on in the new room.
    server.get(&space(&old, "items/plan"), &alice).await.ok();
    assert_eq!(server.get(&space(new, "items/plan"), &alice).await.ok()["siblings"][0]["value"]["n"], 1);
    server.put(&space(new, "items/plan"), &alice, value).await.ok();
}

#[tokio::test]
async fn what_a_device_reads_from_state_it_has_seen() {
    let server = server();
    let alice = server.register("alice").await;
    let room = room(&server, &alice).await;
    let body = json!({ "type": "m.login.password", "password": "pw", "device_id": "OTHER",
        "identifier": { "type": "m.id.user", "user": "alice" } });
    let other = server.ask("POST", &format!("{V3}/login"), None, Some(body)).await.ok();
    let other = other["access_token"].as_str().expect("a token");
    let conflict = async |key: &str| {
        let read = server.get(&space(&room, &format!("items/{key}")), &alice).await.ok();
        read["conflict"].as_bool().expect("a flag")
    };
    for key in ["read", "format", "listed", "unread"] {
        server.put(&state(&room, key), &alice, json!({ "n": 1 })).await.ok();
    }
    server.get(&state(&room, "read"), other).await.ok();
    server.get(&format!("{}?format=event", state(&room, "format")), other).await.ok();
    for key in ["read", "format", "unread"] {
        server.put(&state(&room, key), other, json!({ "n": 2 })).await.ok();
    }
    assert_eq!(
        [conflict("read").await, conflict("format").await, conflict("unread").await],
        [false, false, true]
    );
    server.get(&format!("{V3}/rooms/{room}/state"), other).await.ok();
    server.put(&state(&room, "listed"), other, json!({ "n": 2 })).await.ok();
    assert!(!conflict("listed").await);
}
