//! Two servers whose events are carried by hand.

use std::collections::BTreeSet;

use causeway_room::{Placement, build, version};
use causeway_storage::{Direction, StreamPosition, device_lists as lists, outbox};
use ruma::{RoomId, events::room::member::MembershipState, server_name};

use super::*;
use crate::rooms::VersionRules;

/// Takes a signed event over to another server.
pub(crate) fn carry(pdu: &Pdu, rules: &VersionRules) -> Pdu {
    Pdu::parse(&rules.rules, pdu.raw().get()).expect("was made by a server")
}

/// What a join of a user of `guest` through `host` is answered with.
pub(super) struct Answer {
    pub(super) rules: Arc<VersionRules>,
    pub(super) join: Pdu,
    pub(super) state: Vec<Pdu>,
    pub(super) chain: Vec<Pdu>,
}

/// Asks `host` to let a user of `guest` join, as the doors would.
pub(super) fn ask_to_join(
    host: &Server,
    guest: &Server,
    room_id: &RoomId,
    user_id: &UserId,
) -> Result<Answer, RoomError> {
    let join = MembershipState::Join;
    let supported = Some(version::SUPPORTED.as_slice());
    let (version, template) = host.rooms.member_template(room_id, user_id, &join, supported)?;
    let rules = VersionRules::of(&version)?;
    let mut object = template;
    ruma::signatures::add_content_hash_to_event(&mut object).expect("hashes");
    guest.rooms.sign(&rules, &mut object).expect("signs");
    let pdu = Pdu::from_object(&rules.rules, object).expect("is an event");
    let given = host.rooms.accept_member(guest.rooms.server_name(), room_id, carry(&pdu, &rules), &join)?;
    let carry_all = |pdus: &[Arc<Pdu>]| pdus.iter().map(|pdu| carry(pdu, &rules)).collect::<Vec<_>>();
    let (state, chain) = (carry_all(&given.state), carry_all(&given.auth_chain));
    Ok(Answer { join: carry(&given.event, &rules), state, chain, rules })
}

/// Joins a user of `guest` through `host`, as the doors would.
pub(crate) fn join_over(
    host: &Server,
    guest: &Server,
    room_id: &RoomId,
    user_id: &UserId,
) -> Result<(), RoomError> {
    let Answer { rules, join, state, chain } = ask_to_join(host, guest, room_id, user_id)?;
    guest.rooms.import_join(room_id, &rules, join, state, chain)
}

/// Everything that `from` queued for `to`, in order, and not delivered before.
pub(crate) fn queued(from: &Server, to: &Server, delivered: &mut BTreeSet<OwnedEventId>) -> Vec<Arc<Pdu>> {
    let rows = outbox::rows(&from.database, to.rooms.server_name(), StreamPosition::default(), 10_000)
        .expect("reads");
    let mut events = Vec::new();
    for row in rows {
        if let outbox::Entry::Pdu(event_id) = row.entry
            && delivered.insert(event_id.clone())
        {
            events.push(from.rooms.held(&event_id).expect("reads").expect("is there").pdu);
        }
    }
    events
}

pub(crate) fn deliver(
    from: &Server,
    to: &Server,
    room_id: &RoomId,
    pdus: &[Arc<Pdu>],
) -> Vec<(OwnedEventId, Received)> {
    let rules = from.rooms.version_rules(room_id).expect("known");
    let pdus = pdus.iter().map(|pdu| carry(pdu, &rules)).collect();
    to.rooms.receive_pdus(from.rooms.server_name(), room_id, pdus).expect("reads and writes")
}

/// Two servers with a public room of alice's, which bob of the other has joined.
pub(super) fn pair() -> (Server, Server, OwnedRoomId) {
    let (a, b) = (Server::new("a.example"), Server::new("b.example"));
    let room_id = a.create(&a.user("alice"), Preset::PublicChat);
    join_over(&a, &b, &room_id, &b.user("bob")).expect("joins");
    (a, b, room_id)
}

