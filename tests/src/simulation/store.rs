//! A server's disk in memory: the entries, the items derived from them, and the
//! [`Snapshot`] that the replicator reads.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
};

use causeway_replication::Snapshot;
use causeway_shared_space::{
    Change, ChangeId, ChangeLog, Dot, Entries, ForkProof, Item, ItemFacts, ItemKey, Link, MemoryEntries,
    Range,
    change_log::{PlaceError, Placed},
    sibling::Sibling,
};
use serde_json::value::RawValue;

use super::Broken;

/// What is on the disk.
#[derive(Clone, Debug, Default)]
pub struct Store {
    log: ChangeLog,
    entries: MemoryEntries,
    changes: HashMap<ChangeId, Change>,
    items: BTreeMap<ItemKey, Item>,
    facts: Facts,
    /// What redactions named, come or not: its values are not kept.
    erased: BTreeSet<ChangeId>,
    /// What was held of each change, for those who send it all the same.
    originals: HashMap<ChangeId, Change>,
    broken: Option<Broken>,
}

#[derive(Clone, Debug, Default)]
struct Facts {
    successors: HashMap<ChangeId, BTreeSet<ChangeId>>,
    effective: BTreeSet<ChangeId>,
    forgetful: bool,
}

impl ItemFacts for Facts {
    type Error = Infallible;
    fn successors(&self, id: &ChangeId) -> Result<Vec<ChangeId>, Infallible> {
        let known = if self.forgetful { None } else { self.successors.get(id) };
        Ok(known.into_iter().flatten().copied().collect())
    }
    fn is_known(&self, id: &ChangeId) -> Result<bool, Infallible> {
        Ok(self.effective.contains(id))
    }
    fn adoptions(&self, _: &ChangeId) -> Result<Vec<Sibling>, Infallible> {
        Ok(Vec::new())
    }
}

/// What became of an entry.
#[derive(Clone, Debug)]
pub enum Joining {
    /// It was held.
    Known,
    /// Its server has too many branches and islands.
    Refused,
    /// It is held now; with these it proves forks.
    New(Vec<ForkProof>),
}

/// The value of a result that can't fail.
pub fn sure<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

impl Store {
    /// An empty disk, perhaps of a server that is broken on purpose.
    pub fn new(broken: Option<Broken>) -> Self {
        let facts = Facts { forgetful: broken == Some(Broken::ForgetNamed), ..Facts::default() };
        Self { facts, broken, ..Self::default() }
    }

    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// Joins a verified entry.
    pub fn join(&mut self, change: &Change) -> Joining {
        let id = change.id();
        let placed = match self.log.place(change.header(), &self.entries) {
            Ok(Some(placed)) => placed,
            Ok(None) => return Joining::Known,
            Err(PlaceError::TooManyTips) => return Joining::Refused,
            Err(PlaceError::Entries(never)) => match never {},
        };
        self.entries.apply(id, &placed);
        let erased = self.is_erased(&change.header().item_id()) && !self.is(Broken::KeepRedacted);
        let bare = erased || self.is(Broken::LoseValues);
        if self.is(Broken::SendRedacted) {
            self.originals.insert(id, change.clone());
        }
        self.changes.insert(id, if bare { change.without_value() } else { change.clone() });
        self.derive(change);
        Joining::New(self.proofs(change, &placed))
    }

    fn proofs(&self, change: &Change, placed: &Placed) -> Vec<ForkProof> {
        let others = placed.forks.iter().filter_map(|other| self.changes.get(other));
        others.filter_map(|other| ForkProof::new(change, other)).collect()
    }

    fn derive(&mut self, change: &Change) {
        let header = change.header();
        let effective = header.author().server_name() == header.server();
        if !effective {
            return;
        }
        let keeps_redacted = self.is(Broken::KeepRedacted);
        let Some(mut sibling) = Sibling::of(header) else {
            for id in header.redacts() {
                self.erased.insert(*id);
                if let Some(redacted) = self.changes.get_mut(id).filter(|_| !keeps_redacted) {
                    *redacted = redacted.without_value();
                }
            }
            return;
        };
        if self.is(Broken::OwnTimes) {
            sibling.origin_server_ts = self.changes.len() as u64;
        }
        let item = self.items.entry(header.key().clone()).or_default();
        let joined = sure(item.join(&sibling, &self.facts));
        for (named, by) in joined.successors {
            self.facts.successors.entry(named).or_default().insert(by);
        }
        self.facts.effective.insert(sibling.id);
    }

    /// Whether a redaction of it is held.
    pub fn is_erased(&self, id: &ChangeId) -> bool {
        self.erased.contains(id)
    }

    /// An item, if anything was ever written to it.
    pub fn item(&self, key: &ItemKey) -> Option<&Item> {
        self.items.get(key)
    }

    /// All items.
    pub fn items(&self) -> &BTreeMap<ItemKey, Item> {
        &self.items
    }

    /// Whether a change is held.
    pub fn holds(&self, id: &ChangeId) -> bool {
        self.changes.contains_key(id)
    }

    /// A change.
    pub fn change(&self, id: &ChangeId) -> Option<&Change> {
        self.changes.get(id)
    }

    /// Everything held, in no order.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.changes.values()
    }
}

impl Entries for Store {
    type Error = Infallible;
    fn link(&self, id: &ChangeId) -> Result<Option<Link>, Infallible> {
        self.entries.link(id)
    }
    fn at(&self, dot: &Dot) -> Result<Vec<ChangeId>, Infallible> {
        self.entries.at(dot)
    }
}

impl Snapshot for Store {
    fn log(&self) -> &ChangeLog {
        &self.log
    }

    fn read(&self, range: &Range, limit: usize, bytes: usize) -> Result<Vec<Change>, Infallible> {
        let mut read = Vec::new();
        let mut size = 0;
        for id in self.entries.range(range) {
            if read.len() == limit || (size > bytes && !read.is_empty()) {
                break;
            }
            let change = &self.changes[&id];
            let key = change.header().key();
            let live = self.items.get(key).is_some_and(|item| item.sibling(&id).is_some());
            let change = if live { change.clone() } else { change.without_value() };
            let change = self.originals.get(&id).cloned().unwrap_or(change);
            size += change.to_json().len();
            read.push(change);
        }
        Ok(read)
    }

    fn keys(&self, server: &str) -> Result<Vec<Box<RawValue>>, Infallible> {
        let key = format!(r#"{{"server_name":"{server}","verify_keys":{{}}}}"#);
        Ok(RawValue::from_string(key).into_iter().collect())
    }
}
