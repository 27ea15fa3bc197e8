//! Asking to be let in, and being let in because one is in another room.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
};
use causeway_service::{
    error::MatrixError,
    remote::{PublicRoomsQuery, RemoteRequest},
    rooms::{CreateRoom, Outcome, Preset},
};
use ruma::{OwnedRoomId, RoomVersionId, UserId, events::room::member::MembershipState};
use serde_json::{Value, json};

use crate::{
    requests::{invite, membership},
    support::{Network, Server, Shape},
};

fn two() -> (Server, Server, [tempfile::TempDir; 2]) {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    (a, b, folders)
}

async fn named_room(server: &Server, user: &UserId, published: bool) -> OwnedRoomId {
    let user = user.to_owned();
    server
        .run(move |services| {
            let name = Some("Behind the door".to_owned());
            let request = CreateRoom { preset: Preset::PrivateChat, name, ..CreateRoom::default() };
            let room_id = services.rooms.create(&user, &request).expect("is created").room_id;
            services.directory.set_published(&room_id, &user, published).expect("may");
            room_id
        })
        .await
}

async fn knock(from: &Server, on: &Server, room: &OwnedRoomId, user: &UserId) -> Result<(), MatrixError> {
    let (room_id, user_id, via) = (room.clone(), user.to_owned(), vec![on.name.clone()]);
    let content = json!({ "reason": "Let me in" });
    let request = |reply| RemoteRequest::Knock { room_id, user_id, via, content, reply };
    from.services.remote.request(request).await
}

