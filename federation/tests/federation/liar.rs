//! A server in the room that lies about its past: about the state before its
//! events, about what authorises them, and with events that can't be.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use causeway_room::{NewEvent, Pdu, Placement, build};
use http::{Method, StatusCode};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId,
    signatures::{hash_and_sign_event, reference_hash},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    gap_abuse::{folders, hand_over, lying, nowhere},
    support::{Network, Server, Shape},
};

/// What `m` answers instead of the truth, by a part of the path.
pub type Lies = Arc<Mutex<HashMap<String, Value>>>;

/// A room of alice's on `a`, with mallory of `m` in it.
pub struct Scene {
    pub a: Server,
    pub m: Server,
    pub alice: OwnedUserId,
    pub mallory: OwnedUserId,
    pub room: OwnedRoomId,
    pub version: RoomVersionId,
    lies: Lies,
    _folders: [TempDir; 2],
}

impl Scene {
    pub async fn of(version: RoomVersionId) -> Self {
        let folders = folders::<2>();
        let mut network = Network::of(&["a.test", "m.test"]);
        let a = network.start("a.test", folders[0].path());
        let lies = Lies::default();
        let told = Arc::clone(&lies);
        let door = lying(move |path| {
            let lies = told.lock().expect("unpoisoned");
            lies.iter().find(|(part, _)| path.contains(part.as_str())).map(|(_, lie)| lie.clone())
        });
        let m =
            network.start_as("m.test", folders[1].path(), Shape { sends: false, door, ..Shape::default() });
        let (alice, mallory) = (a.user("alice"), m.user("mallory"));
        let room = a.create_room(&alice, version.clone()).await;
        m.join(&room, &mallory, &a.name).await.expect("joins");
        Self { a, m, alice, mallory, room, version, lies, _folders: folders }
    }

    pub fn lie(&self, part: impl Into<String>, answer: Value) {
        self.lies.lock().expect("unpoisoned").insert(part.into(), answer);
    }

