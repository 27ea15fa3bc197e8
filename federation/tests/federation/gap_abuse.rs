//! Servers that abuse what others do for events whose past they lack: from
//! outside the room, by never answering, by answering too much.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::Request,
    middleware::{self, Next},
    response::IntoResponse,
};
use causeway_federation::settings::GapLimits;
use causeway_room::{NewEvent, Pdu, Placement, build};
use futures_util::stream;
use http::{Method, StatusCode};
use ruma::{OwnedEventId, OwnedRoomId, RoomVersionId, UserId};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Network, Server, Shape};

/// Endpoints that are asked to fill a gap.
const HISTORY: [&str; 6] =
    ["/get_missing_events/", "/state_ids/", "/state/", "/event_auth/", "/event/", "/backfill/"];

/// A door that answers by itself what `answer` has an answer for.
pub fn lying(
    answer: impl Fn(&str) -> Option<Value> + Clone + Send + Sync + 'static,
) -> Box<dyn FnOnce(Router) -> Router> {
    Box::new(move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let answer = answer.clone();
            async move {
                let path = percent_encoding::percent_decode_str(request.uri().path());
                match answer(&path.decode_utf8_lossy()) {
                    Some(lie) => Json(lie).into_response(),
                    None => next.run(request).await,
                }
            }
        }))
    })
}

/// A door that counts questions about history and never answers them.
fn stalling(asked: &Arc<AtomicUsize>) -> Box<dyn FnOnce(Router) -> Router> {
    let asked = Arc::clone(asked);
    Box::new(move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let asked = Arc::clone(&asked);
            async move {
                if HISTORY.iter().any(|path| request.uri().path().contains(path)) {
                    asked.fetch_add(1, Ordering::SeqCst);
                    std::future::pending::<()>().await;
                }
                next.run(request).await
            }
        }))
    })
}

pub fn folders<const N: usize>() -> [TempDir; N] {
    [(); N].map(|()| tempfile::tempdir().expect("a folder"))
}

/// An event by `sender`, signed by `server`.
pub fn made(server: &Server, event: &NewEvent, room_id: &OwnedRoomId, refs: [Vec<OwnedEventId>; 2]) -> Pdu {
    let [prev_events, auth_events] = refs;
    let room_id = Some(room_id.clone());
    let origin_server_ts = server.services.clock.now_ms();
    let placement = Placement { prev_events, auth_events, depth: 50, origin_server_ts, room_id };
    let rules = causeway_room::version::rules(&RoomVersionId::V12).expect("supported");
    let keys = &server.services.server_keys;
    build::build(&rules, event, &placement, keys.server_name(), keys.key_pair()).expect("is built")
}

pub fn said(sender: &UserId) -> NewEvent {
    NewEvent::new("m.room.message", sender.to_owned(), None, json!({"body": "hello"})).expect("an event")
}

/// Ids of events that nobody has.
pub fn nowhere() -> Vec<OwnedEventId> {
    vec![OwnedEventId::try_from(format!("${}", "A".repeat(43))).expect("an event id")]
}

