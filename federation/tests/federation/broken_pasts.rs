//! Events whose past is told with holes in it: what authorises them is cut in the middle, or is
//! told to be nothing, or what is between them and the room is refused.

use causeway_room::{NewEvent, Pdu, build};
use ruma::{OwnedEventId, RoomVersionId, UserId};
use serde_json::{Value, json};

use crate::{gap_abuse::hand_over, liar::Scene};

impl Scene {
    /// An event that m signs for one of its users.
    fn by(&self, sender: &UserId, refs: [Vec<OwnedEventId>; 2]) -> Pdu {
        let [prev_events, auth_events] = refs;
        let event = NewEvent::new("m.room.message", sender.to_owned(), None, json!({"body": "hello"}));
        let rules = causeway_room::version::rules(&self.version).expect("supported");
        let keys = &self.m.services.server_keys;
        let placement = self.placement(prev_events, auth_events);
        build::build(&rules, &event.expect("an event"), &placement, keys.server_name(), keys.key_pair())
            .expect("is built")
    }

    /// The ids of the room's state on a, and of what authorises it.
    async fn state_ids(&self) -> [Vec<OwnedEventId>; 2] {
        let room = self.room.clone();
        let told = self.a.run(move |services| {
            let head = services.rooms.heads(&room).expect("reads").remove(0);
            services.rooms.state_for_server(&room, &head).expect("reads")
        });
        let told = told.await;
        [[told.state, self.heads().await].concat(), told.auth_chain]
    }

    /// Has m tell single events.
    fn tell(&self, pdus: &[&Pdu]) {
        for pdu in pdus {
            self.lie(format!("/event/{}", pdu.event_id()), json!({"pdus": [pdu.raw()]}));
        }
    }
}

fn id(pdu: &Pdu) -> OwnedEventId {
    pdu.event_id().to_owned()
}

fn raw(pdu: &Pdu) -> Value {
    serde_json::from_str(pdu.raw().get()).expect("JSON")
}

/// Complement's `TestCorruptedAuthChain`.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_authorised_by_an_event_that_nobody_has_changes_nothing() {
    let scene = Scene::of(RoomVersionId::V10).await;
    let member = [("m.room.member", scene.mallory.to_string())];
    let joined = scene.ids(&member).await;
    let keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", "")];
    let base = scene.ids(&keys.map(|(kind, key)| (kind, key.to_owned()))).await;
    let [state, chain] = scene.state_ids().await;
    let (mut names, mut prev, mut cited) = (Vec::new(), scene.heads().await, joined.clone());
    for name in ["A", "B", "C", "D", "E"] {
        let content = json!({"membership": "join", "displayname": name});
        let auth = [base.clone(), cited].concat();
        let renamed = scene.made("m.room.member", Some(scene.mallory.as_str()), content, [prev, auth]);
        (prev, cited) = (vec![id(&renamed)], vec![id(&renamed)]);
        names.push(renamed);
    }
    let auth = [base, cited].concat();
    let before = scene.said("before", prev, &auth);
    let between = scene.said("between", vec![id(&before)], &auth);
    let sent = scene.said("sent", vec![id(&between)], &auth);
    scene.lie("/get_missing_events/", json!({"events": [raw(&between)]}));
    let mut told: Vec<_> = state.iter().filter(|event_id| !joined.contains(event_id)).collect();
    let last = id(&names[4]);
    told.push(&last);
    let known = chain.iter().chain(&joined).cloned();
    let chain: Vec<_> = known.chain(names.iter().take(4).map(id)).collect();
    scene.lie("/state_ids/", json!({"pdu_ids": told, "auth_chain_ids": chain}));
    // All but B.
    scene.tell(&[&names[0], &names[2], &names[3], &names[4], &before, &between, &sent]);
    hand_over(&scene.m, &scene.a, &sent).await;
    assert_eq!(scene.ids(&member).await, joined, "he is called what he was");
    let strong = scene.authority(true).await;
    let sentinel = scene.said("sentinel", joined.clone(), &strong);
    assert_eq!(hand_over(&scene.m, &scene.a, &sentinel).await, json!({}));
    assert!(scene.has(sentinel.event_id()).await);
    assert_eq!(scene.ids(&member).await, joined, "nor do names that nobody can prove come with it");
    scene.stop().await;
}

