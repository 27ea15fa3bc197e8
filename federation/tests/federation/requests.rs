//! What clients' requests need from other servers: invites, files, profiles,
//! aliases, history.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Body,
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use causeway_service::{
    media::{Label, Wish},
    remote::{ExpectedContent, RemoteMedia, RemoteRequest},
    rooms::{CreateRoom, Invite, Outcome, Preset},
};
use causeway_storage::rooms;
use futures_util::{StreamExt, stream};
use http::Method;
use ruma::{
    OwnedRoomId, RoomVersionId, UserId,
    events::room::member::MembershipState,
    serde::{Base64, base64::Standard},
};
use serde_json::{Map, Value, json};

use crate::{
    gap_abuse::lying,
    support::{Network, Server, Shape},
};

pub fn two() -> (Server, Server, [tempfile::TempDir; 2]) {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    (a, b, folders)
}

async fn private_room(server: &Server, user: &UserId) -> OwnedRoomId {
    let user = user.to_owned();
    server
        .run(move |services| {
            let request = CreateRoom { preset: Preset::PrivateChat, ..CreateRoom::default() };
            services.rooms.create(&user, &request).expect("is created").room_id
        })
        .await
}

/// Invites as a client's request does.
pub async fn invite(server: &Server, room: &OwnedRoomId, sender: &UserId, target: &UserId) {
    let (room_id, sender, user_id) = (room.clone(), sender.to_owned(), target.to_owned());
    let invited = user_id.clone();
    let prepared = server
        .run(move |services| {
            let direct = Map::from_iter([("is_direct".to_owned(), json!(true))]);
            services.rooms.invite(&room_id, &sender, &invited, direct).expect("may")
        })
        .await;
    let Invite::Remote(prepared) = prepared else { panic!("the user is on another server") };
    let (room_id, event_id) = (room.clone(), prepared.event.event_id().to_owned());
    let event = prepared.event.raw().to_owned();
    let room_state = prepared.room_state;
    let request = |reply| RemoteRequest::Invite { room_id, event_id, event, room_state, user_id, reply };
    let signed = server.services.remote.request(request).await.expect("is signed");
    let room_id = room.clone();
    server.run(move |services| services.rooms.commit_invite(&room_id, &signed).expect("is allowed")).await;
}

pub async fn membership(server: &Server, room: &OwnedRoomId, user: &UserId) -> Option<MembershipState> {
    let (room, user) = (room.clone(), user.to_owned());
    let member = server.run(move |services| services.rooms.member(&room, &user).expect("reads")).await;
    member.map(|member| member.membership)
}

/// When the room was made, as who is invited to it from another server is told by `server`
/// (Complement's `TestMSC4311FullCreateEventOnStrippedState`).
async fn created(server: &Server, room: &OwnedRoomId, user: &UserId, home: &Server) -> u64 {
    let (room, user, is_home) = (room.clone(), user.to_owned(), server.name == home.name);
    let find = move |services: &causeway_service::Services| {
        if !is_home {
            let create = services.rooms.state_event(&room, "m.room.create", "").expect("reads");
            return create.expect("is there").origin_server_ts();
        }
        let told = rooms::invite_state(&services.database, &user, &room).expect("reads");
        let told: Vec<Value> =
            told.iter().map(|raw| serde_json::from_str(raw.get()).expect("JSON")).collect();
        assert!(told.iter().any(|event| event["content"]["is_direct"] == true), "of how he is invited, too");
        let create = told.iter().find(|event| event["type"] == "m.room.create").expect("is told");
        create["origin_server_ts"].as_u64().expect("a time")
    };
    server.run(find).await
}

