//! Rooms with much state, and events that come in the worst of orders.

use causeway_storage::{Cf, Direction, Read as _, rooms as rows};

use super::{
    federation::{Answer, ask_to_join, carry, join_over},
    *,
};
use crate::rooms::{VersionRules, order};

/// More than one would think of as many: a list was once cut off at 10,000.
const STATE_EVENTS: usize = 10_200;

/// Of these, one in so many is somebody's membership.
const MEMBER_EACH: usize = 3;

/// Pieces of state that come in several pieces.
const SOME_PIECES: usize = 2_600;

/// A room of `host` with so many pieces of state.
fn large(host: &Server, count: usize) -> OwnedRoomId {
    let alice = host.user("alice");
    let room_id = host.create(&alice, Preset::PublicChat);
    let written = host.rooms.write(&room_id, |writer| {
        for n in 0..count {
            writer.append(if n.is_multiple_of(MEMBER_EACH) {
                let member = host.user(&n.to_string());
                state(&member, "m.room.member", member.as_str(), json!({ "membership": "join" }))
            } else {
                state(&alice, "org.example.state", &n.to_string(), json!({ "n": n }))
            })?;
        }
        Ok::<_, RoomError>(())
    });
    written.expect("writes");
    room_id
}

#[test]
fn a_join_brings_all_of_a_large_state_and_keeps_nobody_from_other_rooms() {
    let (a, b) = (Server::new("a.example"), Server::new("b.example"));
    let (room_id, bob, carol) = (large(&a, STATE_EVENTS), b.user("bob"), b.user("carol"));
    let elsewhere = b.create(&carol, Preset::PrivateChat);
    let meanwhile = std::thread::scope(|scope| {
        let join = scope.spawn(|| join_over(&a, &b, &room_id, &bob).expect("joins"));
        let mut meanwhile = 0;
        loop {
            let shown = b.database.visible();
            b.send(&elsewhere, message(&carol, "meanwhile"));
            if join.is_finished() {
                break meanwhile;
            }
            meanwhile += usize::from(b.database.visible() > shown);
        }
    });
    assert!(meanwhile > 10, "{meanwhile} messages were written and shown during the join");
    assert_eq!(a.rooms.state_root(&room_id).expect("reads"), b.rooms.state_root(&room_id).expect("reads"));
    assert!(b.rooms.state_all(&room_id).expect("reads").len() > STATE_EVENTS);
}

/// What is there of any room.
fn rows_of_rooms(server: &Server) -> [usize; 7] {
    [
        Cf::Rooms,
        Cf::EventMeta,
        Cf::Pdus,
        Cf::CurrentState,
        Cf::RoomMembers,
        Cf::RemoteMemberships,
        Cf::JoinedServers,
    ]
    .map(|cf| server.database.scan(cf, b"", None, Direction::Forward, usize::MAX).expect("reads").len())
}

#[test]
fn a_join_that_a_crash_interrupts_leaves_nothing_and_is_made_up_for() {
    /// Moments at which the server might have crashed.
    const MOMENTS: usize = 4;
    let (a, b) = (Server::new("a.example"), Server::new("b.example"));
    let (room_id, bob) = (large(&a, SOME_PIECES), b.user("bob"));
    let copies = std::thread::scope(|scope| {
        let join = scope.spawn(|| join_over(&a, &b, &room_id, &bob).expect("joins"));
        let mut copies = Vec::new();
        while !join.is_finished() && copies.len() < MOMENTS {
            let [_, before, ..] = rows_of_rooms(&b);
            let copy = TempDir::new().expect("a temporary folder");
            b.database.checkpoint(copy.path()).expect("freezes");
            let [_, after, ..] = rows_of_rooms(&b);
            // Each at another moment.
            if after > before.max(1) {
                copies.push(copy);
            }
        }
        copies
    });
    assert!(b.rooms.is_joined_here(&room_id).expect("reads"));
    assert!(!rows::is_joining(&b.database, &room_id).expect("reads"));
    let mut interrupted = 0;
    for copy in copies {
        let is_interrupted = {
            let frozen = Database::open(copy.path(), &Options::default()).expect("opens");
            rows::is_joining(&frozen, &room_id).expect("reads")
        };
        let again = Server::on("b.example", copy);
        if is_interrupted {
            interrupted += 1;
            assert_eq!(rows_of_rooms(&again), [0; 7], "as if it had not been begun");
            assert!(again.rooms.state_root(&room_id).is_err(), "the room is not known");
            join_over(&a, &again, &room_id, &bob).expect("joins");
            let roots = [&a, &again].map(|server| server.rooms.state_root(&room_id).expect("reads"));
            assert_eq!(roots[0], roots[1]);
        }
    }
    assert!(interrupted > 0, "no moment was during the join");
}

