//! The shape of a room's change logs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ruma::ServerName;
use serde::{Deserialize, Serialize};

use crate::{
    header::Header,
    ids::ChangeId,
    replica::{Counter, Dot, ReplicaId},
    version_vector::{Point, VersionVector},
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

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Which.
    pub id: RunId,
    /// The counter of its first entry.
    pub from: Counter,
    /// The counter of its last entry.
    pub to: Counter,
    /// Its last entry.
    pub tip: ChangeId,
    /// What its first entry names.
    pub previous: Option<ChangeId>,
    /// The dot of `previous` and its run, once it is held.
    pub parent: Option<(Dot, RunId)>,
    /// True if nothing is missing below.
    pub chained: bool,
}

/// The runs of one replica: one stored row, rewritten when it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaLog {
    runs: Vec<Run>,
    next_run: u32,
}

/// The shape of all logs of a room: small, kept in memory, one row per replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangeLog {
    replicas: BTreeMap<ReplicaId, ReplicaLog>,
}

/// What placing an entry did: what has to be written, in one batch with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The entry's place.
    pub link: Link,
    /// False if the entry is an island for now.
    pub chained: bool,
    /// Other entries whose run changed: their rows are to be rewritten.
    pub relabelled: Vec<(ChangeId, Link)>,
    /// The replicas whose row ([`ChangeLog::row`]) changed.
    pub touched: BTreeSet<ReplicaId>,
    /// The other entries with the same dot: each makes a [`crate::ForkProof`] with this one.
    pub forks: Vec<ChangeId>,
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

impl ChangeLog {
    /// A room without changes.
    pub fn new() -> Self {
        Self::default()
    }
    /// The shape from its stored rows.
    pub fn from_rows(rows: impl IntoIterator<Item = (ReplicaId, ReplicaLog)>) -> Self {
        Self { replicas: rows.into_iter().collect() }
    }
    /// The row of one replica, to be stored.
    pub fn row(&self, replica: &ReplicaId) -> Option<&ReplicaLog> {
        self.replicas.get(replica)
    }
    /// All replicas and their rows.
    pub fn rows(&self) -> impl Iterator<Item = (&ReplicaId, &ReplicaLog)> {
        self.replicas.iter()
    }
    /// Places a verified entry; `None` if it is held already.
    ///
    /// `at` shows the entries held before this one (with those placed earlier in
    /// the same batch: [`Overlay`]). The caller writes the entry with
    /// [`Placed::link`], the relabelled ones and the touched rows in one batch;
    /// if that fails, this shape is no longer true and is to be loaded again.
    pub fn place<S: Entries>(&mut self, header: &Header, at: &S) -> Result<Option<Placed>, S::Error> {
        let _ = (header, at);
        unreachable!("lands next")
    }
    /// What is held.
    pub fn vector(&self) -> VersionVector {
        unreachable!("lands next")
    }
    /// Those points of `theirs` that are not held as they say: empty means that
    /// nothing of theirs is lacking here.
    pub fn lacking<S: Entries>(&self, theirs: &VersionVector, at: &S) -> Result<VersionVector, S::Error> {
        let _ = (theirs, at);
        unreachable!("lands next")
    }
    /// What to send to a peer that holds `theirs`, in an order in which an entry
    /// comes after those that it hangs on.
    pub fn after<S: Entries>(&self, theirs: &VersionVector, at: &S) -> Result<Vec<Range>, S::Error> {
        let _ = (theirs, at);
        unreachable!("lands next")
    }
    /// Takes out of `vector` the points that another of its points implies, as
    /// far as that is known here.
    pub fn reduce<S: Entries>(&self, vector: &mut VersionVector, at: &S) -> Result<(), S::Error> {
        let _ = (vector, at);
        unreachable!("lands next")
    }
    /// Points below the tips of `replica`, at distances 1, 2, 4, 8 …: added to
    /// `after` in a pull when a peer is found to be on another branch.
    pub fn locator<S: Entries>(&self, replica: &ReplicaId, at: &S) -> Result<Vec<Point>, S::Error> {
        let _ = (replica, at);
        unreachable!("lands next")
    }
    /// The next dot of a replica of our own, and its `previous`: for a replica
    /// without entries the first dot after the last entry held of its server.
    ///
    /// `None` if the replica must not be written to any more (it forked, or has
    /// entries that hang on nothing, or its counters are used up): take a new
    /// incarnation.
    pub fn next(&self, replica: &ReplicaId) -> Option<(Dot, Option<ChangeId>)> {
        let _ = replica;
        unreachable!("lands next")
    }
    /// The last entry held of `server` with nothing missing below it; the one
    /// with the longest log where there are several.
    pub fn last_of(&self, server: &ServerName) -> Option<ChangeId> {
        let _ = server;
        unreachable!("lands next")
    }
    /// The number of entries held.
    pub fn entries(&self) -> u64 {
        unreachable!("lands next")
    }
}

impl ReplicaLog {
    /// The runs, in the order of their ids.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }
    /// True if two entries of the replica have one dot.
    pub fn is_forked(&self) -> bool {
        unreachable!("lands next")
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
    /// Notes what was placed.
    pub fn apply(&mut self, id: ChangeId, placed: &Placed) {
        self.insert(id, placed.link.clone());
        for (id, link) in &placed.relabelled {
            self.insert(*id, link.clone());
        }
    }
    fn insert(&mut self, id: ChangeId, link: Link) {
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
    /// Notes what was placed.
    pub fn apply(&mut self, id: ChangeId, placed: &Placed) {
        self.placed.apply(id, placed);
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
