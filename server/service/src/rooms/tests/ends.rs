//! Rooms with many ends: events of others that know nothing of each other.

use causeway_room::format::PREV_EVENTS_MAX;

use super::{
    federation::{deliver, forged, pair, queued},
    *,
};

/// What one transaction may bring.
const AT_ONCE: usize = 50;

#[test]
fn many_ends_are_joined_by_an_event() {
    ends_of(12, 1);
}

#[test]
fn ends_do_not_grow_in_number_however_many_come_at_once() {
    ends_of(AT_ONCE, 3);
}

/// So many events that follow one and the same come, several times.
fn ends_of(count: usize, times: usize) {
    let (a, b, room_id) = pair();
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let (mut to_b, mut last) = (std::collections::BTreeSet::new(), None);
    let head = b.send(&room_id, message(&bob, "the last common one"));
    deliver(&b, &a, &room_id, std::slice::from_ref(&head));
    let authority = head.auth_events().to_vec();
    for time in 0..times {
        let fork =
            |n: usize| forged(&b, &room_id, &message(&bob, &format!("{time} {n}")), authority.clone(), &head);
        let forks: Vec<_> = (0..count).map(fork).collect();
        assert!(deliver(&b, &a, &room_id, &forks).iter().all(|(_, result)| *result == Received::Accepted));
        assert_eq!(a.rooms.heads(&room_id).expect("reads").len(), 1);
        let merges = queued(&a, &b, &mut to_b);
        assert!(merges.len() <= count.div_ceil(PREV_EVENTS_MAX - 1), "{} events say nothing", merges.len());
        for merge in merges {
            let named = merge.prev_events().len();
            assert_eq!(merge.sender(), &*alice);
            assert!(named > 1 && named <= PREV_EVENTS_MAX.min(count + 1), "{named} are joined");
            last = Some(merge.event_id().to_owned());
        }
    }
    assert_eq!(a.rooms.heads(&room_id).expect("reads").first(), last.as_ref());
}

#[test]
fn ends_are_joined_where_nobody_here_may_write() {
    let (a, b, room_id) = pair();
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let mut to_b = std::collections::BTreeSet::new();
    a.send(&room_id, state(&alice, "m.room.power_levels", "", json!({ "events_default": 50 })));
    let head = a.send(&room_id, message(&alice, "the last common one"));
    deliver(&a, &b, &room_id, &queued(&a, &b, &mut to_b));
    let before = b.rooms.state_event(&room_id, "m.room.member", bob.as_str()).expect("reads").expect("is in");
    let authority = head.auth_events().to_vec();
    let fork = |n: usize| forged(&a, &room_id, &message(&alice, &n.to_string()), authority.clone(), &head);
    let forks: Vec<_> = (0..12).map(fork).collect();
    assert!(deliver(&a, &b, &room_id, &forks).iter().all(|(_, result)| *result == Received::Accepted));
    let merges = queued(&b, &a, &mut std::collections::BTreeSet::new());
    let [merge] = merges.as_slice() else { panic!("there are {}", merges.len()) };
    assert_eq!(b.rooms.heads(&room_id).expect("reads"), [merge.event_id().to_owned()]);
    assert_eq!((merge.sender(), merge.content_object()), (&*bob, before.content_object()));
    // As others have it, too.
    deliver(&a, &a, &room_id, &forks);
    let taken = deliver(&b, &a, &room_id, &merges);
    assert!(taken.iter().all(|(_, result)| *result == Received::Accepted), "{taken:?}");
}