#[test]
fn a_join_that_fails_leaves_nothing_and_hinders_no_other() {
    let (a, b) = (Server::new("a.example"), Server::new("b.example"));
    let room_id = large(&a, SOME_PIECES);
    let other = a.create(&a.user("mallory"), Preset::PublicChat);
    let ask = |name: &str| ask_to_join(&a, &b, &room_id, &b.user(name)).expect("lets in");
    let mut answers = ["bob", "carol", "dave"].map(ask);
    // The state of other rooms, one of which is here, and one that lets nobody in.
    let Answer { rules, state, chain, .. } = ask_to_join(&a, &b, &other, &b.user("bob")).expect("lets in");
    let here = b.create(&b.user("bob"), Preset::PublicChat);
    let held = b.rooms.state_all(&here).expect("reads");
    (answers[0].state, answers[0].chain) = (state, chain);
    answers[0].state.extend(held.iter().map(|pdu| carry(pdu, &rules)));
    let before = rows_of_rooms(&b);
    let lets_in = |pdu: &Pdu| pdu.is_state("m.room.join_rules", "");
    answers[1].state.retain(|pdu| !lets_in(pdu));
    answers[1].chain.retain(|pdu| !lets_in(pdu));
    let [elsewhere, closed, good] = answers;
    for Answer { rules, join, state, chain } in [elsewhere, closed] {
        let failed = b.rooms.import_join(&room_id, &rules, join, state, chain);
        assert!(matches!(failed, Err(RoomError::Forbidden(_))), "{failed:?}");
        assert_eq!(rows_of_rooms(&b), before);
        assert!(!rows::is_joining(&b.database, &room_id).expect("reads"));
    }
    let Answer { rules, join, state, chain } = good;
    b.rooms.import_join(&room_id, &rules, join, state, chain).expect("joins");
    assert_eq!(a.rooms.state_root(&room_id).expect("reads"), b.rooms.state_root(&room_id).expect("reads"));
}

#[test]
fn events_come_after_those_that_they_name_whatever_they_say_of_their_depth() {
    let rules = VersionRules::of(&ruma::RoomVersionId::V11).expect("known");
    let mut chain: Vec<Pdu> = Vec::new();
    for n in 0..2_000 {
        let named: Vec<_> = chain.last().map(|pdu| pdu.event_id().to_string()).into_iter().collect();
        let object = json!({
            "room_id": "!r:a.example", "type": "m.room.message", "sender": "@liar:a.example",
            "content": {}, "origin_server_ts": n, "depth": 2_000 - n, "hashes": { "sha256": "aGFzaA" },
            "prev_events": if n % 2 == 0 { named.clone() } else { Vec::new() },
            "auth_events": if n % 2 == 0 { Vec::new() } else { named },
            "signatures": {},
        });
        chain.push(Pdu::parse(&rules.rules, &object.to_string()).expect("is an event"));
    }
    let expected: Vec<_> = chain.iter().map(|pdu| pdu.event_id().to_owned()).collect();
    chain.rotate_left(700);
    let twice = Pdu::parse(&rules.rules, chain[0].raw().get()).expect("is an event");
    chain.push(twice);
    let ordered = order::named_first(chain);
    assert_eq!(ordered.iter().map(|pdu| pdu.event_id().to_owned()).collect::<Vec<_>>(), expected);
}
