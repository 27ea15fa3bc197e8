//! A room's state as a persistent tree: each change copies one path, so all
//! the states of a room's history share what they have in common.
//!
//! It maps (type, state key) to an event id. A key's place is given by the hash
//! of the key, four bits per level; a subtree is a bucket while it has few
//! entries and a branch above that. The shape depends on the entries alone, not
//! on the order in which they came, so **equal roots are equal states**, and
//! two states are compared by walking only the nodes that differ.
//!
//! It does not know what an event is, and never deletes nodes.

mod node;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, LazyLock},
};

pub use node::{BUCKET_MAX, Child, DamagedNode, Entry, FANOUT, Node};
use ruma::{EventId, OwnedEventId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};

/// Levels below which keys can't be told apart: two per byte of the hash.
const DEPTH_MAX: usize = 64;

/// Names a node: the SHA-256 of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

/// Names a whole state: the id of its top node.
pub type Root = NodeId;

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hex = self.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            hex.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            hex.push(char::from_digit(u32::from(byte & 0x0F), 16).unwrap_or('0'));
            hex
        });
        serializer.serialize_str(&hex)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hex = Cow::<'de, str>::deserialize(deserializer)?;
        let mut id = [0; 32];
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(D::Error::custom("a state's root is 64 hexadecimal digits"));
        }
        for (at, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).map_err(D::Error::custom)?;
        }
        Ok(Self(id))
    }
}

static EMPTY: LazyLock<(NodeId, Arc<Node>)> = LazyLock::new(|| Node::Bucket(Vec::new()).identified());

/// The root of a state without entries; it needs no store.
pub fn empty() -> Root {
    EMPTY.0
}

/// Type and state key: what a piece of state is found by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateKey {
    /// The event type.
    pub kind: String,
    /// The state key.
    pub key: String,
}

impl StateKey {
    /// A key.
    pub fn new(kind: impl Into<String>, key: impl Into<String>) -> Self {
        Self { kind: kind.into(), key: key.into() }
    }

    fn hash(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(self.kind.as_bytes());
        // Never part of UTF-8, so no two keys run together to the same bytes.
        hasher.update([0xFF]);
        hasher.update(self.key.as_bytes());
        hasher.finalize().into()
    }
}

fn nibble(hash: &[u8; 32], depth: usize) -> usize {
    let byte = hash[depth / 2];
    usize::from(if depth.is_multiple_of(2) { byte >> 4 } else { byte & 0x0F })
}

/// Where nodes are kept: in storage, or in memory for tests.
pub trait NodeStore {
    /// Why a node could not be read.
    type Error: From<DamagedNode>;

    /// The node of that id; a missing one is an error, for it was saved once.
    fn load(&self, id: &NodeId) -> Result<Arc<Node>, Self::Error>;

    /// Keeps a node; it is durable when the batch that names it is.
    fn save(&mut self, id: NodeId, node: Arc<Node>);
}

/// A store in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryNodes(pub HashMap<NodeId, Arc<Node>>);

impl NodeStore for MemoryNodes {
    type Error = DamagedNode;

    fn load(&self, id: &NodeId) -> Result<Arc<Node>, DamagedNode> {
        self.0.get(id).cloned().ok_or(DamagedNode)
    }

    fn save(&mut self, id: NodeId, node: Arc<Node>) {
        self.0.insert(id, node);
    }
}

fn load<S: NodeStore>(store: &S, id: &NodeId) -> Result<Arc<Node>, S::Error> {
    if *id == EMPTY.0 { Ok(Arc::clone(&EMPTY.1)) } else { store.load(id) }
}

fn save<S: NodeStore>(store: &mut S, node: Node) -> Child {
    let count = u32::try_from(node.count()).unwrap_or(u32::MAX);
    let (id, node) = node.identified();
    if id != EMPTY.0 {
        store.save(id, node);
    }
    Child { id, count }
}

