//! What the checkers ([`super::checkers`]) remember from step to step.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use causeway_shared_space::{ChangeId, Dot, ItemKey};

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
}
