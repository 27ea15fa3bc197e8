//! Endpoint tests of the shared space: batches, bad bodies, what counts as read,
//! following the changes, deleting, history and repeated requests.

mod common;

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use common::{Answer, Server, server};
use http::Request;
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
    let other = other_device(&server).await;
    let conflict = async |key: &str| {
        let read = server.get(&space(&room, &format!("items/{key}")), &alice).await.ok();
        read["conflict"].as_bool().expect("a flag")
    };
    for key in ["read", "format", "listed", "unread"] {
        server.put(&state(&room, key), &alice, json!({ "n": 1 })).await.ok();
    }
    server.get(&state(&room, "read"), &other).await.ok();
    server.get(&format!("{}?format=event", state(&room, "format")), &other).await.ok();
    for key in ["read", "format", "unread"] {
        server.put(&state(&room, key), &other, json!({ "n": 2 })).await.ok();
    }
    assert_eq!(
        [conflict("read").await, conflict("format").await, conflict("unread").await],
        [false, false, true]
    );
    server.get(&format!("{V3}/rooms/{room}/state"), &other).await.ok();
    server.put(&state(&room, "listed"), &other, json!({ "n": 2 })).await.ok();
    assert!(!conflict("listed").await);
}

/// A second device of alice.
async fn other_device(server: &Server) -> String {
    let body = json!({ "type": "m.login.password", "password": "pw", "device_id": "OTHER",
        "identifier": { "type": "m.id.user", "user": "alice" } });
    let login = server.ask("POST", &format!("{V3}/login"), None, Some(body)).await.ok();
    login["access_token"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn a_delta_holds_what_is_above_the_vector_and_waits_for_it() {
    let server = server();
    let alice = server.register("alice").await;
    let room = room(&server, &alice).await;
    let path = space(&room, "changes");
    let put = async |key: &str| {
        let path = space(&room, &format!("items/{key}"));
        server.put(&path, &alice, json!({ "value": { "in": key } })).await.ok();
    };
    let brought = |delta: &Value| {
        let changes = delta["changes"].as_array().expect("changes");
        changes.iter().map(|change| change["value"]["in"].clone()).collect::<Vec<_>>()
    };
    put("first").await;
    put("second").await;
    let all = server.post(&path, &alice, json!({})).await.ok();
    assert_eq!(brought(&all), ["first", "second"]);
    let since = |timeout: u64| json!({ "after": all["vector"], "timeout": timeout });
    for timeout in [0, 1] {
        let nothing = server.post(&path, &alice, since(timeout)).await.ok();
        assert_eq!((brought(&nothing), &nothing["vector"]), (Vec::new(), &all["vector"]));
    }

    // Each subscription has the notifier.
    let waiting = || Arc::strong_count(&server.services.notifier);
    let before = waiting();
    let writes = async {
        while waiting() == before {
            tokio::task::yield_now().await;
        }
        put("third").await;
    };
    let both = async { tokio::join!(server.post(&path, &alice, since(60_000)), writes).0 };
    let woken = tokio::time::timeout(Duration::from_secs(20), both).await;
    let woken = woken.expect("woken long before its timeout").ok();
    assert_eq!(brought(&woken), ["third"]);
    assert_ne!(woken["vector"], all["vector"]);
}

#[tokio::test]
async fn a_delete_names_what_it_saw_in_its_query_or_its_body() {
    let server = server();
    let alice = server.register("alice").await;
    let other = other_device(&server).await;
    let room = room(&server, &alice).await;
    for key in ["query", "body"] {
        let path = space(&room, &format!("items/{key}"));
        server.put(&path, &alice, json!({ "value": { "n": 1 } })).await.ok();
        server.put(&path, &other, json!({ "value": { "n": 2 } })).await.ok();
        let read = server.get(&path, &alice).await.ok();
        assert_eq!(read["siblings"].as_array().map(Vec::len), Some(2), "{read}");
        // The device knows of its own only.
        let blind = server.ask("DELETE", &format!("{path}?on_conflict=reject"), Some(&alice), None).await;
        let refused = blind.is_error(409, "ORG.CAUSEWAY.CONFLICT");
        assert_eq!(refused["siblings"].as_array().map(Vec::len), Some(2), "{refused}");
        let token = read["token"].as_str().expect("a token");
        let deleted = if key == "query" {
            let path = format!("{path}?on_conflict=reject&token={token}");
            server.ask("DELETE", &path, Some(&alice), None).await
        } else {
            let body = json!({ "on_conflict": "reject", "token": token });
            server.ask("DELETE", &path, Some(&alice), Some(body)).await
        };
        assert_eq!(deleted.ok()["conflict"], false);
        let read = server.get(&path, &alice).await.ok();
        assert_eq!(read["siblings"].as_array().map(Vec::len), Some(1), "{read}");
        assert_eq!(read["siblings"][0]["deleted"], true, "{read}");
        let path = format!("{path}?token=nonsense");
        server.ask("DELETE", &path, Some(&alice), None).await.is_error(400, "M_INVALID_PARAM");
    }
    assert_eq!(server.get(&space(&room, "items"), &alice).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn a_history_has_all_changes_of_an_item_page_by_page() {
    let server = server();
    let alice = server.register("alice").await;
    let room = room(&server, &alice).await;
    let (path, history) = (space(&room, "items/plan"), space(&room, "items/plan/history"));
    for (path, n) in [(&path, 1), (&space(&room, "items/another"), 7), (&path, 2)] {
        server.put(path, &alice, json!({ "value": { "n": n } })).await.ok();
        server.clock.advance(Duration::from_secs(1));
    }
    server.ask("DELETE", &path, Some(&alice), None).await.ok();
    let shown = |page: &Value| -> Vec<(Value, Value, Value)> {
        let changes = page["changes"].as_array().expect("changes").iter();
        changes.map(|one| (one["kind"].clone(), one["value"]["n"].clone(), one["live"].clone())).collect()
    };
    let page = server.get(&format!("{history}?limit=2"), &alice).await.ok();
    assert_eq!(page["key"], "plan");
    assert_eq!(
        shown(&page),
        [(json!("delete"), Value::Null, json!(true)), (json!("put"), json!(2), json!(false)),]
    );
    let next = page["next"].as_str().expect("more");
    let rest = server.get(&format!("{history}?limit=2&from={next}"), &alice).await.ok();
    assert_eq!(shown(&rest), [(json!("put"), json!(1), json!(false))]);
    assert_eq!(page["changes"][1]["supersedes"][0], rest["changes"][0]["id"]);
    assert!(rest["next"].is_null(), "{rest}");
    server.get(&format!("{history}?from=nonsense"), &alice).await.is_error(400, "M_INVALID_PARAM");
    let bob = server.register("bob").await;
    server.get(&history, &bob).await.is_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_repeated_request_is_answered_with_what_it_did() {
    let server = server();
    let alice = server.register("alice").await;
    let room = room(&server, &alice).await;
    let send = async |method: &str, rest: &str, key: &[u8], body: Value| -> Answer {
        let request = Request::builder().method(method).uri(space(&room, rest));
        let request = request.header("authorization", format!("Bearer {alice}"));
        let request = request.header("Idempotency-Key", key);
        server.send(request.body(Body::from(body.to_string())).expect("a request")).await
    };
    let value = |n: u64| json!({ "value": { "n": n } });
    let first = send("PUT", "items/plan", b"one", value(1)).await.ok();
    assert_eq!(send("PUT", "items/plan", b"one", value(1)).await.ok(), first);
    let refused = send("PUT", "items/plan", b"one", value(2)).await;
    refused.is_error(409, "ORG.CAUSEWAY.KEY_REUSED");
    let second = send("PUT", "items/plan", b"two", value(1)).await.ok();
    assert_ne!(second["id"], first["id"]);
    let writes = json!({ "writes": [{ "key": "plan", "value": { "n": 3 } }] });
    let batch = send("POST", "items", b"three", writes.clone()).await.ok();
    assert_eq!(send("POST", "items", b"three", writes).await.ok(), batch);
    let deleted = send("DELETE", "items/plan", b"four", json!({})).await.ok();
    assert_eq!(send("DELETE", "items/plan", b"four", json!({})).await.ok(), deleted);
    send("PUT", "items/plan", &[0xff], value(4)).await.is_error(400, "M_INVALID_PARAM");
    send("PUT", "items/plan", &[b'k'; 300], value(4)).await.is_error(400, "M_INVALID_PARAM");
    let history = server.get(&space(&room, "items/plan/history"), &alice).await.ok();
    assert_eq!(history["changes"].as_array().map(Vec::len), Some(4), "{history}");
}
