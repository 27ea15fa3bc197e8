//! Redactions of what they may not touch, and of each other.

use causeway_room::NewEvent;
use ruma::{EventId, UserId};
use serde_json::json;

use super::{
    Server,
    federation::{deliver, join_over, pair},
    message,
};
use crate::rooms::Preset;

fn redaction(sender: &UserId, target: &EventId) -> NewEvent {
    let content = json!({ "redacts": target });
    NewEvent::new("m.room.redaction", sender.to_owned(), None, content).expect("an event")
}

fn is_redacted(server: &Server, event_id: &EventId) -> bool {
    server.rooms.redaction_of(event_id).expect("reads").is_some()
}

#[test]
fn a_redaction_reaches_into_no_other_room() {
    let (a, b, room_id) = pair();
    let bob = b.user("bob");
    let other = a.create(&a.user("alice"), Preset::PublicChat);
    join_over(&a, &b, &other, &bob).expect("joins");
    let said = b.send(&room_id, message(&bob, "stays"));
    // One comes after its target, and one before.
    deliver(&b, &a, &room_id, std::slice::from_ref(&said));
    let after = b.send(&other, redaction(&bob, said.event_id()));
    let late = b.send(&room_id, message(&bob, "stays, too"));
    let before = b.send(&other, redaction(&bob, late.event_id()));
    deliver(&b, &a, &other, &[after, before]);
    deliver(&b, &a, &room_id, std::slice::from_ref(&late));
    for target in [&said, &late] {
        for server in [&a, &b] {
            assert!(!is_redacted(server, target.event_id()));
            let kept = server.rooms.event(target.event_id()).expect("reads").expect("is held");
            assert!(kept.content_object().contains_key("body"));
        }
    }
}

#[test]
fn a_redaction_of_a_redaction_brings_nothing_back() {
    let (a, b, room_id) = pair();
    let bob = b.user("bob");
    let said = b.send(&room_id, message(&bob, "gone"));
    let first = b.send(&room_id, redaction(&bob, said.event_id()));
    let second = b.send(&room_id, redaction(&bob, first.event_id()));
    let itself = b.send(&room_id, redaction(&bob, second.event_id()));
    // However they come.
    for pdu in [&itself, &second, &first, &said] {
        deliver(&b, &a, &room_id, std::slice::from_ref(pdu));
    }
    deliver(&b, &a, &room_id, &[itself.clone(), second.clone(), first.clone(), said.clone()]);
    for server in [&a, &b] {
        for redacted in [&said, &first, &second] {
            assert!(is_redacted(server, redacted.event_id()));
        }
        assert!(!is_redacted(server, itself.event_id()));
    }
}
