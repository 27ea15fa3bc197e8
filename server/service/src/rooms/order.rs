//! The order in which events that come together are taken in.
//!
//! Who sends them chooses what they name and how deep they say they are, so the
//! order costs time in proportion to the events and what they name, never more.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
};

use causeway_room::Pdu;
use ruma::OwnedEventId;

/// Each event after all of those given that it names (`prev_events`,
/// `auth_events`); among those that are free, the one that says the least depth,
/// then the least id, comes first. Ids are hashes, so that no events name each
/// other in a circle; if some did, they would come last.
pub(super) fn named_first(pdus: Vec<Pdu>) -> Vec<Arc<Pdu>> {
    let mut pdus: Vec<Arc<Pdu>> = pdus.into_iter().map(Arc::new).collect();
    pdus.sort_by(|a, b| a.depth().cmp(&b.depth()).then_with(|| a.event_id().cmp(b.event_id())));
    pdus.dedup_by(|a, b| a.event_id() == b.event_id());
    // From here on the place says the rank.
    let places: HashMap<OwnedEventId, usize> =
        pdus.iter().enumerate().map(|(place, pdu)| (pdu.event_id().to_owned(), place)).collect();
    let mut named_by: Vec<Vec<usize>> = vec![Vec::new(); pdus.len()];
    let mut waits_for = vec![0_usize; pdus.len()];
    for (place, pdu) in pdus.iter().enumerate() {
        for named in pdu.prev_events().iter().chain(pdu.auth_events()) {
            if let Some(named) = places.get(named) {
                named_by[*named].push(place);
                waits_for[place] += 1;
            }
        }
    }
    let mut free: BinaryHeap<Reverse<usize>> =
        (0..pdus.len()).filter(|place| waits_for[*place] == 0).map(Reverse).collect();
    let mut ordered = Vec::with_capacity(pdus.len());
    while let Some(Reverse(place)) = free.pop() {
        ordered.push(Arc::clone(&pdus[place]));
        for next in &named_by[place] {
            waits_for[*next] -= 1;
            if waits_for[*next] == 0 {
                free.push(Reverse(*next));
            }
        }
    }
    ordered
        .extend(pdus.iter().zip(&waits_for).filter(|(_, waits)| **waits > 0).map(|(pdu, _)| Arc::clone(pdu)));
    ordered
}
