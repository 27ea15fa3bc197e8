//! Events that their past allowed and the current state does not: what comes after them.

use ruma::server_name;

use super::{
    federation::{carry, deliver, pair},
    message,
};
use crate::rooms::Received;

#[test]
fn what_follows_a_soft_failed_event_becomes_an_end_of_the_room_in_its_place() {
    let (a, b, room_id) = pair();
    let (alice, bob, beth) = (a.user("alice"), b.user("bob"), b.user("beth"));
    b.join(&room_id, &beth);
    let joined = b.rooms.state_event(&room_id, "m.room.member", beth.as_str()).unwrap().unwrap();
    deliver(&b, &a, &room_id, &[joined]);
    let ban = a.rooms.ban(&room_id, &alice, &bob, None).unwrap();
    let late = b.send(&room_id, message(&bob, "b has not heard of the ban"));
    assert!(matches!(deliver(&b, &a, &room_id, std::slice::from_ref(&late))[0].1, Received::SoftFailed(_)));
    let after = b.send(&room_id, message(&beth, "nor has beth"));
    assert_eq!(after.prev_events(), [late.event_id()]);
    assert_eq!(deliver(&b, &a, &room_id, std::slice::from_ref(&after))[0].1, Received::Accepted);
    let sorted = |mut ids: Vec<_>| {
        ids.sort();
        ids
    };
    let ends = sorted(vec![ban, after.event_id().to_owned()]);
    assert_eq!(sorted(a.rooms.heads(&room_id).unwrap()), ends);
    let answer = a.send(&room_id, message(&alice, "names both, and nothing that failed"));
    assert_eq!(sorted(answer.prev_events().to_vec()), ends);
    assert_eq!(a.membership(&room_id, &bob).as_deref(), Some("ban"));
    // Another server may still name it; that changes nothing.
    let again = carry(&late, &a.rooms.version_rules(&room_id).unwrap());
    let results = a.rooms.receive_pdus(server_name!("b.example"), &room_id, vec![again]).unwrap();
    assert_eq!(results[0].1, Received::Duplicate);
    assert!(a.rooms.event(late.event_id()).unwrap().is_none(), "nobody is shown it");
}