/// The event that holds this piece of state.
pub fn get<S: NodeStore>(store: &S, root: &Root, key: &StateKey) -> Result<Option<OwnedEventId>, S::Error> {
    let hash = key.hash();
    let mut id = *root;
    for depth in 0..=DEPTH_MAX {
        match &*load(store, &id)? {
            Node::Bucket(entries) => {
                let at = entries.binary_search_by(|entry| entry.key.cmp(key));
                return Ok(at.ok().map(|at| entries[at].event_id.clone()));
            }
            Node::Branch(children) if depth < DEPTH_MAX => match children[nibble(&hash, depth)] {
                Some(child) => id = child.id,
                None => return Ok(None),
            },
            Node::Branch(_) => break,
        }
    }
    Err(DamagedNode.into())
}

/// The number of entries.
pub fn len<S: NodeStore>(store: &S, root: &Root) -> Result<usize, S::Error> {
    Ok(load(store, root)?.count())
}

/// The state with one entry set.
pub fn set<S: NodeStore>(
    store: &mut S,
    root: &Root,
    key: &StateKey,
    event_id: &EventId,
) -> Result<Root, S::Error> {
    apply(store, root, [(key.clone(), Some(event_id.to_owned()))])
}

/// The state without one entry.
pub fn remove<S: NodeStore>(store: &mut S, root: &Root, key: &StateKey) -> Result<Root, S::Error> {
    apply(store, root, [(key.clone(), None)])
}

/// The state with some entries set and some removed; each node is copied once.
pub fn apply<S: NodeStore>(
    store: &mut S,
    root: &Root,
    changes: impl IntoIterator<Item = (StateKey, Option<OwnedEventId>)>,
) -> Result<Root, S::Error> {
    let changes: Vec<KeyChange> =
        changes.into_iter().map(|(key, event_id)| KeyChange { hash: key.hash(), key, event_id }).collect();
    if changes.is_empty() {
        return Ok(*root);
    }
    Ok(apply_below(store, root, changes, 0)?.id)
}

/// An entry to be set, or removed.
struct KeyChange {
    hash: [u8; 32],
    key: StateKey,
    event_id: Option<OwnedEventId>,
}

fn apply_below<S: NodeStore>(
    store: &mut S,
    id: &NodeId,
    changes: Vec<KeyChange>,
    depth: usize,
) -> Result<Child, S::Error> {
    match &*load(store, id)? {
        Node::Bucket(entries) => {
            let mut entries = entries.clone();
            for change in changes {
                let at = entries.binary_search_by(|held| held.key.cmp(&change.key));
                match (at, change.event_id) {
                    (Ok(at), Some(event_id)) => entries[at].event_id = event_id,
                    (Ok(at), None) => drop(entries.remove(at)),
                    (Err(at), Some(event_id)) => entries.insert(at, Entry { key: change.key, event_id }),
                    (Err(_), None) => {}
                }
            }
            Ok(build(store, entries, depth))
        }
        Node::Branch(children) => {
            if depth >= DEPTH_MAX {
                return Err(DamagedNode.into());
            }
            let mut parts: [Vec<KeyChange>; FANOUT] = Default::default();
            for change in changes {
                parts[nibble(&change.hash, depth)].push(change);
            }
            let mut children = children.clone();
            for (slot, part) in parts.into_iter().enumerate().filter(|(_, part)| !part.is_empty()) {
                let below = children[slot].map_or(EMPTY.0, |child| child.id);
                let changed = apply_below(store, &below, part, depth + 1)?;
                children[slot] = (changed.count > 0).then_some(changed);
            }
            let branch = Node::Branch(children);
            if branch.count() > BUCKET_MAX {
                return Ok(save(store, branch));
            }
            // Few enough for a bucket again: the shape must not tell the history.
            let mut entries = Vec::new();
            if let Node::Branch(children) = &branch {
                for child in children.iter().flatten() {
                    collect(store, &child.id, &mut entries)?;
                }
            }
            entries.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(save(store, Node::Bucket(entries)))
        }
    }
}