#[test]
fn a_join_brings_the_same_state_and_events_flow_both_ways() {
    let (a, b, room_id) = pair();
    assert_eq!(a.rooms.state_root(&room_id).unwrap(), b.rooms.state_root(&room_id).unwrap());
    assert_eq!(b.rooms.joined_servers(&room_id).unwrap(), ["a.example", "b.example"]);
    let (mut to_b, mut to_a) = (BTreeSet::new(), BTreeSet::new());
    a.send(&room_id, state(&a.user("alice"), "m.room.topic", "", json!({ "topic": "from a" })));
    let events = queued(&a, &b, &mut to_b);
    assert_eq!(events.len(), 1, "the join of b's own user is not sent to b");
    assert!(deliver(&a, &b, &room_id, &events).iter().all(|(_, result)| *result == Received::Accepted));
    assert!(deliver(&a, &b, &room_id, &events).iter().all(|(_, result)| *result == Received::Duplicate));
    let answer = b.send(&room_id, message(&b.user("bob"), "from b"));
    deliver(&b, &a, &room_id, &queued(&b, &a, &mut to_a));
    assert_eq!(a.rooms.heads(&room_id).unwrap(), [answer.event_id().to_owned()]);
    assert_eq!(a.rooms.state_root(&room_id).unwrap(), b.rooms.state_root(&room_id).unwrap());
}

#[test]
fn a_third_server_is_told_of_a_join_and_a_kick() {
    let (a, b, room_id) = pair();
    let c = Server::new("c.example");
    join_over(&a, &c, &room_id, &c.user("carol")).unwrap();
    let mut to_b = BTreeSet::new();
    deliver(&a, &b, &room_id, &queued(&a, &b, &mut to_b));
    assert_eq!(b.membership(&room_id, &c.user("carol")).as_deref(), Some("join"));
    a.rooms.kick(&room_id, &a.user("alice"), &c.user("carol"), None).unwrap();
    let mut to_c = BTreeSet::new();
    deliver(&a, &c, &room_id, &queued(&a, &c, &mut to_c));
    assert_eq!(c.membership(&room_id, &c.user("carol")).as_deref(), Some("leave"));
    assert!(!c.rooms.is_joined_here(&room_id).unwrap());
    a.send(&room_id, message(&a.user("alice"), "not for c"));
    assert!(queued(&a, &c, &mut to_c).is_empty());
}

#[test]
fn both_sides_of_a_cut_end_with_the_same_state() {
    let (a, b, room_id) = pair();
    a.rooms
        .send(
            &room_id,
            state(
                &a.user("alice"),
                "m.room.power_levels",
                "",
                json!({ "users_default": 50, "state_default": 50 }),
            ),
            None,
        )
        .unwrap();
    let (mut to_b, mut to_a) = (BTreeSet::new(), BTreeSet::new());
    deliver(&a, &b, &room_id, &queued(&a, &b, &mut to_b));
    for n in 0..20 {
        let item = |user: &UserId, value: &str| {
            state(user, "org.causeway.item", &format!("k{n}"), json!({ "v": value }))
        };
        a.clock.advance(std::time::Duration::from_millis(3));
        b.clock.advance(std::time::Duration::from_millis(2));
        a.send(&room_id, item(&a.user("alice"), "a"));
        b.send(&room_id, item(&b.user("bob"), "b"));
    }
    let (for_b, for_a) = (queued(&a, &b, &mut to_b), queued(&b, &a, &mut to_a));
    assert!(deliver(&a, &b, &room_id, &for_b).iter().all(|(_, result)| *result == Received::Accepted));
    assert!(deliver(&b, &a, &room_id, &for_a).iter().all(|(_, result)| *result == Received::Accepted));
    assert_eq!(a.rooms.heads(&room_id).unwrap().len(), 2);
    assert_eq!(a.rooms.state_root(&room_id).unwrap(), b.rooms.state_root(&room_id).unwrap());
    // The next event joins the two ends again.
    let joined = a.send(&room_id, message(&a.user("alice"), "both seen"));
    assert_eq!(joined.prev_events().len(), 2);
    deliver(&a, &b, &room_id, &queued(&a, &b, &mut to_b));
    assert_eq!(b.rooms.heads(&room_id).unwrap(), [joined.event_id().to_owned()]);
    let members = a.rooms.state_of_kind(&room_id, "org.causeway.item").unwrap();
    assert_eq!(members.len(), 20);
    assert_eq!(a.rooms.state_root(&room_id).unwrap(), b.rooms.state_root(&room_id).unwrap());
}

