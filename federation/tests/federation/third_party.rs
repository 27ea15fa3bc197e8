//! Invites by an address: what an identity server says of it lets the right user in, and
//! nobody else.

use axum::{Json, Router, extract::RawQuery, routing::get};
use http::{Method, StatusCode};
use ruma::{
    CanonicalJsonObject, OwnedRoomId, OwnedUserId, RoomVersionId, UserId,
    events::room::member::MembershipState,
    serde::Base64,
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json};

use crate::support::{Network, Server, Shape};

const VALIDITY: &str = "/_matrix/identity/v2/pubkey/isvalid";
const TOKEN: &str = "token";

/// An identity server's key.
struct Identity {
    pair: Ed25519KeyPair,
}

impl Identity {
    fn new() -> Self {
        let document = Ed25519KeyPair::generate();
        let pair = Ed25519KeyPair::from_der(&document, "0".to_owned()).expect("a key");
        Self { pair }
    }

    fn key(&self) -> String {
        Base64::<ruma::serde::base64::Standard, _>::new(self.pair.public_key().to_vec()).encode()
    }

    /// What it says of a user.
    fn signed(&self, user: &UserId) -> CanonicalJsonObject {
        let said = json!({"mxid": user, "token": TOKEN});
        let mut object = serde_json::from_value(said).expect("an object");
        sign_json("identity.test", &self.pair, &mut object).expect("signs");
        object
    }
}

/// A room of a user who has invited somebody by an address.
struct Scene {
    a: Server,
    b: Server,
    alice: OwnedUserId,
    bob: OwnedUserId,
    room: OwnedRoomId,
    identity: Identity,
    /// Where the identity server says that its keys are valid.
    validity: String,
}

impl Scene {
    async fn new(folders: &[tempfile::TempDir; 2]) -> Self {
        let mut network = Network::of(&["a.test", "b.test"]);
        let validity = format!("https://b.test:{}{VALIDITY}", network.port("b.test"));
        let identity = Identity::new();
        let valid = format!(
            "public_key={}",
            url::form_urlencoded::byte_serialize(identity.key().as_bytes()).collect::<String>()
        );
        let answer = async move |RawQuery(query): RawQuery| Json(json!({"valid": query == Some(valid)}));
        let door = |router: Router| router.route(VALIDITY, get(answer));
        let a = network.start("a.test", folders[0].path());
        let b =
            network.start_as("b.test", folders[1].path(), Shape { door: Box::new(door), ..Shape::default() });
        let (alice, bob) = (a.register("alice").await, b.register("bob").await);
        let room = a.create_room(&alice, RoomVersionId::V11).await;
        a.send(&room, &alice, "m.room.join_rules", Some(""), json!({"join_rule": "invite"})).await;
        Self { a, b, alice, bob, room, identity, validity }
    }

    /// The place that is kept for who was invited.
    async fn keep(&self, content: Value) {
        self.a.send(&self.room, &self.alice, "m.room.third_party_invite", Some(TOKEN), content).await;
    }

    fn kept_with(&self, key: &str) -> Value {
        let key = json!({"public_key": key, "key_validity_url": self.validity});
        json!({"display_name": "b...@e...", "public_keys": [key], "public_key": key["public_key"], "key_validity_url": self.validity})
    }

    /// An identity server's news of another user, for `a`.
    async fn bind_at_a(&self, user: &UserId) -> StatusCode {
        let signed = self.identity.signed(user);
        let invite = json!({"mxid": user, "room_id": self.room, "sender": self.alice, "signed": signed});
        let body = json!({"medium": "email", "address": "c@example.org", "mxid": user, "invites": [invite]});
        let path = "/_matrix/federation/v1/3pid/onbind";
        self.b.state.client().request(&self.a.name, Method::PUT, path, Some(&body)).await.expect("answers").0
    }

    /// What `b` asks of `a`; the answer's status.
    async fn exchange(&self, target: &UserId, signed: &CanonicalJsonObject) -> StatusCode {
        let event = json!({
            "type": "m.room.member", "room_id": self.room, "sender": self.alice, "state_key": target,
            "content": {"membership": "invite", "third_party_invite": {"display_name": "x", "signed": signed}},
        });
        let path = format!("/_matrix/federation/v1/exchange_third_party_invite/{}", self.room);
        let answer = self.b.state.client().request(&self.a.name, Method::PUT, &path, Some(&event)).await;
        answer.expect("answers").0
    }

    /// An identity server's news for `b`.
    async fn bind(&self, signed: &CanonicalJsonObject) -> StatusCode {
        let invite = json!({
            "medium": "email", "address": "bob@example.org", "mxid": self.bob, "room_id": self.room,
            "sender": self.alice, "signed": signed,
        });
        let body =
            json!({"medium": "email", "address": "bob@example.org", "mxid": self.bob, "invites": [invite]});
        let path = "/_matrix/federation/v1/3pid/onbind";
        self.a.state.client().request(&self.b.name, Method::PUT, path, Some(&body)).await.expect("answers").0
    }

