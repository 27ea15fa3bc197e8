//! Events that are not what their endpoint is for, or not who they say they
//! are: joins nobody vouched for, invites nobody sent, rooms without a beginning.

use causeway_room::{NewEvent, Pdu, build};
use http::{Method, StatusCode};
use ruma::{OwnedEventId, RoomVersionId, UserId};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{
    gap_abuse::{folders, hand_over, lying, made},
    liar::Scene,
    support::{Network, Server, Shape},
};

impl Scene {
    /// An event that m signs, whoever is said to send it.
    async fn signed(&self, sender: &UserId, kind: &str, key: Option<&str>, content: Value) -> Pdu {
        let event = NewEvent::new(kind, sender.to_owned(), key.map(str::to_owned), content);
        let mut auth = self.ids(&[("m.room.power_levels", String::new())]).await;
        auth.extend(self.ids(&[("m.room.join_rules", String::new())]).await);
        if self.version != RoomVersionId::V12 {
            auth.extend(self.ids(&[("m.room.create", String::new())]).await);
        }
        let rules = causeway_room::version::rules(&self.version).expect("supported");
        let keys = &self.m.services.server_keys;
        let placement = self.placement(self.heads().await, auth);
        build::build(&rules, &event.expect("an event"), &placement, keys.server_name(), keys.key_pair())
            .expect("is built")
    }

    /// What a answers when m puts an event to an endpoint.
    async fn put(&self, endpoint: &str, event_id: &str, body: &Value) -> (StatusCode, Value) {
        let path = format!("/_matrix/federation/{endpoint}/{}/{event_id}", self.room);
        let answer = self.m.state.client().request(&self.a.name, Method::PUT, &path, Some(body)).await;
        let (status, body) = answer.expect("answers");
        (status, serde_json::from_slice(&body).expect("JSON"))
    }
}

