//! Rooms with much state, and events that come in the worst of orders.

use super::{federation::join_over, *};
use crate::rooms::{VersionRules, order};

/// More than one would think of as many: a list was once cut off at 10,000.
const STATE_EVENTS: usize = 10_200;

/// Of these, one in so many is somebody's membership.
const MEMBER_EACH: usize = 3;

/// A room of `host` with that state.
fn large(host: &Server) -> OwnedRoomId {
    let alice = host.user("alice");
    let room_id = host.create(&alice, Preset::PublicChat);
    let written = host.rooms.write(&room_id, |writer| {
        for n in 0..STATE_EVENTS {
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
    let (room_id, bob, carol) = (large(&a), b.user("bob"), b.user("carol"));
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
    assert_eq!(a.rooms.state_root(&room_id).unwrap(), b.rooms.state_root(&room_id).unwrap());
    assert!(b.rooms.state_all(&room_id).unwrap().len() > STATE_EVENTS);
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
