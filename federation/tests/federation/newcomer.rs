//! A server that comes late judges what was written before its time as those do
//! who were there.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use causeway_service::{
    Services,
    shared_space::{
        self, ITEM_TYPE,
        write::{OnConflict, Write, Writer},
    },
};
use causeway_shared_space::{ItemKey, Value};
use http::StatusCode;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId};
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{Network, Server, Shape};

const KEYS: [&str; 4] = ["plain", "stamped", "over", "gone"];

/// What an item is like for a user, as far as all servers are to agree.
fn item(services: &Services, user: &UserId, room: &RoomId, key: &str) -> Option<Json> {
    let key = ItemKey::new(key).expect("a key");
    let mut shown = services.shared_space.get(user, room, &key).ok()?;
    shown.as_object_mut().expect("an object").remove("token");
    Some(shown)
}

fn number(item: Option<Json>) -> Option<u64> {
    item.filter(|item| item["conflict"] == false)?["siblings"][0]["value"]["n"].as_u64()
}

/// Somebody with the room before him, whose server does what is due.
struct Member {
    server: Server,
    user: OwnedUserId,
    room: OwnedRoomId,
    stop: CancellationToken,
    worker: JoinSet<()>,
}

impl Member {
    fn new(server: Server, user: OwnedUserId, room: &RoomId) -> Self {
        let stop = CancellationToken::new();
        let mut worker = JoinSet::new();
        let space = Arc::clone(&server.services.shared_space);
        worker.spawn(shared_space::worker::run(space, stop.clone().cancelled_owned()));
        Self { server, user, room: room.to_owned(), stop, worker }
    }

    async fn leave(mut self) {
        self.stop.cancel();
        while self.worker.join_next().await.is_some() {}
        self.server.stop().await;
    }

    /// Waits until an item holds this number, and nothing else; without one: until it is deleted.
    async fn sees(&self, key: &'static str, wanted: Option<u64>) {
        let (user, room) = (self.user.clone(), self.room.clone());
        self.server
            .until(key, move |services| {
                let item = item(services, &user, &room, key);
                match wanted {
                    Some(_) => number(item) == wanted,
                    None => item.is_none_or(|item| item["siblings"][0]["deleted"] == true),
                }
            })
            .await;
    }

    /// An event as a server without the extension would send it, and its adoption.
    async fn plain(&self, key: &'static str, n: Option<u64>) {
        let content = n.map_or(json!({}), |n| json!({ "n": n }));
        self.server.send(&self.room, &self.user, ITEM_TYPE, Some(key), content).await;
        self.sees(key, n).await;
    }

    /// A change of what is there now, through the API.
    async fn put(&self, key: &'static str, n: u64) {
        let (user, room) = (self.user.clone(), self.room.clone());
        self.server
            .run(move |services| {
                let key = ItemKey::new(key).expect("a key");
                let token = services.shared_space.get(&user, &room, &key).ok();
                let write = Write {
                    key,
                    value: Some(Value::parse(json!({ "n": n }).to_string().as_bytes()).expect("a value")),
                    token: token.and_then(|shown| Some(shown["token"].as_str()?.to_owned())),
                    on_conflict: OnConflict::Keep,
                };
                let writer = Writer { user: &user, device: None, idempotency_key: None };
                services.shared_space.put(writer, &room, &write).expect("written");
            })
            .await;
    }

    async fn all(&self) -> Vec<Option<Json>> {
        let (user, room) = (self.user.clone(), self.room.clone());
        self.server
            .run(move |services| KEYS.iter().map(|key| item(services, &user, &room, key)).collect())
            .await
    }

    async fn unproven(&self) -> Json {
        let (user, room) = (self.user.clone(), self.room.clone());
        self.server
            .run(move |services| {
                services.shared_space.status(&user, &room).expect("a status")["unproven"].clone()
            })
            .await
    }
}

