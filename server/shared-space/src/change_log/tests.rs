//! Laws of the log's shape, against a model that keeps the plain set of held
//! entries and answers every question by walking it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{ChangeLog, Entries, MemoryEntries, Scope};
use crate::{
    ids::ChangeId,
    replica::{Counter, Dot, ReplicaId},
    version_vector::{Point, VersionVector},
};

/// An entry of the made-up world: what a header would say.
#[derive(Debug, Clone)]
struct Entry {
    id: ChangeId,
    dot: Dot,
    previous: Option<ChangeId>,
}

/// A server's log with forks and incarnations, from a list of choices: each
/// entry hangs on an earlier one (or nothing), in its replica or in a new one.
fn world(choices: &[(u8, u8)]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (index, (below, kind)) in choices.iter().enumerate() {
        let server = ["a.example", "b.example"][usize::from(kind % 2)];
        let own: Vec<&Entry> =
            entries.iter().filter(|entry| entry.dot.replica.server_text() == server).collect();
        // Mostly the latest entry; sometimes any: a fork, a restore, a clone.
        let parent = match own.len() {
            0 => None,
            count if *below < 200 => own.get(count - 1).copied(),
            count => own.get(usize::from(*below) % count).copied(),
        };
        let fresh = || -> ReplicaId { format!("{server}/{index:016x}").parse().expect("well formed") };
        let dot = match parent {
            Some(parent) if kind % 8 < 6 => Dot {
                replica: parent.dot.replica.clone(),
                counter: parent.dot.counter.next().expect("small"),
            },
            _ => Dot { replica: fresh(), counter: Counter::FIRST },
        };
        let previous = parent.map(|parent| parent.id);
        entries.push(Entry { id: ChangeId::of(&index.to_be_bytes()), dot, previous });
    }
    entries
}

/// A server of the real thing.
#[derive(Default)]
struct Held {
    log: ChangeLog,
    entries: MemoryEntries,
}

impl Held {
    fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut held = Self::default();
        for entry in entries {
            held.add(entry);
        }
        held
    }
    fn add(&mut self, entry: &Entry) -> bool {
        let placed = self.log.place_entry(entry.id, &entry.dot, entry.previous, &self.entries);
        let placed = placed.expect("within the bounds");
        if let Some(placed) = &placed {
            self.entries.apply(entry.id, placed);
        }
        placed.is_some()
    }
    fn lacking(&self, theirs: &VersionVector) -> VersionVector {
        self.log.lacking(theirs, &self.entries).expect("memory does not fail")
    }
    fn after(&self, theirs: &VersionVector, scope: Scope<'_>) -> Vec<ChangeId> {
        let ranges = self.log.after(theirs, scope, &self.entries).expect("memory does not fail");
        ranges.iter().flat_map(|range| self.entries.range(range)).collect()
    }
}

/// The ids that a point implies, by walking the whole world.
fn implied(world: &BTreeMap<ChangeId, Entry>, replica: &ReplicaId, point: &Point) -> BTreeSet<ChangeId> {
    let mut implied = BTreeSet::new();
    let mut next = Some(point.id);
    while let Some(entry) = next.and_then(|id| world.get(&id)) {
        if point.floor.is_some_and(|floor| entry.dot.replica != *replica || entry.dot.counter < floor) {
            break;
        }
        implied.insert(entry.id);
        next = entry.previous;
    }
    implied
}

fn by_id(world: &[Entry]) -> BTreeMap<ChangeId, Entry> {
    world.iter().map(|entry| (entry.id, entry.clone())).collect()
}

fn meaning(world: &[Entry], vector: &VersionVector) -> BTreeSet<ChangeId> {
    let world = by_id(world);
    vector.iter().flat_map(|(replica, point)| implied(&world, replica, point)).collect()
}

fn choices() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop::collection::vec(any::<(u8, u8)>(), 1..40)
}

/// The entries of which the bit in `mask` is set, in the order of `keys`.
fn pick(world: &[Entry], mask: u64, keys: &[u32]) -> Vec<Entry> {
    let mut picked: Vec<(u32, &Entry)> = world
        .iter()
        .enumerate()
        .filter(|(index, _)| mask & (1 << index) != 0)
        .map(|(index, entry)| (keys[index], entry))
        .collect();
    picked.sort_by_key(|(key, _)| *key);
    picked.into_iter().map(|(_, entry)| entry.clone()).collect()
}

