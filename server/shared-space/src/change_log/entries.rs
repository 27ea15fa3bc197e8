//! The held entries of a room as the log asks for them: by id and by dot.
//!
//! What it is not: the entries themselves. The log needs only how they hang
//! together; the storage has the rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::{
    ids::ChangeId,
    replica::{Counter, Dot, ReplicaId},
};

/// A stretch of entries of one replica that hang on one another, without a
/// branch. Local to one server and room: never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub u32);

/// What the store keeps of an entry's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its dot.
    pub dot: Dot,
    /// The entry before it.
    pub previous: Option<ChangeId>,
    /// The run that it is part of.
    pub run: RunId,
}

/// The held entries of a room, as the storage has them.
pub trait Entries {
    /// The failure of a lookup.
    type Error;
    /// The place of a held entry.
    fn link(&self, id: &ChangeId) -> Result<Option<Link>, Self::Error>;
    /// The held entries with this dot: more than one after a fork.
    fn at(&self, dot: &Dot) -> Result<Vec<ChangeId>, Self::Error>;
}

/// Entries to send: those of one run, from counter to counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Whose.
    pub replica: ReplicaId,
    /// The run that the entries are labelled with.
    pub run: RunId,
    /// The first counter.
    pub from: Counter,
    /// The last counter.
    pub to: Counter,
}

impl Range {
    /// The number of entries.
    pub fn entries(&self) -> u64 {
        self.to.value() - self.from.value() + 1
    }
}

/// Held entries in memory: for the simulation, tests, and as [`Overlay`].
#[derive(Debug, Clone, Default)]
pub struct MemoryEntries {
    links: HashMap<ChangeId, Link>,
    dots: BTreeMap<Dot, BTreeSet<ChangeId>>,
}

impl MemoryEntries {
    /// No entries.
    pub fn new() -> Self {
        Self::default()
    }
    /// Notes an entry's place, or its new one.
    pub fn insert(&mut self, id: ChangeId, link: Link) {
        self.dots.entry(link.dot.clone()).or_default().insert(id);
        self.links.insert(id, link);
    }
    /// The held entries of a range, in order.
    pub fn range(&self, range: &Range) -> Vec<ChangeId> {
        let start = Dot { replica: range.replica.clone(), counter: range.from };
        let end = Dot { replica: range.replica.clone(), counter: range.to };
        let ids = self.dots.range(start..=end).flat_map(|(_, ids)| ids);
        ids.filter(|id| self.links.get(id).is_some_and(|link| link.run == range.run)).copied().collect()
    }
}

impl Entries for MemoryEntries {
    type Error = std::convert::Infallible;
    fn link(&self, id: &ChangeId) -> Result<Option<Link>, Self::Error> {
        Ok(self.links.get(id).cloned())
    }
    fn at(&self, dot: &Dot) -> Result<Vec<ChangeId>, Self::Error> {
        Ok(self.dots.get(dot).into_iter().flatten().copied().collect())
    }
}

/// A store with the entries of a batch that is not written yet.
#[derive(Debug)]
pub struct Overlay<'a, S> {
    base: &'a S,
    placed: MemoryEntries,
}

impl<'a, S: Entries> Overlay<'a, S> {
    /// Nothing placed yet.
    pub fn new(base: &'a S) -> Self {
        Self { base, placed: MemoryEntries::new() }
    }
    /// Notes an entry's place, or its new one.
    pub fn insert(&mut self, id: ChangeId, link: Link) {
        self.placed.insert(id, link);
    }
}

impl<S: Entries> Entries for Overlay<'_, S> {
    type Error = S::Error;
    fn link(&self, id: &ChangeId) -> Result<Option<Link>, Self::Error> {
        match self.placed.links.get(id) {
            Some(link) => Ok(Some(link.clone())),
            None => self.base.link(id),
        }
    }
    fn at(&self, dot: &Dot) -> Result<Vec<ChangeId>, Self::Error> {
        let mut ids = self.base.at(dot)?;
        ids.extend(self.placed.dots.get(dot).into_iter().flatten());
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}
