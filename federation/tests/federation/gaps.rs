//! Events whose past was never sent: the events in between are fetched, and
//! where they can't be had, the state.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use axum::{
    Json, Router,
    extract::Request,
    middleware::{self, Next},
    response::IntoResponse,
};
use causeway_storage::{outbox as rows, rooms::all_unanswered};
use http::StatusCode;
use ruma::{OwnedEventId, RoomVersionId, server_name};
use serde_json::json;
use tokio::sync::{Notify, Semaphore};

use crate::{
    gap_abuse::hand_over,
    support::{Network, Server, Shape},
};

/// Takes everything for `b.test` out of the outbox, as if it had been lost.
async fn lose_what_waits(server: &Server) {
    server
        .run(|services| {
            let (database, to) = (&services.database, server_name!("b.test"));
            let all =
                rows::rows(database, to, causeway_storage::StreamPosition(0), usize::MAX).expect("reads");
            let mut batch = database.batch();
            for row in all {
                rows::delete(&mut batch, to, row.position);
            }
            let _commit = database.commit_durable(batch).expect("commits");
        })
        .await;
}

async fn gap_of(lost: usize) {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start_with("a.test", folders[0].path(), false);
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let topic = a.send(&room, &alice, "m.room.topic", Some(""), json!({"topic": "lost"})).await;
    let mut said = Vec::new();
    for n in 0..lost {
        said.push(a.send(&room, &alice, "m.room.message", None, json!({"body": n.to_string()})).await);
    }
    lose_what_waits(&a).await;
    a.stop().await;
    let a = network.start("a.test", folders[0].path());
    let late = a.send(&room, &alice, "m.room.message", None, json!({"body": "late"})).await;
    b.has(&late).await;
    let room_id = room.clone();
    let state = b.run(move |services| services.rooms.state_event(&room_id, "m.room.topic", "")).await;
    assert_eq!(state.expect("reads").expect("is set").event_id(), topic);
    said.push(late);
    let places = b.run(move |services| {
        let place =
            |id: &OwnedEventId| services.rooms.held(id).expect("reads").and_then(|held| held.meta.position);
        said.iter().map(place).collect::<Vec<_>>()
    });
    let places = places.await;
    assert!(places[0].is_some_and(|first| first > 0) && places.is_sorted(), "in order: {places:?}");
    let answer = b.send(&room, &bob, "m.room.message", None, json!({"body": "got it"})).await;
    a.has(&answer).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_gap_is_filled_with_the_events_in_between() {
    gap_of(20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wide_gap_is_filled_in_order_without_anybody_who_scrolls_back() {
    // More than all that is asked for as missing.
    gap_of(1_100).await;
}

/// A door that has no history, and counts what else it is asked about the past.
fn forgetful(asked: &Arc<[AtomicUsize; 3]>) -> Box<dyn FnOnce(Router) -> Router> {
    let asked = Arc::clone(asked);
    Box::new(move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let path = request.uri().path();
            let forgets = path.contains("/get_missing_events/") || path.contains("/backfill/");
            for (count, name) in asked.iter().zip(["/state_ids/", "/state/", "/event/"]) {
                count.fetch_add(usize::from(path.contains(name)), Ordering::SeqCst);
            }
            async move {
                if forgets {
                    Json(json!({"events": [], "pdus": []})).into_response()
                } else {
                    next.run(request).await
                }
            }
        }))
    })
}