fn ids(entries: &[Entry]) -> BTreeSet<ChangeId> {
    entries.iter().map(|entry| entry.id).collect()
}

fn orders() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(any::<u32>(), 40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_vector_means_exactly_what_is_held(choices in choices(), mask: u64, one in orders(), two in orders()) {
        let world = world(&choices);
        let first = Held::of(&pick(&world, mask, &one));
        let second = Held::of(&pick(&world, mask, &two));
        let vector = first.log.vector();
        // Whatever the order, and back from its rows and its JSON, it is the same.
        prop_assert_eq!(&vector, &second.log.vector());
        prop_assert_eq!(vector.digest(), second.log.vector().digest());
        let rows = first.log.rows().map(|(replica, row)| (replica.clone(), row.clone()));
        prop_assert_eq!(&ChangeLog::from_rows(rows).vector(), &vector);
        prop_assert_eq!(&VersionVector::from_json(vector.to_json().as_bytes()).expect("own JSON"), &vector);
        prop_assert_eq!(meaning(&world, &vector), ids(&pick(&world, mask, &one)));
        // No point is implied by another.
        let mut reduced = vector.clone();
        first.log.reduce(&mut reduced, &first.entries).expect("memory does not fail");
        prop_assert_eq!(reduced, vector);
    }

    #[test]
    fn labels_and_counts_follow_the_entries(choices in choices(), mask: u64, order in orders()) {
        let world = world(&choices);
        let held = pick(&world, mask, &order);
        let server = Held::of(&held);
        prop_assert_eq!(server.log.entries(), held.len() as u64);
        let all = server.after(&VersionVector::new(), Scope::All);
        prop_assert_eq!(all.len(), held.len());
        prop_assert_eq!(all.iter().copied().collect::<BTreeSet<_>>(), ids(&held));
        // An entry comes after the one that it hangs on.
        let mut seen = BTreeSet::new();
        let by_id = by_id(&held);
        for id in &all {
            let previous = by_id[id].previous.filter(|previous| by_id.contains_key(previous));
            prop_assert!(previous.is_none_or(|previous| seen.contains(&previous)));
            seen.insert(*id);
        }
        let mut dots = BTreeSet::new();
        let forked = held.iter().any(|entry| !dots.insert(entry.dot.clone()));
        prop_assert_eq!(server.log.rows().any(|(_, row)| row.is_forked()), forked);
    }

    #[test]
    fn lacking_is_empty_exactly_if_nothing_lacks(choices in choices(), mine: u64, theirs: u64, order in orders()) {
        let world = world(&choices);
        let (mine, theirs) = (pick(&world, mine, &order), pick(&world, theirs, &order));
        let vector = Held::of(&theirs).log.vector();
        let lacking = Held::of(&mine).lacking(&vector);
        let complete = ids(&theirs).is_subset(&ids(&mine));
        prop_assert_eq!(lacking.is_empty(), complete);
    }

    #[test]
    fn answers_hold_what_lacks_and_nothing_known(choices in choices(), mine: u64, theirs: u64, order in orders()) {
        let world = world(&choices);
        let (mine, theirs) = (pick(&world, mine, &order), pick(&world, theirs, &order));
        let (asker, answerer) = (Held::of(&mine), Held::of(&theirs));
        let question = asker.log.vector();
        let sent: BTreeSet<_> = answerer.after(&question, Scope::All).into_iter().collect();
        // Never what a point says that is known to the answerer.
        let known = by_id(&theirs);
        for (replica, point) in question.iter().filter(|(_, point)| known.contains_key(&point.id)) {
            prop_assert!(implied(&known, replica, point).is_disjoint(&sent));
        }
        // All that lacks of the servers in question, when asked for with a locator.
        let lacking = asker.lacking(&answerer.log.vector());
        let servers = lacking.iter().map(|(replica, _)| replica.server().to_owned()).collect();
        let located = asker.log.locator(&lacking, &asker.entries).expect("memory does not fail");
        prop_assert!(meaning(&world, &located).is_subset(&ids(&mine)));
        let sent: BTreeSet<_> = answerer.after(&located, Scope::Servers(&servers)).into_iter().collect();
        prop_assert!(ids(&theirs).difference(&ids(&mine)).all(|id| sent.contains(id)));
    }

    #[test]
    fn two_servers_end_equal(choices in choices(), mine: u64, theirs: u64, order in orders(), page in 1..6_usize) {
        let world = world(&choices);
        let mut one = Held::of(&pick(&world, mine, &order));
        let mut two = Held::of(&pick(&world, theirs, &order));
        pull(&mut one, &two, &world, page);
        pull(&mut two, &one, &world, page);
        prop_assert_eq!(one.log.vector(), two.log.vector());
    }

    #[test]
    fn joined_vectors_mean_the_union(choices in choices(), mine: u64, theirs: u64, order in orders()) {
        let world = world(&choices);
        let (mine, theirs) = (pick(&world, mine, &order), pick(&world, theirs, &order));
        let (one, two) = (Held::of(&mine).log.vector(), Held::of(&theirs).log.vector());
        let (mut left, mut right) = (one.clone(), two.clone());
        left.join(&two);
        right.join(&one);
        prop_assert_eq!(&left, &right);
        let both: BTreeSet<_> = ids(&mine).union(&ids(&theirs)).copied().collect();
        prop_assert_eq!(meaning(&world, &left), both.clone());
        let judge = Held::of(&world);
        let before = left.len();
        judge.log.reduce(&mut left, &judge.entries).expect("memory does not fail");
        prop_assert!(left.len() <= before);
        prop_assert_eq!(meaning(&world, &left), both);
    }
}

