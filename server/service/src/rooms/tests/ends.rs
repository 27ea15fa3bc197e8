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