#[tokio::test(flavor = "multi_thread")]
async fn invites_are_signed_accepted_and_turned_down() {
    let (a, b, _folders) = two();
    let (alice, bob) = (a.user("alice"), b.register("bob").await);
    let room = private_room(&a, &alice).await;
    b.join(&room, &bob, &a.name).await.expect_err("nobody invited him");
    invite(&a, &room, &alice, &bob).await;
    assert_eq!(membership(&b, &room, &bob).await, Some(MembershipState::Invite));
    assert_eq!(membership(&a, &room, &bob).await, Some(MembershipState::Invite));
    assert_eq!(created(&a, &room, &bob, &b).await, created(&b, &room, &bob, &b).await);
    b.join(&room, &bob, &a.name).await.expect("was invited");
    let said = b.send(&room, &bob, "m.room.message", None, json!({"body": "here"})).await;
    a.has(&said).await;

    let other = private_room(&a, &alice).await;
    invite(&a, &other, &alice, &bob).await;
    let (room_id, user_id) = (other.clone(), bob.clone());
    let outcome =
        b.run(move |services| services.rooms.leave(&room_id, &user_id, None).expect("was invited")).await;
    let Outcome::Remote { via } = outcome else { panic!("b is not in the room") };
    let (room_id, user_id) = (other.clone(), bob.clone());
    let leave = |reply| RemoteRequest::Leave { room_id, user_id, via, content: json!({}), reply };
    b.services.remote.request(leave).await.expect("leaves");
    assert_eq!(membership(&a, &other, &bob).await, Some(MembershipState::Leave));

    let nobody = b.user("nobody");
    let third = private_room(&a, &alice).await;
    let (room_id, target) = (third.clone(), nobody.clone());
    let prepared = a.run(move |services| services.rooms.invite(&room_id, &alice, &target, Map::new())).await;
    let Ok(Invite::Remote(prepared)) = prepared else { panic!("prepared") };
    let body = json!({
        "room_version": "12", "event": prepared.event.raw(), "invite_room_state": prepared.room_state,
    });
    let path = format!("/_matrix/federation/v2/invite/{third}/{}", prepared.event.event_id());
    let (status, _) =
        a.state.client().request(&b.name, Method::PUT, &path, Some(&body)).await.expect("answers");
    assert_eq!(status, http::StatusCode::NOT_FOUND);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_left_joins_again_through_another() {
    let (a, b, _folders) = two();
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let (room_id, user_id) = (room.clone(), bob.clone());
    b.run(move |services| services.rooms.leave(&room_id, &user_id, None).expect("leaves")).await;
    a.until("bob's leaving arrives", {
        let (room, bob) = (room.clone(), bob.clone());
        move |services| !services.rooms.is_joined(&room, &bob).expect("reads")
    })
    .await;
    let topic = a.send(&room, &alice, "m.room.topic", Some(""), json!({"topic": "while he was away"})).await;
    let (room_id, user_id) = (room.clone(), bob.clone());
    let outcome = b.run(move |services| services.rooms.join(&room_id, &user_id, Map::new())).await;
    assert!(matches!(outcome, Ok(Outcome::Remote { .. })), "a rejoin is not local: {outcome:?}");
    b.join(&room, &bob, &a.name).await.expect("joins again");
    let room_id = room.clone();
    let state = b.run(move |services| services.rooms.state_event(&room_id, "m.room.topic", "")).await;
    assert_eq!(state.expect("reads").expect("is set").event_id(), topic);
    let said = a.send(&room, &alice, "m.room.message", None, json!({"body": "welcome back"})).await;
    b.has(&said).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_profiles_and_aliases_of_other_servers() {
    let (a, b, _folders) = two();
    let alice = a.register("alice").await;
    let user = alice.clone();
    let mxc = a
        .run(move |services| {
            services.profiles.set(&user, "displayname", Some("Alice".into())).expect("sets");
            let mut upload = services.media.begin().expect("begins");
            upload.write(b"--a\r\n\r\nfile\0").expect("writes");
            let label =
                Label { content_type: Some("text/plain".to_owned()), filename: Some("ä\".txt".to_owned()) };
            services.media.finish(upload, user, label).expect("is kept")
        })
        .await;
    let holders = Vec::new();
    let file = (mxc.clone(), holders.clone());
    let fetch = |reply| RemoteRequest::Media {
        mxc: file.0,
        holders: file.1,
        expected: Vec::new(),
        bytes_max: 1_000,
        reply,
    };
    let media = b.services.remote.request(fetch).await.expect("is there");
    assert!(ExpectedContent::of(b"--a\r\n\r\nfile\0").is(&media.content));
    assert_eq!(media.content_type.as_deref(), Some("text/plain"));
    let fetch =
        |reply| RemoteRequest::Media { mxc: mxc.clone(), holders, expected: Vec::new(), bytes_max: 3, reply };
    assert_eq!(b.services.remote.request(fetch).await.expect_err("too large").status, 413);
    let absent = format!("mxc://{}/absent", a.name).into();
    let fetch = |reply| RemoteRequest::Media {
        mxc: absent,
        holders: Vec::new(),
        expected: Vec::new(),
        bytes_max: 9,
        reply,
    };
    assert_eq!(b.services.remote.request(fetch).await.expect_err("absent").status, 404);

    let user_id = alice.clone();
    let profile = b.services.remote.request(|reply| RemoteRequest::Profile { user_id, reply }).await;
    assert_eq!(profile.expect("is known")["displayname"], "Alice");
    let user_id = a.user("nobody");
    let profile = b.services.remote.request(|reply| RemoteRequest::Profile { user_id, reply }).await;
    assert_eq!(profile.expect_err("unknown").status, 404);

    let room = a.create_room(&alice, RoomVersionId::V12).await;
    let (alias, room_id) =
        (ruma::RoomAliasId::parse(format!("#there:{}", a.name)).expect("an alias"), room.clone());
    let named = alias.clone();
    a.run(move |services| services.directory.create_alias(&named, &room_id, &alice).expect("is free")).await;
    let found =
        b.services.remote.request(|reply| RemoteRequest::Alias { alias, reply }).await.expect("is known");
    assert_eq!(found, (room, vec![a.name.clone()]));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_in_any_script_are_found() {
    let (a, b, _folders) = two();
    let alice = a.register("alice").await;
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    for name in ["老虎£я", "a b+c/d?e#f&g=%41"] {
        let alias = ruma::RoomAliasId::parse(format!("#{name}:{}", a.name)).expect("an alias");
        let (named, room_id, owner) = (alias.clone(), room.clone(), alice.clone());
        a.run(move |services| services.directory.create_alias(&named, &room_id, &owner).expect("is free"))
            .await;
        let found = b.services.remote.request(|reply| RemoteRequest::Alias { alias, reply }).await;
        assert_eq!(found.expect("is known"), (room.clone(), vec![a.name.clone()]));
    }
    a.stop().await;
    b.stop().await;
}

/// 64 × 64 shades of grey.
const IMAGE: &str = concat!(
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAAAAACPAi4CAAAAcklEQVR42mNgYOHgERCRkFFQ0dAxMLGwcXDx8AkIiYhJSMnIKSipqGlo",
    "6eiZMGXGnAVLVqzZsGXHngNHTpy5cOXGnQdPXrz58OXHH4ZRA0YNGDVg1IBRA0YNGDVg1IBRA0YNGDVg1IBRA0YNGDVguBsAAHs24GqR",
    "2oMfAAAAAElFTkSuQmCC"
);

#[tokio::test(flavor = "multi_thread")]
async fn another_server_gets_the_thumbnail_that_a_client_gets() {
    let (a, b, _folders) = two();
    let alice = a.register("alice").await;
    let image: Base64<Standard> = Base64::parse(IMAGE).expect("base64");
    let original = image.as_bytes().to_vec();
    let mxc = a
        .run(move |services| {
            let mut upload = services.media.begin().expect("begins");
            upload.write(image.as_bytes()).expect("writes");
            let label = Label { content_type: Some("image/png".to_owned()), filename: None };
            services.media.finish(upload, alice, label).expect("is kept")
        })
        .await;
    let (server, media_id) = mxc.parts().expect("an address");
    let query = "width=32&height=32&method=crop";
    let media = a.services.media.find(server, media_id).expect("reads").expect("is there");
    let wish = Wish::parse(query).expect("a wish");
    let small = a.services.media.thumbnail(&media, wish).await.expect("is made").expect("is an image");
    let expected = std::fs::read(&small.path).expect("reads");
    assert_ne!(expected, original);
    let path = format!("/_matrix/federation/v1/media/thumbnail/{media_id}?{query}");
    let answer = b.state.client().request(&a.name, Method::GET, &path, None).await;
    let (status, body) = answer.expect("answers");
    assert_eq!(status, http::StatusCode::OK);
    let holds = |part: &[u8]| body.windows(part.len()).any(|window| window == part);
    let kind = format!("Content-Type: {}\r\n", small.content_type);
    assert!(holds(kind.as_bytes()) && holds(&expected) && !holds(&original));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_served_when_the_origin_is_gone() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test", "c.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let c = network.start("c.test", folders[2].path());
    let alice = a.user("alice");
    let mxc = a
        .run(move |services| {
            let mut upload = services.media.begin().expect("begins");
            upload.write(b"kept").expect("writes");
            services.media.finish(upload, alice, Label::default()).expect("is kept")
        })
        .await;
    b.services.media.obtain(&mxc, Vec::new(), Vec::new()).await.expect("from its origin");
    a.stop().await;
    let expected = vec![ExpectedContent::of(b"kept")];
    let held = c.services.media.obtain(&mxc, vec![b.name.clone()], expected).await.expect("from a holder");
    assert_eq!(std::fs::read(c.services.media.path(&held)).expect("reads"), b"kept");
    b.stop().await;
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_to_come_is_waited_for_at_its_origin() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let alice = a.user("alice");
    let (mxc, _) = a.services.media.create(&alice).expect("an address");
    let asked = b.services.media.obtain(&mxc, Vec::new(), Vec::new());
    let media_id = mxc.media_id().expect("an id").to_owned();
    let filled = a.run(move |services| {
        let mut upload = services.media.begin().expect("begins");
        upload.write(b"late").expect("writes");
        services.media.fill(&media_id, upload, alice, Label::default()).expect("is kept");
    });
    let (got, ()) = tokio::join!(asked, filled);
    assert_eq!(std::fs::read(b.services.media.path(&got.expect("the file"))).expect("reads"), b"late");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_gives_another_file_is_not_believed() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test", "c.test"]);
    let liar = network.start("a.test", folders[0].path());
    let honest = network.start("b.test", folders[1].path());
    let c = network.start("c.test", folders[2].path());
    let mxc = ruma::mxc_uri!("mxc://gone.test/file");
    for (server, bytes) in [(&liar, "lies"), (&honest, "kept")] {
        server
            .run(move |services| {
                let mut content = services.media.begin().expect("begins");
                content.write(bytes.as_bytes()).expect("writes");
                let copy = RemoteMedia { content_type: None, content_disposition: None, content };
                services.media.keep_remote(ruma::server_name!("gone.test"), "file", copy).expect("kept")
            })
            .await;
    }
    let holders = || vec![liar.name.clone(), honest.name.clone()];
    let nobody_says = c.services.media.obtain(mxc, holders(), Vec::new()).await;
    assert!(nobody_says.is_err(), "only the origin could say what it is: {nobody_says:?}");
    let held = c
        .services
        .media
        .obtain(mxc, holders(), vec![ExpectedContent::of(b"kept")])
        .await
        .expect("from the honest one");
    assert_eq!(std::fs::read(c.services.media.path(&held)).expect("reads"), b"kept");
    for server in [liar, honest, c] {
        server.stop().await;
    }
}

/// A door that gives, for every file, bytes without end and without their number.
async fn endless(request: Request, next: Next) -> Response {
    if !request.uri().path().contains("/media/") {
        return next.run(request).await;
    }
    let begin = Bytes::from_static(b"--b\r\n\r\n{}\r\n--b\r\n\r\n");
    let zeros = stream::repeat(Bytes::from_static(&[0; 4096]));
    let body = stream::once(std::future::ready(begin)).chain(zeros).map(Ok::<_, std::io::Error>);
    ([("content-type", "multipart/mixed; boundary=b")], Body::from_stream(body)).into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_to_disk_as_it_comes_and_no_further_than_its_bound() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let door = |router: Router| router.layer(middleware::from_fn(endless));
    let a = network.start_as("a.test", folders[0].path(), Shape { door: Box::new(door), ..Shape::default() });
    let b = network.start("b.test", folders[1].path());
    let mxc = format!("mxc://{}/endless", a.name).into();
    let fetch = |reply| RemoteRequest::Media {
        mxc,
        holders: Vec::new(),
        expected: Vec::new(),
        bytes_max: 1 << 20,
        reply,
    };
    let refused = b.services.remote.request(fetch).await;
    assert_eq!(refused.expect_err("is too large").status, 413);
    let left = || std::fs::read_dir(folders[1].path().join("media")).expect("a folder").count();
    assert_eq!(left(), 0, "nothing is left of it");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_before_the_join_can_be_had() {
    let (a, b, _folders) = two();
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    let mut said = Vec::new();
    for n in 0..30 {
        said.push(a.send(&room, &alice, "m.room.message", None, json!({"body": n.to_string()})).await);
    }
    b.join(&room, &bob, &a.name).await.expect("joins");
    for _ in 0..2 {
        let room_id = room.clone();
        let more = |reply| RemoteRequest::Backfill { room_id, limit: 20, reply };
        b.services.remote.request(more).await.expect("more");
    }
    for event_id in said {
        b.has(&event_id).await;
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_nothing_new_does_not_keep_history_from_others() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test", "z.test"]);
    let z = network.start("z.test", folders[0].path());
    let known: Arc<Mutex<Value>> = Arc::default();
    let told = Arc::clone(&known);
    let door =
        lying(move |path| path.contains("/backfill/").then(|| told.lock().expect("unpoisoned").clone()));
    let a = network.start_as("a.test", folders[1].path(), Shape { door, ..Shape::default() });
    let b = network.start("b.test", folders[2].path());
    let (zoe, alice, bob) = (z.user("zoe"), a.user("alice"), b.user("bob"));
    let room = z.create_room(&zoe, RoomVersionId::V12).await;
    let said = z.send(&room, &zoe, "m.room.message", None, json!({"body": "before"})).await;
    a.join(&room, &alice, &z.name).await.expect("joins");
    b.join(&room, &bob, &z.name).await.expect("joins");
    let room_id = room.clone();
    let create = z.run(move |services| services.rooms.state_event(&room_id, "m.room.create", "")).await;
    let create = create.expect("reads").expect("is there");
    *known.lock().expect("unpoisoned") = json!({"pdus": [create.raw()]});
    // Whichever is asked first.
    for _ in 0..4 {
        let room_id = room.clone();
        let more = |reply| RemoteRequest::Backfill { room_id, limit: 20, reply };
        b.services.remote.request(more).await.expect("more");
        b.has(&said).await;
    }
    for server in [a, b, z] {
        server.stop().await;
    }
}
