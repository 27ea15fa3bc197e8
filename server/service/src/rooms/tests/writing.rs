//! Local writes: authorisation, atomicity, idempotency, membership, the writer's lock.

use causeway_room::format::PDU_BYTES_MAX;
use causeway_storage::{Cf, Direction, Read, StreamPosition};
use ruma::{device_id, owned_user_id};

use super::*;
use crate::rooms::TransactionKey;

#[test]
fn the_rules_decide_who_may_write() {
    let server = Server::new("a.example");
    let (alice, bob) = (server.user("alice"), server.user("bob"));
    let room_id = server.create(&alice, Preset::PrivateChat);
    let forbidden =
        |result: Result<OwnedEventId, RoomError>| assert!(matches!(result, Err(RoomError::Forbidden(_))));
    forbidden(server.rooms.send(&room_id, message(&bob, "not in the room"), None));
    assert!(matches!(server.rooms.join(&room_id, &bob, Map::new()), Err(RoomError::Forbidden(_))));
    assert!(matches!(server.rooms.invite(&room_id, &alice, &bob, Map::new()), Ok(Invite::Done(_))));
    server.join(&room_id, &bob);
    server.send(&room_id, message(&bob, "now I am"));
    forbidden(server.rooms.send(&room_id, state(&bob, "m.room.name", "", json!({ "name": "x" })), None));
    forbidden(server.rooms.kick(&room_id, &bob, &alice, None));
    server.rooms.ban(&room_id, &alice, &bob, Some("spam")).unwrap();
    forbidden(server.rooms.send(&room_id, message(&bob, "banned"), None));
    forbidden(server.rooms.kick(&room_id, &alice, &bob, None));
    server.rooms.unban(&room_id, &alice, &bob, None).unwrap();
    assert_eq!(server.membership(&room_id, &bob).as_deref(), Some("leave"));
    server.rooms.forget(&room_id, &bob).unwrap();
    assert!(server.rooms.member(&room_id, &bob).unwrap().is_some_and(|member| member.forgotten));
    forbidden(server.rooms.send(&room_id, message(&owned_user_id!("@mallory:b.example"), "not ours"), None));
}

#[test]
fn appends_of_one_write_see_each_other_and_stand_or_fall_together() {
    let server = Server::new("a.example");
    let alice = server.user("alice");
    let room_id = server.create(&alice, Preset::PrivateChat);
    let before = server.rooms.timeline(&room_id, None, Direction::Backward, 100).unwrap().len();
    let failed: Result<(), RoomError> = server.rooms.write(&room_id, |writer| {
        writer.append(state(&alice, "org.causeway.item", "a", json!({ "v": 1 })))?;
        assert_eq!(writer.state("org.causeway.item", "a")?.expect("is seen").content_object()["v"], 1);
        writer.batch().put(Cf::Meta, b"own row", b"1");
        writer.append(message(&server.user("stranger"), "not allowed"))?;
        Ok(())
    });
    assert!(matches!(failed, Err(RoomError::Forbidden(_))));
    assert_eq!(server.rooms.timeline(&room_id, None, Direction::Backward, 100).unwrap().len(), before);
    assert!(server.rooms.state_event(&room_id, "org.causeway.item", "a").unwrap().is_none());
    assert!(server.database.get(Cf::Meta, b"own row").unwrap().is_none());
    let written: Result<Vec<Arc<Pdu>>, RoomError> = server.rooms.write(&room_id, |writer| {
        writer.batch().put(Cf::Meta, b"own row", b"1");
        (0..10)
            .map(|n| writer.append(state(&alice, "org.causeway.item", &format!("k{n}"), json!({ "v": n }))))
            .collect()
    });
    let written = written.unwrap();
    assert!(written.windows(2).all(|pair| pair[1].prev_events() == [pair[0].event_id().to_owned()]));
    assert!(server.database.get(Cf::Meta, b"own row").unwrap().is_some());
    assert_eq!(server.rooms.state_keys(&room_id, "org.causeway.item", Some("k7"), 10).unwrap().len(), 2);
}

#[test]
fn a_panicking_write_costs_itself_and_not_the_room() {
    let server = Server::new("a.example");
    let alice = server.user("alice");
    let room_id = server.create(&alice, Preset::PrivateChat);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _: Result<(), RoomError> = server.rooms.write(&room_id, |writer| {
            writer.append(message(&alice, "lost"))?;
            panic!("a bug in a use-case");
        });
    }));
    assert!(panicked.is_err());
    let sent = server.send(&room_id, message(&alice, "the room goes on"));
    assert_eq!(server.rooms.heads(&room_id).unwrap(), [sent.event_id().to_owned()]);
    assert_eq!(server.database.visible(), StreamPosition(server.database.batch().position().0 - 1));
}

#[test]
fn the_same_transaction_gives_the_same_event() {
    let server = Server::new("a.example");
    let alice = server.user("alice");
    let room_id = server.create(&alice, Preset::PrivateChat);
    let key = TransactionKey::new(&alice, device_id!("PHONE"), "m1".into(), format!("send {room_id}"));
    let first = server.rooms.send(&room_id, message(&alice, "once"), Some(&key)).unwrap();
    assert_eq!(server.rooms.send(&room_id, message(&alice, "twice"), Some(&key)).unwrap(), first);
    let other = TransactionKey { scope: "send elsewhere".to_owned(), ..key };
    assert_ne!(server.rooms.send(&room_id, message(&alice, "else"), Some(&other)).unwrap(), first);
}