fn body(pdu: &Pdu) -> Value {
    serde_json::from_str(pdu.raw().get()).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_of_membership_take_nothing_else() {
    let scene = Scene::of(RoomVersionId::V10).await;
    let mia = scene.m.user("mia");
    let (own, other) = (mia.as_str(), scene.mallory.as_str());
    let membership = |word: &str| json!({"membership": word});
    for (endpoint, word) in [
        ("v1/send_join", "join"),
        ("v2/send_join", "join"),
        ("v1/send_leave", "leave"),
        ("v2/send_leave", "leave"),
        ("v1/send_knock", "knock"),
    ] {
        let wrong = if word == "join" { "leave" } else { "join" };
        let (member, alice) = ("m.room.member", scene.alice.as_str());
        let forged = [
            scene.signed(&mia, "m.room.message", None, json!({"body": "hello"})).await,
            scene.signed(&mia, member, None, membership(word)).await,
            scene.signed(&mia, member, Some(other), membership(word)).await,
            scene.signed(&mia, member, Some(own), membership(wrong)).await,
            scene.signed(&mia, "m.room.topic", Some(""), membership(word)).await,
            scene.signed(&scene.alice, member, Some(alice), membership(word)).await,
        ];
        for pdu in &forged {
            let (status, answer) = scene.put(endpoint, pdu.event_id().as_str(), &body(pdu)).await;
            assert!(status.is_client_error(), "{endpoint} {}: {answer}", pdu.raw());
            assert!(!scene.has(pdu.event_id()).await);
        }
        let good = scene.signed(&mia, member, Some(own), membership(word)).await;
        let (status, _) = scene.put(endpoint, scene.heads().await[0].as_str(), &body(&good)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "another id in the address");
        let mut tampered = body(&good);
        tampered["content"]["displayname"] = "another".into();
        assert_eq!(scene.put(endpoint, good.event_id().as_str(), &tampered).await.0, StatusCode::FORBIDDEN);
        let mut unsigned = body(&good);
        unsigned["signatures"] = json!({"m.test": {"ed25519:nope": "AAAA"}});
        assert_eq!(scene.put(endpoint, good.event_id().as_str(), &unsigned).await.0, StatusCode::FORBIDDEN);
    }
    // The one that is right is taken.
    let join = scene.signed(&mia, "m.room.member", Some(own), membership("join")).await;
    let (status, answer) = scene.put("v2/send_join", join.event_id().as_str(), &body(&join)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_vouched_for_without_the_vouchers_signature() {
    let folders = folders::<3>();
    let mut network = Network::of(&["a.test", "c.test", "m.test"]);
    let a = network.start("a.test", folders[0].path());
    let c = network.start("c.test", folders[1].path());
    let m = network.start_with("m.test", folders[2].path(), false);
    let (alice, carol, mallory) = (a.user("alice"), c.user("carol"), m.user("mallory"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    c.join(&room, &carol, &a.name).await.expect("joins");
    let allow = json!([{"type": "m.room_membership", "room_id": "!nowhere:a.test"}]);
    let rules = json!({"join_rule": "restricted", "allow": allow});
    a.send(&room, &alice, "m.room.join_rules", Some(""), rules).await;
    m.join(&room, &mallory, &a.name).await.expect_err("is in no such room");

    let (named, voucher) = (room.clone(), carol.to_string());
    let (heads, auth): (Vec<OwnedEventId>, Vec<OwnedEventId>) = a
        .run(move |services| {
            let keys = [("m.room.power_levels", ""), ("m.room.join_rules", ""), ("m.room.member", &voucher)];
            let find =
                |(kind, key)| services.rooms.state_event(&named, kind, key).expect("reads").expect("is set");
            let auth = keys.map(find).map(|event| event.event_id().to_owned()).to_vec();
            (services.rooms.heads(&named).expect("reads"), auth)
        })
        .await;
    let content = json!({"membership": "join", "join_authorised_via_users_server": carol});
    let join = NewEvent::new("m.room.member", mallory.clone(), Some(mallory.to_string()), content);
    let join = made(&m, &join.expect("an event"), &room, [heads, auth]);
    for version in ["v1", "v2"] {
        let path = format!("/_matrix/federation/{version}/send_join/{room}/{}", join.event_id());
        let answer = m.state.client().request(&a.name, Method::PUT, &path, Some(&body(&join))).await;
        assert_eq!(answer.expect("answers").0, StatusCode::FORBIDDEN);
    }
    assert!(hand_over(&m, &a, &join).await["error"].is_string());
    let joined = a.run(move |services| services.rooms.is_joined(&room, &mallory).expect("reads")).await;
    assert!(!joined);
    for server in [a, c, m] {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invites_are_taken_from_the_senders_server_only() {
    let scene = Scene::of(RoomVersionId::V12).await;
    let dora = scene.a.register("dora").await;
    let invite = json!({"membership": "invite"});
    let key = Some(dora.as_str());
    let good = scene.signed(&scene.mallory, "m.room.member", key, invite.clone()).await;
    let wrap = |event: Value| json!({"room_version": "12", "event": event, "invite_room_state": []});
    let as_alice = scene.signed(&scene.alice, "m.room.member", key, invite.clone()).await;
    let nobodys = scene.signed(&scene.mallory, "m.room.member", Some("@x:c.test"), invite.clone()).await;
    let no_invite = scene.signed(&scene.mallory, "m.room.member", key, json!({"membership": "ban"})).await;
    for pdu in [&as_alice, &nobodys, &no_invite] {
        let (status, answer) = scene.put("v2/invite", pdu.event_id().as_str(), &wrap(body(pdu))).await;
        assert!(status.is_client_error(), "{answer}");
    }
    let mut unsigned = body(&good);
    unsigned["signatures"] = json!({});
    let mut tampered = body(&good);
    tampered["content"]["reason"] = "another".into();
    for forged in [unsigned, tampered] {
        let (status, answer) = scene.put("v2/invite", good.event_id().as_str(), &wrap(forged)).await;
        assert!(status.is_client_error(), "{answer}");
    }
    let other = json!({"room_version": "99", "event": body(&good)});
    let (status, answer) = scene.put("v2/invite", good.event_id().as_str(), &other).await;
    assert_eq!(
        (status, &answer["errcode"]),
        (StatusCode::BAD_REQUEST, &json!("M_INCOMPATIBLE_ROOM_VERSION"))
    );
    // Another room's beginning is not this one's (MSC4311).
    let other = scene.m.create_room(&scene.mallory, RoomVersionId::V12).await;
    let [create, others] = [scene.room.clone(), other].map(|room| {
        let find = move |services: &causeway_service::Services| {
            services.rooms.state_event(&room, "m.room.create", "").expect("reads").expect("is there")
        };
        scene.m.run(find)
    });
    let (create, others) = (body(&*create.await), body(&*others.await));
    let told =
        |create: &Value| json!({"room_version": "12", "event": body(&good), "invite_room_state": [create]});
    let (status, answer) = scene.put("v2/invite", good.event_id().as_str(), &told(&others)).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")));
    let (status, answer) = scene.put("v2/invite", good.event_id().as_str(), &told(&create)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(answer["event"]["signatures"]["a.test"].is_object());
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_with_numbers_that_canonical_json_lacks_are_refused() {
    let scene = Scene::of(RoomVersionId::V12).await;
    let (mia, dora) = (scene.m.user("mia"), scene.a.register("dora").await);
    for (endpoint, word) in
        [("send_join", "join"), ("send_leave", "leave"), ("send_knock", "knock"), ("invite", "invite")]
    {
        let (sender, about) = if word == "invite" { (&scene.mallory, &dora) } else { (&mia, &mia) };
        let content = json!({"membership": word});
        let pdu = scene.signed(sender, "m.room.member", Some(about.as_str()), content).await;
        let mut fraction = body(&pdu);
        fraction["content"]["n"] = 1.5.into();
        let (version, sent) = match word {
            "invite" => ("v2", json!({"room_version": "12", "event": fraction, "invite_room_state": []})),
            "knock" => ("v1", fraction),
            _ => ("v2", fraction),
        };
        let uri = format!("/_matrix/federation/{version}/{endpoint}/{}/{}", scene.room, pdu.event_id());
        let request = scene.m.signed_request(&scene.a.name, &uri, &sent.to_string());
        let answer = causeway_federation::router(scene.a.state.clone()).oneshot(request).await;
        assert_eq!(answer.expect("an answer").status(), StatusCode::BAD_REQUEST, "{endpoint}");
        assert!(!scene.has(pdu.event_id()).await);
    }
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_endpoint_serves_a_server_that_is_shut_out() {
    let scene = Scene::of(RoomVersionId::V12).await;
    let said = scene.a.send(&scene.room, &scene.alice, "m.room.message", None, json!({"body": "said"})).await;
    let (mia, dora) = (scene.m.user("mia"), scene.a.register("dora").await);
    let member = async |who: &UserId, word: &str| {
        let sender = if word == "invite" { &scene.mallory } else { &mia };
        scene.signed(sender, "m.room.member", Some(who.as_str()), json!({"membership": word})).await
    };
    let (join, leave) = (member(&mia, "join").await, member(&mia, "leave").await);
    let (knock, invite) = (member(&mia, "knock").await, member(&dora, "invite").await);
    let acl = json!({"allow": ["*"], "deny": ["m.test"]});
    scene.a.send(&scene.room, &scene.alice, "m.room.server_acl", Some(""), acl).await;
    let wrapped = json!({"room_version": "12", "event": body(&invite)});
    for (endpoint, pdu, sent) in [
        ("v1/send_join", &join, body(&join)),
        ("v2/send_join", &join, body(&join)),
        ("v1/send_leave", &leave, body(&leave)),
        ("v2/send_leave", &leave, body(&leave)),
        ("v1/send_knock", &knock, body(&knock)),
        ("v2/invite", &invite, wrapped),
    ] {
        let (status, answer) = scene.put(endpoint, pdu.event_id().as_str(), &sent).await;
        assert_eq!(
            (status, &answer["errcode"]),
            (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")),
            "{endpoint}"
        );
    }
    let room = &scene.room;
    let between = json!({"earliest_events": [], "latest_events": [said], "limit": 10});
    let own = "/_matrix/federation/unstable/org.causeway/rooms";
    for (method, path, sent) in [
        (Method::POST, format!("/_matrix/federation/v1/get_missing_events/{room}"), Some(between)),
        (Method::GET, format!("/_matrix/federation/v1/timestamp_to_event/{room}?ts=1&dir=f"), None),
        (Method::POST, format!("{own}/{room}/changes"), Some(json!({"vector": {}}))),
        (Method::POST, format!("{own}/{room}/values"), Some(json!({"ids": []}))),
        (Method::POST, format!("{own}/{room}/adopted"), Some(json!({"events": []}))),
    ] {
        let answer = scene.m.state.client().request(&scene.a.name, method, &path, sent.as_ref()).await;
        let (status, answer) = answer.expect("answers");
        let answer = String::from_utf8_lossy(&answer);
        assert!(status.is_client_error() && !answer.contains("said"), "{path}: {status} {answer}");
    }
    // Short-lived units about the room are skipped as well.
    let typing = json!({"room_id": room, "user_id": scene.mallory, "typing": true});
    let unit = json!({"edus": [{"edu_type": "m.typing", "content": typing}]});
    let path = "/_matrix/federation/v1/send/shut-out";
    let answer = scene.m.state.client().request(&scene.a.name, Method::PUT, path, Some(&unit)).await;
    assert_eq!(answer.expect("answers").0, StatusCode::OK);
    let named = room.clone();
    assert!(scene.a.run(move |services| services.typing.next_expiry_ms([&*named])).await.is_none());
    scene.stop().await;
}

/// A room of mallory's on m, whose answer to a join is what `lie` makes of the truth.
async fn joins(lie: impl FnOnce(&mut Value)) -> Result<(), String> {
    let folders = folders::<2>();
    let mut network = Network::of(&["a.test", "m.test"]);
    let a = network.start("a.test", folders[0].path());
    let answer = std::sync::Arc::new(std::sync::Mutex::new(Value::Null));
    let told = std::sync::Arc::clone(&answer);
    let door =
        lying(move |path| path.contains("/send_join/").then(|| told.lock().expect("unpoisoned").clone()));
    let m = network.start_as("m.test", folders[1].path(), Shape { door, ..Shape::default() });
    let (alice, mallory) = (a.user("alice"), m.user("mallory"));
    let room = m.create_room(&mallory, RoomVersionId::V10).await;
    m.send(&room, &mallory, "m.room.topic", Some(""), json!({"topic": "t"})).await;
    let mut truth = all_of(&m, &room).await;
    lie(&mut truth);
    *answer.lock().expect("unpoisoned") = truth;
    let joined = a.join(&room, &alice, &m.name).await.map_err(|error| error.message);
    let is_there = a.run(move |services| services.rooms.is_joined(&room, &alice).unwrap_or_default()).await;
    assert_eq!(is_there, joined.is_ok(), "the room is there or not at all");
    a.stop().await;
    m.stop().await;
    joined
}

/// The answer to a join of a room that m made and nobody else is in.
async fn all_of(m: &Server, room: &ruma::RoomId) -> Value {
    let room = room.to_owned();
    m.run(move |services| {
        let rooms = &services.rooms;
        let said = rooms.heads(&room).expect("reads").remove(0);
        let before = rooms.state_for_server(&room, &said).expect("reads");
        let raw = |ids| {
            let pdus = rooms.state_pdus_for_server(ids).expect("reads");
            pdus.iter()
                .map(|pdu| serde_json::from_str(pdu.raw().get()).expect("JSON"))
                .collect::<Vec<Value>>()
        };
        json!({"origin": "m.test", "state": raw(before.state), "auth_chain": raw(before.auth_chain)})
    })
    .await
}

fn of_type<'a>(answer: &'a mut Value, part: &str, kind: &str) -> impl Iterator<Item = &'a mut Value> {
    let kind = kind.to_owned();
    answer[part]
        .as_array_mut()
        .expect("a list")
        .iter_mut()
        .filter(move |event| event["type"] == kind.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_needs_a_room_with_its_beginning() {
    joins(|_| ()).await.expect("the truth is taken");
    let without = |answer: &mut Value| {
        for part in ["state", "auth_chain"] {
            answer[part].as_array_mut().expect("a list").retain(|event| event["type"] != "m.room.create");
        }
    };
    joins(without).await.expect_err("there is no create event");
    joins(|answer| answer["state"] = json!("all of it")).await.expect_err("malformed");
    // Signed anew, but of another version than the template said.
    let other = |answer: &mut Value| {
        for part in ["state", "auth_chain"] {
            for create in of_type(answer, part, "m.room.create") {
                create["content"]["room_version"] = "nonsense".into();
            }
        }
    };
    joins(other).await.expect_err("the create event is not what was signed");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_joined_room_that_cannot_be_verified_are_left_out() {
    for signatures in
        [json!({}), json!({"m.test": {"ed25519:1": "AAAA"}}), json!({"gone.test": {"ed25519:1": "AAAA"}})]
    {
        let lie = |answer: &mut Value| {
            for topic in of_type(answer, "state", "m.room.history_visibility") {
                topic["signatures"] = signatures.clone();
            }
            let state = answer["state"].as_array_mut().expect("a list");
            state.push(json!({"type": 5}));
            state.push(json!(null));
        };
        joins(lie).await.expect("one event that is wrong keeps nobody out");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_no_text_keeps_nobody_out() {
    let folders = folders::<2>();
    let mut network = Network::of(&["a.test", "m.test"]);
    let a = network.start("a.test", folders[0].path());
    let m = network.start("m.test", folders[1].path());
    let (alice, mallory) = (a.user("alice"), m.user("mallory"));
    let room = m.create_room(&mallory, RoomVersionId::V10).await;
    let renamed = json!({"membership": "join", "displayname": {"first": "M"}});
    let renamed = m.send(&room, &mallory, "m.room.member", Some(mallory.as_str()), renamed).await;
    a.join(&room, &alice, &m.name).await.expect("joins");
    let read = move |services: &causeway_service::Services| {
        services.rooms.state_event(&room, "m.room.member", mallory.as_str()).expect("reads")
    };
    assert_eq!(a.run(read).await.expect("is there").event_id(), renamed);
    a.stop().await;
    m.stop().await;
}
