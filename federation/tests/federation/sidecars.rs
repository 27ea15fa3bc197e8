//! A server that is a sidecar: how it is told something, how it tells others, and what its
//! being down costs its homeserver.
//!
//! Here the sidecar is a whole server whose ordinary transactions, if they brought an
//! advertisement, would be seen.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use axum::{Router, body::Body, extract::Request, middleware, response::IntoResponse as _};
use causeway_federation::settings::Mode;
use causeway_service::shared_space::{
    ITEM_TYPE,
    write::{OnConflict, Write, Writer},
};
use causeway_shared_space::{ItemKey, Value};
use http::StatusCode;
use http_body_util::BodyExt as _;
use ruma::{OwnedRoomId, OwnedUserId, RoomVersionId};
use serde_json::json;

use crate::support::{Network, Server, Shape};

const ORDINARY: &str = "/_matrix/federation/v1/send/";
const OWN: &str = "/_matrix/federation/unstable/org.causeway/send/";
const ADVERTISEMENT: &str = "org.causeway.version_vector";

/// What comes to a server, and whether its sidecar's part is shut.
#[derive(Clone, Default)]
struct Door {
    came: Arc<Mutex<Vec<(String, String)>>>,
    is_shut: Arc<AtomicBool>,
}

impl Door {
    fn shape(&self, mode: Mode) -> Shape {
        let door = self.clone();
        let layer = middleware::from_fn(move |request: Request, next: middleware::Next| {
            let door = door.clone();
            async move {
                let path = request.uri().path().to_owned();
                if path.contains("org.causeway") && door.is_shut.load(Ordering::SeqCst) {
                    return StatusCode::BAD_GATEWAY.into_response();
                }
                let (head, body) = request.into_parts();
                let body = body.collect().await.expect("a body").to_bytes();
                let came = (path, String::from_utf8_lossy(&body).into_owned());
                door.came.lock().expect("no panic").push(came);
                next.run(Request::from_parts(head, Body::from(body))).await
            }
        });
        // A sidecar has no sender of ordinary transactions.
        let sends = mode == Mode::Homeserver;
        Shape { sends, mode, door: Box::new(move |router: Router| router.layer(layer)), ..Shape::default() }
    }

    /// How many requests to such a path brought an advertisement.
    fn advertisements(&self, path: &str) -> usize {
        let came = self.came.lock().expect("no panic");
        came.iter().filter(|(to, body)| to.starts_with(path) && body.contains(ADVERTISEMENT)).count()
    }
}

/// A homeserver and a sidecar in a room.
struct Pair {
    home: Server,
    side: Server,
    to_home: Door,
    to_side: Door,
    alice: OwnedUserId,
    zoe: OwnedUserId,
    room: OwnedRoomId,
    _folders: [tempfile::TempDir; 2],
}

impl Pair {
    async fn new() -> Self {
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let mut network = Network::of(&["h.test", "s.test"]);
        let (to_home, to_side) = (Door::default(), Door::default());
        let home = network.start_as("h.test", folders[0].path(), to_home.shape(Mode::Homeserver));
        let side = network.start_as("s.test", folders[1].path(), to_side.shape(Mode::Sidecar));
        let (alice, zoe) = (home.user("alice"), side.user("zoe"));
        let room = home.create_room(&alice, RoomVersionId::V12).await;
        let levels = json!({ "events": { ITEM_TYPE: 0 } });
        home.send(&room, &alice, "m.room.power_levels", Some(""), levels).await;
        side.join(&room, &zoe, &home.name).await.expect("joins");
        let pair = Self { home, side, to_home, to_side, alice, zoe, room, _folders: folders };
        pair.until_up(true).await;
        pair
    }

    /// Waits until the homeserver takes the sidecar for a peer that is up, or not.
    async fn until_up(&self, is_up: bool) {
        let (alice, room) = (self.alice.clone(), self.room.clone());
        let up = move |services: &causeway_service::Services| {
            let status = services.shared_space.status(&alice, &room).expect("a status");
            let peers = status["peers"].as_array().expect("a list");
            peers.iter().any(|peer| peer["server"] == "s.test" && peer["up"] == true) == is_up
        };
        self.home.until("the sidecar is up, or not", up).await;
    }

    async fn put(&self, server: &Server, user: &OwnedUserId, key: &'static str) {
        let (user, room) = (user.clone(), self.room.clone());
        let put = move |services: &causeway_service::Services| {
            let value = Some(Value::parse(br#"{"n":1}"#).expect("a value"));
            let key = ItemKey::new(key).expect("a key");
            let write = Write { key, value, token: None, on_conflict: OnConflict::Keep };
            let writer = Writer { user: &user, device: None, idempotency_key: None };
            services.shared_space.put(writer, &room, &write).expect("written");
        };
        server.run(put).await;
    }

    async fn comes(&self, server: &Server, user: &OwnedUserId, key: &'static str) {
        let (user, room) = (user.clone(), self.room.clone());
        let key_of = ItemKey::new(key).expect("a key");
        server.until(key, move |services| services.shared_space.get(&user, &room, &key_of).is_ok()).await;
    }

    async fn stop(self) {
        self.home.stop().await;
        self.side.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn advertisements_take_the_sidecars_way_in_both_directions() {
    let pair = Pair::new().await;
    pair.put(&pair.home, &pair.alice, "from home").await;
    pair.comes(&pair.side, &pair.zoe, "from home").await;
    pair.put(&pair.side, &pair.zoe, "from the side").await;
    pair.comes(&pair.home, &pair.alice, "from the side").await;
    for (door, whose) in [(&pair.to_side, "the sidecar"), (&pair.to_home, "the homeserver")] {
        assert_eq!(door.advertisements(ORDINARY), 0, "to {whose}");
        assert!(door.advertisements(OWN) > 0, "to {whose}");
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_down_keeps_nothing_from_its_homeserver_and_comes_back() {
    let pair = Pair::new().await;
    pair.to_side.is_shut.store(true, Ordering::SeqCst);
    pair.put(&pair.home, &pair.alice, "meanwhile").await;
    pair.until_up(false).await;
    let said = json!({ "body": "x", "msgtype": "m.text" });
    let said = pair.home.send(&pair.room, &pair.alice, "m.room.message", None, said).await;
    pair.side.has(&said).await;
    pair.to_side.is_shut.store(false, Ordering::SeqCst);
    pair.until_up(true).await;
    pair.comes(&pair.side, &pair.zoe, "meanwhile").await;
    assert_eq!(pair.to_side.advertisements(ORDINARY), 0);
    pair.stop().await;
}
