//! Laws of items, against a model that keeps every change and derives the
//! siblings from the whole set each time.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
};

use proptest::prelude::*;
use ruma::user_id;

use super::*;
use crate::ids::ValueHash;

/// The rows that a server would keep beside the items.
#[derive(Default)]
struct Rows {
    successors: BTreeMap<ChangeId, BTreeSet<ChangeId>>,
    known: BTreeMap<ChangeId, BTreeMap<ChangeId, Sibling>>,
}

impl ItemFacts for Rows {
    type Error = Infallible;
    fn successors(&self, id: &ChangeId) -> Result<Vec<ChangeId>, Infallible> {
        Ok(self.successors.get(id).into_iter().flatten().copied().collect())
    }
    fn is_known(&self, id: &ChangeId) -> Result<bool, Infallible> {
        Ok(self.known.contains_key(id))
    }
    fn adoptions(&self, id: &ChangeId) -> Result<Vec<Sibling>, Infallible> {
        let entries = self.known.get(id).into_iter().flat_map(BTreeMap::values);
        Ok(entries.filter(|entry| entry.is_adoption()).cloned().collect())
    }
}

#[derive(Default)]
struct Server {
    item: Item,
    rows: Rows,
}

impl Server {
    fn of<'a>(changes: impl IntoIterator<Item = &'a Sibling>) -> Self {
        let mut server = Self::default();
        for change in changes {
            server.join(change);
        }
        server
    }
    fn join(&mut self, change: &Sibling) -> Joined {
        let Ok(joined) = self.item.join(change, &self.rows);
        for (named, by) in &joined.successors {
            self.rows.successors.entry(*named).or_default().insert(*by);
        }
        self.rows.known.entry(change.id).or_default().insert(change.entry, change.clone());
        joined
    }
}

/// The definition: what is known and not named by what is known, adoptions of
/// one event being one change, and what an adoption names that names the event
/// not counting.
fn model(changes: &[Sibling]) -> (BTreeMap<ChangeId, Sibling>, BTreeSet<ChangeId>) {
    let mut known: BTreeMap<ChangeId, Sibling> = BTreeMap::new();
    for change in changes {
        known.entry(change.id).and_modify(|known| known.unite(change)).or_insert_with(|| change.clone());
    }
    let superseded = |id: &ChangeId| {
        known.values().any(|by| {
            let circle = by.is_adoption() && known[id].supersedes.contains(&by.id);
            by.id != *id && by.supersedes.contains(id) && !circle
        })
    };
    let live = known.iter().filter(|(id, _)| !superseded(id)).map(|(id, change)| (*id, change.clone()));
    let named = known.values().flat_map(|by| by.supersedes.iter().copied());
    let missing = named.filter(|id| !known.contains_key(id)).collect();
    (live.collect(), missing)
}

fn id(name: &str) -> ChangeId {
    ChangeId::of(name.as_bytes())
}

fn change(name: &str, entry: &str, value: u8, depth: u64, supersedes: &[ChangeId]) -> Sibling {
    let mut supersedes = supersedes.to_vec();
    supersedes.sort_unstable();
    supersedes.dedup();
    Sibling {
        id: id(name),
        entry: id(entry),
        author: user_id!("@a:a.example").to_owned(),
        origin_server_ts: 1,
        value_hash: (value > 0).then(|| ValueHash::of(&[value])),
        depth: Counter::new(depth).expect("in range"),
        supersedes,
    }
}

/// Histories: ordinary changes name earlier ones (their ids are hashes); what an
/// adoption names can be anything, and an event can be adopted twice.
fn history() -> impl Strategy<Value = Vec<Sibling>> {
    let one = (any::<u8>(), prop::collection::vec(any::<u8>(), 0..4), 0..4_u8, 1..5_u64);
    prop::collection::vec(one, 1..14).prop_map(|plan| {
        let count = plan.len();
        let is_adoption = |index: usize| plan[index].0 % 3 == 0;
        let name = |index: usize| format!("change {index}");
        let mut changes = Vec::new();
        for (index, (kind, picks, value, depth)) in plan.iter().enumerate() {
            let anything = |pick: u8| usize::from(pick) % count;
            // An ordinary change can name whatever existed before it.
            let earlier = |pick: u8| (index > 0).then(|| usize::from(pick) % index);
            if is_adoption(index) {
                for copy in 0..=u8::from(*kind > 100) {
                    let named: Vec<_> =
                        picks.iter().map(|pick| id(&name(anything(pick.wrapping_add(copy))))).collect();
                    changes.push(change(
                        &name(index),
                        &format!("entry {index} {copy}"),
                        *value,
                        *depth,
                        &named,
                    ));
                }
            } else {
                let named: Vec<_> =
                    picks.iter().filter_map(|pick| earlier(*pick)).map(|at| id(&name(at))).collect();
                changes.push(change(&name(index), &name(index), *value, *depth, &named));
            }
        }
        changes
    })
}