/// So many pieces of state are in a gap that can't be had; how often the state's ids, the state
/// and single events were asked for.
async fn bridged(pieces: usize) -> [usize; 3] {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let asked = Arc::new([const { AtomicUsize::new(0) }; 3]);
    let a = network.start_with("a.test", folders[0].path(), false);
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let mut lost = Vec::new();
    for n in 0..pieces {
        let key = n.to_string();
        lost.push(a.send(&room, &alice, "org.example.piece", Some(&key), json!({"number": n})).await);
    }
    lose_what_waits(&a).await;
    a.stop().await;
    let shape = Shape { door: forgetful(&asked), ..Shape::default() };
    let a = network.start_as("a.test", folders[0].path(), shape);
    let late = a.send(&room, &alice, "m.room.message", None, json!({"body": "late"})).await;
    b.has(&late).await;
    let room_id = room.clone();
    let held = b.run(move |services| {
        let piece = |n: usize| services.rooms.state_event(&room_id, "org.example.piece", &n.to_string());
        let id = |n| piece(n).expect("reads").expect("is set").event_id().to_owned();
        (0..pieces).map(id).collect::<Vec<_>>()
    });
    assert_eq!(held.await, lost);
    a.stop().await;
    b.stop().await;
    asked.each_ref().map(|count| count.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_that_can_not_be_had_is_bridged_by_the_state_behind_it() {
    let [ids, state, single] = bridged(20).await;
    assert!(ids > 0 && state == 0 && single >= 20, "{ids} {state} {single}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_much_of_that_state_is_missing_it_is_had_at_once() {
    let [ids, state, single] = bridged(150).await;
    assert!(ids > 0 && state > 0 && single == 0, "{ids} {state} {single}");
}

/// A door that can't serve what is asked about the past of events, while `cut`.
pub fn tells_nothing(cut: &Arc<AtomicBool>) -> Box<dyn FnOnce(Router) -> Router> {
    let cut = Arc::clone(cut);
    Box::new(move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let about_past = ["get_missing_events", "state_ids", "backfill"].map(|name| request.uri().path().contains(name));
            let fails = cut.load(Ordering::SeqCst) && about_past.contains(&true);
            async move {
                if fails { StatusCode::BAD_GATEWAY.into_response() } else { next.run(request).await }
            }
        }))
    })
}

/// An event is sent while nobody answers for what is before it; then somebody does. In
/// between `b.test` is started anew, if `restarts`.
async fn unanswered_for_a_while(restarts: bool) {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let cut = Arc::new(AtomicBool::new(false));
    let shape = Shape { door: tells_nothing(&cut), sends: false, ..Shape::default() };
    let a = network.start_as("a.test", folders[0].path(), shape);
    let mut b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let lost = a.send(&room, &alice, "m.room.message", None, json!({"body": "lost"})).await;
    let late = a.send(&room, &alice, "m.room.message", None, json!({"body": "late"})).await;
    let named = late.clone();
    let late_pdu =
        a.run(move |services| services.rooms.event(&named).expect("reads").expect("is there")).await;
    cut.store(true, Ordering::SeqCst);
    assert!(hand_over(&a, &b, &late_pdu).await["error"].is_string(), "its past can't be had");
    if restarts {
        b.stop().await;
        b = network.start("b.test", folders[1].path());
    }
    cut.store(false, Ordering::SeqCst);
    for event_id in [&lost, &late] {
        b.has(event_id).await;
    }
    let timeline = b.run(move |services| {
        let positions = [lost, late].map(|id| services.rooms.held(&id).expect("reads").expect("is there"));
        positions.map(|held| held.meta.position)
    });
    let [lost, late] = timeline.await;
    assert!(lost < late, "in order");
    a.stop().await;
    b.stop().await;
}

