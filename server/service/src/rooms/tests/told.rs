//! What servers tell of a past that is not known here: it counts beside what is known.

use super::{
    federation::{carry, join_over},
    *,
};

#[test]
fn a_ban_counts_also_after_somebody_hid_it_behind_a_gap() {
    for as_history in [false, true] {
        let (a, b) = (Server::new("a.example"), Server::new("b.example"));
        let (alice, bob, eve) = (a.user("alice"), b.user("bob"), a.user("eve"));
        let room_id = a.create(&alice, Preset::PublicChat);
        join_over(&a, &b, &room_id, &bob).unwrap();
        let told = b.rooms.state_entries(&b.rooms.state_root(&room_id).unwrap()).unwrap();
        let told: Vec<_> = told.into_iter().map(|entry| entry.event_id).collect();
        let ban =
            a.send(&room_id, state(&alice, "m.room.member", eve.as_str(), json!({"membership": "ban"})));
        let after = a.send(&room_id, message(&alice, "after it"));
        let rules = a.rooms.version_rules(&room_id).unwrap();
        let banned = || b.rooms.state_event(&room_id, "m.room.member", eve.as_str()).unwrap();
        // The state as it was before the ban.
        let taken = b.rooms.import_state(&room_id, carry(&after, &rules), &told).unwrap();
        assert_eq!((taken, banned().is_none()), (Received::Accepted, true));
        if as_history {
            let asked = [ban.event_id().to_owned()];
            let stranger = a.send(&room_id, message(&alice, "nobody asked for it"));
            let given = [&ban, &stranger].map(|pdu| carry(pdu, &rules)).to_vec();
            b.rooms.import_backfill(&room_id, &asked, given).unwrap();
            assert!(b.rooms.held(stranger.event_id()).unwrap().is_none() && banned().is_none());
        }
        let origin = a.rooms.server_name();
        b.rooms.receive_pdus(origin, &room_id, vec![carry(&ban, &rules)]).unwrap();
        assert!(banned().is_some_and(|event| event.event_id() == ban.event_id()), "{as_history}");
        b.send(&room_id, message(&bob, "goes on"));
        assert!(banned().is_some(), "{as_history}");
    }
}
