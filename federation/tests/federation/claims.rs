//! A sidecar that signs with a key of its own name, and a homeserver's name that says, or does not
//! say, that this one speaks for it.
//!
//! Here the sidecar is a whole server, which came into the room under its homeserver's key and was
//! then given another; the homeserver is what it publishes.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    response::{IntoResponse as _, Response},
    routing::get,
};
use causeway_federation::{claims::CLAIM_PATH, settings::Mode};
use causeway_replication::Pull;
use causeway_service::{
    clock::Clock,
    server_keys::ServerKeys,
    shared_space::{
        ITEM_TYPE,
        write::{OnConflict, Write, Writer},
    },
};
use causeway_shared_space::{ItemKey, Value};
use causeway_storage::{Database, Options};
use http::{Method, StatusCode};
use ruma::{OwnedRoomId, OwnedUserId, RoomVersionId, ServerName};
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;

use crate::support::{Network, Server, Shape};

const VERSIONS: &str = "/_matrix/federation/unstable/org.causeway/versions";
const GOOD: &str = r#"{"speaker":"items.test"}"#;

/// What `n.test` publishes: its keys, and its claim.
#[derive(Clone, Default)]
struct Pages {
    keys: Arc<Mutex<Json>>,
    claim: Arc<Mutex<Option<String>>>,
}

impl Pages {
    fn claim(&self, text: Option<&str>) {
        *self.claim.lock().expect("no panic") = text.map(str::to_owned);
    }

    fn serve(&self, network: &mut Network) -> JoinSet<()> {
        let (keys, claim) = (Arc::clone(&self.keys), Arc::clone(&self.claim));
        let keys = move || async move { axum::Json(keys.lock().expect("no panic").clone()) };
        let claim = move || async move { page(claim.lock().expect("no panic").clone()) };
        let router = Router::new()
            .route("/_matrix/key/v2/server", get(keys))
            .route(CLAIM_PATH, get(claim))
            .route("/elsewhere", get(|| async { GOOD }));
        network.serve("n.test", router)
    }
}

/// As it is told; a path is a redirect.
fn page(text: Option<String>) -> Response {
    match text {
        None => StatusCode::NOT_FOUND.into_response(),
        Some(text) if text.starts_with('/') => (StatusCode::FOUND, [("location", text)], "").into_response(),
        Some(text) => ([("cache-control", "no-store")], text).into_response(),
    }
}

/// A sidecar of `n.test`.
fn speaker(network: &mut Network, folder: &tempfile::TempDir) -> Server {
    let shape = Shape { sends: false, mode: Mode::Sidecar, own_name: Some("items.test"), ..Shape::default() };
    network.start_as("n.test", folder.path(), shape)
}

/// What a server answers to a request of the sidecar.
async fn asks(speaker: &Server, server: &ServerName, path: &str) -> StatusCode {
    speaker.state.client().request(server, Method::GET, path, None).await.expect("answers").0
}

struct Pair {
    home: Server,
    side: Server,
    alice: OwnedUserId,
    nina: OwnedUserId,
    room: OwnedRoomId,
    pages: Pages,
    _n: JoinSet<()>,
    _folders: [tempfile::TempDir; 2],
}