#[test]
fn few_missing_events_hold_all_that_is_named_however_far_back_it_is() {
    let (a, b, room_id) = pair();
    let (alice, b_name) = (a.user("alice"), b.rooms.server_name());
    let shallow = b.send(&room_id, message(&b.user("bob"), "while cut off"));
    let earliest = shallow.prev_events().to_vec();
    let deep: Vec<_> = (0..15).map(|n| a.send(&room_id, message(&alice, &n.to_string()))).collect();
    deliver(&b, &a, &room_id, std::slice::from_ref(&shallow));
    let latest = [a.send(&room_id, message(&alice, "names both ends")).event_id().to_owned()];
    let gap = a.rooms.missing_events_for_server(b_name, &room_id, &earliest, &latest, 10, 0).expect("reads");
    let ids: Vec<_> = gap.iter().map(|pdu| pdu.event_id()).collect();
    assert_eq!(ids.len(), 10);
    assert_eq!((ids[0], ids[9]), (shallow.event_id(), deep[14].event_id()), "both, oldest first");
}

#[test]
fn what_is_missing_is_named_and_nothing_is_stored() {
    let (a, b, room_id) = pair();
    let alice = a.user("alice");
    let events: Vec<_> = (0..4).map(|n| a.send(&room_id, message(&alice, &format!("{n}")))).collect();
    let results = deliver(&a, &b, &room_id, &events[2..]);
    let prev = vec![events[1].event_id().to_owned()];
    assert_eq!(results[0].1, Received::Missing { prev, auth: Vec::new() });
    assert!(b.rooms.held(events[3].event_id()).unwrap().is_none());
    let earliest = b.rooms.heads(&room_id).unwrap();
    let latest = [events[2].event_id().to_owned()];
    let gap = a
        .rooms
        .missing_events_for_server(b.rooms.server_name(), &room_id, &earliest, &latest, 10, 0)
        .unwrap();
    assert_eq!(
        gap.iter().map(|pdu| pdu.event_id()).collect::<Vec<_>>(),
        [events[0].event_id(), events[1].event_id()]
    );
    // In any order, together.
    let mut all: Vec<_> = gap.into_iter().chain(events[2..].iter().cloned()).collect();
    all.reverse();
    assert!(deliver(&a, &b, &room_id, &all).iter().all(|(_, result)| *result == Received::Accepted));
    assert_eq!(b.rooms.heads(&room_id).unwrap(), a.rooms.heads(&room_id).unwrap());
}

/// An event that no honest server makes: signed by `by`, placed at will.
pub(super) fn forged(
    by: &Server,
    room_id: &RoomId,
    event: &NewEvent,
    auth_events: Vec<OwnedEventId>,
    prev: &Pdu,
) -> Arc<Pdu> {
    let rules = by.rooms.version_rules(room_id).unwrap();
    let placement = Placement {
        room_id: Some(room_id.to_owned()),
        prev_events: vec![prev.event_id().to_owned()],
        auth_events,
        depth: prev.depth() + 1,
        origin_server_ts: by.clock.now_ms(),
    };
    Arc::new(
        build::build(&rules.rules, event, &placement, by.rooms.server_name(), by.rooms.key_pair()).unwrap(),
    )
}