/// Sytest's "Federation handles empty `auth_events` in `state_ids` sanely".
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_said_to_be_authorised_by_nothing_bridges_a_gap_all_the_same() {
    for version in [RoomVersionId::V6, RoomVersionId::V12] {
        let scene = Scene::of(version).await;
        let (heads, strong) = (scene.heads().await, scene.authority(true).await);
        let [state, _] = scene.state_ids().await;
        let absent = scene.said("absent", heads.clone(), &strong);
        let first = scene.said("first", [heads, vec![id(&absent)]].concat(), &strong);
        let second = scene.said("second", vec![id(&first)], &strong);
        scene.lie("/get_missing_events/", json!({"events": [raw(&first)]}));
        scene.lie("/state_ids/", json!({"pdu_ids": state, "auth_chain_ids": []}));
        let before = scene.foundations().await;
        assert_eq!(hand_over(&scene.m, &scene.a, &second).await, json!({}));
        assert!(scene.has(first.event_id()).await && scene.has(second.event_id()).await);
        assert!(!scene.has(absent.event_id()).await);
        assert_eq!(scene.foundations().await, before);
        scene.stop().await;
    }
}

/// Sytest's "Forward extremities remain so even after the next events are populated as outliers".
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_only_refused_events_follow_stays_one() {
    let scene = Scene::of(RoomVersionId::V10).await;
    let levels = json!({"users": {scene.alice.as_str(): 100, scene.mallory.as_str(): 100}});
    scene.a.send(&scene.room, &scene.alice, "m.room.power_levels", Some(""), levels).await;
    let (end, strong) = (scene.heads().await, scene.authority(true).await);
    let [state, chain] = scene.state_ids().await;
    let piece = scene.made("org.example.piece", Some("C"), json!({"n": 1}), [end.clone(), strong.clone()]);
    let (ghost, cited) = (scene.m.user("ghost"), strong[1..].to_vec());
    let refused = scene.by(&ghost, [vec![id(&piece)], cited.clone()]);
    let sent = scene.by(&ghost, [vec![id(&refused)], cited.clone()]);
    scene.lie("/get_missing_events/", json!({"events": [raw(&refused)]}));
    scene.lie("/state_ids/", json!({"pdu_ids": state, "auth_chain_ids": chain}));
    scene.tell(&[&piece]);
    assert!(hand_over(&scene.m, &scene.a, &sent).await["error"].is_string());
    assert_eq!(scene.heads().await, end);
    let next = scene.by(&ghost, [vec![id(&sent)], cited]);
    assert!(hand_over(&scene.m, &scene.a, &next).await["error"].is_string());
    assert_eq!(scene.heads().await, end);
    scene.a.send(&scene.room, &scene.alice, "m.room.message", None, json!({"body": "on"})).await;
    scene.stop().await;
}

/// Complement's `TestNetworkPartitionOrdering`.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_beyond_a_cut_stands_where_it_came() {
    let scene = Scene::of(RoomVersionId::V12).await;
    let (heads, strong) = (scene.heads().await, scene.authority(true).await);
    let beyond = scene.said("1'", heads, &strong);
    let say = async |n: usize| {
        scene.a.send(&scene.room, &scene.alice, "m.room.message", None, json!({"body": n})).await
    };
    let mut order = Vec::new();
    for n in 1..=4 {
        order.push(say(n).await);
    }
    assert_eq!(hand_over(&scene.m, &scene.a, &beyond).await, json!({}));
    order.push(id(&beyond));
    for n in 5..=7 {
        order.push(say(n).await);
    }
    let places = scene.a.run(move |services| {
        let held = |event_id: &OwnedEventId| services.rooms.held(event_id).expect("reads").expect("is there");
        order.iter().map(|event_id| held(event_id).meta.position).collect::<Vec<_>>()
    });
    let places = places.await;
    assert!(places[0].is_some() && places.is_sorted(), "{places:?}");
    scene.stop().await;
}
