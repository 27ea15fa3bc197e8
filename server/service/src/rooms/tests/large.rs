//! Rooms with much state, and events that come in the worst of orders.

use super::{federation::join_over, *};
use crate::rooms::{VersionRules, order};

/// More than one would think of as many: a list was once cut off at 10,000.
const STATE_EVENTS: usize = 10_200;

#[test]
fn a_join_brings_all_of_a_large_state() {
    let (a, b) = (Server::new("a.example"), Server::new("b.example"));
    let alice = a.user("alice");
    let room_id = a.create(&alice, Preset::PublicChat);
    let written = a.rooms.write(&room_id, |writer| {
        for n in 0..STATE_EVENTS {
            writer.append(state(&alice, "org.example.state", &n.to_string(), json!({ "n": n })))?;
        }
        Ok::<_, RoomError>(())
    });
    written.expect("writes");
    join_over(&a, &b, &room_id, &b.user("bob")).expect("joins");
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
