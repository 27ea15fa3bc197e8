//! What arrives at servers that fall silent in the middle of a transaction, or
//! that will not take one.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    middleware::{self, Next},
    response::IntoResponse,
};
use causeway_room::{Pdu, version};
use causeway_service::{
    Services,
    outbox::{
        CATCH_UP_AFTER_MS,
        owed::{DEAD_AFTER_MS, ROWS_OF_DEAD_MAX},
    },
};
use causeway_storage::outbox::{again, owed};
use http::{Method, StatusCode};
use ruma::{OwnedEventId, RoomVersionId, server_name};
use serde_json::{Map, Value, json};

use crate::support::{Network, Shape};

/// The paths of the transactions that came.
type Seen = Arc<Mutex<Vec<String>>>;

/// A door that swallows the first transaction, as a cut link does.
fn swallows_the_first(seen: &Seen) -> Box<dyn FnOnce(Router) -> Router> {
    let seen = Arc::clone(seen);
    Box::new(move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let path = request.uri().path().to_owned();
            let mut first = false;
            if path.contains("/send/") {
                let mut seen = seen.lock().expect("unpoisoned");
                seen.push(path);
                first = seen.len() == 1;
            }
            async move {
                if first {
                    std::future::pending::<()>().await;
                }
                next.run(request).await
            }
        }))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_without_an_answer_is_sent_anew_when_its_destination_is_heard_from() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let seen = Seen::default();
    let a = network.start("a.test", folders[0].path());
    let shape = Shape { door: swallows_the_first(&seen), sends: false, ..Shape::default() };
    let b = network.start_as("b.test", folders[1].path(), shape);
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let said = a.send(&room, &alice, "m.room.message", None, json!({"body": "hello"})).await;
    let heard = async {
        loop {
            let path = "/_matrix/federation/v1/query/profile?user_id=@nobody:a.test";
            b.state.client().request(&a.name, Method::GET, path, None).await.expect("answers");
        }
    };
    tokio::select! {
        () = b.has(&said) => {}
        () = heard => {}
    }
    let seen = seen.lock().expect("unpoisoned").clone();
    assert!(seen.len() >= 2 && seen[0] == seen[1], "the same transaction: {seen:?}");
    a.stop().await;
    b.stop().await;
}