    async fn membership_at(&self, server: &Server) -> Option<MembershipState> {
        let (room, bob) = (self.room.clone(), self.bob.clone());
        server
            .run(move |services| {
                services.rooms.member(&room, &bob).expect("reads").map(|member| member.membership)
            })
            .await
    }

    async fn stop(self) {
        self.a.stop().await;
        self.b.stop().await;
    }
}

fn folders() -> [tempfile::TempDir; 2] {
    [(); 2].map(|()| tempfile::tempdir().expect("a folder"))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_invited_by_an_address_is_let_in_once_he_is_known() {
    let folders = folders();
    let scene = Scene::new(&folders).await;
    scene.b.join(&scene.room, &scene.bob, &scene.a.name).await.expect_err("is not invited");
    scene.keep(scene.kept_with(&scene.identity.key())).await;
    let signed = scene.identity.signed(&scene.bob);
    assert_eq!(scene.bind(&signed).await, StatusCode::OK);
    for server in [&scene.a, &scene.b] {
        assert_eq!(scene.membership_at(server).await, Some(MembershipState::Invite), "{}", server.name);
    }
    scene.b.join(&scene.room, &scene.bob, &scene.a.name).await.expect("joins");
    let (room, bob) = (scene.room.clone(), scene.bob.clone());
    let invite = move |services: &causeway_service::Services| {
        let member = services.rooms.state_event(&room, "m.room.member", bob.as_str());
        member.expect("reads").is_some_and(|event| event.membership() == Some(MembershipState::Join))
    };
    scene.a.until("the join is there", invite).await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_let_in_by_it() {
    let folders = folders();
    let scene = Scene::new(&folders).await;
    let (identity, another) = (&scene.identity, Identity::new());
    let signed = identity.signed(&scene.bob);
    assert_eq!(scene.exchange(&scene.bob, &signed).await, StatusCode::FORBIDDEN, "nobody was invited");
    scene.keep(scene.kept_with(&identity.key())).await;
    let forged = another.signed(&scene.bob);
    assert_eq!(scene.exchange(&scene.bob, &forged).await, StatusCode::FORBIDDEN, "signed by another");
    let mallory = scene.b.user("mallory");
    assert_eq!(scene.exchange(&mallory, &signed).await, StatusCode::FORBIDDEN, "signed for another");
    let eve = scene.a.user("eve");
    assert_eq!(
        scene.exchange(&eve, &identity.signed(&eve)).await,
        StatusCode::FORBIDDEN,
        "a user of another server"
    );
    // The identity server knows nothing of that key.
    scene.keep(scene.kept_with(&another.key())).await;
    assert_eq!(scene.exchange(&scene.bob, &forged).await, StatusCode::FORBIDDEN, "no valid key");
    // The invite is taken back.
    scene.keep(json!({})).await;
    assert_eq!(scene.exchange(&scene.bob, &signed).await, StatusCode::FORBIDDEN, "taken back");
    assert_eq!(scene.bind(&signed).await, StatusCode::OK);
    assert_eq!(scene.membership_at(&scene.a).await, None);
    assert_eq!(scene.membership_at(&scene.b).await, None);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_again_takes_no_member_back_to_being_invited() {
    let folders = folders();
    let scene = Scene::new(&folders).await;
    scene.keep(scene.kept_with(&scene.identity.key())).await;
    let carol = scene.a.register("carol").await;
    let membership = async || {
        let (room, user) = (scene.room.clone(), carol.clone());
        let member = scene.a.run(move |services| services.rooms.member(&room, &user).expect("reads"));
        member.await.map(|member| member.membership)
    };
    assert_eq!(scene.bind_at_a(&carol).await, StatusCode::OK);
    assert_eq!(membership().await, Some(MembershipState::Invite));
    let (room, user) = (scene.room.clone(), carol.clone());
    let join = move |services: &causeway_service::Services| {
        services.rooms.join(&room, &user, serde_json::Map::new()).expect("joins")
    };
    scene.a.run(join).await;
    assert_eq!(scene.bind_at_a(&carol).await, StatusCode::OK);
    assert_eq!(membership().await, Some(MembershipState::Join));
    // The same of a user of another server.
    let signed = scene.identity.signed(&scene.bob);
    assert_eq!(scene.bind(&signed).await, StatusCode::OK);
    scene.b.join(&scene.room, &scene.bob, &scene.a.name).await.expect("joins");
    assert_eq!(scene.exchange(&scene.bob, &signed).await, StatusCode::OK, "he is in already");
    for server in [&scene.a, &scene.b] {
        assert_eq!(scene.membership_at(server).await, Some(MembershipState::Join), "{}", server.name);
    }
    scene.stop().await;
}
