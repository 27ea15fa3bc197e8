//! Creation: what a new room's state is, in each version and with each preset.

use causeway_room::version;
use ruma::{RoomVersionId, owned_user_id};

use super::*;
use crate::rooms::InitialState;

#[test]
fn a_room_of_each_version_is_created_and_used() {
    let server = Server::new("a.example");
    let alice = server.user("alice");
    for version in version::SUPPORTED {
        let request = CreateRoom {
            version: Some(version.clone()),
            name: Some("A name".to_owned()),
            topic: Some("A topic".to_owned()),
            preset: Preset::PublicChat,
            ..CreateRoom::default()
        };
        let room_id = server.create_with(&alice, &request).room_id;
        assert_eq!(room_id.server_name().is_none(), version == RoomVersionId::V12, "{version}");
        assert_eq!(server.rooms.version(&room_id).unwrap(), version);
        let name = server.rooms.state_event(&room_id, "m.room.name", "").unwrap().expect("a name");
        assert_eq!(name.content_object()["name"], "A name");
        server.join(&room_id, &server.user("bob"));
        let sent = server.send(&room_id, message(&server.user("bob"), "hello"));
        assert_eq!(server.rooms.heads(&room_id).unwrap(), [sent.event_id().to_owned()]);
        assert_eq!(server.rooms.joined_count(&room_id).unwrap(), 2);
        let held = server.rooms.held(sent.event_id()).unwrap().unwrap();
        assert_eq!(held.meta.state_before, held.meta.state_after);
    }
}

#[test]
fn versions_one_to_five_are_refused() {
    let server = Server::new("a.example");
    let request = CreateRoom { version: Some(RoomVersionId::V5), ..CreateRoom::default() };
    let error = server.rooms.create(&server.user("alice"), &request).unwrap_err();
    assert!(matches!(error, RoomError::UnsupportedVersion(RoomVersionId::V5)));
}

#[test]
fn two_rooms_made_in_the_same_millisecond_are_two() {
    let server = Server::new("a.example");
    let alice = server.user("alice");
    let rooms: Vec<_> = (0..3).map(|_| server.create(&alice, Preset::PrivateChat)).collect();
    assert!(rooms[0] != rooms[1] && rooms[1] != rooms[2] && rooms[0] != rooms[2]);
}

#[test]
fn everything_asked_for_is_in_the_state() {
    let server = Server::new("a.example");
    let (alice, bob, carol) = (server.user("alice"), server.user("bob"), owned_user_id!("@carol:b.example"));
    let alias = ruma::owned_room_alias_id!("#plans:a.example");
    let request = CreateRoom {
        preset: Preset::TrustedPrivateChat,
        initial_state: vec![InitialState {
            kind: "m.room.history_visibility".to_owned(),
            state_key: String::new(),
            content: json!({ "history_visibility": "joined" }),
        }],
        power_level_content_override: json!({ "events_default": 7 }).as_object().unwrap().clone(),
        creation_content: json!({ "type": "m.space" }).as_object().unwrap().clone(),
        invite: vec![bob.clone(), carol.clone()],
        is_direct: true,
        alias: Some(alias.clone()),
        published: true,
        ..CreateRoom::default()
    };
    let created = server.create_with(&alice, &request);
    assert_eq!(created.remote_invites, std::slice::from_ref(&carol));
    let content = |kind: &str, key: &str| {
        server.rooms.state_event(&created.room_id, kind, key).unwrap().expect(kind).content_object()
    };
    assert_eq!(content("m.room.create", "")["additional_creators"], json!([bob, carol]));
    assert_eq!(content("m.room.create", "")["type"], "m.space");
    assert_eq!(content("m.room.power_levels", "")["events_default"], 7);
    assert_eq!(content("m.room.power_levels", "")["users"], json!({}));
    assert_eq!(content("m.room.history_visibility", "")["history_visibility"], "joined");
    assert_eq!(content("m.room.canonical_alias", "")["alias"], alias.as_str());
    assert_eq!(content("m.room.member", bob.as_str())["is_direct"], true);
    assert_eq!(server.membership(&created.room_id, &bob).as_deref(), Some("invite"));
    assert!(!server.rooms.invite_state(&created.room_id, &bob).unwrap().is_empty());
    let again = server.rooms.create(&alice, &CreateRoom { alias: Some(alias), ..CreateRoom::default() });
    assert!(matches!(again, Err(RoomError::AliasInUse)));
    assert_eq!(server.rooms.memberships_of(&alice).unwrap().len(), 1, "a failed creation leaves nothing");
}