#[test]
fn a_rejected_event_is_stored_as_rejected_and_its_children_fall_with_it() {
    let (a, b, room_id) = pair();
    let bob = b.user("bob");
    let head = b.send(&room_id, message(&bob, "an honest one"));
    deliver(&b, &a, &room_id, std::slice::from_ref(&head));
    let levels = json!({ "users": { (bob.to_string()): 100 } });
    let create_less: Vec<_> = head.auth_events().to_vec();
    let takeover =
        forged(&b, &room_id, &state(&bob, "m.room.power_levels", "", levels), create_less.clone(), &head);
    let results = deliver(&b, &a, &room_id, std::slice::from_ref(&takeover));
    assert!(matches!(results[0].1, Received::Rejected(_)));
    let held = a.rooms.held(takeover.event_id()).unwrap().expect("is stored");
    assert!(held.meta.rejected.is_some() && held.pdu.rejected());
    assert!(a.rooms.event(takeover.event_id()).unwrap().is_none(), "and is no event for anybody");
    assert!(a.rooms.event_for_server(b.rooms.server_name(), takeover.event_id()).unwrap().is_none());
    // One that names it as its authority falls, also when the rest is in order.
    let member = create_less
        .iter()
        .find(|id| a.rooms.event(id).unwrap().unwrap().is_state("m.room.member", bob.as_str()));
    let authority = vec![takeover.event_id().to_owned(), member.expect("bob's join").clone()];
    let child = forged(
        &b,
        &room_id,
        &state(&bob, "m.room.name", "", json!({ "name": "mine" })),
        authority,
        &takeover,
    );
    assert!(matches!(deliver(&b, &a, &room_id, &[child])[0].1, Received::Rejected(_)));
    // One that only follows it and is allowed by itself is accepted.
    let follower = forged(&b, &room_id, &message(&bob, "after it"), create_less, &takeover);
    assert_eq!(deliver(&b, &a, &room_id, std::slice::from_ref(&follower))[0].1, Received::Accepted);
    assert_eq!(
        a.rooms.heads(&room_id).unwrap(),
        [follower.event_id().to_owned()],
        "the head behind it is followed too"
    );
    assert!(a.rooms.state_event(&room_id, "m.room.name", "").unwrap().is_none());
    assert!(a.rooms.held(takeover.event_id()).unwrap().unwrap().meta.rejected.is_some());
}

#[test]
fn an_event_of_the_past_of_a_banned_user_is_soft_failed() {
    let (a, b, room_id) = pair();
    let bob = b.user("bob");
    let honest = b.send(&room_id, message(&bob, "before the ban"));
    deliver(&b, &a, &room_id, std::slice::from_ref(&honest));
    a.rooms.ban(&room_id, &a.user("alice"), &bob, None).unwrap();
    let late = b.send(&room_id, message(&bob, "b has not heard of the ban"));
    let heads = a.rooms.heads(&room_id).unwrap();
    assert!(matches!(
        a.rooms
            .receive_pdus(
                server_name!("b.example"),
                &room_id,
                vec![carry(&late, &a.rooms.version_rules(&room_id).unwrap())]
            )
            .unwrap()[0]
            .1,
        Received::SoftFailed(_)
    ));
    assert_eq!(a.rooms.heads(&room_id).unwrap(), heads);
    assert!(a.rooms.event(late.event_id()).unwrap().is_none());
    let timeline = a.rooms.timeline(&room_id, None, Direction::Backward, 3).unwrap();
    assert!(timeline.iter().all(|(_, pdu)| pdu.event_id() != late.event_id()));
}

#[test]
fn no_walk_reaches_another_room() {
    let (a, b, room_id) = pair();
    let alice = a.user("alice");
    let secret_room = a.create(&alice, Preset::PrivateChat);
    let secret = a.send(&secret_room, message(&alice, "secret"));
    let server = b.rooms.server_name();
    let ids = [secret.event_id().to_owned()];
    assert!(a.rooms.event_for_server(server, secret.event_id()).unwrap().is_none());
    assert!(matches!(a.rooms.state_for_server(&room_id, secret.event_id()), Err(RoomError::NotFound(_))));
    assert!(a.rooms.auth_chain(&room_id, &ids).unwrap().is_empty());
    assert!(a.rooms.backfill_for_server(server, &room_id, &ids, 10).unwrap().is_empty());
    assert!(a.rooms.missing_events_for_server(server, &room_id, &[], &ids, 10, 0).unwrap().is_empty());
    // Nor can an event of one room be smuggled into another.
    let rules = a.rooms.version_rules(&room_id).unwrap();
    let smuggled = a.rooms.receive_pdus(server, &room_id, vec![carry(&secret, &rules)]).unwrap();
    assert!(matches!(smuggled[0].1, Received::Refused(_)));
}