/// A door that answers transactions without taking them in.
async fn deaf(request: Request, next: Next) -> Response {
    if request.uri().path().contains("/send/") {
        return axum::Json(json!({ "pdus": {} })).into_response();
    }
    next.run(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_asks_for_what_it_was_told_before_it_could_listen() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let alice = a.user("alice");
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    let a = Member::new(a, alice, &room);
    a.put("plan", 1).await;

    let door = |router: Router| router.layer(middleware::from_fn(deaf));
    let shape = Shape { door: Box::new(door), ..Shape::default() };
    let server = network.start_as("b.test", folders[1].path(), shape);
    let user = server.user("bob");
    server.join(&room, &user, &a.server.name).await.expect("joins");
    let b = Member::new(server, user, &room);
    // Nothing is ever told to it; it must ask.
    b.sees("plan", Some(1)).await;
    a.leave().await;
    b.leave().await;
}

/// A door that refuses the first `left` pulls, as a server does that has not heard who joined.
fn refusing(left: &Arc<AtomicUsize>) -> Box<dyn FnOnce(Router) -> Router> {
    let left = Arc::clone(left);
    Box::new(move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let is_pull = request.uri().path().ends_with("/changes");
            let one_less = |left: usize| left.checked_sub(1);
            let is_refused = is_pull && left.try_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
            async move {
                if is_refused {
                    let refusal = json!({ "errcode": "M_NOT_FOUND", "error": "The room is not known here" });
                    return (StatusCode::NOT_FOUND, axum::Json(refusal)).into_response();
                }
                next.run(request).await
            }
        }))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_refuses_a_pull_is_asked_again() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let left = Arc::new(AtomicUsize::new(1));
    let shape = Shape { door: refusing(&left), ..Shape::default() };
    let a = network.start_as("a.test", folders[0].path(), shape);
    let alice = a.user("alice");
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    let a = Member::new(a, alice, &room);
    a.put("plan", 1).await;

    let door = |router: Router| router.layer(middleware::from_fn(deaf));
    let shape = Shape { door: Box::new(door), ..Shape::default() };
    let server = network.start_as("b.test", folders[1].path(), shape);
    let user = server.user("bob");
    server.join(&room, &user, &a.server.name).await.expect("joins");
    let b = Member::new(server, user, &room);
    // Nothing is ever told to it.
    b.sees("plan", Some(1)).await;
    assert_eq!(left.load(Ordering::SeqCst), 0, "one was refused");
    a.leave().await;
    b.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_comes_to_the_same_judgement_of_adoptions() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test", "c.test"]);
    let [a, b] = [("a.test", 0), ("b.test", 1)].map(|(name, at)| network.start(name, folders[at].path()));
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    a.send(&room, &alice, "m.room.power_levels", Some(""), json!({ "events": { ITEM_TYPE: 0 } })).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let a = Member::new(a, alice, &room);
    let b = Member::new(b, bob, &room);

    for n in 2..=3 {
        a.plain("plain", Some(n)).await;
    }
    // Adopted over a change, and changed over an adoption.
    b.put("stamped", 1).await;
    a.sees("stamped", Some(1)).await;
    // A plain event is over what room state shows where it is sent, and over nothing else.
    let (room_id, shown) = (a.room.clone(), json!(1));
    a.server
        .until("the change's event", move |services| {
            let face = services.rooms.state_event(&room_id, ITEM_TYPE, "stamped").expect("reads");
            face.is_some_and(|face| face.content_object().get("n") == Some(&shown))
        })
        .await;
    for n in 2..=3 {
        a.plain("stamped", Some(n)).await;
    }
    a.plain("over", Some(1)).await;
    a.plain("over", Some(2)).await;
    a.put("over", 3).await;
    a.plain("gone", Some(1)).await;
    a.plain("gone", None).await;
    for (key, n) in [("plain", Some(3)), ("stamped", Some(3)), ("over", Some(3)), ("gone", None)] {
        b.sees(key, n).await;
    }

    let server = network.start("c.test", folders[2].path());
    let user = server.user("carol");
    server.join(&room, &user, &b.server.name).await.expect("joins");
    let c = Member::new(server, user, &room);
    for key in ["plain", "stamped", "over"] {
        c.sees(key, Some(3)).await;
    }
    c.sees("gone", None).await;
    let (user, room) = (c.user.clone(), c.room.clone());
    c.server
        .until("everything to be proven", move |services| {
            services.shared_space.status(&user, &room).expect("a status")["unproven"] == 0
        })
        .await;
    let all = a.all().await;
    assert_eq!(b.all().await, all);
    assert_eq!(c.all().await, all);
    assert_eq!(a.unproven().await, 0);
    for member in [a, b, c] {
        member.leave().await;
    }
}
