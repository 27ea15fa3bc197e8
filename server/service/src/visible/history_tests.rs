//! What of a room's history may be seen that came from other servers later.

use std::collections::BTreeSet;

use causeway_room::Pdu;
use ruma::{RoomId, UserId};
use serde_json::json;

use super::Viewer;
use crate::{
    room_view::RoomView,
    rooms::{
        Outcome, Preset,
        tests::{
            Server,
            federation::{carry, deliver, join_over, queued},
            message, state,
        },
    },
};

/// Brings what is missing before what `to` holds over from `from`, all at once.
fn backfill(from: &Server, to: &Server, room_id: &RoomId) {
    let edges = to.rooms.missing_events(room_id, 10).unwrap();
    let given = from.rooms.backfill_for_server(to.rooms.server_name(), room_id, &edges, 50).unwrap();
    let rules = from.rooms.version_rules(room_id).unwrap();
    let given = given.iter().map(|pdu| carry(pdu, &rules)).collect();
    to.rooms.import_backfill(room_id, &edges, given).unwrap();
}

fn sees(server: &Server, user_id: &UserId, pdu: &Pdu) -> bool {
    let held = server.rooms.held(pdu.event_id()).unwrap().expect("is held");
    let view = RoomView::new(&server.rooms);
    Viewer::new(view, pdu.room_id(), user_id).unwrap().may_see(&held).unwrap()
}

#[test]
fn who_left_does_not_see_what_fills_a_hole_after_that() {
    let (a, b) = (Server::new("a.example"), Server::new("b.example"));
    let (alice, bob, dora) = (a.user("alice"), b.user("bob"), b.user("dora"));
    let room_id = a.create(&alice, Preset::PublicChat);
    let before = a.send(&room_id, message(&alice, "before bob came"));
    join_over(&a, &b, &room_id, &bob).unwrap();
    backfill(&a, &b, &room_id);
    assert!(sees(&b, &bob, &before));
    assert!(matches!(b.rooms.leave(&room_id, &bob, None).unwrap(), Outcome::Done(_)));
    deliver(&b, &a, &room_id, &queued(&b, &a, &mut BTreeSet::new()));
    let missed = a.send(&room_id, message(&alice, "bob has gone"));
    let missed_too = a.send(&room_id, message(&alice, "still gone"));
    join_over(&a, &b, &room_id, &dora).unwrap();
    backfill(&a, &b, &room_id);
    assert!(sees(&b, &bob, &before) && sees(&b, &dora, &before));
    for missed in [missed, missed_too] {
        assert!(b.rooms.held(missed.event_id()).unwrap().unwrap().meta.position.unwrap() < 0);
        assert!(sees(&b, &dora, &missed) && !sees(&b, &bob, &missed));
    }
}

#[test]
fn history_of_an_unknown_state_is_hidden_from_who_came_later() {
    for visibility in ["joined", "invited"] {
        let (a, b) = (Server::new("a.example"), Server::new("b.example"));
        let (alice, bob) = (a.user("alice"), b.user("bob"));
        let room_id = a.create(&alice, Preset::PublicChat);
        let content = json!({ "history_visibility": visibility });
        a.send(&room_id, state(&alice, "m.room.history_visibility", "", content));
        let hidden = a.send(&room_id, message(&alice, "before bob came"));
        let edges = [hidden.event_id().to_owned()];
        join_over(&a, &b, &room_id, &bob).unwrap();
        let given = a.rooms.backfill_for_server(a.rooms.server_name(), &room_id, &edges, 1).unwrap();
        let rules = a.rooms.version_rules(&room_id).unwrap();
        let given = given.iter().map(|pdu| carry(pdu, &rules)).collect();
        b.rooms.import_backfill(&room_id, &edges, given).unwrap();
        assert!(!sees(&b, &bob, &hidden), "{visibility}");
    }
}