#[test]
fn a_rejoin_is_not_taken_for_local() {
    let (a, b, room_id) = pair();
    let bob = b.user("bob");
    assert!(matches!(b.rooms.leave(&room_id, &bob, None).unwrap(), Outcome::Done(_)));
    let mut to_a = BTreeSet::new();
    deliver(&b, &a, &room_id, &queued(&b, &a, &mut to_a));
    assert!(!a.rooms.is_server_joined(&room_id, b.rooms.server_name()).unwrap());
    let missed =
        a.send(&room_id, state(&a.user("alice"), "m.room.topic", "", json!({ "topic": "while b was away" })));
    assert!(matches!(deliver(&a, &b, &room_id, &[missed])[0].1, Received::Refused(_)));
    let outcome = b.rooms.join(&room_id, &bob, Map::new()).unwrap();
    assert!(matches!(&outcome, Outcome::Remote { via } if via.contains(&a.rooms.server_name().to_owned())));
    join_over(&a, &b, &room_id, &bob).unwrap();
    assert_eq!(a.rooms.state_root(&room_id).unwrap(), b.rooms.state_root(&room_id).unwrap());
    let topic = b.rooms.state_event(&room_id, "m.room.topic", "").unwrap().expect("the state is today's");
    assert_eq!(topic.content_object()["topic"], "while b was away");
    let (_, join) = b.rooms.timeline(&room_id, None, Direction::Backward, 1).unwrap().remove(0);
    assert!(b.rooms.held(join.event_id()).unwrap().unwrap().meta.gap_before);
    assert!(!b.rooms.missing_events(&room_id, 10).unwrap().is_empty());
}

#[test]
fn history_is_fetched_backwards_and_placed_before_what_is_there() {
    let (a, b) = (Server::new("a.example"), Server::new("b.example"));
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room_id = a.create(&alice, Preset::PublicChat);
    let old: Vec<_> = (0..5).map(|n| a.send(&room_id, message(&alice, &format!("old {n}")))).collect();
    join_over(&a, &b, &room_id, &bob).unwrap();
    let from = b.rooms.missing_events(&room_id, 10).unwrap();
    assert_eq!(from, [old[4].event_id().to_owned()]);
    let given = a.rooms.backfill_for_server(b.rooms.server_name(), &room_id, &from, 3).unwrap();
    let rules = a.rooms.version_rules(&room_id).unwrap();
    let results = b
        .rooms
        .import_backfill(&room_id, &from, given.iter().map(|pdu| carry(pdu, &rules)).collect())
        .unwrap();
    assert!(results.iter().all(|(_, result)| *result == Received::Accepted), "{results:?}");
    let timeline = b.rooms.timeline(&room_id, None, Direction::Forward, 10).unwrap();
    let ids: Vec<_> = timeline.iter().map(|(_, pdu)| pdu.event_id()).collect();
    assert_eq!(ids[..3], [old[2].event_id(), old[3].event_id(), old[4].event_id()]);
    assert!(timeline[2].0 < 0 && timeline[3].0 > 0);
    assert_eq!(b.rooms.missing_events(&room_id, 10).unwrap(), [old[1].event_id().to_owned()]);
}