    /// The ids of pieces of the room's state on `a`.
    pub async fn ids(&self, keys: &[(&'static str, String)]) -> Vec<OwnedEventId> {
        let (room, keys) = (self.room.clone(), keys.to_vec());
        let find = move |services: &causeway_service::Services| {
            let find =
                |(kind, key): &(&str, String)| services.rooms.state_event(&room, kind, key).expect("reads");
            keys.iter().map(|key| find(key).expect("is set").event_id().to_owned()).collect()
        };
        self.a.run(find).await
    }

    /// What authorises mallory; the create event only where it may be cited.
    pub async fn authority(&self, levels: bool) -> Vec<OwnedEventId> {
        let mut keys = vec![("m.room.member", self.mallory.to_string())];
        if levels {
            keys.push(("m.room.power_levels", String::new()));
        }
        if self.version != RoomVersionId::V12 {
            keys.push(("m.room.create", String::new()));
        }
        self.ids(&keys).await
    }

    pub async fn heads(&self) -> Vec<OwnedEventId> {
        let room = self.room.clone();
        self.a.run(move |services| services.rooms.heads(&room).expect("reads")).await
    }

    pub fn placement(&self, prev_events: Vec<OwnedEventId>, auth_events: Vec<OwnedEventId>) -> Placement {
        let origin_server_ts = self.m.services.clock.now_ms();
        let room_id = Some(self.room.clone());
        Placement { room_id, prev_events, auth_events, depth: 50, origin_server_ts }
    }

    /// An event of mallory's.
    pub fn made(&self, kind: &str, key: Option<&str>, content: Value, refs: [Vec<OwnedEventId>; 2]) -> Pdu {
        let [prev_events, auth_events] = refs;
        let event = NewEvent::new(kind, self.mallory.clone(), key.map(str::to_owned), content);
        let rules = causeway_room::version::rules(&self.version).expect("supported");
        let keys = &self.m.services.server_keys;
        let placement = self.placement(prev_events, auth_events);
        build::build(&rules, &event.expect("an event"), &placement, keys.server_name(), keys.key_pair())
            .expect("is built")
    }

    pub fn said(&self, body: &str, prev: Vec<OwnedEventId>, auth: &[OwnedEventId]) -> Pdu {
        self.made("m.room.message", None, json!({"body": body}), [prev, auth.to_vec()])
    }

    pub async fn has(&self, event_id: &EventId) -> bool {
        let event_id = event_id.to_owned();
        self.a.run(move |services| services.rooms.event(&event_id).expect("reads").is_some()).await
    }

    /// What nobody may have changed: levels, join rules and who is in the room.
    pub async fn foundations(&self) -> Vec<OwnedEventId> {
        let keys = [("m.room.power_levels", ""), ("m.room.join_rules", ""), ("m.room.create", "")];
        let mut keys = keys.map(|(kind, key)| (kind, key.to_owned())).to_vec();
        keys.push(("m.room.member", self.alice.to_string()));
        self.ids(&keys).await
    }

    pub async fn stop(self) {
        self.a.stop().await;
        self.m.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_a_room_over_by_what_he_says_its_state_was() {
    let versions = [RoomVersionId::V6, RoomVersionId::V11, RoomVersionId::V12];
    for (version, builds_on_all) in versions.into_iter().flat_map(|one| [(one.clone(), false), (one, true)]) {
        let scene = Scene::of(version).await;
        let banned = json!({"membership": "ban"});
        let eve = format!("@eve:{}", scene.m.name);
        let ban = scene.a.send(&scene.room, &scene.alice, "m.room.member", Some(&eve), banned).await;
        let before = scene.foundations().await;
        let weak = scene.authority(false).await;
        // Levels that name no levels before them, and everything to mallory.
        let levels = json!({"users": {scene.mallory.as_str(): 100}, "state_default": 0});
        let evil = scene.made("m.room.power_levels", Some(""), levels, [nowhere(), weak.clone()]);
        // Beside what nobody has it may name all that is known as its past.
        let known = if builds_on_all { scene.heads().await } else { Vec::new() };
        let bait = scene.said("hehe", [nowhere(), known].concat(), &weak);
        let auth: Vec<_> = weak.iter().map(ToString::to_string).collect();
        let mut state = auth.clone();
        state.extend(scene.ids(&[("m.room.create", String::new())]).await.iter().map(ToString::to_string));
        state.push(evil.event_id().to_string());
        scene.lie("/get_missing_events/", json!({"events": []}));
        scene.lie("/state_ids/", json!({"pdu_ids": state, "auth_chain_ids": auth}));
        scene.lie(format!("/event/{}", evil.event_id()), json!({"pdus": [evil.raw()]}));
        hand_over(&scene.m, &scene.a, &bait).await;
        assert!(scene.has(bait.event_id()).await, "it is bridged");
        assert_eq!(scene.foundations().await, before);
        assert_eq!(scene.ids(&[("m.room.member", eve.clone())]).await, std::slice::from_ref(&ban));
        // Nor does what follows it change anything.
        let topic = json!({"topic": "mine"});
        let auth = [weak, vec![evil.event_id().to_owned()]].concat();
        let topic = scene.made("m.room.topic", Some(""), topic, [vec![bait.event_id().to_owned()], auth]);
        assert!(hand_over(&scene.m, &scene.a, &topic).await["error"].is_string());
        assert_eq!(scene.foundations().await, before);
        assert!(!scene.has(evil.event_id()).await);
        scene
            .a
            .send(&scene.room, &scene.alice, "m.room.topic", Some(""), json!({"topic": "still hers"}))
            .await;
        scene.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cites_a_rejected_event_is_rejected_wherever_it_comes_from() {
    let scene = Scene::of(RoomVersionId::V10).await;
    let (heads, strong) = (scene.heads().await, scene.authority(true).await);
    let levels = json!({"users": {scene.mallory.as_str(): 100}});
    let rejected = scene.made("m.room.power_levels", Some(""), levels, [heads.clone(), strong.clone()]);
    assert!(hand_over(&scene.m, &scene.a, &rejected).await["error"].is_string());
    // An outlier that cites it, and two events that cite the outlier.
    let join_rules = scene.ids(&[("m.room.join_rules", String::new())]).await;
    let weak = scene.authority(false).await;
    let cited = [weak.clone(), join_rules, vec![rejected.event_id().to_owned()]].concat();
    let join = json!({"membership": "join", "test": 1});
    let outlier = scene.made("m.room.member", Some(scene.mallory.as_str()), join, [heads.clone(), cited]);
    let levels = scene.ids(&[("m.room.power_levels", String::new()), ("m.room.create", String::new())]).await;
    let cited = [levels, vec![outlier.event_id().to_owned()]].concat();
    let first = scene.said("first", heads.clone(), &cited);
    let second = scene.said("second", heads.clone(), &cited);
    scene.lie(
        format!("/event_auth/{}/{}", scene.room, first.event_id()),
        json!({"auth_chain": [outlier.raw()]}),
    );
    let sentinel = scene.said("good", vec![second.event_id().to_owned()], &strong);
    let body = json!({"pdus": [first.raw(), second.raw()]});
    let path = "/_matrix/federation/v1/send/rejected";
    let answer = scene.m.state.client().request(&scene.a.name, Method::PUT, path, Some(&body)).await;
    assert_eq!(answer.expect("answers").0, StatusCode::OK);
    for pdu in [&rejected, &outlier, &first, &second] {
        assert!(!scene.has(pdu.event_id()).await);
    }
    // They are no events of the room, so there is no state before them either.
    for (pdu, endpoint) in [(&rejected, "state"), (&outlier, "state_ids"), (&second, "state_ids")] {
        let path = format!("/_matrix/federation/v1/{endpoint}/{}?event_id={}", scene.room, pdu.event_id());
        let answer = scene.m.state.client().request(&scene.a.name, Method::GET, &path, None).await;
        assert_eq!(answer.expect("answers").0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(hand_over(&scene.m, &scene.a, &sentinel).await, json!({}));
    assert!(scene.has(sentinel.event_id()).await, "a rejected event hides nothing that follows it");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_over_a_limit_hides_nothing_that_follows_it() {
    // Too long by bytes in a room that counts characters; too long in any; too large.
    let wide = "\u{1f4a5}".repeat(70);
    let cases = [
        (RoomVersionId::V10, wide.clone(), String::new()),
        (RoomVersionId::V12, wide, String::new()),
        (RoomVersionId::V10, "x".repeat(300), String::new()),
        (RoomVersionId::V12, String::new(), "x".repeat(70_000)),
    ];
    for (version, state_key, body) in cases {
        let scene = Scene::of(version).await;
        let (heads, strong) = (scene.heads().await, scene.authority(true).await);
        let (bad_id, bad) = overlong(&scene, &state_key, &body, [heads.clone(), strong.clone()]);
        let good = scene.said("good", vec![bad_id.clone()], &strong);
        scene.lie("/get_missing_events/", json!({"events": [bad]}));
        let room = scene.room.clone();
        let state = scene.a.run(move |services| {
            let head = services.rooms.heads(&room).expect("reads").remove(0);
            services.rooms.state_for_server(&room, &head).expect("reads")
        });
        let state = state.await;
        // After mallory's join, that is.
        let mut ids = [state.state, heads].concat();
        ids.push(bad_id.clone());
        scene.lie("/state_ids/", json!({"pdu_ids": ids, "auth_chain_ids": state.auth_chain}));
        let before = scene.foundations().await;
        assert_eq!(hand_over(&scene.m, &scene.a, &good).await, json!({}));
        assert!(scene.has(good.event_id()).await && !scene.has(&bad_id).await);
        assert_eq!(scene.foundations().await, before);
        scene.stop().await;
    }
}

/// A state event that breaks a limit, signed all the same.
fn overlong(
    scene: &Scene,
    state_key: &str,
    body: &str,
    [prev, auth]: [Vec<OwnedEventId>; 2],
) -> (OwnedEventId, Value) {
    let rules = causeway_room::version::rules(&scene.version).expect("supported");
    let key = Some(state_key.to_owned());
    let event = NewEvent::new("org.causeway.item", scene.mallory.clone(), key, json!({}));
    let mut object = build::template(&rules, &event.expect("an event"), &scene.placement(prev, auth));
    // Added where no limit looks at it until it is signed.
    let keys = &scene.m.services.server_keys;
    hash_and_sign_event(scene.m.name.as_str(), keys.key_pair(), &mut object, &rules.redaction)
        .expect("signs");
    if !body.is_empty() {
        let padding = ruma::CanonicalJsonValue::String(body.to_owned());
        let content = object.get_mut("content").expect("is there");
        let ruma::CanonicalJsonValue::Object(content) = content else { panic!("is an object") };
        content.insert("padding".to_owned(), padding);
    }
    let id = format!("${}", reference_hash(&object, &rules).expect("hashes"));
    (OwnedEventId::try_from(id).expect("an id"), serde_json::to_value(object).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_that_is_told_holds_only_events_of_the_room() {
    let scene = Scene::of(RoomVersionId::V10).await;
    let before = scene.foundations().await;
    // Mallory rules a room of her own, whose levels she puts into alice's.
    let own = scene.m.create_room(&scene.mallory, RoomVersionId::V10).await;
    let elsewhere = scene.m.run({
        let own = own.clone();
        move |services| {
            services.rooms.state_event(&own, "m.room.power_levels", "").expect("reads").expect("is set")
        }
    });
    let elsewhere = elsewhere.await;
    let strong = scene.authority(true).await;
    let bait = scene.said("hello", nowhere(), &strong);
    let ids: Vec<_> =
        strong.iter().map(ToString::to_string).chain([elsewhere.event_id().to_string()]).collect();
    scene.lie("/get_missing_events/", json!({"events": [elsewhere.raw()]}));
    scene.lie("/state_ids/", json!({"pdu_ids": ids, "auth_chain_ids": [elsewhere.event_id()]}));
    scene.lie("/event/", json!({"pdus": [elsewhere.raw()]}));
    hand_over(&scene.m, &scene.a, &bait).await;
    assert!(!scene.has(elsewhere.event_id()).await);
    assert_eq!(scene.foundations().await, before);
    // Nor does citing it help.
    let cited = [scene.authority(false).await, vec![elsewhere.event_id().to_owned()]].concat();
    let topic = scene.made("m.room.topic", Some(""), json!({"topic": "mine"}), [scene.heads().await, cited]);
    assert!(hand_over(&scene.m, &scene.a, &topic).await["error"].is_string());
    assert!(!scene.has(topic.event_id()).await);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_its_past_is_taken_when_that_has_come() {
    let scene = Scene::of(RoomVersionId::V12).await;
    let (heads, strong) = (scene.heads().await, scene.authority(true).await);
    let first = scene.said("first", heads, &strong);
    let second = scene.said("second", vec![first.event_id().to_owned()], &strong);
    // Nothing can be had of it: `m` does not hold these events.
    assert!(hand_over(&scene.m, &scene.a, &second).await["error"].is_string());
    assert_eq!(hand_over(&scene.m, &scene.a, &first).await, json!({}));
    let body = json!({"pdus": [second.raw()]});
    let path = "/_matrix/federation/v1/send/again";
    let answer = scene.m.state.client().request(&scene.a.name, Method::PUT, path, Some(&body)).await;
    assert_eq!(answer.expect("answers").0, StatusCode::OK);
    assert!(scene.has(second.event_id()).await);
    scene.stop().await;
}
