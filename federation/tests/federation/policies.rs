//! Rooms with a policy server: what it signs is sent and taken, and nothing else.

use std::sync::Arc;

use axum::{Router, extract::State, response::IntoResponse, routing::post};
use causeway_room::{NewEvent, policy::Policy};
use causeway_service::{
    Services,
    rooms::RoomError,
    shared_space::{
        self, ITEM_TYPE,
        error::SpaceError,
        write::{OnConflict, Write, Writer},
    },
};
use causeway_shared_space::{ItemKey, Value as ItemValue};
use http::StatusCode;
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId,
    canonical_json::redact,
    events::room::member::MembershipState,
    room_version_rules::RedactionRules,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    gap_abuse::{folders, hand_over, made, said},
    requests::{invite, membership},
    support::{Network, Server, Shape},
};

/// The policy server's own part: it signs everything in which it does not read "spam".
struct Judge {
    key: Ed25519KeyPair,
    redaction: RedactionRules,
}

impl Judge {
    fn new() -> Arc<Self> {
        let der = Ed25519KeyPair::generate();
        let key = Ed25519KeyPair::from_der(der.as_ref(), "policy_server".to_owned()).expect("a key");
        let redaction = causeway_room::version::rules(&RoomVersionId::V12).expect("known").redaction;
        Arc::new(Self { key, redaction })
    }

    fn public(&self) -> String {
        Base64::<Standard, _>::new(self.key.public_key()).encode()
    }

    /// A door with it.
    fn door(self: &Arc<Self>) -> Shape {
        let judge = Arc::clone(self);
        let door = move |router: Router| {
            router.merge(Router::new().route("/_matrix/policy/v1/sign", post(sign)).with_state(judge))
        };
        Shape { door: Box::new(door), ..Shape::default() }
    }
}

async fn sign(State(judge): State<Arc<Judge>>, body: String) -> axum::response::Response {
    let refuse = |message: &str| {
        let body = json!({"errcode": "M_FORBIDDEN", "error": message});
        (StatusCode::BAD_REQUEST, axum::Json(body)).into_response()
    };
    let event: Value = serde_json::from_str(&body).expect("an event");
    // Not in the rest: any word may stand in a hash.
    if event["content"].to_string().contains("spam") || event["type"] == "m.room.policy" {
        return refuse("It looks like spam");
    }
    let object: CanonicalJsonObject = serde_json::from_str(&body).expect("an event");
    let mut redacted = redact(object, &judge.redaction, None).expect("redacts");
    redacted.remove("signatures");
    sign_json("p.test", &judge.key, &mut redacted).expect("signs");
    axum::Json(json!(redacted["signatures"])).into_response()
}

struct Scene {
    a: Server,
    p: Server,
    m: Server,
    alice: OwnedUserId,
    mallory: OwnedUserId,
    room: OwnedRoomId,
    _folders: [tempfile::TempDir; 3],
}