#[test]
fn what_was_redacted_before_it_came_as_history_is_redacted() {
    let (a, b) = (Server::new("a.example"), Server::new("b.example"));
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room_id = a.create(&alice, Preset::PublicChat);
    let [early, late] = ["early", "late"].map(|text| a.send(&room_id, message(&alice, text)));
    let history = a
        .rooms
        .backfill_for_server(a.rooms.server_name(), &room_id, &[late.event_id().to_owned()], 2)
        .unwrap();
    a.rooms.redact(&room_id, &alice, early.event_id(), None, None).unwrap();
    let last = a.send(&room_id, message(&alice, "last"));
    join_over(&a, &b, &room_id, &bob).unwrap();
    a.rooms.redact(&room_id, &alice, late.event_id(), None, None).unwrap();
    deliver(&a, &b, &room_id, &queued(&a, &b, &mut BTreeSet::new()));
    assert!(b.rooms.held(late.event_id()).unwrap().is_none());
    let edges = [last.event_id().to_owned()];
    let more = a.rooms.backfill_for_server(a.rooms.server_name(), &room_id, &edges, 2).unwrap();
    let rules = a.rooms.version_rules(&room_id).unwrap();
    let given = more.iter().chain(&history).map(|pdu| carry(pdu, &rules)).collect();
    b.rooms.import_backfill(&room_id, &edges, given).unwrap();
    for (pdu, word) in [(&early, "early"), (&late, "late")] {
        assert!(b.rooms.held(pdu.event_id()).unwrap().unwrap().meta.position.unwrap() < 0);
        assert!(b.rooms.redaction_of(pdu.event_id()).unwrap().is_some(), "{word}");
        let found = causeway_storage::rooms::word_positions(&b.database, &room_id, word, i64::MAX, 9);
        assert!(found.unwrap().is_empty(), "{word}");
    }
}

#[test]
fn a_server_gets_what_its_users_may_see_and_nothing_that_was_redacted() {
    let (a, b) = (Server::new("a.example"), Server::new("b.example"));
    let alice = a.user("alice");
    let room_id = a.create(&alice, Preset::PublicChat);
    let visibility = json!({ "history_visibility": "joined" });
    a.send(&room_id, state(&alice, "m.room.history_visibility", "", visibility));
    let hidden = a.send(&room_id, message(&alice, "before b came"));
    join_over(&a, &b, &room_id, &b.user("bob")).unwrap();
    let seen = a.send(&room_id, message(&alice, "b is here"));
    let redacted = a.send(&room_id, message(&alice, "oops"));
    a.rooms.redact(&room_id, &alice, redacted.event_id(), None, None).unwrap();
    let given = |pdu: &Pdu| a.rooms.event_for_server(b.rooms.server_name(), pdu.event_id()).unwrap().unwrap();
    assert_eq!(given(&seen).content_object()["body"], "b is here");
    for pdu in [&hidden, &redacted] {
        assert!(given(pdu).content_object().is_empty());
        assert_eq!(given(pdu).event_id(), pdu.event_id(), "its signature still holds");
    }
    let history =
        a.rooms.backfill_for_server(b.rooms.server_name(), &room_id, &[redacted.event_id().to_owned()], 9);
    assert!(history.unwrap().iter().all(|pdu| !pdu.raw().get().contains("before b came")));
    assert!(a.rooms.event_for_server(server_name!("c.example"), seen.event_id()).unwrap().is_none());
}

