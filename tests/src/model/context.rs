//! What a change says that its author had seen, in the encodings that were
//! weighed against each other, and an item that is kept by each.

use std::collections::{BTreeMap, BTreeSet};

/// A change's number in a world, in the order of writing.
pub type Uid = usize;
/// A server and one of its incarnations.
pub type Replica = (usize, u32);
/// A replica and a counter.
pub type Dot = (Replica, u32);

/// How the causal context of a change is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The server's whole vector, restricted to the item's writers.
    RoomVector,
    /// The union of (context and dot) of what the author saw, as a plain vector.
    Vector,
    /// A vector that grows only inside the contiguously held prefix, and dots.
    Dots,
    /// The ids of the changes that the author saw, and nothing else.
    Ids,
}

/// One change.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its number.
    pub uid: Uid,
    /// The item.
    pub key: usize,
    /// Where it stands.
    pub dot: Dot,
    /// The change before it in the log.
    pub previous: Option<Uid>,
    /// What its author had seen, as it was encoded.
    pub context: Context,
    /// The author's clock, which decides nothing but the face.
    pub clock: u64,
}

/// An encoded context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Context {
    /// Of [`Rule::Ids`].
    Ids(BTreeSet<Uid>),
    /// Of the others: a vector, and dots above it.
    Vector(BTreeMap<Replica, u32>, BTreeSet<Dot>),
}

impl Context {
    /// Nothing seen.
    pub fn empty(rule: Rule) -> Self {
        match rule {
            Rule::Ids => Self::Ids(BTreeSet::new()),
            _ => Self::Vector(BTreeMap::new(), BTreeSet::new()),
        }
    }

    /// Only this dot: as an explicit one, or as a vector entry.
    pub fn of_dot(rule: Rule, (replica, counter): Dot) -> Self {
        match rule {
            Rule::Dots => Self::Vector(BTreeMap::new(), BTreeSet::from([(replica, counter)])),
            _ => Self::Vector(BTreeMap::from([(replica, counter)]), BTreeSet::new()),
        }
    }

    /// Whether a change counts as seen.
    pub fn covers(&self, change: &Change) -> bool {
        match self {
            Self::Ids(ids) => ids.contains(&change.uid),
            Self::Vector(vector, dots) => {
                vector.get(&change.dot.0).is_some_and(|seen| change.dot.1 <= *seen)
                    || dots.contains(&change.dot)
            }
        }
    }

    /// Takes in another context of the same rule.
    pub fn join(&mut self, other: &Self) {
        match (self, other) {
            (Self::Ids(ids), Self::Ids(others)) => ids.extend(others),
            (Self::Vector(vector, dots), Self::Vector(others, other_dots)) => {
                for (replica, counter) in others {
                    let seen = vector.entry(*replica).or_default();
                    *seen = (*seen).max(*counter);
                }
                dots.extend(other_dots);
                dots.retain(|(replica, counter)| vector.get(replica).is_none_or(|seen| counter > seen));
            }
            (own, other) => *own = other.clone(),
        }
    }
}

/// An item, kept incrementally as a server would keep it.
#[derive(Clone, Debug)]
pub struct Item {
    rule: Rule,
    /// The live changes.
    pub siblings: BTreeMap<Uid, Change>,
    context: Context,
    /// Ids that were named, held or not.
    gone: BTreeSet<Uid>,
}

impl Item {
    /// Never written.
    pub fn new(rule: Rule) -> Self {
        let context = match rule {
            Rule::Ids => Context::empty(Rule::Vector),
            rule => Context::empty(rule),
        };
        Self { rule, siblings: BTreeMap::new(), context, gone: BTreeSet::new() }
    }

    /// Takes in a change.
    pub fn join(&mut self, change: &Change) {
        if self.siblings.contains_key(&change.uid) {
            return;
        }
        if let Context::Ids(named) = &change.context {
            self.gone.extend(named);
            self.siblings.retain(|uid, _| !named.contains(uid));
            if !self.gone.contains(&change.uid) {
                self.siblings.insert(change.uid, change.clone());
            }
            return;
        }
        if self.context.covers(change) {
            return;
        }
        self.siblings.retain(|_, sibling| !change.context.covers(sibling));
        self.siblings.insert(change.uid, change.clone());
        self.context.join(&change.context);
        self.context.join(&Context::of_dot(self.rule, change.dot));
    }
}