/// A door that refuses transactions in which `refused` finds something.
fn refusing(
    refused: impl Fn(&str) -> bool + Clone + Send + Sync + 'static,
) -> Box<dyn FnOnce(Router) -> Router> {
    Box::new(move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let refused = refused.clone();
            async move {
                if !request.uri().path().contains("/send/") {
                    return next.run(request).await;
                }
                let (parts, body) = request.into_parts();
                let body = to_bytes(body, usize::MAX).await.expect("is read");
                if refused(&String::from_utf8_lossy(&body)) {
                    return StatusCode::BAD_REQUEST.into_response();
                }
                next.run(Request::from_parts(parts, Body::from(body))).await
            }
        }))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_that_is_refused_keeps_no_other_back() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let shape = Shape { door: refusing(|body| body.contains("poison")), ..Shape::default() };
    let b = network.start_as("b.test", folders[1].path(), shape);
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    let other = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    b.join(&other, &bob, &a.name).await.expect("joins");
    let mut sent = Vec::new();
    for body in ["before", "poison", "after"] {
        sent.push(a.send(&room, &alice, "m.room.message", None, json!({"body": body})).await);
        sent.push(a.send(&other, &alice, "m.room.message", None, json!({"body": "elsewhere"})).await);
    }
    // The poisoned one, too: the next event of its room names it.
    for event_id in &sent {
        b.has(event_id).await;
    }
    a.until("nothing waits any more", |services| services.outbox.destinations().expect("reads").is_empty())
        .await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_everything_for_a_while_misses_nothing() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let broken = Arc::new(AtomicBool::new(false));
    let a = network.start("a.test", folders[0].path());
    let is_broken = Arc::clone(&broken);
    let shape = Shape { door: refusing(move |_| is_broken.load(Ordering::SeqCst)), ..Shape::default() };
    let b = network.start_as("b.test", folders[1].path(), shape);
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    broken.store(true, Ordering::SeqCst);
    let mut sent = Vec::new();
    for n in 0..10 {
        sent.push(a.send(&room, &alice, "m.room.message", None, json!({"body": n})).await);
    }
    let to = b.name.clone();
    let sender = a.state.sender().clone();
    a.until("it is left alone", move |_| sender.is_pausing(&to)).await;
    broken.store(false, Ordering::SeqCst);
    for event_id in &sent {
        b.has(event_id).await;
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_last_in_its_room_is_tried_again_later() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let strict = Arc::new(AtomicBool::new(true));
    let a = network.start("a.test", folders[0].path());
    let is_strict = Arc::clone(&strict);
    let door = refusing(move |body| is_strict.load(Ordering::SeqCst) && body.contains("poison"));
    let b = network.start_as("b.test", folders[1].path(), Shape { door, ..Shape::default() });
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let last = a.send(&room, &alice, "m.room.message", None, json!({"body": "poison"})).await;
    let to = b.name.clone();
    a.until("it is set aside", move |services| owed::count(&services.database, &to, 9).expect("reads") == 1)
        .await;
    strict.store(false, Ordering::SeqCst);
    let to = b.name.clone();
    let queued = a
        .run(move |services| {
            let now_ms = services.clock.now_ms();
            let soon = services.outbox.catch_up(&to, now_ms).expect("reads");
            (soon, services.outbox.catch_up(&to, now_ms + CATCH_UP_AFTER_MS).expect("queues"))
        })
        .await;
    assert_eq!(queued, (0, 1));
    b.has(&last).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_last_user_was_put_out_hears_of_it_though_it_refused_that_at_first() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let strict = Arc::new(AtomicBool::new(true));
    let a = network.start("a.test", folders[0].path());
    let is_strict = Arc::clone(&strict);
    let door = refusing(move |body| is_strict.load(Ordering::SeqCst) && body.contains("poison"));
    let b = network.start_as("b.test", folders[1].path(), Shape { door, ..Shape::default() });
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let out = json!({"membership": "leave", "reason": "poison"});
    let kick = a.send(&room, &alice, "m.room.member", Some(bob.as_str()), out).await;
    let to = b.name.clone();
    a.until("it is set aside", move |services| {
        let owed = owed::owed(&services.database, &to, u64::MAX, 9).expect("reads");
        owed.iter().any(|owed| owed.event_id.is_some())
    })
    .await;
    strict.store(false, Ordering::SeqCst);
    // Nothing of that room goes there any more.
    let clock = a.services.clock.now_ms() + CATCH_UP_AFTER_MS;
    let queued = a.run(move |services| services.outbox.catch_up_with_all(clock).expect("queues")).await;
    assert_eq!(queued, 1);
    b.has(&kick).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_given_up_hears_of_everything_when_it_comes_back() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let rooms =
        [a.create_room(&alice, RoomVersionId::V12).await, a.create_room(&alice, RoomVersionId::V12).await];
    for room in &rooms {
        b.join(room, &bob, &a.name).await.expect("joins");
    }
    let to = b.name.clone();
    b.stop().await;
    let mut sent = vec![a.send(&rooms[0], &alice, "m.room.message", None, json!({"body": "alone"})).await];
    for n in 0..ROWS_OF_DEAD_MAX + 5 {
        sent.push(a.send(&rooms[1], &alice, "m.room.message", None, json!({"body": n})).await);
    }
    let server = to.clone();
    a.until("it can't be reached", move |services| {
        services.outbox.met(&server).expect("reads").down_since_ms > 0
    })
    .await;
    let much_later = a.services.clock.now_ms() + 2 * DEAD_AFTER_MS;
    let dropped = a.run(move |services| {
        let outbox = &services.outbox;
        (
            outbox.shorten_all(a_moment_later(services)).expect("drops"),
            outbox.shorten_all(much_later).expect("drops"),
        )
    });
    assert_eq!(dropped.await, (0, 6), "only when it is given up");

    let b = network.start("b.test", folders[1].path());
    b.has(sent.last().expect("some were sent")).await;
    let server = to.clone();
    a.until("it takes events", move |services| services.outbox.met(&server).expect("reads").failures == 0)
        .await;
    a.run(move |services| services.outbox.catch_up_with_all(3 * much_later).expect("queues")).await;
    // What was dropped of the busy room is fetched with what follows it; of the
    // other one, its last event is sent.
    for event_id in &sent {
        b.has(event_id).await;
    }
    a.stop().await;
    b.stop().await;
}

fn a_moment_later(services: &causeway_service::Services) -> u64 {
    services.clock.now_ms() + 1_000
}

