//! Memberships of users elsewhere: an invite that is taken back, rooms that
//! everybody left, joins of who is banned, moving on to a room's successor.

use causeway_room::{NewEvent, Pdu};
use causeway_service::rooms::{CreateRoom, Preset};
use http::{Method, StatusCode};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId, events::room::member::MembershipState,
};
use serde_json::{Map, Value, json};

use crate::{
    gap_abuse::{folders, hand_over, made},
    liar::Scene,
    requests::{invite, membership},
    support::{Network, Server},
};

/// That `target`'s invite is over, as `sender`, of whatever server, would say it,
/// signed by `by`.
async fn end_of_invite(
    a: &Server,
    by: &Server,
    room: &OwnedRoomId,
    (sender, target): (&UserId, &UserId),
) -> Pdu {
    let named = room.clone();
    let keys = [
        ("m.room.power_levels", String::new()),
        ("m.room.member", sender.to_string()),
        ("m.room.member", target.to_string()),
    ];
    let (heads, auth): (Vec<OwnedEventId>, Vec<OwnedEventId>) = a
        .run(move |services| {
            let find = |(kind, key): (&str, String)| {
                let event = services.rooms.state_event(&named, kind, &key).expect("reads");
                event.map(|event| event.event_id().to_owned())
            };
            (services.rooms.heads(&named).expect("reads"), keys.into_iter().filter_map(find).collect())
        })
        .await;
    let leave = NewEvent::new(
        "m.room.member",
        sender.to_owned(),
        Some(target.to_string()),
        json!({"membership": "leave"}),
    );
    made(by, &leave.expect("an event"), room, [heads, auth])
}

async fn private_room(server: &Server, user: &UserId, invited: &[OwnedUserId]) -> OwnedRoomId {
    let user_id = user.to_owned();
    let create = move |services: &causeway_service::Services| {
        let request = CreateRoom { preset: Preset::PrivateChat, ..CreateRoom::default() };
        services.rooms.create(&user_id, &request).expect("is created").room_id
    };
    let room = server.run(create).await;
    for target in invited {
        invite(server, &room, user, target).await;
    }
    room
}