#[test]
fn an_invite_across_servers_is_prepared_signed_and_committed() {
    let (a, b) = (Server::new("a.example"), Server::new("b.example"));
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room_id = a.create(&alice, Preset::PrivateChat);
    let Invite::Remote(prepared) = a.rooms.invite(&room_id, &alice, &bob, Map::new()).unwrap() else {
        panic!("bob's server must sign");
    };
    assert_eq!(a.membership(&room_id, &bob), None, "it is not in the room before");
    let mut object = prepared.event.object();
    b.rooms.sign(&prepared.version, &mut object).unwrap();
    let signed = Pdu::from_object(&prepared.version.rules, object).unwrap();
    assert_eq!(signed.event_id(), prepared.event.event_id());
    b.rooms.receive_invite(&signed, &prepared.room_state).unwrap();
    assert_eq!(b.membership(&room_id, &bob).as_deref(), Some("invite"));
    // Servers are told whole events, by which they can check them; clients are not.
    assert!(prepared.room_state.iter().all(|event| event.get().contains("\"hashes\"")));
    assert!(prepared.room_state.iter().any(|event| event.get().contains("m.room.create")));
    let shown = b.rooms.invite_state(&room_id, &bob).unwrap();
    assert!(shown.len() > 2);
    assert!(!shown.iter().any(|event| event.get().contains("\"hashes\"")), "{shown:?}");
    // Meanwhile the room goes on.
    a.send(&room_id, message(&alice, "meanwhile"));
    a.rooms.commit_invite(&room_id, signed.raw()).unwrap();
    assert_eq!(a.membership(&room_id, &bob).as_deref(), Some("invite"));
    assert!(matches!(b.rooms.join(&room_id, &bob, Map::new()).unwrap(), Outcome::Remote { .. }));
    join_over(&a, &b, &room_id, &bob).unwrap();
    assert_eq!(b.membership(&room_id, &bob).as_deref(), Some("join"));
}

#[test]
fn a_restricted_room_lets_members_of_another_room_in() {
    let (a, b) = (Server::new("a.example"), Server::new("b.example"));
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let outer = a.create(&alice, Preset::PublicChat);
    let inner = a.create(&alice, Preset::PrivateChat);
    let rule =
        json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": outer }] });
    a.send(&inner, state(&alice, "m.room.join_rules", "", rule));
    assert!(matches!(join_over(&a, &b, &inner, &bob), Err(RoomError::Forbidden(_))));
    join_over(&a, &b, &outer, &bob).unwrap();
    join_over(&a, &b, &inner, &bob).unwrap();
    assert_eq!(a.membership(&inner, &bob).as_deref(), Some("join"));
    assert_eq!(a.rooms.state_root(&inner).unwrap(), b.rooms.state_root(&inner).unwrap());
    assert!(matches!(a.rooms.join(&inner, &a.user("mallory"), Map::new()), Err(RoomError::Forbidden(_))));
}

/// Notes an empty list of a user's devices; it is complete.
fn hold_list(server: &Server, user_id: &UserId) {
    let mut batch = server.database.batch();
    lists::put_remote(&mut batch, user_id, &lists::RemoteList::default());
    lists::delete_stale(&mut batch, user_id);
    let _unsynced = server.database.commit(batch).expect("commits");
}

fn is_stale(server: &Server, user_id: &UserId) -> bool {
    lists::stale(&server.database, user_id).expect("reads").is_some()
}

#[test]
fn a_list_of_devices_is_outdated_when_a_room_is_shared_again() {
    let (a, b, room_id) = pair();
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let other = a.create(&alice, Preset::PublicChat);
    hold_list(&a, &bob);
    join_over(&a, &b, &other, &bob).expect("joins");
    assert!(!is_stale(&a, &bob), "it was held all the time");
    a.rooms.kick(&other, &alice, &bob, None).expect("kicks");
    a.rooms.kick(&room_id, &alice, &bob, None).expect("kicks");
    let mut to_b = BTreeSet::new();
    deliver(&a, &b, &room_id, &queued(&a, &b, &mut to_b));
    join_over(&a, &b, &room_id, &bob).expect("joins again");
    assert!(is_stale(&a, &bob));

    // The other way: the server that comes back holds a list of who stayed.
    hold_list(&b, &alice);
    b.rooms.leave(&other, &bob, None).expect("leaves");
    b.rooms.leave(&room_id, &bob, None).expect("leaves");
    let mut to_a = BTreeSet::new();
    deliver(&b, &a, &room_id, &queued(&b, &a, &mut to_a));
    assert!(!b.rooms.shares_a_room(&alice).expect("reads"));
    assert!(!is_stale(&b, &alice));
    join_over(&a, &b, &room_id, &bob).expect("joins again");
    assert!(is_stale(&b, &alice));
}
