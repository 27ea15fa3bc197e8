//! What malformed, oversized, unsigned, forged and nosy requests get.

use causeway_room::{NewEvent, Pdu, Placement, build};
use causeway_service::{
    server_keys::{RemoteKey, RemoteKeys},
    settings::RateLimit,
};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use ruma::{
    OwnedEventId, RoomId, RoomVersionId, UserId,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::{Network, Server, Shape};

/// Two servers of which `m` does as it likes.
struct Pair {
    a: Server,
    m: Server,
    _folders: [tempfile::TempDir; 2],
}

fn pair() -> Pair {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "m.test"]);
    let a = network.start("a.test", folders[0].path());
    let m = network.start("m.test", folders[1].path());
    Pair { a, m, _folders: folders }
}

impl Pair {
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let answer = self.m.state.client().request(&self.a.name, method, path, body.as_ref()).await;
        let (status, body) = answer.expect("an answer");
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    async fn transaction(&self, id: &str, body: Value) -> (StatusCode, Value) {
        self.ask(Method::PUT, &format!("/_matrix/federation/v1/send/{id}"), Some(body)).await
    }

    async fn stop(self) {
        self.a.stop().await;
        self.m.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_lack_or_are_wrong_get_the_errors_of_the_specification() {
    let pair = pair();
    for (path, errcode) in [
        ("v1/state/!none:a.test", "M_MISSING_PARAM"),
        ("v1/state_ids/!none:a.test?event=$x", "M_MISSING_PARAM"),
        ("v1/query/profile", "M_MISSING_PARAM"),
        ("v1/query/directory?alias=x", "M_MISSING_PARAM"),
        ("v1/publicRooms?limit=many", "M_INVALID_PARAM"),
        ("v1/event/%FF", "M_INVALID_PARAM"),
        ("v1/make_join/%FF/%FF", "M_INVALID_PARAM"),
    ] {
        let (status, body) = pair.ask(Method::GET, &format!("/_matrix/federation/{path}"), None).await;
        assert_eq!((status, &body["errcode"]), (StatusCode::BAD_REQUEST, &json!(errcode)), "{path}: {body}");
    }
    let path = "/_matrix/key/v2/query/m.test?minimum_valid_until_ts=soon";
    let (status, body) = pair.ask(Method::GET, path, None).await;
    assert_eq!((status, &body["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")), "{body}");
    pair.stop().await;
}

/// An event made and signed by `server`, whoever is said to send it.
async fn forge(server: &Server, room_id: &RoomId, sender: &UserId, body: &str) -> Pdu {
    let (room_id, sender, body) = (room_id.to_owned(), sender.to_owned(), body.to_owned());
    server
        .run(move |services| {
            let rooms = &services.rooms;
            let version = rooms.version_rules(&room_id).expect("known");
            let member = rooms.state_event(&room_id, "m.room.member", sender.as_str());
            let levels = rooms.state_event(&room_id, "m.room.power_levels", "");
            let auth = [member, levels].into_iter().filter_map(|found| found.expect("reads"));
            let placement = Placement {
                prev_events: rooms.heads(&room_id).expect("reads"),
                auth_events: auth.map(|pdu| pdu.event_id().to_owned()).collect(),
                depth: 100,
                origin_server_ts: services.clock.now_ms(),
                room_id: Some(room_id),
            };
            let event =
                NewEvent::new("m.room.message", sender, None, json!({"body": body})).expect("an event");
            let keys = &services.server_keys;
            build::build(&version.rules, &event, &placement, keys.server_name(), keys.key_pair())
                .expect("is built")
        })
        .await
}

async fn error(answer: axum::response::Response) -> (StatusCode, Value) {
    let status = answer.status();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    (status, serde_json::from_slice::<Value>(&body).expect("JSON")["errcode"].clone())
}

fn errcode(body: &Value) -> &str {
    body["errcode"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_transactions() {
    let pair = pair();
    for (id, body) in [("1", json!({"pdus": 5})), ("2", json!([])), ("3", json!({"edus": {}}))] {
        let (status, answer) = pair.transaction(id, body).await;
        assert_eq!((status, errcode(&answer)), (StatusCode::BAD_REQUEST, "M_BAD_JSON"));
    }
    let too_many = [json!({"pdus": vec![json!({}); 51]}), json!({"edus": vec![json!({}); 101]})];
    for body in too_many {
        let (status, answer) = pair.transaction("4", body).await;
        assert_eq!((status, errcode(&answer)), (StatusCode::BAD_REQUEST, "M_BAD_JSON"));
    }
    // Nothing in it makes sense, and nothing of that makes it fail.
    let nonsense = json!({
        "pdus": [1, null, "x", [], {}, {"room_id": 5}, {"room_id": "!nowhere:a.test"}],
        "edus": [null, 5, {}, {"edu_type": "m.typing"}, {"content": {}}, {"edu_type": "x.y", "content": 5},
            {"edu_type": "m.typing", "content": {"room_id": "!r:a.test", "user_id": "@x:a.test", "typing": true}},
            {"edu_type": "m.receipt", "content": []}],
        "extra": {"key": true},
    });
    let (status, answer) = pair.transaction("5", nonsense).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({"pdus": {}})));
    assert_eq!(pair.transaction("6", json!({})).await.0, StatusCode::OK);
    let (status, answer) = pair.transaction(&"x".repeat(300), json!({})).await;
    assert_eq!((status, errcode(&answer)), (StatusCode::BAD_REQUEST, "M_INVALID_PARAM"));
    let (status, answer) = pair.ask(Method::POST, "/_matrix/federation/v1/send/7", Some(json!({}))).await;
    assert_eq!((status, errcode(&answer)), (StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED"));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_nobody_signed_or_for_somebody_else() {
    let pair = pair();
    let router = causeway_federation::router(pair.a.state.clone());
    let good = "X-Matrix origin=m.test,destination=a.test,key=\"ed25519:nope\",sig=\"AAAA\"";
    let elsewhere = "X-Matrix origin=m.test,destination=b.test,key=\"ed25519:nope\",sig=\"AAAA\"";
    let oneself = "X-Matrix origin=a.test,destination=a.test,key=\"ed25519:nope\",sig=\"AAAA\"";
    let unreachable = "X-Matrix origin=gone.test,destination=a.test,key=\"ed25519:nope\",sig=\"AAAA\"";
    for authorization in [
        None,
        Some("Bearer x"),
        Some("X-Matrix"),
        Some(good),
        Some(elsewhere),
        Some(oneself),
        Some(unreachable),
    ] {
        let mut request = http::Request::put("/_matrix/federation/v1/send/1");
        if let Some(authorization) = authorization {
            request = request.header("Authorization", authorization);
        }
        let request = request.body(axum::body::Body::from("{}")).expect("a request");
        let answer = router.clone().oneshot(request).await.expect("an answer");
        assert_eq!(
            error(answer).await,
            (StatusCode::UNAUTHORIZED, json!("M_UNAUTHORIZED")),
            "{authorization:?}"
        );
    }
    // Sytest's "Non-numeric ports in server names are rejected".
    let nameless = "X-Matrix origin=\"m.test:http\",destination=a.test,key=\"ed25519:1\",sig=\"AAAA\"";
    let request = http::Request::get("/_matrix/federation/v1/query/profile?user_id=@x:a.test")
        .header("Authorization", nameless)
        .body(axum::body::Body::empty())
        .expect("a request");
    let answer = router.clone().oneshot(request).await.expect("an answer");
    assert_eq!(error(answer).await, (StatusCode::BAD_REQUEST, json!("M_INVALID_PARAM")));
    drop(router);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_events_stay_out_and_hinder_no_other() {
    let pair = pair();
    let (alice, mallory) = (pair.a.user("alice"), pair.m.user("mallory"));
    let room = pair.a.create_room(&alice, RoomVersionId::V12).await;
    pair.m.join(&room, &mallory, &pair.a.name).await.expect("joins");

    let as_alice = forge(&pair.m, &room, &alice, "I give it all to Mallory").await;
    let honest = forge(&pair.m, &room, &mallory, "hello").await;
    let good = forge(&pair.m, &room, &mallory, "with its hash").await;
    // The signature covers the hash, which no longer fits the content.
    let tampered = good.raw().get().replace("with its hash", "without it");
    let mut unsigned: Value = serde_json::from_str(honest.raw().get()).expect("JSON");
    unsigned["signatures"] = json!({});
    unsigned["origin_server_ts"] = 5.into();
    let tampered: Value = serde_json::from_str(&tampered).expect("JSON");
    let body = json!({"pdus": [as_alice.raw(), unsigned, honest.raw(), tampered]});
    let (status, answer) = pair.transaction("forged", body).await;
    assert_eq!(status, StatusCode::OK);
    let result = |id: &ruma::EventId| answer["pdus"][id.as_str()].clone();
    assert!(result(as_alice.event_id())["error"].is_string(), "{answer}");
    assert_eq!(result(honest.event_id()), json!({}));
    assert_eq!(result(good.event_id()), json!({}));
    assert_eq!(answer["pdus"].as_object().expect("object").len(), 4);

    let held = |id: OwnedEventId| pair.a.run(move |services| services.rooms.event(&id).expect("reads"));
    assert!(held(as_alice.event_id().to_owned()).await.is_none());
    assert!(held(honest.event_id().to_owned()).await.is_some());
    let redacted = held(good.event_id().to_owned()).await.expect("is kept, redacted");
    assert_eq!(redacted.content_raw().get(), "{}");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_rejected_stays_so_when_it_is_sent_again() {
    let pair = pair();
    let (alice, mallory, eve) = (pair.a.user("alice"), pair.m.user("mallory"), pair.m.user("eve"));
    let room = pair.a.create_room(&alice, RoomVersionId::V12).await;
    pair.m.join(&room, &mallory, &pair.a.name).await.expect("joins");
    let event = forge(&pair.m, &room, &eve, "I am not in this room").await;
    let body = json!({"pdus": [event.raw()]});
    let (_, first) = pair.transaction("first", body.clone()).await;
    assert!(first["pdus"][event.event_id().as_str()]["error"].is_string(), "{first}");
    let (_, again) = pair.transaction("again", body).await;
    assert_eq!(again, first);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_above_its_bound_is_not_read_whoever_sends_it() {
    let pair = pair();
    let router = causeway_federation::router(pair.a.state.clone());
    for (endpoint, bytes) in [("changes", 600 << 10), ("values", 80 << 10), ("adopted", 80 << 10)] {
        let uri = format!("/_matrix/federation/unstable/org.causeway/rooms/!r:a.test/{endpoint}");
        let authorization = "X-Matrix origin=gone.test,destination=a.test,key=\"ed25519:nope\",sig=\"AAAA\"";
        let request = http::Request::post(uri).header("Authorization", authorization);
        let body = format!("{{\"filling\":\"{}\"}}", "x".repeat(bytes));
        let request = request.body(axum::body::Body::from(body)).expect("a request");
        let answer = router.clone().oneshot(request).await.expect("an answer");
        assert_eq!(error(answer).await, (StatusCode::PAYLOAD_TOO_LARGE, json!("M_TOO_LARGE")), "{endpoint}");
    }
    drop(router);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_transaction_is_answered_alike() {
    let pair = pair();
    let (alice, mallory) = (pair.a.user("alice"), pair.m.user("mallory"));
    let room = pair.a.create_room(&alice, RoomVersionId::V12).await;
    pair.m.join(&room, &mallory, &pair.a.name).await.expect("joins");
    let event = forge(&pair.m, &room, &mallory, "once").await;
    let body = json!({"pdus": [event.raw()]});
    let first = pair.transaction("same", body.clone()).await;
    assert_eq!(first.1["pdus"][event.event_id().as_str()], json!({}));
    assert_eq!(pair.transaction("same", body.clone()).await, first);
    assert_eq!(pair.transaction("other", body).await.1, first.1);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_canonical_json_lacks_fail_no_transaction() {
    let pair = pair();
    let (alice, mallory) = (pair.a.user("alice"), pair.m.user("mallory"));
    let room = pair.a.create_room(&alice, RoomVersionId::V12).await;
    pair.m.join(&room, &mallory, &pair.a.name).await.expect("joins");
    let good = forge(&pair.m, &room, &mallory, "hello").await;
    let body = format!(
        r#"{{"pdus":[{{"room_id":"{room}","content":{{"n":1.5}},"type":"m.x"}},{}],"edus":[
            {{"edu_type":"m.presence","content":{{"push":[{{"last_active_ago":12.5,"x":1e300}}]}}}}]}}"#,
        good.raw()
    );
    let request = pair.m.signed_request(&pair.a.name, "/_matrix/federation/v1/send/floats", &body);
    let router = causeway_federation::router(pair.a.state.clone());
    let answer = router.oneshot(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    pair.a.has(&good.event_id().to_owned()).await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_rooms_that_a_server_is_not_in_do_not_exist_for_it() {
    let pair = pair();
    let (alice, mallory) = (pair.a.user("alice"), pair.m.user("mallory"));
    let shared = pair.a.create_room(&alice, RoomVersionId::V12).await;
    let private = pair.a.create_room(&alice, RoomVersionId::V12).await;
    pair.m.join(&shared, &mallory, &pair.a.name).await.expect("joins");
    let secret = pair.a.send(&private, &alice, "m.room.message", None, json!({"body": "secret"})).await;

    let v1 = "/_matrix/federation/v1";
    for (path, expected) in [
        (format!("{v1}/event/{secret}"), StatusCode::NOT_FOUND),
        (format!("{v1}/event/$unknown"), StatusCode::NOT_FOUND),
        (format!("{v1}/state/{shared}?event_id={secret}"), StatusCode::NOT_FOUND),
        (format!("{v1}/state_ids/{shared}?event_id={secret}"), StatusCode::NOT_FOUND),
        (format!("{v1}/event_auth/{shared}/{secret}"), StatusCode::NOT_FOUND),
        (format!("{v1}/state/{private}?event_id={secret}"), StatusCode::FORBIDDEN),
        (format!("{v1}/state_ids/{private}?event_id={secret}"), StatusCode::FORBIDDEN),
        (format!("{v1}/event_auth/{private}/{secret}"), StatusCode::FORBIDDEN),
        (format!("{v1}/backfill/{private}?v={secret}&limit=10"), StatusCode::FORBIDDEN),
    ] {
        let (status, answer) = pair.ask(Method::GET, &path, None).await;
        assert_eq!(status, expected, "{path}: {answer}");
        assert!(!answer.to_string().contains("secret"));
    }
    let (status, answer) =
        pair.ask(Method::GET, &format!("{v1}/backfill/{shared}?v={secret}&limit=10"), None).await;
    assert_eq!((status, &answer["pdus"]), (StatusCode::OK, &json!([])));
    let between = json!({"earliest_events": [], "latest_events": [secret], "limit": 10});
    let path = format!("{v1}/get_missing_events/{shared}");
    let (status, answer) = pair.ask(Method::POST, &path, Some(between.clone())).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({"events": []})));
    let path = format!("{v1}/get_missing_events/{private}");
    assert_eq!(pair.ask(Method::POST, &path, Some(between)).await.0, StatusCode::FORBIDDEN);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_shut_out_gets_nothing() {
    let pair = pair();
    let (alice, mallory) = (pair.a.user("alice"), pair.m.user("mallory"));
    let room = pair.a.create_room(&alice, RoomVersionId::V12).await;
    pair.m.join(&room, &mallory, &pair.a.name).await.expect("joins");
    let said = pair.a.send(&room, &alice, "m.room.message", None, json!({"body": "said"})).await;
    let acl = json!({"allow": ["*"], "deny": ["m.test"]});
    pair.a.send(&room, &alice, "m.room.server_acl", Some(""), acl).await;

    let v1 = "/_matrix/federation/v1";
    for path in [
        format!("{v1}/state/{room}?event_id={said}"),
        format!("{v1}/state_ids/{room}?event_id={said}"),
        format!("{v1}/event_auth/{room}/{said}"),
        format!("{v1}/backfill/{room}?v={said}&limit=10"),
        format!("{v1}/make_join/{room}/{mallory}?ver=12"),
        format!("{v1}/make_leave/{room}/{mallory}"),
        format!("{v1}/make_knock/{room}/{mallory}?ver=12"),
    ] {
        let (status, answer) = pair.ask(Method::GET, &path, None).await;
        assert_eq!((status, errcode(&answer)), (StatusCode::FORBIDDEN, "M_FORBIDDEN"), "{path}: {answer}");
    }
    assert_eq!(pair.ask(Method::GET, &format!("{v1}/event/{said}"), None).await.0, StatusCode::NOT_FOUND);
    let event = forge(&pair.m, &room, &mallory, "let me in").await;
    let (status, answer) = pair.transaction("acl", json!({"pdus": [event.raw()]})).await;
    assert_eq!(status, StatusCode::OK);
    assert!(answer["pdus"][event.event_id().as_str()]["error"].is_string(), "{answer}");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_acts_for_the_users_of_others() {
    let pair = pair();
    let alice = pair.a.user("alice");
    let room = pair.a.create_room(&alice, RoomVersionId::V12).await;
    let carol = "@carol:c.test";
    let path = format!("/_matrix/federation/v1/make_join/{room}/{carol}?ver=12");
    let (status, answer) = pair.ask(Method::GET, &path, None).await;
    assert_eq!((status, errcode(&answer)), (StatusCode::FORBIDDEN, "M_FORBIDDEN"));
    let mallory = pair.m.user("mallory");
    let path = format!("/_matrix/federation/v1/make_join/{room}/{mallory}?ver=1&ver=10");
    let (status, answer) = pair.ask(Method::GET, &path, None).await;
    assert_eq!((status, errcode(&answer)), (StatusCode::BAD_REQUEST, "M_INCOMPATIBLE_ROOM_VERSION"));
    assert_eq!(answer["room_version"], "12");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_vouches_for_the_keys_of_a_server_that_is_gone() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "m.test", "v.test"]);
    let a = network.start("a.test", folders[0].path());
    let m = network.start("m.test", folders[1].path());
    let (alice, mallory) = (a.user("alice"), m.user("mallory"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    m.join(&room, &mallory, &a.name).await.expect("joins");
    // v.test has never been reached by anybody; m knows a key of "its" all the same.
    let victim = ruma::server_name!("v.test");
    let pair = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "1".to_owned()).expect("just made");
    let mut document: ruma::CanonicalJsonObject = serde_json::from_value(json!({
        "server_name": victim, "valid_until_ts": 9_000_000_000_000_000_u64, "old_verify_keys": {},
        "verify_keys": {"ed25519:1": {"key": Base64::<Standard>::new(pair.public_key().to_vec()).encode()}},
    }))
    .expect("canonical");
    sign_json(victim.as_str(), &pair, &mut document).expect("signs");
    let known = RemoteKeys {
        document: Some(serde_json::to_string(&document).expect("JSON")),
        keys: [(
            "ed25519:1".to_owned(),
            RemoteKey { key: String::new(), valid_until_ms: u64::MAX, retired: false },
        )]
        .into(),
        fetched_ms: 1,
        ..RemoteKeys::default()
    };
    m.run(move |services| services.server_keys.remember(victim, &known).expect("is kept")).await;
    // An event "of v" that m hands over, and a request in v's name.
    let body = m
        .run({
            let room = room.clone();
            move |services| {
                let version = services.rooms.version_rules(&room).expect("known");
                let placement = Placement {
                    prev_events: services.rooms.heads(&room).expect("reads"),
                    auth_events: Vec::new(),
                    depth: 50,
                    origin_server_ts: services.clock.now_ms(),
                    room_id: Some(room),
                };
                let sender = UserId::parse("@victor:v.test").expect("a user");
                let event = NewEvent::new("m.room.message", sender, None, json!({})).expect("an event");
                build::build(&version.rules, &event, &placement, victim, &pair).expect("is built")
            }
        })
        .await;
    let path = "/_matrix/federation/v1/send/victim";
    let sent = json!({"pdus": [body.raw()]});
    let (status, answer) =
        m.state.client().request(&a.name, Method::PUT, path, Some(&sent)).await.expect("answers");
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    assert!(answer["pdus"][body.event_id().as_str()]["error"].is_string(), "{answer}");
    let remembered = a.run(move |services| services.server_keys.remembered(victim).expect("reads")).await;
    assert!(remembered.is_none_or(|known| known.keys.is_empty()));
    a.stop().await;
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_too_often_is_told_to_wait_and_others_are_not() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test", "m.test"]);
    let rate = Some(RateLimit { per_second: 0.001, burst: 3 });
    let a = network.start_as("a.test", folders[0].path(), Shape { rate, ..Shape::default() });
    let b = network.start("b.test", folders[1].path());
    let m = network.start("m.test", folders[2].path());
    let ask = async |from: &Server| {
        let path = "/_matrix/federation/v1/query/profile?user_id=%40x%3Aa.test";
        let answer = from.state.client().request(&a.name, Method::GET, path, None).await.expect("answers");
        (answer.0, serde_json::from_slice::<Value>(&answer.1).expect("JSON"))
    };
    let mut last = ask(&m).await;
    for _ in 0..3 {
        last = ask(&m).await;
    }
    assert_eq!((last.0, &last.1["errcode"]), (StatusCode::TOO_MANY_REQUESTS, &json!("M_LIMIT_EXCEEDED")));
    assert!(last.1["retry_after_ms"].as_u64().is_some_and(|wait| wait > 1_000), "{}", last.1);
    assert_eq!(ask(&b).await.0, StatusCode::NOT_FOUND, "another server is served");
    for server in [a, b, m] {
        server.stop().await;
    }
}