fn shuffled() -> impl Strategy<Value = (Vec<Sibling>, Vec<Sibling>)> {
    history().prop_flat_map(|history| (Just(history.clone()).prop_shuffle(), Just(history).prop_shuffle()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn join_is_commutative_idempotent_and_what_the_model_says((one, two) in shuffled(), known in 0..14_usize) {
        let known = &one[..known.min(one.len())];
        let server = Server::of(known);
        let (live, missing) = model(known);
        let siblings = server.item.siblings().iter().map(|sibling| (sibling.id, sibling.clone()));
        prop_assert_eq!(siblings.collect::<BTreeMap<_, _>>(), live);
        prop_assert_eq!(server.item.missing().copied().collect::<BTreeSet<_>>(), missing);
        // All of them, in any order, once or twice.
        let (mut all, other) = (Server::of(&one), Server::of(&two));
        prop_assert_eq!(&all.item, &other.item);
        for change in &two {
            let joined = all.join(change);
            prop_assert!(!joined.added && joined.removed.is_empty());
        }
        prop_assert_eq!(&all.item, &other.item);
    }

    #[test]
    fn what_is_superseded_stays_so((one, _) in shuffled(), known in 0..14_usize) {
        // Monotone among ordinary changes: more knowledge never brings one back.
        let ordinary: Vec<_> = one.into_iter().filter(|change| !change.is_adoption()).collect();
        let (before, all) = (&ordinary[..known.min(ordinary.len())], Server::of(&ordinary));
        let live = Server::of(before);
        for change in before.iter().filter(|change| live.item.sibling(&change.id).is_none()) {
            prop_assert!(all.item.sibling(&change.id).is_none());
        }
    }

    #[test]
    fn joined_says_what_changed((one, _) in shuffled()) {
        let mut server = Server::default();
        let mut live = BTreeSet::new();
        for change in &one {
            let joined = server.join(change);
            prop_assert_eq!(joined.added, !live.contains(&change.id) && server.item.sibling(&change.id).is_some());
            live.retain(|id| !joined.removed.contains(id));
            live.extend(joined.added.then_some(change.id));
            prop_assert_eq!(&live, &server.item.siblings().iter().map(|sibling| sibling.id).collect::<BTreeSet<_>>());
        }
    }
}

#[test]
fn equal_values_are_no_conflict_and_different_ones_are() {
    let key = ItemKey::new("k").expect("a key");
    let (a, b, gone) =
        (change("a", "a", 1, 1, &[]), change("b", "b", 1, 1, &[]), change("c", "c", 0, 9, &[]));
    assert!(Server::of([&a]).item.conflict(&key).is_none());
    assert!(Server::of([&a, &b]).item.conflict(&key).is_none());
    let server = Server::of([&a, &b, &gone]);
    let conflict = server.item.conflict(&key).expect("a put and a delete differ");
    assert_eq!(conflict.siblings.len(), 3);
    assert_eq!(conflict.siblings.last().map(|sibling| sibling.id), Some(gone.id));
    assert_eq!(conflict.id, Server::of([&gone, &b, &a]).item.conflict(&key).expect("the same").id);
    assert_eq!(conflict.speakers(), ["a.example"]);
    assert!(!server.item.is_deleted() && Server::of([&gone]).item.is_deleted());
}

#[test]
fn display_puts_the_longer_history_first() {
    let (short, long) = (change("s", "s", 1, 1, &[]), change("l", "l", 2, 5, &[]));
    let server = Server::of([&short, &long]);
    assert_eq!(server.item.face().map(|face| face.id), Some(long.id));
    assert_eq!(server.item.next_depth().value(), 6);
    assert_eq!(Item::new().next_depth(), Counter::FIRST);
}

#[test]
fn an_event_and_its_successor_never_vanish_together() {
    // x was written after the event e was seen; one adopter says e came after x.
    let (e, x) = ("e", change("x", "x", 2, 2, &[id("e")]));
    let (right, wrong) = (change(e, "first", 1, 1, &[]), change(e, "second", 1, 1, &[id("x")]));
    for order in [[&x, &right, &wrong], [&wrong, &x, &right], [&right, &wrong, &x]] {
        let server = Server::of(order);
        assert_eq!(server.item.siblings().iter().map(|s| s.id).collect::<Vec<_>>(), [id("x")]);
    }
}

#[test]
fn a_missing_id_is_remembered_and_given_up() {
    let mut server = Server::of([&change("b", "b", 1, 1, &[id("a")])]);
    assert!(server.item.is_incomplete());
    server.join(&change("a", "a", 2, 1, &[]));
    assert!(!server.item.is_incomplete());
    assert_eq!(server.item.siblings().len(), 1);
    let mut server = Server::of([&change("b", "b", 1, 1, &[id("a")])]);
    assert!(server.item.give_up(&id("a")) && !server.item.is_incomplete());
}

#[test]
fn golden_item() {
    let server = Server::of([&change("b", "b", 1, 2, &[id("a")]), &change("c", "c", 0, 1, &[])]);
    let row = serde_json::to_string(&server.item).expect("serialises");
    assert_eq!(row, include_str!("../../tests/data/item.json").trim_end());
    assert_eq!(serde_json::from_str::<Item>(&row).expect("our own row"), server.item);
}
