//! An identity server is asked whom an address belongs to, and to keep invites; whatever it
//! answers, nothing senseless gets into a room.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    routing::{get, post},
};
use causeway_service::{
    error::MatrixError,
    remote::{AddressInvite, Addressee, RemoteRequest},
};
use http::{HeaderMap, StatusCode};
use ruma::user_id;
use serde_json::{Map, Value, json};

use crate::support::{Network, Server, Shape};

const V2: &str = "/_matrix/identity/v2";
/// SHA-256 of "carl@example.org email pepper", from `printf … | openssl dgst -sha256 -binary | basenc --base64url`.
const CARL: &str = "1FcqpbypUvVa0H0-TgjcO6DVNV4or5SFwwE25NqamGs";

/// What the identity server answers next, and what it was asked last.
#[derive(Default)]
struct Script {
    known: Map<String, Value>,
    kept: Value,
    status: u16,
    asked: Value,
}

fn identity_server(script: Arc<Mutex<Script>>) -> impl FnOnce(Router) -> Router {
    let (looked, kept) = (Arc::clone(&script), script);
    let details = async |headers: HeaderMap| {
        let is_known = headers.get("authorization").is_some_and(|token| token == "Bearer secret");
        let body = json!({"algorithms": ["none", "sha256"], "lookup_pepper": "pepper", "errcode": "M_UNKNOWN_TOKEN"});
        (if is_known { StatusCode::OK } else { StatusCode::UNAUTHORIZED }, Json(body))
    };
    let lookup = async move |Json(body): Json<Value>| {
        assert_eq!((&body["algorithm"], &body["pepper"]), (&json!("sha256"), &json!("pepper")));
        let known = looked.lock().expect("no panic").known.clone();
        let address = body["addresses"][0].as_str().expect("an address");
        let found: Map<_, _> = known.into_iter().filter(|(hash, _)| hash == address).collect();
        Json(json!({ "mappings": found }))
    };
    let keep = async move |Json(body): Json<Value>| {
        let mut script = kept.lock().expect("no panic");
        script.asked = body;
        (StatusCode::from_u16(script.status).expect("a status"), Json(script.kept.clone()))
    };
    move |router: Router| {
        router
            .route(&format!("{V2}/hash_details"), get(details))
            .route(&format!("{V2}/lookup"), post(lookup))
            .route(&format!("{V2}/store-invite"), post(keep))
    }
}

struct Scene {
    a: Server,
    b: Server,
    script: Arc<Mutex<Script>>,
    port: u16,
    _folders: [tempfile::TempDir; 2],
}

impl Scene {
    fn new() -> Self {
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let mut network = Network::of(&["a.test", "b.test"]);
        let script = Arc::new(Mutex::new(Script { status: 200, ..Script::default() }));
        let door = Box::new(identity_server(Arc::clone(&script)));
        let a = network.start("a.test", folders[0].path());
        let b = network.start_as("b.test", folders[1].path(), Shape { door, ..Shape::default() });
        Self { a, b, script, port: network.port("b.test"), _folders: folders }
    }

    fn answers(&self, status: u16, kept: Value) {
        let mut script = self.script.lock().expect("no panic");
        (script.status, script.kept) = (status, kept);
    }

    async fn ask(&self, token: &str) -> Result<Addressee, MatrixError> {
        let invite = Box::new(AddressInvite {
            server: format!("b.test:{}", self.port).try_into().expect("a name"),
            token: token.to_owned(),
            medium: "email".to_owned(),
            address: "Carl@Example.org".to_owned(),
            told: Map::from_iter([("room_name".to_owned(), json!("Here"))]),
        });
        let sender = user_id!("@alice:a.test").to_owned();
        self.a.services.remote.request(|reply| RemoteRequest::Addressee { sender, invite, reply }).await
    }

    async fn stop(self) {
        self.a.stop().await;
        self.b.stop().await;
    }
}

fn kept(token: &str) -> Value {
    let key =
        |n: u8| json!({"public_key": format!("key{n}"), "key_validity_url": format!("https://b.test/{n}")});
    json!({"token": token, "display_name": "c...@e...", "public_keys": [key(1), key(2)], "more": 1})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_somebodys_or_the_invite_is_kept() {
    let scene = Scene::new();
    scene.answers(200, kept("a.token=_-1"));
    let Addressee::Unknown { token, content } = scene.ask("secret").await.expect("is kept") else {
        panic!("somebody is known")
    };
    assert_eq!(token, "a.token=_-1");
    let expected = json!({
        "display_name": "c...@e...", "public_key": "key1", "key_validity_url": "https://b.test/1",
        "public_keys": kept("x")["public_keys"],
    });
    assert_eq!(Value::Object(content), expected);
    let asked = scene.script.lock().expect("no panic").asked.clone();
    assert_eq!(asked, json!({"medium": "email", "address": "carl@example.org", "room_name": "Here"}));

    scene.script.lock().expect("no panic").known.insert(CARL.to_owned(), json!("@carl:c.test"));
    let found = scene.ask("secret").await.expect("is found");
    assert_eq!(found, Addressee::User(user_id!("@carl:c.test").to_owned()));
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_and_refusals_are_told_as_such() {
    let scene = Scene::new();
    scene.answers(200, kept("token"));
    let refused = scene.ask("another").await.expect_err("is refused");
    assert_eq!((refused.status, refused.errcode), (403, "M_FORBIDDEN"), "not the session here");
    scene.answers(403, json!({"errcode": "M_TERMS_NOT_SIGNED", "error": "Read them"}));
    let refused = scene.ask("secret").await.expect_err("is refused");
    assert_eq!((refused.status, refused.errcode), (403, "M_TERMS_NOT_SIGNED"));
    let many = vec![kept("x")["public_keys"][0].clone(); 11];
    for (field, bad) in [
        ("token", json!("")),
        ("token", json!("a/b")),
        ("token", json!("a".repeat(256))),
        ("display_name", json!("a".repeat(2_000))),
        ("public_keys", json!([])),
        ("public_keys", json!(many)),
        ("public_keys", json!(5)),
    ] {
        let mut answer = kept("token");
        answer[field] = bad.clone();
        scene.answers(200, answer);
        let refused = scene.ask("secret").await.expect_err("makes no sense");
        assert_eq!(refused.status, 502, "{field}: {bad}");
    }
    scene.script.lock().expect("no panic").known.insert(CARL.to_owned(), json!("carl"));
    assert_eq!(scene.ask("secret").await.expect_err("is no user").status, 502);
    scene.stop().await;
}
