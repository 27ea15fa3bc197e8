//! What members, former members and strangers see.

use causeway_room::Pdu;
use ruma::{EventId, UserId};
use serde_json::json;

use super::*;
use crate::rooms::{
    Preset,
    tests::{Server, message, state},
};

/// Whether a user of the server is shown an event.
fn sees(server: &Server, user_id: &UserId, event_id: &EventId) -> bool {
    let view = RoomView::new(&server.rooms);
    let held = server.rooms.held(event_id).expect("reads").expect("is there");
    let mut viewer = Viewer::new(view, &held.meta.room_id, user_id).expect("reads");
    viewer.may_see(&held).expect("reads")
}

#[test]
fn a_member_sees_what_the_room_shows_him() {
    let a = Server::new("a.example");
    let (alice, bob) = (a.user("alice"), a.user("bob"));
    let room_id = a.create(&alice, Preset::PublicChat);
    let visibility =
        |value: &str| state(&alice, "m.room.history_visibility", "", json!({ "history_visibility": value }));
    let shared = a.send(&room_id, message(&alice, "shared"));
    a.send(&room_id, visibility("joined"));
    let hidden = a.send(&room_id, message(&alice, "for members of that time"));
    a.join(&room_id, &bob);
    let seen = a.send(&room_id, message(&alice, "bob is here"));
    a.rooms.leave(&room_id, &bob, None).unwrap();
    let after = a.send(&room_id, message(&alice, "bob has gone"));
    let shown = |pdu: &Pdu| sees(&a, &bob, pdu.event_id());
    assert!(shown(&shared) && !shown(&hidden) && shown(&seen) && !shown(&after));
    assert!(sees(&a, &alice, hidden.event_id()));
}