/// Pulls page by page, as the replicator does, until nothing lacks.
fn pull(asker: &mut Held, answerer: &Held, world: &[Entry], page: usize) {
    let world = by_id(world);
    let target = answerer.log.vector();
    let mut received = VersionVector::new();
    for _ in 0..200 {
        let lacking = asker.lacking(&target);
        if lacking.is_empty() {
            return;
        }
        let servers = lacking.iter().map(|(replica, _)| replica.server().to_owned()).collect();
        let mut question = asker.log.locator(&lacking, &asker.entries).expect("memory does not fail");
        question.join(&received);
        let sent = answerer.after(&question, Scope::Servers(&servers));
        for id in sent.iter().take(page) {
            asker.add(&world[id]);
        }
        for id in sent.iter().take(page) {
            let point = asker.log.point(id, &asker.entries).expect("memory does not fail");
            let (replica, point) = point.expect("held by now");
            received.insert(&replica, point);
        }
    }
    panic!("a pull that does not end");
}

fn entry(name: &str, replica: &str, counter: u64, previous: Option<&Entry>) -> Entry {
    let dot = Dot {
        replica: format!("a.example/{replica:0>16}").parse().expect("well formed"),
        counter: Counter::new(counter).expect("in range"),
    };
    Entry { id: ChangeId::of(name.as_bytes()), dot, previous: previous.map(|entry| entry.id) }
}

#[test]
fn a_later_incarnation_implies_the_earlier_one() {
    let one = entry("1", "1", 1, None);
    let two = entry("2", "1", 2, Some(&one));
    let next = entry("3", "2", 1, Some(&two));
    let held = Held::of([&one, &two, &next]);
    let vector = held.log.vector();
    assert_eq!(vector.len(), 1);
    assert_eq!(
        vector.points(&next.dot.replica),
        [Point { counter: Counter::FIRST, id: next.id, floor: None }]
    );
    // A fresh replica continues after the last entry; an old one can go on, too.
    let fresh: ReplicaId = "a.example/0000000000000003".parse().expect("well formed");
    let (dot, previous) = held.log.next(&fresh).expect("a fresh replica can be written to");
    assert_eq!((dot.counter, previous), (Counter::FIRST, Some(next.id)));
    let (dot, previous) = held.log.next(&next.dot.replica).expect("not forked");
    assert_eq!((dot.counter.value(), previous), (2, Some(next.id)));
}

#[test]
fn a_fork_is_found_on_both_sides_of_it() {
    let one = entry("1", "1", 1, None);
    let (left, right) = (entry("l", "1", 2, Some(&one)), entry("r", "1", 2, Some(&one)));
    let (mine, theirs) = (Held::of([&one, &left]), Held::of([&one, &right]));
    // Both say "2", and yet each sees that the other has something else.
    assert_eq!(mine.lacking(&theirs.log.vector()).len(), 1);
    assert_eq!(theirs.lacking(&mine.log.vector()).len(), 1);
    let mut both = Held::of([&one, &left]);
    let placed = both.log.place_entry(right.id, &right.dot, right.previous, &both.entries);
    let placed = placed.expect("within the bounds").expect("not held yet");
    assert_eq!(placed.forks, [left.id]);
    both.entries.apply(right.id, &placed);
    assert!(both.log.row(&one.dot.replica).expect("has entries").is_forked());
    assert_eq!(both.log.next(&one.dot.replica), None);
    assert_eq!(both.log.vector().len(), 2);
}

