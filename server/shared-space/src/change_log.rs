//! A room's change logs: how the held entries hang together.
//!
//! Entries are a forest by `previous` (see [`crate::version_vector`] for how
//! that is told to peers). This is its *shape*: for each replica its *runs*,
//! stretches of entries that hang on one another without a branch. An ordinary
//! replica is one run, whatever its length. A fork is a second run that hangs
//! on the middle of another; an island is a run whose first entry names
//! something that is not held. Each stored entry carries the label of its run,
//! so that where an entry belongs is one lookup, and what to send is ranges of
//! counters.
//!
//! What it is not: it knows no values, items or signatures. It is given only
//! entries whose signature was verified.
//!
//! # Decisions
//! - An entry whose `previous` is held but is not the entry before it (another
//!   counter, another server) hangs on nothing, for ever. It is kept as an
//!   island and not refused, because a server that does not hold `previous`
//!   could not refuse it, and all are to hold the same.
//! - When a hole is filled, the two runs at it become one: the shorter one's
//!   entries get the longer one's label, if they are at most [`MAX_RELABEL`].
//!   So stamps that arrive before their predecessors leave nothing behind.
//! - A server may have [`MAX_TIPS_PER_SERVER`] tips and islands at a time. Above
//!   that an entry that would add one is refused for now; one that extends or
//!   joins what is held never is. An honest server has one tip, and one more for
//!   each time that it was restored or cloned; each stamp that overtakes others
//!   is one island until the others come.
//!
//! Invariants: the shape follows from the set of held entries up to labels, in
//! whatever order they came; `chained` is true of a run exactly if every entry
//! below it, back to the server's first, is held.

mod compare;
mod entries;
mod place;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ruma::ServerName;
use serde::{Deserialize, Serialize};

pub use self::{
    compare::Scope,
    entries::{Entries, Link, MemoryEntries, Overlay, Range, RunId},
    place::{PlaceError, Placed},
};
use crate::{
    ids::ChangeId,
    replica::{Counter, Dot, ReplicaId},
    version_vector::{Point, VersionVector},
};

/// Most entries that are labelled anew when two runs become one.
pub const MAX_RELABEL: u64 = 1_000;
/// Most tips and islands of one server.
pub const MAX_TIPS_PER_SERVER: usize = 128;

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its label.
    pub id: RunId,
    /// The counter of its first entry.
    pub from: Counter,
    /// The counter of its last entry.
    pub to: Counter,
    /// Its last entry.
    pub tip: ChangeId,
    /// What its first entry names.
    pub previous: Option<ChangeId>,
    /// Where `previous` is, once it is held and fits.
    pub parent: Option<(Dot, RunId)>,
    /// True if nothing is missing below.
    pub chained: bool,
}

impl Run {
    fn entries(&self) -> u64 {
        self.to.value() - self.from.value() + 1
    }
    fn spans(&self, counter: Counter) -> bool {
        (self.from..=self.to).contains(&counter)
    }
}

/// The runs of one replica: one stored row, rewritten when it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaLog {
    runs: Vec<Run>,
    next_run: u32,
}

impl ReplicaLog {
    /// The runs, in no particular order.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }
    /// True if two held entries of the replica have one dot.
    pub fn is_forked(&self) -> bool {
        let mut spans: Vec<_> = self.runs.iter().map(|run| (run.from, run.to)).collect();
        spans.sort_unstable();
        spans.windows(2).any(|pair| pair[1].0 <= pair[0].1)
    }
    fn run(&self, id: RunId) -> Option<&Run> {
        self.runs.iter().find(|run| run.id == id)
    }
    fn run_mut(&mut self, id: RunId) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.id == id)
    }
}

/// The shape of all logs of a room: small, kept in memory, one row per replica.
#[derive(Debug, Clone, Default)]
pub struct ChangeLog {
    replicas: BTreeMap<ReplicaId, ReplicaLog>,
    /// Runs that wait for the entry that their first one names. Derived.
    waiting: BTreeMap<ChangeId, BTreeSet<(ReplicaId, RunId)>>,
}

impl PartialEq for ChangeLog {
    fn eq(&self, other: &Self) -> bool {
        self.replicas == other.replicas
    }
}
impl Eq for ChangeLog {}

impl ChangeLog {
    /// A room without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The shape from its stored rows.
    pub fn from_rows(rows: impl IntoIterator<Item = (ReplicaId, ReplicaLog)>) -> Self {
        let mut log = Self { replicas: rows.into_iter().collect(), waiting: BTreeMap::new() };
        for (replica, row) in &log.replicas {
            for run in row.runs.iter().filter(|run| run.parent.is_none()) {
                if let Some(previous) = run.previous {
                    log.waiting.entry(previous).or_default().insert((replica.clone(), run.id));
                }
            }
        }
        log
    }