/// A state from its entries; the last of two with one key counts.
pub fn from_entries<S: NodeStore>(
    store: &mut S,
    entries: impl IntoIterator<Item = (StateKey, OwnedEventId)>,
) -> Root {
    let sorted: BTreeMap<StateKey, OwnedEventId> = entries.into_iter().collect();
    let entries = sorted.into_iter().map(|(key, event_id)| Entry { key, event_id }).collect();
    build(store, entries, 0).id
}

/// The subtree of these entries, which are sorted by key.
fn build<S: NodeStore>(store: &mut S, entries: Vec<Entry>, depth: usize) -> Child {
    if entries.len() <= BUCKET_MAX || depth >= DEPTH_MAX {
        return save(store, Node::Bucket(entries));
    }
    let mut parts: [Vec<Entry>; FANOUT] = Default::default();
    for entry in entries {
        parts[nibble(&entry.key.hash(), depth)].push(entry);
    }
    let children = parts.map(|part| if part.is_empty() { None } else { Some(build(store, part, depth + 1)) });
    save(store, Node::Branch(Box::new(children)))
}

fn collect<S: NodeStore>(store: &S, id: &NodeId, into: &mut Vec<Entry>) -> Result<(), S::Error> {
    let mut pending = vec![*id];
    while let Some(id) = pending.pop() {
        match &*load(store, &id)? {
            Node::Bucket(entries) => into.extend(entries.iter().cloned()),
            Node::Branch(children) => pending.extend(children.iter().flatten().map(|child| child.id)),
        }
    }
    Ok(())
}

/// All entries, in no particular order.
pub fn entries<S: NodeStore>(store: &S, root: &Root) -> Result<Vec<Entry>, S::Error> {
    let mut all = Vec::new();
    collect(store, root, &mut all)?;
    Ok(all)
}

/// One difference between two states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Type and state key.
    pub key: StateKey,
    /// What the first state holds there.
    pub old: Option<OwnedEventId>,
    /// What the second state holds there.
    pub new: Option<OwnedEventId>,
}

/// Where two states differ, sorted by key; walks only nodes that differ.
pub fn diff<S: NodeStore>(store: &S, old: &Root, new: &Root) -> Result<Vec<Difference>, S::Error> {
    let mut found = BTreeMap::new();
    diff_below(store, Some(*old), Some(*new), &mut found)?;
    let changed = found.into_iter().filter(|(_, (old, new))| old != new);
    Ok(changed.map(|(key, (old, new))| Difference { key, old, new }).collect())
}

type Found = BTreeMap<StateKey, (Option<OwnedEventId>, Option<OwnedEventId>)>;

fn diff_below<S: NodeStore>(
    store: &S,
    old: Option<NodeId>,
    new: Option<NodeId>,
    found: &mut Found,
) -> Result<(), S::Error> {
    let mut pending = vec![(old, new)];
    while let Some((old, new)) = pending.pop() {
        if old == new {
            continue;
        }
        let nodes =
            (old.map(|id| load(store, &id)).transpose()?, new.map(|id| load(store, &id)).transpose()?);
        if let (Some(Node::Branch(a)), Some(Node::Branch(b))) = (nodes.0.as_deref(), nodes.1.as_deref()) {
            let pairs = a.iter().zip(b.iter());
            pending.extend(pairs.map(|(a, b)| (a.map(|child| child.id), b.map(|child| child.id))));
            continue;
        }
        for (id, is_new) in [(old, false), (new, true)] {
            let mut entries = Vec::new();
            if let Some(id) = id {
                collect(store, &id, &mut entries)?;
            }
            for entry in entries {
                let slot = found.entry(entry.key).or_default();
                *(if is_new { &mut slot.1 } else { &mut slot.0 }) = Some(entry.event_id);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