/// Alice's room on a, with the policy server p and mallory of m in it.
async fn scene() -> Scene {
    let folders = folders::<3>();
    let mut network = Network::of(&["a.test", "p.test", "m.test"]);
    let a = network.start("a.test", folders[0].path());
    let judge = Judge::new();
    let p = network.start_as("p.test", folders[1].path(), judge.door());
    let m = network.start("m.test", folders[2].path());
    let (alice, pat, mallory) = (a.user("alice"), p.user("pat"), m.user("mallory"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    a.send(&room, &alice, "m.room.power_levels", Some(""), json!({"events": {ITEM_TYPE: 0}})).await;
    m.join(&room, &mallory, &a.name).await.expect("joins");
    let content = json!({"via": "p.test", "public_keys": {"ed25519": judge.public()}});
    // Before its server is in the room, it is not asked: nobody is made to be one.
    a.send(&room, &alice, "m.room.policy", Some(""), content).await;
    a.send(&room, &alice, "m.room.message", None, json!({"body": "spam"})).await;
    p.join(&room, &pat, &a.name).await.expect("joins");
    m.until("the policy server to be there", {
        let room = room.clone();
        move |services| services.rooms.policy(&room).expect("reads").is_some()
    })
    .await;
    Scene { a, p, m, alice, mallory, room, _folders: folders }
}

impl Scene {
    async fn stop(self) {
        for server in [self.a, self.p, self.m] {
            server.stop().await;
        }
    }

    async fn has(&self, event_id: &OwnedEventId) -> bool {
        let event_id = event_id.clone();
        self.a.run(move |services| services.rooms.event(&event_id).expect("reads").is_some()).await
    }
}

/// Sends as a client would.
async fn try_send(
    server: &Server,
    room: &RoomId,
    user: &UserId,
    (kind, key, content): (&str, Option<&str>, Value),
) -> Result<OwnedEventId, RoomError> {
    let event = NewEvent::new(kind, user.to_owned(), key.map(str::to_owned), content).expect("an event");
    let room = room.to_owned();
    server.run(move |services| services.rooms.send(&room, event, None)).await
}

fn message(body: &str) -> (&'static str, Option<&'static str>, Value) {
    ("m.room.message", None, json!({"body": body}))
}

/// Whether the policy server's signature is on an event.
fn is_signed(services: &Services, room: &RoomId, event_id: &OwnedEventId) -> bool {
    let (policy, version): (Policy, _) = services.rooms.policy(room).expect("reads").expect("has one");
    let event = services.rooms.event(event_id).expect("reads").expect("is there");
    policy.has_signed(&version.rules, &event)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_server_refuses_is_not_sent() {
    let scene = scene().await;
    let Scene { a, m, alice, room, .. } = &scene;
    let refused = try_send(a, room, alice, message("spam")).await.expect_err("is refused");
    let RoomError::Policy(refusal) = refused else { panic!("{refused}") };
    assert_eq!((refusal.status, refusal.errcode), (400, "M_FORBIDDEN"));
    assert_eq!(refusal.message, "It looks like spam");
    for event in [message("hello"), ("m.room.topic", Some(""), json!({"topic": "t"}))] {
        let sent = try_send(a, room, alice, event).await.expect("is signed");
        m.has(&sent).await;
        for server in [a, m] {
            let (room, sent) = (room.clone(), sent.clone());
            assert!(server.run(move |services| is_signed(services, &room, &sent)).await);
        }
    }
    // Memberships, too: also those that other servers ask for.
    let bob = m.register("bob").await;
    invite(a, room, alice, &bob).await;
    m.until("the invite", {
        let (room, bob) = (room.clone(), bob.clone());
        move |services| {
            services.rooms.state_event(&room, "m.room.member", bob.as_str()).expect("reads").is_some()
        }
    })
    .await;
    let (room_id, user) = (room.clone(), bob.clone());
    m.run(move |services| services.rooms.join(&room_id, &user, serde_json::Map::new()).map(drop))
        .await
        .expect("joins");
    a.until("bob to come", {
        let (room, bob) = (room.clone(), bob.clone());
        move |services| services.rooms.is_joined(&room, &bob).expect("reads")
    })
    .await;
    assert_eq!(membership(a, room, &bob).await, Some(MembershipState::Join));
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_without_a_signature_is_asked_about() {
    let scene = scene().await;
    let Scene { a, m, mallory, room, .. } = &scene;
    let (named, key) = (room.clone(), mallory.to_string());
    let refs = async || {
        let (named, key) = (named.clone(), key.clone());
        a.run(move |services| {
            let find =
                |(kind, key): (&str, &str)| services.rooms.state_event(&named, kind, key).expect("reads");
            let auth = [("m.room.power_levels", ""), ("m.room.member", &*key)].map(find);
            let auth = auth.into_iter().flatten().map(|event| event.event_id().to_owned()).collect();
            [services.rooms.heads(&named).expect("reads"), auth]
        })
        .await
    };
    let honest = made(m, &said(mallory), room, refs().await);
    assert_eq!(hand_over(m, a, &honest).await, json!({}));
    let id = honest.event_id().to_owned();
    assert!(scene.has(&id).await);
    let (named_too, signed) = (room.clone(), id.clone());
    assert!(a.run(move |services| is_signed(services, &named_too, &signed)).await, "for who is told next");
    let spam = NewEvent::new("m.room.message", mallory.clone(), None, json!({"body": "spam"}));
    let spam = made(m, &spam.expect("an event"), room, refs().await);
    assert_eq!(hand_over(m, a, &spam).await, json!({}), "it fails softly");
    assert!(!scene.has(&spam.event_id().to_owned()).await);
    assert_eq!(refs().await[0], [id], "nothing builds on it");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_can_be_rid_of_a_policy_server_that_is_gone() {
    let Scene { a, p, m, alice, room, _folders, .. } = scene().await;
    let other = a.create_room(&alice, RoomVersionId::V12).await;
    p.stop().await;
    for _ in 0..2 {
        let refused = try_send(&a, &room, &alice, message("hello")).await.expect_err("nobody signs it");
        let RoomError::Policy(refusal) = refused else { panic!("{refused}") };
        assert_eq!(refusal.status, 502);
    }
    try_send(&a, &other, &alice, message("hello")).await.expect("another room has nothing to do with it");
    try_send(&a, &room, &alice, ("m.room.policy", Some(""), json!({}))).await.expect("needs no signature");
    let sent = try_send(&a, &room, &alice, message("hello")).await.expect("as anywhere");
    m.has(&sent).await;
    a.stop().await;
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_are_written_and_shown_if_the_policy_server_lets_them() {
    let scene = scene().await;
    let Scene { a, m, alice, room, .. } = &scene;
    let stop = CancellationToken::new();
    let mut worker = JoinSet::new();
    let space = Arc::clone(&a.services.shared_space);
    worker.spawn(shared_space::worker::run(space, stop.clone().cancelled_owned()));
    let put = async |key: &'static str, text: &'static str| {
        let (room, user) = (room.clone(), alice.clone());
        a.run(move |services| {
            let value = ItemValue::parse(json!({ "text": text }).to_string().as_bytes()).expect("a value");
            let write = Write {
                key: ItemKey::new(key).expect("a key"),
                value: Some(value),
                token: None,
                on_conflict: OnConflict::Keep,
            };
            let writer = Writer { user: &user, device: None, idempotency_key: None };
            services.shared_space.put(writer, &room, &write)
        })
        .await
    };
    let refused = put("plan", "spam").await.expect_err("is refused");
    assert!(matches!(refused, SpaceError::Room(RoomError::Policy(_))), "{refused}");
    put("plan", "a plan").await.expect("is written");
    // By an ordinary state event, too, which is adopted.
    let put_event = async |text: &'static str| {
        let (room, user) = (room.clone(), alice.clone());
        a.run(move |services| {
            let content = serde_json::value::to_raw_value(&json!({ "text": text })).expect("JSON");
            services.shared_space.put_vetted_state_event(&user, &room, "note", &content)
        })
        .await
    };
    put_event("spam").await.expect_err("is refused");
    put_event("a note").await.expect("is sent").expect("there is a policy server");
    for (key, text) in [("plan", "a plan"), ("note", "a note")] {
        let (room_id, user) = (room.clone(), alice.clone());
        a.until(key, move |services| {
            let item = services.shared_space.get(&user, &room_id, &ItemKey::new(key).expect("a key"));
            item.is_ok_and(|item| item["siblings"][0]["value"]["text"] == text)
        })
        .await;
        let room_id = room.clone();
        m.until(key, move |services| {
            let face = services.rooms.state_event(&room_id, ITEM_TYPE, key).expect("reads");
            face.is_some_and(|face| {
                face.content_object().get("text") == Some(&json!(text))
                    && is_signed(services, &room_id, &face.event_id().to_owned())
            })
        })
        .await;
    }
    stop.cancel();
    while worker.join_next().await.is_some() {}
    scene.stop().await;
}
