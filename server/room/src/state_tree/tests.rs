//! The tree against an ordered map, and the invariants of its shape.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ruma::OwnedEventId;

use super::*;

fn event(n: u16) -> OwnedEventId {
    OwnedEventId::try_from(format!("$event-{n}")).expect("a valid id")
}

fn key(n: u16) -> StateKey {
    StateKey::new(format!("t{}", n % 3), format!("k{n}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_an_ordered_map(steps in prop::collection::vec((0_u16..120, prop::option::weighted(0.75, 0_u16..500)), 0..300)) {
        let (mut store, mut root, mut model) = (MemoryNodes::default(), empty(), BTreeMap::new());
        for (k, value) in steps {
            root = if let Some(value) = value {
                model.insert(key(k), event(value));
                set(&mut store, &root, &key(k), &event(value)).unwrap()
            } else {
                model.remove(&key(k));
                remove(&mut store, &root, &key(k)).unwrap()
            };
        }
        for k in 0..120 {
            prop_assert_eq!(get(&store, &root, &key(k)).unwrap(), model.get(&key(k)).cloned());
        }
        prop_assert_eq!(len(&store, &root).unwrap(), model.len());
        let held: BTreeMap<_, _> = entries(&store, &root).unwrap().into_iter().map(|entry| (entry.key, entry.event_id)).collect();
        prop_assert_eq!(&held, &model);
        // The shape tells nothing of the way: built at once, it is the same.
        prop_assert_eq!(from_entries(&mut store, model), root);
    }

    #[test]
    fn a_difference_is_what_differs(a in prop::collection::btree_map(0_u16..200, 0_u16..9, 0..150), b in prop::collection::btree_map(0_u16..200, 0_u16..9, 0..150)) {
        let mut store = MemoryNodes::default();
        let build = |store: &mut MemoryNodes, map: &BTreeMap<u16, u16>| from_entries(store, map.iter().map(|(k, v)| (key(*k), event(*v))));
        let (old, new) = (build(&mut store, &a), build(&mut store, &b));
        let mut expected = BTreeMap::new();
        for k in 0..200 {
            let (old, new) = (a.get(&k).map(|v| event(*v)), b.get(&k).map(|v| event(*v)));
            if old != new {
                expected.insert(key(k), (old, new));
            }
        }
        let found: BTreeMap<_, _> = diff(&store, &old, &new).unwrap().into_iter().map(|d| (d.key, (d.old, d.new))).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_change_saves_few_nodes_and_bytes_survive() {
    let mut store = MemoryNodes::default();
    let root = from_entries(&mut store, (0..5_000).map(|n| (key(n), event(n))));
    let before = store.0.len();
    let next = set(&mut store, &root, &key(77), &event(9_999)).unwrap();
    assert!(store.0.len() - before <= 5, "a path, not a copy: {}", store.0.len() - before);
    assert_eq!(diff(&store, &root, &next).unwrap().len(), 1);
    for node in store.0.values() {
        assert_eq!(Node::decode(&node.encode()).unwrap(), **node);
    }
}

#[test]
fn damaged_bytes_are_an_error() {
    assert!(Node::decode(&[]).is_err());
    assert!(Node::decode(&[9, 0, 0, 0]).is_err());
    assert!(Node::decode(&[1, 0, 0xFF, 0xFF, 0, 1]).is_err());
    let (_, node) = Node::Bucket(vec![Entry { key: key(1), event_id: event(1) }]).identified();
    let bytes = node.encode();
    assert!((0..bytes.len()).all(|cut| Node::decode(&bytes[..cut]).is_err()));
}

#[test]
fn the_stored_bytes_are_these() {
    let entry = |key: &str| Entry { key: StateKey::new("ty", key), event_id: event(7) };
    let bucket = Node::Bucket(vec![entry("a"), entry("b")]).encode();
    assert_eq!(
        bucket,
        b"\x01\x00\x00\x02\x00\x02\x00\x01\x00\x08tya$event-7\x00\x02\x00\x01\x00\x08tyb$event-7"
    );
    let mut children = Box::new([None; FANOUT]);
    children[1] = Some(Child { id: NodeId([0xAB; 32]), count: 17 });
    let mut expected = b"\x01\x01\x00\x02".to_vec();
    expected.extend([0xAB; 32]);
    expected.extend(17_u32.to_be_bytes());
    assert_eq!(Node::Branch(children).encode(), expected);
    let root = serde_json::to_string(&NodeId([0xAB; 32])).unwrap();
    assert_eq!(root, format!("\"{}\"", "ab".repeat(32)));
    assert_eq!(serde_json::from_str::<NodeId>(&root).unwrap(), NodeId([0xAB; 32]));
    for bad in ["\"ab\"".to_owned(), format!("\"{}\"", "ä".repeat(32)), format!("\"{}\"", "x".repeat(64))] {
        assert!(serde_json::from_str::<NodeId>(&bad).is_err());
    }
}