async fn leave(server: &Server, room: &OwnedRoomId, user: &UserId) {
    let (room_id, user_id) = (room.clone(), user.to_owned());
    let outcome = server.run(move |services| services.rooms.leave(&room_id, &user_id, None)).await;
    let Ok(Outcome::Remote { via }) = outcome else { panic!("only others can do it: {outcome:?}") };
    let (room_id, user_id) = (room.clone(), user.to_owned());
    let request = |reply| RemoteRequest::Leave { room_id, user_id, via, content: json!({}), reply };
    server.services.remote.request(request).await.expect("is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_knocks_and_is_let_in_or_takes_it_back() {
    let (a, b, _folders) = two();
    let (alice, bob) = (a.user("alice"), b.register("bob").await);
    let room = named_room(&a, &alice, false).await;
    let refused = knock(&b, &a, &room, &bob).await.expect_err("nobody may knock");
    assert_eq!(refused.errcode, "M_FORBIDDEN");
    assert_eq!(membership(&b, &room, &bob).await, None, "a knock that was refused is none");

    a.send(&room, &alice, "m.room.join_rules", Some(""), json!({ "join_rule": "knock" })).await;
    a.send(&room, &alice, "m.room.message", None, json!({ "body": "only for members" })).await;
    knock(&b, &a, &room, &bob).await.expect("may knock");
    for server in [&a, &b] {
        assert_eq!(membership(server, &room, &bob).await, Some(MembershipState::Knock));
    }
    let (room_id, user_id) = (room.clone(), bob.clone());
    let told = b.run(move |services| services.rooms.invite_state(&room_id, &user_id).expect("reads")).await;
    let told: Vec<Value> =
        told.iter().map(|event| serde_json::from_str(event.get()).expect("JSON")).collect();
    let find = |kind: &str| told.iter().find(|event| event["type"] == kind).expect("is told");
    assert_eq!(find("m.room.name")["content"]["name"], "Behind the door");
    assert_eq!(find("m.room.member")["content"]["membership"], "knock");
    assert_eq!(find("m.room.member")["content"]["reason"], "Let me in");
    assert!(told.iter().all(|event| event["type"] != "m.room.message"));

    leave(&b, &room, &bob).await;
    for server in [&a, &b] {
        assert_eq!(membership(server, &room, &bob).await, Some(MembershipState::Leave));
    }
    knock(&b, &a, &room, &bob).await.expect("may knock again");
    let (room_id, sender, target) = (room.clone(), alice.clone(), bob.clone());
    a.run(move |services| services.rooms.kick(&room_id, &sender, &target, Some("No")).expect("may")).await;
    let (room_id, target) = (room.clone(), bob.clone());
    let is_refused = move |services: &causeway_service::Services| {
        let member = services.rooms.member(&room_id, &target).expect("reads");
        member.is_some_and(|member| member.membership == MembershipState::Leave)
    };
    b.until("the refusal is taken in", is_refused).await;
    knock(&b, &a, &room, &bob).await.expect("may knock a third time");
    invite(&a, &room, &alice, &bob).await;
    assert_eq!(membership(&b, &room, &bob).await, Some(MembershipState::Invite));
    b.join(&room, &bob, &a.name).await.expect("was let in");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_can_be_turned_down_when_its_server_is_gone() {
    let (a, b, _folders) = two();
    let (alice, bob) = (a.user("alice"), b.register("bob").await);
    let room = named_room(&a, &alice, false).await;
    invite(&a, &room, &alice, &bob).await;
    a.stop().await;
    leave(&b, &room, &bob).await;
    assert_eq!(membership(&b, &room, &bob).await, Some(MembershipState::Leave));
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_room_join_another_that_lets_them_in() {
    let (a, b, _folders) = two();
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let club = a.create_room(&alice, RoomVersionId::V12).await;
    for rule in ["restricted", "knock_restricted"] {
        let room = named_room(&a, &alice, false).await;
        let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
        let rules = json!({ "join_rule": rule, "allow": allow });
        a.send(&room, &alice, "m.room.join_rules", Some(""), rules).await;
        if rule == "restricted" {
            let refused = b.join(&room, &bob, &a.name).await.expect_err("he is not in the club");
            assert_eq!(refused.status, 403, "{refused}");
            b.join(&club, &bob, &a.name).await.expect("joins the club");
        }
        b.join(&room, &bob, &a.name).await.expect("the club lets him in");
        let (room_id, user_id) = (room.clone(), bob.clone());
        let read = move |services: &causeway_service::Services| {
            services.rooms.state_event(&room_id, "m.room.member", user_id.as_str())
        };
        let joined = b.run(read).await.expect("reads").expect("is there").content_object();
        assert_eq!(joined["join_authorised_via_users_server"], alice.as_str());
        let said = b.send(&room, &bob, "m.room.message", None, json!({ "body": "in" })).await;
        a.has(&said).await;
    }
    a.stop().await;
    b.stop().await;
}

/// Complement's `TestRestrictedRoomsRemoteJoinFailOver`.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_vouched_for_by_no_user_of_one_server_asks_the_next() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test", "c.test"]);
    let a = network.start("a.test", folders[0].path());
    let asked = Arc::new(AtomicUsize::new(0));
    let shape = Shape { door: counting(&asked), ..Shape::default() };
    let b = network.start_as("b.test", folders[1].path(), shape);
    let c = network.start("c.test", folders[2].path());
    let (alice, bob, carol) = (a.user("alice"), b.register("bob").await, c.user("carol"));
    let [known, unknown] = [(); 2].map(|()| a.create_room(&alice, RoomVersionId::V12));
    let (known, unknown) = (known.await, unknown.await);
    b.join(&known, &bob, &a.name).await.expect("joins");
    for club in [&known, &unknown] {
        c.join(club, &carol, &a.name).await.expect("joins");
    }
    // Of the first club bob is a member, but he may invite nobody; of the other he knows nothing.
    for (club, power) in [(&known, 50), (&unknown, 0)] {
        let room = named_room(&a, &alice, false).await;
        invite(&a, &room, &alice, &bob).await;
        b.join(&room, &bob, &a.name).await.expect("was invited");
        a.send(&room, &alice, "m.room.power_levels", Some(""), json!({ "invite": power })).await;
        let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
        let rules = json!({ "join_rule": "restricted", "allow": allow });
        let rules = a.send(&room, &alice, "m.room.join_rules", Some(""), rules).await;
        b.has(&rules).await;
        let before = asked.load(Ordering::SeqCst);
        let (room_id, user_id) = (room.clone(), carol.clone());
        let via = vec![b.name.clone(), a.name.clone()];
        let request = |reply| RemoteRequest::Join { room_id, user_id, via, content: json!({}), reply };
        c.services.remote.request(request).await.expect("the other server lets her in");
        assert!(asked.load(Ordering::SeqCst) > before, "b was asked first");
        let member = carol.clone();
        let read = move |services: &causeway_service::Services| {
            services.rooms.state_event(&room, "m.room.member", member.as_str())
        };
        let joined = c.run(read).await.expect("reads").expect("is there").content_object();
        assert_eq!(joined["join_authorised_via_users_server"], alice.as_str());
    }
    for server in [a, b, c] {
        server.stop().await;
    }
}

/// A door that counts who asks to join.
fn counting(asked: &Arc<AtomicUsize>) -> Box<dyn FnOnce(Router) -> Router> {
    let asked = Arc::clone(asked);
    Box::new(move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let is_join = request.uri().path().contains("/make_join/");
            asked.fetch_add(usize::from(is_join), Ordering::SeqCst);
            next.run(request)
        }))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_list_of_another_server_is_read_page_by_page() {
    let (a, b, _folders) = two();
    let alice = a.user("alice");
    let listed = [named_room(&a, &alice, true).await, named_room(&a, &alice, true).await];
    named_room(&a, &alice, false).await;
    let page = async |since: Option<String>, filter: Option<Value>| {
        let server = a.name.clone();
        let query = PublicRoomsQuery { limit: 1, since, filter };
        b.services.remote.request(|reply| RemoteRequest::PublicRooms { server, query, reply }).await
    };
    let first = page(None, None).await.expect("is told");
    let next = first["next_batch"].as_str().expect("more").to_owned();
    let second = page(Some(next), None).await.expect("is told");
    assert_eq!(second.get("next_batch"), None);
    let mut found: Vec<_> =
        [first, second].map(|page| page["chunk"][0]["room_id"].as_str().expect("an id").to_owned()).into();
    found.sort();
    let mut expected = listed.map(|room| room.to_string());
    expected.sort();
    assert_eq!(found, expected);
    for (filter, rooms) in [
        (json!({ "generic_search_term": "behind" }), 1),
        (json!({ "generic_search_term": "nothing like it" }), 0),
        (json!({ "room_types": ["m.space"] }), 0),
        (json!({ "room_types": [null] }), 1),
    ] {
        let found = page(None, Some(filter.clone())).await.expect("is told");
        assert_eq!(found["chunk"].as_array().map(Vec::len), Some(rooms), "{filter}");
    }
    a.stop().await;
    b.stop().await;
}
