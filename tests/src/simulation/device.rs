//! A person's device: what it was given, as its token or its server remembers
//! it, and what it was really shown.
//!
//! A device acts on what it last saw, however stale; it lives on when its
//! server's disk is put back.

use std::collections::BTreeMap;

use causeway_shared_space::{
    Change, ChangeId, Item, ItemKey, Observed, ObservedFacts, Range, ReplicaId, change_log::Scope,
};
use ruma::OwnedUserId;

use super::{
    Broken,
    server::SimServer,
    store::{Store, sure},
    truth::{Set, Truth},
};
use causeway_replication::Snapshot as _;
use causeway_shared_space::Entries as _;

/// A device.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its server.
    pub home: usize,
    /// Whose it is.
    pub user: OwnedUserId,
    seen: BTreeMap<ItemKey, Observed>,
    shown: BTreeMap<ItemKey, Set>,
}

impl Device {
    /// A device that has seen nothing.
    pub fn new(home: usize, user: OwnedUserId) -> Self {
        Self { home, user, seen: BTreeMap::new(), shown: BTreeMap::new() }
    }

    /// It is given these siblings of an item.
    pub fn see<'a>(
        &mut self,
        key: &ItemKey,
        siblings: impl IntoIterator<Item = &'a ChangeId>,
        truth: &Truth,
    ) {
        let seen = self.seen.entry(key.clone()).or_default();
        for id in siblings {
            seen.give(*id);
            let number = truth.number(id);
            *self.shown.entry(key.clone()).or_default() |= number.map_or(0, |number| 1 << number);
        }
    }

    /// What it was really shown of an item.
    pub fn shown(&self, key: &ItemKey, broken: Option<Broken>) -> Set {
        let shown = self.shown.get(key).filter(|_| broken != Some(Broken::Crowd));
        shown.copied().unwrap_or(0)
    }

    /// What a write by it supersedes.
    pub fn supersedes(&self, key: &ItemKey, server: &SimServer, names: &[String]) -> Vec<ChangeId> {
        match server.broken {
            Some(Broken::NameNothing | Broken::Crowd) => return Vec::new(),
            Some(Broken::NameAll) => {
                let item = server.life.memory.item(key);
                return item.into_iter().flat_map(Item::siblings).map(|sibling| sibling.id).collect();
            }
            _ => {}
        }
        let Some(seen) = self.seen.get(key) else { return Vec::new() };
        let facts = Replicated::of(server, names);
        sure(seen.supersedes(&facts))
    }
}

/// What the server knows of the changes that a device was given.
struct Replicated<'a> {
    store: &'a Store,
    /// The replica whose log the server goes on with.
    continued: Option<&'a ReplicaId>,
    /// For each peer that said what it holds, what it lacks.
    lacked: Vec<Vec<Range>>,
}

impl<'a> Replicated<'a> {
    fn of(server: &'a SimServer, names: &[String]) -> Self {
        let store = &server.life.disk;
        let vectors = names.iter().filter_map(|name| server.life.replicator.peer_vector(name));
        let lacked = vectors.map(|vector| sure(store.log().after(vector, Scope::All, store))).collect();
        Self { store, continued: server.continued(), lacked }
    }

    fn safe(&self, change: &Change) -> bool {
        self.continued == Some(&change.header().dot().replica) || self.elsewhere(change)
    }

    fn elsewhere(&self, change: &Change) -> bool {
        let Some(link) = sure(self.store.link(&change.id())) else { return false };
        let within = |range: &Range| {
            range.replica == link.dot.replica
                && range.run == link.run
                && (range.from..=range.to).contains(&link.dot.counter)
        };
        self.lacked.iter().any(|ranges| !ranges.iter().any(within))
    }
}

impl ObservedFacts for Replicated<'_> {
    type Error = std::convert::Infallible;
    fn observed(&self, id: &ChangeId) -> Result<Option<(Vec<ChangeId>, bool)>, Self::Error> {
        let change = self.store.change(id);
        Ok(change.map(|change| (change.header().supersedes().to_vec(), self.safe(change))))
    }
}