#[test]
fn an_event_past_the_limits_is_refused_and_leaves_nothing() {
    let server = Server::new("a.example");
    let alice = server.user("alice");
    let room_id = server.create(&alice, Preset::PrivateChat);
    let heads = server.rooms.heads(&room_id).unwrap();
    for event in [
        message(&alice, &"x".repeat(PDU_BYTES_MAX)),
        state(&alice, "org.causeway.item", &"k".repeat(256), json!({ "v": 1 })),
        state(&alice, &"t".repeat(256), "", json!({ "v": 1 })),
    ] {
        assert!(matches!(server.rooms.send(&room_id, event, None), Err(RoomError::TooLarge)));
    }
    assert!(NewEvent::new("m.x", alice.clone(), None, json!({ "float": 1.5 })).is_err());
    assert_eq!(server.rooms.heads(&room_id).unwrap(), heads);
    // The largest event that the specification allows is allowed.
    let probe = server.send(&room_id, message(&alice, ""));
    let room = PDU_BYTES_MAX - probe.raw().get().len();
    let sent = server.send(&room_id, message(&alice, &"x".repeat(room)));
    assert_eq!(sent.raw().get().len(), PDU_BYTES_MAX);
}

#[test]
fn a_redaction_is_found_at_its_target() {
    let server = Server::new("a.example");
    let (alice, bob) = (server.user("alice"), server.user("bob"));
    let room_id = server.create(&alice, Preset::PublicChat);
    server.join(&room_id, &bob);
    let by_alice = server.send(&room_id, message(&alice, "oops"));
    assert!(matches!(
        server.rooms.redact(&room_id, &bob, by_alice.event_id(), None, None),
        Err(RoomError::Forbidden(_))
    ));
    let redaction = server.rooms.redact(&room_id, &alice, by_alice.event_id(), Some("typo"), None).unwrap();
    let found = server.rooms.redaction_of(by_alice.event_id()).unwrap().expect("is redacted");
    assert_eq!(found.event_id(), redaction);
    let other_room = server.create(&alice, Preset::PrivateChat);
    let elsewhere = server.rooms.redact(&other_room, &alice, by_alice.event_id(), None, None);
    assert!(matches!(elsewhere, Err(RoomError::NotFound(_))), "no room reaches into another");
}

#[test]
fn relations_are_listed_by_kind() {
    let server = Server::new("a.example");
    let alice = server.user("alice");
    let room_id = server.create(&alice, Preset::PrivateChat);
    let target = server.send(&room_id, message(&alice, "a conflict"));
    let relating = |rel_type: &str, kind: &str| {
        let content =
            json!({ "m.relates_to": { "rel_type": rel_type, "event_id": target.event_id(), "key": "1️⃣" } });
        server.send(&room_id, NewEvent::new(kind, alice.clone(), None, content).unwrap())
    };
    let reaction = relating("m.annotation", "m.reaction");
    relating("m.thread", "m.room.message");
    let all = server.rooms.relations(target.event_id(), None, None, None, Direction::Forward, 10).unwrap();
    assert_eq!(all.len(), 2);
    let reactions = server.rooms.relations(
        target.event_id(),
        Some("m.annotation"),
        Some("m.reaction"),
        None,
        Direction::Backward,
        10,
    );
    assert_eq!(reactions.unwrap()[0].1.event_id(), reaction.event_id());
}

#[test]
fn the_stream_and_the_state_at_each_position_agree() {
    let server = Server::new("a.example");
    let alice = server.user("alice");
    let room_id = server.create(&alice, Preset::PrivateChat);
    let start = server.database.visible();
    for n in 0..20 {
        server.send(&room_id, state(&alice, "org.causeway.item", &format!("k{}", n % 5), json!({ "v": n })));
    }
    let places = server.rooms.stream(start, 100).unwrap();
    assert_eq!(places.len(), 20);
    for (n, place) in places.iter().enumerate() {
        let position = i64::try_from(place.position.0).unwrap();
        let root = server.rooms.state_root_at(&room_id, position).unwrap().expect("was known");
        let item = server
            .rooms
            .state_at(&root, "org.causeway.item", &format!("k{}", n % 5))
            .unwrap()
            .expect("is set");
        assert_eq!(item.event_id(), place.event_id);
    }
    let last = i64::try_from(places[19].position.0).unwrap();
    assert_eq!(
        server.rooms.state_root_at(&room_id, last).unwrap(),
        Some(server.rooms.state_root(&room_id).unwrap())
    );
}

#[test]
fn many_callers_never_fork_the_room() {
    let server = Server::new("a.example");
    let alice = server.user("alice");
    let room_id = server.create(&alice, Preset::PrivateChat);
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let (rooms, room_id, alice) = (&server.rooms, &room_id, &alice);
            scope.spawn(move || {
                for n in 0..10 {
                    let event =
                        state(alice, "org.causeway.item", &format!("{caller}/{n}"), json!({ "v": n }));
                    rooms.send(room_id, event, None).expect("sends");
                }
            });
        }
    });
    assert_eq!(server.rooms.heads(&room_id).unwrap().len(), 1);
    assert_eq!(server.rooms.state_of_kind(&room_id, "org.causeway.item").unwrap().len(), 80);
    let root = server.rooms.state_root(&room_id).unwrap();
    assert_eq!(
        server.rooms.state_entries(&root).unwrap().len(),
        server.rooms.state_all(&room_id).unwrap().len()
    );
}
