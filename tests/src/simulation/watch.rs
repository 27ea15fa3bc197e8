//! What the checkers ([`super::checkers`]) remember from step to step.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use causeway_shared_space::{ChangeId, Dot, ItemKey};

/// How often what a plan allows really came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dangers {
    /// Links cut.
    pub cuts: u64,
    /// Processes killed.
    pub crashes: u64,
    /// Reads that showed one sibling of several.
    pub faces: u64,
    /// Entries that a server came to hold before the one that they follow.
    pub islands: u64,
    /// Old disks put in.
    pub restores: u64,
    /// Machines rolled back, or exchanged for their copies, unnoticed.
    pub unnoticed: u64,
    /// Machines copied.
    pub copies: u64,
    /// Packets lost, though the link was up.
    pub lost: u64,
    /// Packets that were sent once and came twice.
    pub doubled: u64,
    /// Packets that took long enough for others to overtake them.
    pub late: u64,
    /// Messages of a dishonest server that it made up, changed or kept back.
    pub lies: u64,
    /// Values redacted.
    pub redactions: u64,
    /// Entries that brought a value to a server that held its redaction.
    pub erased_late: u64,
}

/// What the checkers remember from step to step.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Per server and item, what has gone from it.
    pub gone: Vec<BTreeMap<ItemKey, HashSet<ChangeId>>>,
    /// Servers that were copied or rolled back and could not know it.
    pub unnoticed: BTreeSet<usize>,
    /// Forks that came to light.
    pub forks: BTreeSet<Dot>,
    /// Entries that a liar made up: few enough to be held by all.
    pub forged: usize,
    /// Per server, when its last pull is given up.
    pub pull_until_ms: Vec<u64>,
    /// What came about.
    pub dangers: Dangers,
}

impl Watch {
    /// Nothing happened yet.
    pub fn new(servers: usize) -> Self {
        Self { gone: vec![BTreeMap::new(); servers], pull_until_ms: vec![0; servers], ..Self::default() }
    }

    /// A server has another disk: what had gone from the old one may be on it.
    pub fn forget(&mut self, server: usize) {
        self.gone[server].clear();
    }

    /// A server's machine is copied, and nobody knows which is the real one.
    pub fn copied(&mut self, server: usize) {
        self.unnoticed.insert(server);
        self.dangers.copies += 1;
    }
}

impl std::iter::Sum for Dangers {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, dangers| {
            sum += dangers;
            sum
        })
    }
}

impl std::ops::AddAssign for Dangers {
    fn add_assign(&mut self, other: Self) {
        let Self { cuts, crashes, faces, islands, restores, unnoticed, redactions, erased_late, .. } = other;
        let Self { copies, lost, doubled, late, lies, .. } = other;
        self.copies += copies;
        self.lost += lost;
        self.doubled += doubled;
        self.late += late;
        self.lies += lies;
        self.cuts += cuts;
        self.crashes += crashes;
        self.faces += faces;
        self.islands += islands;
        self.restores += restores;
        self.unnoticed += unnoticed;
        self.redactions += redactions;
        self.erased_late += erased_late;
    }
}