/// What `to` answers to a transaction of `from` with one event.
pub async fn hand_over(from: &Server, to: &Server, pdu: &Pdu) -> Value {
    let path = format!("/_matrix/federation/v1/send/{}", pdu.event_id().as_str().trim_start_matches('$'));
    let body = json!({"pdus": [pdu.raw()]});
    let (status, answer) =
        from.state.client().request(&to.name, Method::PUT, &path, Some(&body)).await.expect("answers");
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    answer["pdus"][pdu.event_id().as_str()].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_outside_the_room_is_not_asked_about_it() {
    let (folders, asked) = (folders::<3>(), Arc::default());
    let mut network = Network::of(&["a.test", "b.test", "m.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start_with("b.test", folders[1].path(), false);
    let door = stalling(&asked);
    let m = network.start_as("m.test", folders[2].path(), Shape { door, ..Shape::default() });
    let (alice, bob, mallory) = (a.user("alice"), b.user("bob"), m.user("mallory"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");

    let rootless = made(&m, &said(&mallory), &room, [nowhere(), nowhere()]);
    assert!(hand_over(&m, &a, &rootless).await["error"].is_string());
    // What it hands over of others is completed by those.
    let first = b.send(&room, &bob, "m.room.message", None, json!({"body": "first"})).await;
    let second = b.send(&room, &bob, "m.room.message", None, json!({"body": "second"})).await;
    let found = b.run(move |services| services.rooms.event(&second).expect("reads")).await;
    assert_eq!(hand_over(&m, &a, &found.expect("was sent")).await, json!({}));
    a.has(&first).await;
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    for server in [a, b, m] {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_never_answers_holds_up_nobody_else() {
    let (folders, asked) = (folders::<3>(), Arc::<AtomicUsize>::default());
    let mut network = Network::of(&["a.test", "b.test", "m.test"]);
    let gap = GapLimits { time: Duration::from_hours(1), ..GapLimits::default() };
    let a = network.start_as("a.test", folders[0].path(), Shape { gap, ..Shape::default() });
    let b = network.start_with("b.test", folders[1].path(), false);
    let door = stalling(&asked);
    let m = network.start_as("m.test", folders[2].path(), Shape { door, ..Shape::default() });
    let (alice, bob, mallory) = (a.user("alice"), b.user("bob"), m.user("mallory"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    m.join(&room, &mallory, &a.name).await.expect("joins");

    let rootless = made(&m, &said(&mallory), &room, [nowhere(), nowhere()]);
    let stuck = hand_over(&m, &a, &rootless);
    let honest = async {
        let counted = Arc::clone(&asked);
        a.until("the fill hangs", move |_| counted.load(Ordering::SeqCst) > 0).await;
        let first = b.send(&room, &bob, "m.room.message", None, json!({"body": "first"})).await;
        let second = b.send(&room, &bob, "m.room.message", None, json!({"body": "second"})).await;
        let found = b.run(move |services| services.rooms.event(&second).expect("reads")).await;
        assert_eq!(hand_over(&b, &a, &found.expect("was sent")).await, json!({}));
        a.has(&first).await;
    };
    tokio::select! {
        answer = stuck => panic!("the stalled fill ended first: {answer}"),
        () = honest => {}
    }
    for server in [a, b, m] {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_ends_in_time_whoever_stalls() {
    let (folders, asked) = (folders::<2>(), Arc::default());
    let mut network = Network::of(&["a.test", "m.test"]);
    let gap = GapLimits { time: Duration::from_millis(500), ..GapLimits::default() };
    let a = network.start_as("a.test", folders[0].path(), Shape { gap, ..Shape::default() });
    let door = stalling(&asked);
    let m = network.start_as("m.test", folders[1].path(), Shape { door, ..Shape::default() });
    let (alice, mallory) = (a.user("alice"), m.user("mallory"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    m.join(&room, &mallory, &a.name).await.expect("joins");
    let rootless = made(&m, &said(&mallory), &room, [nowhere(), nowhere()]);
    // Longer than this, and the request itself is given up as unanswered.
    assert!(hand_over(&m, &a, &rootless).await["error"].is_string());
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    a.stop().await;
    m.stop().await;
}

/// A door whose answers about history never end, but for the ids of a state; it counts the bytes.
fn endless(given: &Arc<AtomicUsize>, state_ids: Value) -> Box<dyn FnOnce(Router) -> Router> {
    const PIECE: usize = 64 * 1024;
    let given = Arc::clone(given);
    Box::new(move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let (given, state_ids) = (Arc::clone(&given), state_ids.clone());
            async move {
                if request.uri().path().contains("/state_ids/") {
                    return Json(state_ids).into_response();
                }
                if !HISTORY.iter().any(|path| request.uri().path().contains(path)) {
                    return next.run(request).await;
                }
                let pieces = stream::repeat_with(move || {
                    given.fetch_add(PIECE, Ordering::SeqCst);
                    Ok::<_, Infallible>(vec![b' '; PIECE])
                });
                Body::from_stream(pieces).into_response()
            }
        }))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_of_an_answer_is_read_than_fits_what_was_asked_for() {
    // What is on its way beside that: a few connections' buffers.
    const BYTES_MAX: usize = 128 * 1024 * 1024;
    let (folders, given) = (folders::<2>(), Arc::<AtomicUsize>::default());
    let mut network = Network::of(&["a.test", "m.test"]);
    let a = network.start("a.test", folders[0].path());
    let unknown: Vec<String> = (0..10).map(|n| format!("${n:0>43}")).collect();
    let door = endless(&given, json!({"pdu_ids": unknown, "auth_chain_ids": []}));
    let m = network.start_as("m.test", folders[1].path(), Shape { door, ..Shape::default() });
    let (alice, mallory) = (a.user("alice"), m.user("mallory"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    m.join(&room, &mallory, &a.name).await.expect("joins");
    let (named, sender) = (room.clone(), mallory.clone());
    let auth = m.run(move |services| {
        let state = [("m.room.power_levels", ""), ("m.room.member", sender.as_str())];
        let state = state.map(|(kind, key)| services.rooms.state_event(&named, kind, key));
        state.map(|pdu| pdu.expect("reads").expect("is set").event_id().to_owned()).to_vec()
    });
    let rootless = made(&m, &said(&mallory), &room, [nowhere(), auth.await]);
    hand_over(&m, &a, &rootless).await;
    let given = given.load(Ordering::SeqCst);
    assert!((1..BYTES_MAX).contains(&given), "it was sent {given} bytes");
    a.stop().await;
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_fill_stores_is_bounded() {
    const EVENTS: usize = 20;
    let folders = folders::<2>();
    let mut network = Network::of(&["a.test", "m.test"]);
    let gap = GapLimits { events: EVENTS, ..GapLimits::default() };
    let a = network.start_as("a.test", folders[0].path(), Shape { gap, ..Shape::default() });
    let flood: Arc<std::sync::Mutex<Value>> = Arc::default();
    let answer = Arc::clone(&flood);
    let door: Box<dyn FnOnce(Router) -> Router> = Box::new(move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let answer = answer.lock().expect("unpoisoned").clone();
            async move {
                if request.uri().path().contains("/event_auth/") {
                    return Json(answer).into_response();
                }
                next.run(request).await
            }
        }))
    });
    let m = network.start_as("m.test", folders[1].path(), Shape { door, ..Shape::default() });
    let (alice, mallory) = (a.user("alice"), m.user("mallory"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    m.join(&room, &mallory, &a.name).await.expect("joins");

    // Joins of users who never were, each of them in order.
    let named = room.clone();
    let (heads, auth) = m
        .run(move |services| {
            let rooms = &services.rooms;
            let auth = ["m.room.join_rules", "m.room.power_levels"]
                .map(|kind| rooms.state_event(&named, kind, "").expect("reads").expect("is set"));
            (rooms.heads(&named).expect("reads"), auth.map(|pdu| pdu.event_id().to_owned()).to_vec())
        })
        .await;
    let join = |n: usize| {
        let user = m.user(&format!("nobody{n}"));
        let key = Some(user.to_string());
        let event = NewEvent::new("m.room.member", user, key, json!({"membership": "join"}));
        made(&m, &event.expect("an event"), &room, [heads.clone(), auth.clone()])
    };
    let joins: Vec<Pdu> = (0..EVENTS * 10).map(join).collect();
    let raw: Vec<_> = joins.iter().map(|pdu| pdu.raw().to_owned()).collect();
    *flood.lock().expect("unpoisoned") = json!({"auth_chain": raw});
    let bait = made(&m, &said(&mallory), &room, [heads.clone(), nowhere()]);
    assert!(hand_over(&m, &a, &bait).await["error"].is_string());
    let stored = a
        .run(move |services| {
            let held = |pdu: &&Pdu| services.rooms.held(pdu.event_id()).expect("reads").is_some();
            joins.iter().filter(held).count()
        })
        .await;
    assert_eq!(stored, EVENTS, "the first of them, and no more");
    a.stop().await;
    m.stop().await;
}
