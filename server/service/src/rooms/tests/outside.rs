//! Memberships in rooms that a server is not in: what comes late from other
//! servers, and what came meanwhile.

use std::{collections::BTreeMap, sync::Arc};

use causeway_room::Pdu;
use ruma::{CanonicalJsonValue, OwnedRoomId, OwnedUserId};
use serde_json::Map;

use super::{Server, message};
use crate::rooms::{Invite, Preset, VersionRules};

/// A server outside of a room of another one, whose bob is invited to it.
struct Outside {
    host: Server,
    guest: Server,
    bob: OwnedUserId,
    room_id: OwnedRoomId,
}

impl Outside {
    fn new() -> Self {
        let (host, guest) = (Server::new("a.example"), Server::new("b.example"));
        let bob = guest.user("bob");
        let room_id = host.create(&host.user("alice"), Preset::PrivateChat);
        Self { host, guest, bob, room_id }
    }

    /// An invite like no other before, which the host's room knows nothing of.
    fn invite(&self) -> (Pdu, Arc<VersionRules>) {
        let alice = self.host.user("alice");
        self.host.send(&self.room_id, message(&alice, "goes on"));
        let invited = self.host.rooms.invite(&self.room_id, &alice, &self.bob, Map::new()).expect("may");
        let Invite::Remote(prepared) = invited else { panic!("another server must sign") };
        let mut object = prepared.event.object();
        self.guest.rooms.sign(&prepared.version, &mut object).expect("signs");
        let signed = Pdu::from_object(&prepared.version.rules, object).expect("is an event");
        self.guest.rooms.receive_invite(&signed, &prepared.room_state).expect("is taken");
        (signed, prepared.version)
    }

    fn membership(&self) -> Option<String> {
        self.guest.membership(&self.room_id, &self.bob)
    }
}

#[test]
fn a_late_end_of_an_invite_does_not_end_the_next_one() {
    let world = Outside::new();
    let (rooms, room_id, bob) = (&world.guest.rooms, &world.room_id, &world.bob);
    world.invite();
    let first = rooms.membership_position(room_id, bob).expect("reads");
    world.invite();
    rooms.leave_outside(room_id, bob, None, first).expect("writes");
    assert_eq!(world.membership().as_deref(), Some("invite"), "the second one stands");
    let second = rooms.membership_position(room_id, bob).expect("reads");
    rooms.leave_outside(room_id, bob, None, second).expect("writes");
    assert_eq!(world.membership().as_deref(), Some("leave"));
}

#[test]
fn a_late_answer_to_a_knock_does_not_hide_the_invite() {
    let world = Outside::new();
    let (rooms, room_id, bob) = (&world.guest.rooms, &world.room_id, &world.bob);
    let before = rooms.membership_position(room_id, bob).expect("reads");
    let (invite, version) = world.invite();
    let knock = {
        let mut object = invite.object();
        object.insert("sender".into(), CanonicalJsonValue::String(bob.to_string()));
        let content = CanonicalJsonValue::String("knock".to_owned());
        object.insert("content".into(), BTreeMap::from([("membership".to_owned(), content)]).into());
        Pdu::from_object(&version.rules, object).expect("is an event")
    };
    rooms.knock_outside(&knock, &[], before).expect("is no error");
    assert_eq!(world.membership().as_deref(), Some("invite"));
    let now = rooms.membership_position(room_id, bob).expect("reads");
    rooms.knock_outside(&knock, &[], now).expect("is kept");
    assert_eq!(world.membership().as_deref(), Some("knock"), "one that is not late is kept");
}

#[test]
fn an_invite_that_is_sent_once_more_does_not_undo_the_leave() {
    let world = Outside::new();
    let (rooms, room_id, bob) = (&world.guest.rooms, &world.room_id, &world.bob);
    let at = || rooms.membership_position(room_id, bob).expect("reads");
    for is_told in [false, true] {
        let (invite, version) = world.invite();
        let invited = at();
        rooms.receive_invite(&invite, &[]).expect("is no error");
        assert_eq!(at(), invited, "it stands already");
        let mut object = invite.object();
        object.insert("sender".into(), CanonicalJsonValue::String(bob.to_string()));
        let content = CanonicalJsonValue::String("leave".to_owned());
        object.insert("content".into(), BTreeMap::from([("membership".to_owned(), content)]).into());
        let leave = Pdu::from_object(&version.rules, object).expect("is an event");
        rooms.leave_outside(room_id, bob, is_told.then_some(&leave), invited).expect("writes");
        rooms.receive_invite(&invite, &[]).expect("is no error");
        assert_eq!(world.membership().as_deref(), Some("leave"));
    }
    world.invite();
    assert_eq!(world.membership().as_deref(), Some("invite"), "another one is one");
}

#[test]
fn an_invite_that_came_through_the_room_is_not_taken_again_from_outside() {
    let host = Server::new("a.example");
    let (alice, bob) = (host.user("alice"), host.user("bob"));
    let room_id = host.create(&alice, Preset::PrivateChat);
    host.rooms.invite(&room_id, &alice, &bob, Map::new()).expect("may");
    let invite = host.rooms.state_event(&room_id, "m.room.member", bob.as_str()).expect("reads");
    host.rooms.leave(&room_id, &bob, None).expect("may");
    host.rooms.receive_invite(&invite.expect("an invite"), &[]).expect("is no error");
    assert_eq!(host.membership(&room_id, &bob).as_deref(), Some("leave"));
}