    /// The row of one replica, to be stored.
    pub fn row(&self, replica: &ReplicaId) -> Option<&ReplicaLog> {
        self.replicas.get(replica)
    }

    /// All replicas and their rows.
    pub fn rows(&self) -> impl Iterator<Item = (&ReplicaId, &ReplicaLog)> {
        self.replicas.iter()
    }

    /// What is held.
    pub fn vector(&self) -> VersionVector {
        self.vector_of(self.runs())
    }

    /// What is held of one server.
    pub fn vector_of_server(&self, server: &ServerName) -> VersionVector {
        self.vector_of(self.runs_of(server))
    }

    fn vector_of<'a>(&'a self, runs: impl Iterator<Item = (&'a ReplicaId, &'a Run)>) -> VersionVector {
        let runs: Vec<_> = runs.collect();
        // Entries that another run hangs on. An island that hangs on another
        // replica's island hides nothing: its floor says that it ends there.
        let named: HashSet<ChangeId> = runs
            .iter()
            .filter(|(replica, run)| {
                run.parent.as_ref().is_some_and(|(dot, _)| run.chained || dot.replica == **replica)
            })
            .filter_map(|(_, run)| run.previous)
            .collect();
        let mut vector = VersionVector::new();
        for (replica, run) in runs {
            if !named.contains(&run.tip) {
                let floor = (!run.chained).then(|| self.floor(replica, run));
                vector.insert(replica, Point { counter: run.to, id: run.tip, floor });
            }
        }
        vector
    }

    /// The next dot of a replica of our own, and its `previous`: for a replica
    /// without entries the first dot after the last entry held of its server.
    ///
    /// `None` if the replica must not be written to any more (it forked, has
    /// entries that hang on nothing, or has used up its counters): take a new
    /// incarnation.
    pub fn next(&self, replica: &ReplicaId) -> Option<(Dot, Option<ChangeId>)> {
        let Some(row) = self.replicas.get(replica) else {
            let dot = Dot { replica: replica.clone(), counter: Counter::FIRST };
            return Some((dot, self.last_of(replica.server())));
        };
        let [run] = row.runs.as_slice() else { return None };
        let counter = run.to.next().filter(|_| run.chained)?;
        Some((Dot { replica: replica.clone(), counter }, Some(run.tip)))
    }

    /// The last entry held of `server` with nothing missing below it; the one
    /// with most entries below it where there are several.
    pub fn last_of(&self, server: &ServerName) -> Option<ChangeId> {
        let chained = self.runs_of(server).filter(|(_, run)| run.chained);
        chained.max_by_key(|(_, run)| (self.length(run), run.tip)).map(|(_, run)| run.tip)
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.rows().next().is_none()
    }

    /// The number of entries held.
    pub fn entries(&self) -> u64 {
        self.runs().map(|(_, run)| run.entries()).sum()
    }

    fn runs(&self) -> impl Iterator<Item = (&ReplicaId, &Run)> {
        self.replicas.iter().flat_map(|(replica, row)| row.runs.iter().map(move |run| (replica, run)))
    }

    fn runs_of(&self, server: &ServerName) -> impl Iterator<Item = (&ReplicaId, &Run)> {
        let (start, end) = (format!("{server}/"), format!("{server}0")); // '0' follows '/'
        self.replicas
            .range::<str, _>((std::ops::Bound::Included(&*start), std::ops::Bound::Excluded(&*end)))
            .flat_map(|(replica, row)| row.runs.iter().map(move |run| (replica, run)))
    }

    fn run(&self, replica: &ReplicaId, id: RunId) -> Option<&Run> {
        self.replicas.get(replica)?.run(id)
    }

    /// How far down in its replica a run reaches without a hole.
    fn floor(&self, replica: &ReplicaId, run: &Run) -> Counter {
        let mut lowest = run;
        while let Some((dot, id)) = lowest.parent.as_ref().filter(|(dot, _)| dot.replica == *replica) {
            let Some(below) = self.run(&dot.replica, *id) else { break };
            lowest = below;
        }
        lowest.from
    }

    /// The number of entries from a run's tip down.
    fn length(&self, run: &Run) -> u64 {
        let mut length = run.entries();
        let mut lowest = run;
        while let Some((dot, id)) = &lowest.parent {
            let Some(below) = self.run(&dot.replica, *id) else { break };
            length += dot.counter.value() - below.from.value() + 1;
            lowest = below;
        }
        length
    }
}
