//! What comes in units about replication: nonsense, broken entries, and those of a
//! server that is shut out of the room.

use std::sync::{Arc, Mutex};

use axum::{body::Body, extract::Request, middleware, response::Response};
use causeway_replication::Advertise;
use causeway_service::shared_space::{
    ITEM_TYPE,
    write::{OnConflict, Write, Writer},
};
use causeway_shared_space::{Body as Written, Change, Counter, Dot, ItemKey, NewChange, ReplicaId, Value};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use ruma::{OwnedRoomId, OwnedUserId, RoomVersionId};
use serde_json::{Value as Json, json};

use crate::support::{Network, Server, Shape};

/// A room of two servers, of which `m` sends what it likes, by hand only.
struct Pair {
    a: Server,
    m: Server,
    alice: OwnedUserId,
    mallory: OwnedUserId,
    room: OwnedRoomId,
    /// The bodies that came to `m`.
    heard: Arc<Mutex<Vec<String>>>,
    _folders: [tempfile::TempDir; 2],
}

impl Pair {
    async fn new() -> Self {
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let mut network = Network::of(&["a.test", "m.test"]);
        let a = network.start("a.test", folders[0].path());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = Arc::clone(&heard);
        let listens = middleware::from_fn(move |request: Request, next: middleware::Next| {
            let ears = Arc::clone(&ears);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.expect("a body").to_bytes();
                ears.lock().expect("no panic").push(String::from_utf8_lossy(&body).into_owned());
                let answer: Response = next.run(Request::from_parts(head, Body::from(body))).await;
                answer
            }
        });
        let door = Box::new(move |router: axum::Router| router.layer(listens));
        let shape = Shape { sends: false, door, ..Shape::default() };
        let m = network.start_as("m.test", folders[1].path(), shape);
        let (alice, mallory) = (a.user("alice"), m.user("mallory"));
        let room = a.create_room(&alice, RoomVersionId::V12).await;
        let levels = json!({ "events": { ITEM_TYPE: 0 } });
        a.send(&room, &alice, "m.room.power_levels", Some(""), levels).await;
        m.join(&room, &mallory, &a.name).await.expect("joins");
        let pair = Self { a, m, alice, mallory, room, heard, _folders: folders };
        pair.until_peer(true).await;
        pair
    }

    /// Waits until `a` takes `m` for a peer in the room, or not.
    async fn until_peer(&self, is_one: bool) {
        let (alice, room) = (self.alice.clone(), self.room.clone());
        self.a
            .until("m is a peer, or not", move |services| {
                let status = services.shared_space.status(&alice, &room).expect("a status");
                let peers = status["peers"].as_array().expect("a list");
                peers.iter().any(|peer| peer["server"] == "m.test" && peer["up"] == true) == is_one
            })
            .await;
    }

    /// The first entry of a log of `m`, which it does not hold itself.
    async fn change(&self, key: &'static str, replica: u64) -> Change {
        let (room, mallory) = (self.room.clone(), self.mallory.clone());
        self.m
            .run(move |services| {
                let shown = ["m.room.create", "m.room.member", "m.room.power_levels"].map(|kind| {
                    let key = if kind == "m.room.member" { mallory.as_str() } else { "" };
                    let event = services.rooms.state_event(&room, kind, key).expect("reads").expect("is");
                    event.event_id().to_owned()
                });
                let new = NewChange {
                    room_id: room.clone(),
                    key: ItemKey::new(key).expect("a key"),
                    body: Written::Put(Value::parse(br#"{"n":1}"#).expect("a value")),
                    dot: Dot {
                        replica: ReplicaId::new(mallory.server_name(), replica).expect("a replica"),
                        counter: Counter::FIRST,
                    },
                    previous: None,
                    supersedes: Vec::new(),
                    depth: Counter::FIRST,
                    author: mallory,
                    origin_server_ts: 1_700_000_000_000,
                    authorized_by: shown.to_vec(),
                    adopts: None,
                    restores: None,
                };
                Change::build(new, services.server_keys.key_pair()).expect("a change")
            })
            .await
    }

    /// What says that `m` holds nothing, and has this for others.
    fn content(&self, riding: &[Change]) -> Json {
        let advertise = Advertise { changes: riding.to_vec(), ..Advertise::default() };
        let content = advertise.to_content(self.room.as_str()).expect("JSON");
        serde_json::from_str(content.get()).expect("JSON")
    }

    async fn advertise(&self, id: &str, contents: &[Json]) {
        let edus: Vec<Json> = contents
            .iter()
            .map(|content| json!({ "edu_type": "org.causeway.version_vector", "content": content }))
            .collect();
        self.send(id, json!({ "edus": edus })).await;
    }

    async fn send(&self, id: &str, body: Json) {
        let path = format!("/_matrix/federation/v1/send/{id}");
        let answer = self.m.state.client().request(&self.a.name, Method::PUT, &path, Some(&body)).await;
        let (status, answer) = answer.expect("an answer");
        assert_eq!((status, &*answer), (StatusCode::OK, br#"{"pdus":{}}"#.as_slice()), "{id}");
    }

    async fn is_there(&self, key: &'static str) -> bool {
        let (alice, room) = (self.alice.clone(), self.room.clone());
        self.a.run(move |services| holds(services, &alice, &room, key)).await
    }

    async fn comes(&self, key: &'static str) {
        let (alice, room) = (self.alice.clone(), self.room.clone());
        self.a.until(key, move |services| holds(services, &alice, &room, key)).await;
    }

    async fn stop(self) {
        self.a.stop().await;
        self.m.stop().await;
    }
}

fn holds(
    services: &causeway_service::Services,
    user: &ruma::UserId,
    room: &ruma::RoomId,
    key: &'static str,
) -> bool {
    services.shared_space.get(user, room, &ItemKey::new(key).expect("a key")).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_about_replication_fails_no_transaction_and_hinders_no_entry() {
    let pair = Pair::new().await;
    let room = &pair.room;
    let kind = "org.causeway.version_vector";
    let without_content = json!({ "edus": [{ "edu_type": kind }, { "edu_type": kind, "content": null }] });
    pair.send("none", without_content).await;
    let no_id = json!({ "m.test/0000000000000007": [[1, "id"]] });
    let nonsense = [
        json!(5),
        json!([]),
        json!({}),
        json!({ "room_id": 5 }),
        json!({ "room_id": "!nowhere:a.test", "vector": {} }),
        json!({ "room_id": room, "vector": 5 }),
        json!({ "room_id": room, "vector": { "m.test": [[1, 2]] } }),
        json!({ "room_id": room, "vector": no_id }),
        json!({ "room_id": room, "changes": 5 }),
        json!({ "room_id": room, "changes": vec![json!({}); 9] }),
        json!({ "room_id": room, "digest": "short" }),
        json!({ "room_id": room, "filling": "x".repeat(70_000) }),
    ];
    pair.advertise("nonsense", &nonsense).await;

    // Broken entries beside good ones, and members that nobody knows.
    let (good, forged) = (pair.change("good", 7).await, pair.change("forged", 8).await);
    let mut content = pair.content(&[good]);
    let mut other: Json = serde_json::from_str(&forged.to_json()).expect("JSON");
    other["value"] = json!({ "n": 2 });
    let mut extra: Json = serde_json::from_str(&forged.to_json()).expect("JSON");
    extra["signature"] = content["changes"][0]["signature"].clone();
    let riding = content["changes"].as_array_mut().expect("a list");
    riding.insert(0, json!(5));
    riding.extend([other, extra, json!({ "header": {} })]);
    content["unknown"] = json!({ "key": true });
    let edu = json!({ "edu_type": kind, "content": content, "extra": 1 });
    pair.send("broken", json!({ "edus": [null, edu], "more": [] })).await;
    pair.comes("good").await;
    assert!(!pair.is_there("forged").await);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_shut_out_is_neither_heard_nor_told() {
    let pair = Pair::new().await;
    let acl = async |deny: &[&str]| {
        let acl = json!({ "allow": ["*"], "deny": deny });
        pair.a.send(&pair.room, &pair.alice, "m.room.server_acl", Some(""), acl).await;
    };
    acl(&["m.test"]).await;
    pair.until_peer(false).await;
    let denied = pair.change("denied", 7).await;
    pair.advertise("denied", &[pair.content(&[denied])]).await;
    let (alice, room) = (pair.alice.clone(), pair.room.clone());
    pair.a
        .run(move |services| {
            let write = Write {
                key: ItemKey::new("own").expect("a key"),
                value: Some(Value::parse(br#"{"n":"not for you"}"#).expect("a value")),
                token: None,
                on_conflict: OnConflict::Keep,
            };
            let writer = Writer { user: &alice, device: None, idempotency_key: None };
            services.shared_space.put(writer, &room, &write).expect("written");
        })
        .await;
    // What is sent after it arrives: it is in the room yet.
    let said = pair.a.send(&pair.room, &pair.alice, "m.room.message", None, json!({ "body": "x" })).await;
    pair.m.has(&said).await;
    let told = |what: &str| pair.heard.lock().expect("no panic").iter().any(|body| body.contains(what));
    assert!(told("m.room.message"), "what it is told is seen");
    assert!(!told("not for you"));

    acl(&[]).await;
    pair.until_peer(true).await;
    let heard = pair.change("heard", 8).await;
    pair.advertise("heard", &[pair.content(&[heard])]).await;
    pair.comes("heard").await;
    assert!(!pair.is_there("denied").await);
    pair.stop().await;
}
