//! While a room is being joined: what others send of it, and who asks for the same again.

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
use causeway_service::Services;
use http::StatusCode;
use ruma::{RoomVersionId, events::room::member::MembershipState};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::{
    gap_abuse::hand_over,
    support::{Network, Shape},
};

/// A door that takes joins and keeps the answers back until it is let go.
struct Holding {
    taken: Arc<AtomicUsize>,
    go: Arc<Semaphore>,
}

impl Holding {
    fn new() -> Self {
        Self { taken: Arc::default(), go: Arc::new(Semaphore::new(0)) }
    }

    fn door(&self) -> Box<dyn FnOnce(Router) -> Router> {
        let (taken, go) = (Arc::clone(&self.taken), Arc::clone(&self.go));
        Box::new(move |router| {
            router.layer(middleware::from_fn(move |request: Request, next: Next| {
                let (taken, go) = (Arc::clone(&taken), Arc::clone(&go));
                async move {
                    let is_join = request.uri().path().contains("/send_join/");
                    let answer = next.run(request).await;
                    if is_join {
                        taken.fetch_add(1, Ordering::SeqCst);
                        let _let_go = go.acquire().await.expect("is never closed");
                    }
                    answer
                }
            }))
        })
    }
}

/// A door that counts the transactions that come.
fn counting(came: &Arc<AtomicUsize>) -> Box<dyn FnOnce(Router) -> Router> {
    let came = Arc::clone(came);
    Box::new(move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            if request.uri().path().contains("/v1/send/") {
                came.fetch_add(1, Ordering::SeqCst);
            }
            next.run(request)
        }))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_of_a_room_that_is_being_joined_waits_for_the_end_of_the_join() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let holding = Holding::new();
    let shape = Shape { door: holding.door(), sends: false, ..Shape::default() };
    let a = network.start_as("a.test", folders[0].path(), shape);
    let came = Arc::default();
    let b =
        network.start_as("b.test", folders[1].path(), Shape { door: counting(&came), ..Shape::default() });
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    let join = b.join(&room, &bob, &a.name);
    let meanwhile = async {
        let taken = Arc::clone(&holding.taken);
        a.until("the join to be taken", move |_| taken.load(Ordering::SeqCst) == 1).await;
        // It is sent once, by a server that sees the other one in the room.
        let said = a.send(&room, &alice, "m.room.message", None, json!({ "body": "welcome" })).await;
        let named = said.clone();
        let pdu =
            a.run(move |services| services.rooms.event(&named).expect("reads").expect("is there")).await;
        let is_there = async {
            let came = Arc::clone(&came);
            a.until("the event to come", move |_| came.load(Ordering::SeqCst) == 1).await;
            holding.go.add_permits(1);
        };
        let (told, ()) = tokio::join!(hand_over(&a, &b, &pdu), is_there);
        (said, told)
    };
    let (joined, (said, told)) = tokio::join!(join, meanwhile);
    joined.expect("joins");
    assert_eq!(told, json!({}), "it was taken");
    b.has(&said).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_to_join_once_more_meanwhile_causes_no_other_join() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let holding = Holding::new();
    let a = network.start_as("a.test", folders[0].path(), Shape { door: holding.door(), ..Shape::default() });
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    let go = async {
        let taken = Arc::clone(&holding.taken);
        a.until("the join to be taken", move |_| taken.load(Ordering::SeqCst) == 1).await;
        holding.go.add_permits(Semaphore::MAX_PERMITS / 2);
    };
    let joins = async { tokio::join!(b.join(&room, &bob, &a.name), b.join(&room, &bob, &a.name)) };
    let ((first, again), ()) = tokio::join!(joins, go);
    first.expect("joins");
    again.expect("is in the room");
    assert_eq!(holding.taken.load(Ordering::SeqCst), 1);
    a.stop().await;
    b.stop().await;
}

/// A door that takes joins and answers them with what is no room, and, while `mute`, makes no leaves.
fn spoiling(mute: &Arc<AtomicBool>) -> Box<dyn FnOnce(Router) -> Router> {
    let mute = Arc::clone(mute);
    Box::new(move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let path = request.uri().path().to_owned();
            let is_mute = mute.load(Ordering::SeqCst) && path.contains("/make_leave/");
            async move {
                if is_mute {
                    return StatusCode::BAD_GATEWAY.into_response();
                }
                let answer = next.run(request).await;
                if path.contains("/send_join/") && answer.status().is_success() {
                    return Json(json!({"state": [], "auth_chain": []})).into_response();
                }
                answer
            }
        }))
    })
}

/// A join is taken and can't be taken in; the server that it is of is started anew, if `restarts`.
async fn a_failed_join_is_undone(restarts: bool) {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let mute = Arc::new(AtomicBool::new(restarts));
    let shape = Shape { door: spoiling(&mute), ..Shape::default() };
    let a = network.start_as("a.test", folders[0].path(), shape);
    let mut b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect_err("there is no room in the answer");
    let membership = {
        let room = room.clone();
        move |services: &Services| {
            let member = services.rooms.member(&room, &bob).expect("reads");
            member.expect("was let in").membership
        }
    };
    if restarts {
        let seen = membership.clone();
        assert_eq!(a.run(move |services| seen(services)).await, MembershipState::Join);
        b.stop().await;
        mute.store(false, Ordering::SeqCst);
        b = network.start("b.test", folders[1].path());
    }
    let seen = membership.clone();
    a.until("bob is out", move |services| seen(services) == MembershipState::Leave).await;
    let noted = |services: &Services| services.rooms.asked_joins(None, 1).expect("reads").is_empty();
    b.until("nothing is left to undo", noted).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_let_in_and_has_no_room_leaves() {
    a_failed_join_is_undone(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_let_in_and_has_no_room_leaves_also_after_a_restart() {
    a_failed_join_is_undone(true).await;
}