/// A door behind which there are no paths with this in them, while `cut`.
fn without(part: &'static str, cut: &Arc<AtomicBool>) -> Box<dyn FnOnce(Router) -> Router> {
    let cut = Arc::clone(cut);
    Box::new(move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let fails = cut.load(Ordering::SeqCst) && request.uri().path().contains(part);
            async move { if fails { StatusCode::NOT_FOUND.into_response() } else { next.run(request).await } }
        }))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_signers_key_could_not_be_had_is_tried_again() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test", "c.test"]);
    let (always, cut) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let a = network.start_with("a.test", folders[0].path(), false);
    // It is asked for nothing that has it look for the key before.
    let shape = Shape { door: without("org.causeway", &always), ..Shape::default() };
    let b = network.start_as("b.test", folders[1].path(), shape);
    let shape = Shape { door: without("/key/", &cut), sends: false, ..Shape::default() };
    let c = network.start_as("c.test", folders[2].path(), shape);
    let (alice, bob, carol) = (a.user("alice"), b.user("bob"), c.user("carol"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    c.join(&room, &carol, &a.name).await.expect("joins");
    let joined = move |services: &causeway_service::Services| {
        services.rooms.state_event(&room, "m.room.member", carol.as_str()).expect("reads").expect("is there")
    };
    let join = a.run(joined).await;
    cut.store(true, Ordering::SeqCst);
    assert!(hand_over(&a, &b, &join).await["error"].is_string(), "it can't be checked");
    cut.store(false, Ordering::SeqCst);
    b.has(&join.event_id().to_owned()).await;
    for server in [a, b, c] {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_answered_for_is_tried_again_though_it_is_sent_once() {
    unanswered_for_a_while(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_answered_for_is_tried_again_also_after_a_restart() {
    unanswered_for_a_while(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_answered_for_is_tried_again_in_however_many_rooms_of_a_server() {
    const ROOMS: usize = 40;
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let cut = Arc::new(AtomicBool::new(false));
    let shape = Shape { door: tells_nothing(&cut), sends: false, ..Shape::default() };
    let a = network.start_as("a.test", folders[0].path(), shape);
    let mut b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let mut rooms = Vec::new();
    for _ in 0..ROOMS {
        let room = a.create_room(&alice, RoomVersionId::V12).await;
        b.join(&room, &bob, &a.name).await.expect("joins");
        rooms.push(room);
    }
    cut.store(true, Ordering::SeqCst);
    let mut late = Vec::new();
    for room in &rooms {
        a.send(room, &alice, "m.room.message", None, json!({"body": "lost"})).await;
        let last = a.send(room, &alice, "m.room.message", None, json!({"body": "late"})).await;
        let named = last.clone();
        let pdu =
            a.run(move |services| services.rooms.event(&named).expect("reads").expect("is there")).await;
        assert!(hand_over(&a, &b, &pdu).await["error"].is_string(), "its past can't be had");
        late.push(last);
    }
    b.stop().await;
    b = network.start("b.test", folders[1].path());
    cut.store(false, Ordering::SeqCst);
    for event_id in &late {
        b.has(event_id).await;
    }
    b.until("none is tried any more", |services| {
        all_unanswered(&services.database, None, 9).expect("reads").is_empty()
    })
    .await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_filled_also_when_who_sent_what_is_behind_it_hangs_up() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let (asked, open) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let (tells, opened) = (Arc::clone(&asked), Arc::clone(&open));
    let door = Box::new(move |router: Router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let (tells, opened) = (Arc::clone(&tells), Arc::clone(&opened));
            async move {
                if request.uri().path().contains("get_missing_events") {
                    tells.notify_one();
                    let _opened = opened.acquire().await;
                }
                next.run(request).await
            }
        }))
    });
    let a = network.start_as("a.test", folders[0].path(), Shape { door, sends: false, ..Shape::default() });
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let lost = a.send(&room, &alice, "m.room.message", None, json!({"body": "lost"})).await;
    let late = a.send(&room, &alice, "m.room.message", None, json!({"body": "late"})).await;
    let named = late.clone();
    let late_pdu =
        a.run(move |services| services.rooms.event(&named).expect("reads").expect("is there")).await;
    tokio::select! {
        answer = hand_over(&a, &b, &late_pdu) => panic!("nobody told what is before it: {answer}"),
        () = asked.notified() => {}
    }
    open.add_permits(1_000);
    for event_id in [&lost, &late] {
        b.has(event_id).await;
    }
    a.stop().await;
    b.stop().await;
}