async fn until_membership(server: &Server, room: &OwnedRoomId, user: &UserId, wanted: MembershipState) {
    let (room, user) = (room.clone(), user.to_owned());
    server
        .until("the membership", move |services| {
            let memberships = services.rooms.memberships_of(&user).expect("reads");
            memberships.iter().any(|(id, member)| *id == room && member.membership == wanted)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_is_taken_back_by_who_invited_and_by_nobody_else() {
    let folders = folders::<3>();
    let mut network = Network::of(&["a.test", "b.test", "m.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let m = network.start_with("m.test", folders[2].path(), false);
    let (alice, bob, mallory) = (a.user("alice"), b.register("bob").await, m.register("mallory").await);
    let room = private_room(&a, &alice, &[bob.clone(), mallory.clone()]).await;
    m.join(&room, &mallory, &a.name).await.expect("was invited");
    // Signed by the wrong server; and right, by who may not.
    for sender in [&alice, &mallory] {
        let leave = end_of_invite(&a, &m, &room, (sender, &bob)).await;
        let answer = hand_over(&m, &b, &leave).await;
        assert!(answer["error"].is_string(), "{answer}");
        assert_eq!(membership(&b, &room, &bob).await, Some(MembershipState::Invite));
    }
    let (room_id, sender, target) = (room.clone(), alice.clone(), bob.clone());
    let kick = a.run(move |services| services.rooms.kick(&room_id, &sender, &target, Some("No"))).await;
    let kick = kick.expect("may");
    until_membership(&b, &room, &bob, MembershipState::Leave).await;
    b.join(&room, &bob, &a.name).await.expect_err("is not invited any more");

    // Another one, which the end of the first does not end.
    invite(&a, &room, &alice, &bob).await;
    let first = a.run(move |services| services.rooms.event(&kick).expect("reads").expect("held")).await;
    let answer = hand_over(&a, &b, &first).await;
    assert!(answer["error"].is_string(), "{answer}");
    assert_eq!(membership(&b, &room, &bob).await, Some(MembershipState::Invite));
    let (room_id, target) = (room.clone(), bob.clone());
    a.run(move |services| services.rooms.ban(&room_id, &alice, &target, None).expect("may")).await;
    until_membership(&b, &room, &bob, MembershipState::Ban).await;
    for server in [a, b, m] {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_everybody_left_is_joined_through_nobody() {
    let scene = Scene::of(RoomVersionId::V12).await;
    let mia = scene.m.user("mia");
    let join = join_of(&scene, &mia).await;
    let (room, alice) = (scene.room.clone(), scene.alice.clone());
    scene.a.run(move |services| services.rooms.leave(&room, &alice, None).expect("leaves")).await;
    for what in ["make_join", "make_leave", "make_knock"] {
        let path = format!("/_matrix/federation/v1/{what}/{}/{mia}?ver=12", scene.room);
        let (status, answer) = scene.ask(Method::GET, &path, None).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND")), "{what}");
    }
    let (status, answer) = scene.send_join(&join).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_banned_is_not_let_in_by_an_event_from_before() {
    for version in [RoomVersionId::V6, RoomVersionId::V12] {
        let scene = Scene::of(version).await;
        let mia = scene.m.user("mia");
        let before = join_of(&scene, &mia).await;
        let (room, alice, target) = (scene.room.clone(), scene.alice.clone(), mia.clone());
        scene.a.run(move |services| services.rooms.ban(&room, &alice, &target, None).expect("may")).await;
        let after = join_of(&scene, &mia).await;
        for join in [&before, &after] {
            let (status, answer) = scene.send_join(join).await;
            assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")));
        }
        let path = format!("/_matrix/federation/v1/make_join/{}/{mia}?ver={}", scene.room, scene.version);
        assert_eq!(scene.ask(Method::GET, &path, None).await.0, StatusCode::FORBIDDEN);
        assert_eq!(membership(&scene.a, &scene.room, &mia).await, Some(MembershipState::Ban));
        scene.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_another_server_goes_on_to_the_rooms_successor() {
    let scene = Scene::of(RoomVersionId::V11).await;
    let (a, m) = (&scene.a, &scene.m);
    let topic = json!({"topic": "goes along"});
    a.send(&scene.room, &scene.alice, "m.room.topic", Some(""), topic).await;
    let (room, alice) = (scene.room.clone(), scene.alice.clone());
    let upgrade = move |services: &causeway_service::Services| {
        services.upgrades.upgrade(&room, &alice, &RoomVersionId::V12, &[], Map::new()).expect("may")
    };
    let successor = a.run(upgrade).await;
    let find = async |server: &Server, room: &OwnedRoomId, kind: &'static str| {
        let room = room.clone();
        server.run(move |services| services.rooms.state_event(&room, kind, "").expect("reads")).await
    };
    m.until("the tombstone", {
        let room = scene.room.clone();
        move |services| services.rooms.state_event(&room, "m.room.tombstone", "").expect("reads").is_some()
    })
    .await;
    let tombstone = find(m, &scene.room, "m.room.tombstone").await.expect("is there").content_object();
    assert_eq!(tombstone["replacement_room"], successor.as_str());
    m.join(&successor, &scene.mallory, &a.name).await.expect("joins");
    let create = find(m, &successor, "m.room.create").await.expect("is there").content_object();
    assert_eq!(create["predecessor"]["room_id"], scene.room.as_str());
    let topic = find(m, &successor, "m.room.topic").await.expect("is there").content_object();
    assert_eq!(topic["topic"], "goes along");
    scene.stop().await;
}

/// A join that m signs, made on the end of the room.
async fn join_of(scene: &Scene, user: &UserId) -> Pdu {
    let mut keys = vec![("m.room.power_levels", String::new()), ("m.room.join_rules", String::new())];
    if scene.version != RoomVersionId::V12 {
        keys.push(("m.room.create", String::new()));
    }
    let auth = scene.ids(&keys).await;
    let event = NewEvent::new(
        "m.room.member",
        user.to_owned(),
        Some(user.to_string()),
        json!({"membership": "join"}),
    );
    let placement = scene.placement(scene.heads().await, auth);
    let rules = causeway_room::version::rules(&scene.version).expect("supported");
    let keys = &scene.m.services.server_keys;
    causeway_room::build::build(
        &rules,
        &event.expect("an event"),
        &placement,
        keys.server_name(),
        keys.key_pair(),
    )
    .expect("is built")
}

impl Scene {
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let answer = self.m.state.client().request(&self.a.name, method, path, body.as_ref()).await;
        let (status, body) = answer.expect("answers");
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    async fn send_join(&self, join: &Pdu) -> (StatusCode, Value) {
        let path = format!("/_matrix/federation/v2/send_join/{}/{}", self.room, join.event_id());
        let body = serde_json::from_str(join.raw().get()).expect("JSON");
        self.ask(Method::PUT, &path, Some(body)).await
    }
}