#[test]
fn an_island_is_told_and_joins_when_the_hole_is_filled() {
    let one = entry("1", "1", 1, None);
    let two = entry("2", "1", 2, Some(&one));
    let three = entry("3", "1", 3, Some(&two));
    let four = entry("4", "1", 4, Some(&three));
    let mut held = Held::of([&one, &four, &three]);
    let floor = Counter::new(3);
    let island = Point { counter: four.dot.counter, id: four.id, floor };
    assert!(held.log.vector().has(&one.dot.replica, &island));
    assert_eq!(held.log.next(&one.dot.replica), None);
    held.add(&two);
    assert_eq!(held.log.vector().len(), 1);
    assert_eq!(held.log.row(&one.dot.replica).expect("has entries").runs().len(), 1);
    assert!(held.log.next(&one.dot.replica).is_some());
}

#[test]
fn what_does_not_fit_is_an_island_on_every_server() {
    let one = entry("1", "1", 1, None);
    let liar = entry("5", "1", 5, Some(&one));
    let (with, without) = (Held::of([&one, &liar]), Held::of([&liar, &one]));
    assert_eq!(with.log.vector(), without.log.vector());
    assert_eq!(with.log.vector().len(), 2);
    assert!(with.lacking(&without.log.vector()).is_empty());
}

#[test]
fn tips_are_bounded_and_what_extends_is_not() {
    let mut held = Held::default();
    let roots: Vec<Entry> =
        (0..super::MAX_TIPS_PER_SERVER).map(|n| entry(&n.to_string(), &n.to_string(), 1, None)).collect();
    for root in &roots {
        held.add(root);
    }
    let more = entry("more", "ff", 1, None);
    assert!(held.log.place_entry(more.id, &more.dot, more.previous, &held.entries).is_err());
    assert!(held.entries.link(&more.id).expect("memory does not fail").is_none());
    let next = entry("next", "0", 2, Some(&roots[0]));
    let incarnation = entry("incarnation", "fe", 1, Some(&next));
    assert!(held.add(&next) && held.add(&incarnation));
}

#[test]
fn golden_vector_and_row() {
    let one = entry("1", "1", 1, None);
    let (left, right) = (entry("l", "1", 2, Some(&one)), entry("r", "1", 2, Some(&one)));
    let lost = entry("lost", "2", 6, None);
    let island = entry("island", "2", 7, Some(&lost));
    let held = Held::of([&one, &left, &right, &island]);
    assert_eq!(held.log.vector().to_json(), include_str!("../../tests/data/vector.json").trim_end());
    let row =
        serde_json::to_string(held.log.row(&one.dot.replica).expect("has entries")).expect("serialises");
    assert_eq!(row, include_str!("../../tests/data/replica_log.json").trim_end());
}

#[test]
fn vectors_from_peers_are_bounded() {
    let id = "0".repeat(64);
    let vector = |points: usize, replicas: usize| {
        let point = format!("[1,\"{id}\"]");
        let list = (0..points).map(|n| format!("[{},\"{id}\"]", n + 1)).collect::<Vec<_>>().join(",");
        let rest: Vec<_> = (0..replicas).map(|n| format!("\"b.example/{n:016x}\":[{point}]")).collect();
        VersionVector::from_json(
            format!("{{\"a.example/{:016x}\":[{list}],{}}}", 0, rest.join(",")).as_bytes(),
        )
    };
    assert!(vector(1, 1_999).is_ok() && vector(256, 1).is_ok());
    assert!(vector(1, 2_000).is_err() && vector(257, 1).is_err());
    for bad in ["[]", r#"{"a.example":[]}"#, r#"{"a.example/0000000000000000":[]}"#] {
        assert!(VersionVector::from_json(bad.as_bytes()).is_err(), "{bad}");
    }
    for point in ["[0,ID]", "[1]", "[1,ID,2]", "[1,ID,1,1]", "[1,\"xx\"]"] {
        let json =
            format!(r#"{{"a.example/0000000000000000":[{}]}}"#, point.replace("ID", &format!("\"{id}\"")));
        assert!(VersionVector::from_json(json.as_bytes()).is_err(), "{json}");
    }
}