impl Pair {
    async fn new() -> Self {
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let mut network = Network::of(&["a.test", "n.test", "items.test"]);
        let home = network.start("a.test", folders[0].path());
        let n = network.start("n.test", folders[1].path());
        let (alice, nina) = (home.user("alice"), n.user("nina"));
        let room = home.create_room(&alice, RoomVersionId::V12).await;
        let levels = json!({ "events": { ITEM_TYPE: 0 } });
        home.send(&room, &alice, "m.room.power_levels", Some(""), levels).await;
        n.join(&room, &nina, &home.name).await.expect("joins");
        let pages = Pages::default();
        let published = n.services.server_keys.published(n.services.clock.now_ms());
        *pages.keys.lock().expect("no panic") = serde_json::to_value(published).expect("JSON");
        n.stop().await;
        {
            let database = Database::open(folders[1].path(), &Options::default()).expect("it is free");
            ServerKeys::rotate(&database, &Clock::System).expect("makes a key");
        }
        pages.claim(Some(GOOD));
        let n = pages.serve(&mut network);
        let side = speaker(&mut network, &folders[1]);
        Self { home, side, alice, nina, room, pages, _n: n, _folders: folders }
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

    async fn is_there(&self, server: &Server, user: &OwnedUserId, key: &'static str) -> bool {
        let (user, room) = (user.clone(), self.room.clone());
        let key = ItemKey::new(key).expect("a key");
        server.run(move |services| services.shared_space.get(&user, &room, &key).is_ok()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_for_a_server_does_so_in_shared_spaces_alone_and_until_its_name_says_otherwise() {
    let pair = Pair::new().await;
    pair.put(&pair.side, &pair.nina, "from the side").await;
    pair.comes(&pair.home, &pair.alice, "from the side").await;
    pair.put(&pair.home, &pair.alice, "from home").await;
    pair.comes(&pair.side, &pair.nina, "from home").await;
    assert_eq!(asks(&pair.side, &pair.home.name, VERSIONS).await, StatusCode::OK);
    let state = format!("/_matrix/federation/v1/state_ids/{}?event_id=%24x", pair.room);
    assert_eq!(asks(&pair.side, &pair.home.name, &state).await, StatusCode::UNAUTHORIZED);
    let typing = json!({ "room_id": pair.room, "user_id": pair.nina, "typing": true });
    let unit = json!({ "edus": [{ "edu_type": "m.typing", "content": typing }] });
    let own = "/_matrix/federation/unstable/org.causeway/send/1";
    let answer = pair.side.state.client().request(&pair.home.name, Method::PUT, own, Some(&unit)).await;
    assert_eq!(answer.expect("answers").0, StatusCode::OK);
    let room = pair.room.clone();
    let typing = pair.home.run(move |services| services.typing.changed_since([&*room], 0)).await;
    assert!(typing.by_room.is_empty(), "it says nothing else for its homeserver");

    pair.pages.claim(None);
    let ended = async {
        while asks(&pair.side, &pair.home.name, VERSIONS).await != StatusCode::UNAUTHORIZED {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, ended).await.expect("the claim ends");
    pair.put(&pair.side, &pair.nina, "unclaimed").await;
    // Somebody else may serve it: nothing that was signed so and is not held is taken.
    let (room, nina) = (pair.room.clone(), pair.nina.clone());
    let changes = pair
        .side
        .run(move |services| {
            let all = Pull { limit: 500, bytes: 1 << 20, ..Pull::default() };
            services.shared_space.changes(&room, &all).expect("reads").changes
        })
        .await;
    let room = pair.room.clone();
    let outcome = pair
        .home
        .run(move |services| services.shared_space.join(&room, nina.server_name(), changes).expect("joins"))
        .await;
    assert_eq!((outcome.new, outcome.refused), (0, 1));
    assert!(!pair.is_there(&pair.home, &pair.alice, "unclaimed").await);
    assert!(pair.is_there(&pair.home, &pair.alice, "from the side").await, "what is held stays");
    pair.home.stop().await;
    pair.side.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_the_names_own_word_and_its_speakers_keys_are_that_ones_own() {
    let folders: Vec<_> = (0..9).map(|_| tempfile::tempdir().expect("a folder")).collect();
    let observers = ["a.test", "b.test", "c.test", "d.test", "e.test", "f.test", "g.test"];
    let names = ["n.test", "items.test", "other.test", "forged.test"];
    let mut network = Network::of(&[&observers[..], &names].concat());
    let other = network.start("other.test", folders[7].path());
    let side = speaker(&mut network, &folders[8]);
    // It tells the right key, but not as its own.
    let forged = side.services.server_keys.published(side.services.clock.now_ms());
    let forged = serde_json::to_value(forged).expect("JSON");
    let forged = move || async move { axum::Json(forged.clone()) };
    let _forged = network.serve("forged.test", Router::new().route("/_matrix/key/v2/server", get(forged)));
    let pages = Pages::default();
    *pages.keys.lock().expect("no panic") = json!({});
    let _n = pages.serve(&mut network);
    let long = format!(r#"{{"speaker":"items.test","more":"{}"}}"#, "x".repeat(8_192));
    let lies = [
        (Some(GOOD), StatusCode::OK),
        (None, StatusCode::UNAUTHORIZED),
        // Whose keys have signed nothing of this.
        (Some(r#"{"speaker":"other.test"}"#), StatusCode::UNAUTHORIZED),
        (Some(r#"{"speaker":"forged.test"}"#), StatusCode::UNAUTHORIZED),
        (Some(r#"{"speaker":["items.test"]}"#), StatusCode::UNAUTHORIZED),
        (Some("/elsewhere"), StatusCode::UNAUTHORIZED),
        (Some(&*long), StatusCode::UNAUTHORIZED),
    ];
    for ((name, folder), (claim, expected)) in observers.into_iter().zip(&folders).zip(lies) {
        pages.claim(claim);
        let observer = network.start(name, folder.path());
        assert_eq!(asks(&side, &observer.name, VERSIONS).await, expected, "{claim:?}");
        observer.stop().await;
    }
    side.stop().await;
    other.stop().await;
}