/// A door that answers transactions without handing them on, as if no event in them could
/// be taken, while `cut`.
fn takes_no_event(cut: &Arc<AtomicBool>, forgets: bool) -> Box<dyn FnOnce(Router) -> Router> {
    let cut = Arc::clone(cut);
    let rules = version::rules(&RoomVersionId::V12).expect("supported");
    Box::new(move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let (is_cut, rules) = (cut.load(Ordering::SeqCst), rules.clone());
            async move {
                if !is_cut || !request.uri().path().contains("/send/") {
                    return next.run(request).await;
                }
                let body = to_bytes(request.into_body(), usize::MAX).await.expect("is read");
                let body: Value = serde_json::from_slice(&body).expect("JSON");
                if forgets {
                    return axum::Json(json!({"pdus": {}})).into_response();
                }
                let refused = body["pdus"].as_array().expect("a list").iter().map(|pdu| {
                    let pdu = Pdu::parse(&rules, &pdu.to_string()).expect("an event");
                    (pdu.event_id().to_string(), json!({"error": "its past can't be had"}))
                });
                axum::Json(json!({"pdus": refused.collect::<Map<_, _>>()})).into_response()
            }
        }))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_taken_is_sent_again_without_new_traffic_also_after_a_restart() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let cut = Arc::new(AtomicBool::new(false));
    let a = network.start("a.test", folders[0].path());
    let shape = Shape { door: takes_no_event(&cut, false), ..Shape::default() };
    let b = network.start_as("b.test", folders[1].path(), shape);
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let owes = |services: &Services| {
        let rows = again::page(&services.database, server_name!("b.test"), None, 9).expect("reads");
        rows.first().map(|(_, again)| again.event_id.clone())
    };
    let mut a = Some(a);
    for restarts in [false, true] {
        cut.store(true, Ordering::SeqCst);
        let mut server = a.take().expect("runs");
        server.send(&room, &alice, "m.room.message", None, json!({"body": "one"})).await;
        let last = server.send(&room, &alice, "m.room.message", None, json!({"body": "two"})).await;
        let expected = last.clone();
        let is_noted = move |services: &Services| owes(services).as_ref() == Some(&expected);
        server.until("the refusal is noted", is_noted).await;
        if restarts {
            server.stop().await;
            cut.store(false, Ordering::SeqCst);
            server = network.start("a.test", folders[0].path());
        }
        cut.store(false, Ordering::SeqCst);
        b.has(&last).await;
        server.until("nothing is owed", move |services| owes(services).is_none()).await;
        a = Some(server);
    }
    a.expect("runs").stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_less_than_it_lacks_is_sent_the_rest_once_more() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let cut = Arc::new(AtomicBool::new(false));
    let a = network.start("a.test", folders[0].path());
    let shape = Shape { door: takes_no_event(&cut, true), ..Shape::default() };
    let b = network.start_as("b.test", folders[1].path(), shape);
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    let before = a.send(&room, &alice, "m.room.message", None, json!({"body": "before"})).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let is_empty = |services: &Services| {
        services.outbox.depth("b.test".try_into().expect("a name")).expect("reads") == 0
    };
    let lose_some = async || {
        cut.store(true, Ordering::SeqCst);
        let mut said = Vec::new();
        for number in 0..25 {
            said.push(a.send(&room, &alice, "m.room.message", None, json!({"body": number})).await);
        }
        a.until("all was taken", is_empty).await;
        cut.store(false, Ordering::SeqCst);
        said
    };
    let path = format!("/_matrix/federation/v1/get_missing_events/{room}");
    let ask = async |since: &OwnedEventId, last: &OwnedEventId| {
        // As a Synapse does: at most ten.
        let between = json!({"earliest_events": [since], "latest_events": [last], "limit": 10});
        let answer = b.state.client().request(&a.name, Method::POST, &path, Some(&between)).await;
        let (status, body) = answer.expect("answers");
        assert_eq!(status, StatusCode::OK);
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(body["events"].as_array().map(Vec::len), Some(10));
    };
    let said = lose_some().await;
    let (asked_ms, named) = (a.services.clock.now_ms(), room.clone());
    ask(&before, &said[24]).await;
    for event_id in &said {
        b.has(event_id).await;
    }
    a.until("all was taken", is_empty).await;
    let to = b.name.clone();
    let again = a.run(move |services| services.outbox.may_fill_gap(&to, &named, 0, asked_ms)).await;
    assert!(!again, "asked again at once, nothing is sent again");
    // Another gap has no pause.
    let more = lose_some().await;
    ask(&said[24], &more[24]).await;
    for event_id in &more {
        b.has(event_id).await;
    }
    let before = before.clone();
    let has_older = b.run(move |services| services.rooms.event(&before).expect("reads").is_some()).await;
    assert!(!has_older, "what was before its time is not for it");
    a.stop().await;
    b.stop().await;
}
