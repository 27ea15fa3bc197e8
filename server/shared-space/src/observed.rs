//! What an author had been given of an item: it becomes `supersedes`.
//!
//! An `Observed` is the list of item ids that one device (or the holder of one
//! API token) was given, in the order in which it was. What a new change
//! supersedes follows from it by one rule: those ids, less the ones that another
//! of them supersedes; but an id absorbs what it names only once a second
//! server is known to hold it. Until then a restore of this server could lose
//! it, and what it superseded would come back as a false conflict; so both are
//! named.
//!
//! Invariant: at most [`MAX_OBSERVED`] ids. Dropping one costs a false alarm,
//! never a loss.

use std::collections::BTreeSet;

use crate::{header::MAX_SUPERSEDES, ids::ChangeId};

/// Most ids that an `Observed` keeps; the oldest go first.
pub const MAX_OBSERVED: usize = 64;

/// Item ids in the order in which they were given, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed(Vec<ChangeId>);

/// What is known about an observed id.
pub trait ObservedFacts {
    /// The failure of a lookup.
    type Error;
    /// The item ids that the change named `id` supersedes, and whether a second
    /// server is known to hold it; `None` if the change is not known here.
    fn observed(&self, id: &ChangeId) -> Result<Option<(Vec<ChangeId>, bool)>, Self::Error>;
}

impl Observed {
    /// Nothing given yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// The ids, oldest first.
    pub fn ids(&self) -> &[ChangeId] {
        &self.0
    }
    /// True if nothing was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Notes that `id` was given; an id that was given before counts as given now.
    pub fn give(&mut self, id: ChangeId) {
        self.0.retain(|known| *known != id);
        if self.0.len() == MAX_OBSERVED {
            self.0.remove(0);
        }
        self.0.push(id);
    }
    /// Notes all of `other`, which was given after `self`.
    pub fn extend(&mut self, other: &Self) {
        for id in &other.0 {
            self.give(*id);
        }
    }
    /// What a change by this author supersedes: sorted, at most [`MAX_SUPERSEDES`].
    pub fn supersedes<F: ObservedFacts>(&self, facts: &F) -> Result<Vec<ChangeId>, F::Error> {
        // Oldest first: what an id names is older than it.
        let mut named: Vec<ChangeId> = Vec::new();
        let mut absorbed = BTreeSet::new();
        for id in &self.0 {
            if let Some((supersedes, replicated)) = facts.observed(id)? {
                if replicated {
                    absorbed.extend(supersedes);
                } else {
                    named.extend(supersedes);
                }
            }
        }
        named.extend(&self.0);
        let mut seen = BTreeSet::new();
        let mut kept: Vec<ChangeId> = Vec::new();
        for id in named.into_iter().rev() {
            if kept.len() < MAX_SUPERSEDES && !absorbed.contains(&id) && seen.insert(id) {
                kept.push(id);
            }
        }
        kept.sort_unstable();
        Ok(kept)
    }
}

impl FromIterator<ChangeId> for Observed {
    fn from_iter<I: IntoIterator<Item = ChangeId>>(ids: I) -> Self {
        let mut observed = Self::new();
        for id in ids {
            observed.give(id);
        }
        observed
    }
}
