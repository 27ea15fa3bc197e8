//! What an author had been given of an item: it becomes `supersedes`.
//!
//! An `Observed` is the list of item ids that one device (or the holder of one
//! API token) was given, in the order in which it was. What a new change
//! supersedes follows from it by one rule: those ids, less the ones that another
//! of them supersedes; but an id absorbs what it names only once it is *safe*:
//! a second server is known to hold it, or the new change continues the log
//! that it is in, so that whoever holds the new one and no hole below holds
//! it too. Any other could be lost in a restore of this server without the new
//! change, and what it superseded would come back as a false conflict; so both
//! are named.
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
    /// The item ids that the change named `id` supersedes, and whether it is safe:
    /// a second server is known to hold it, or it is below the new change in the
    /// same replica's log. `None` if the change is not known here.
    fn observed(&self, id: &ChangeId) -> Result<Option<(Vec<ChangeId>, bool)>, Self::Error>;

    /// What a change names, if it is safe.
    fn named_if_safe(&self, id: &ChangeId) -> Result<Option<Vec<ChangeId>>, Self::Error> {
        let fact = self.observed(id)?;
        Ok(fact.and_then(|(named, safe)| safe.then_some(named)))
    }
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
        let mut given = Vec::new();
        for id in &self.0 {
            given.push((*id, facts.observed(id)?));
        }
        let carried = given.iter().filter_map(|(_, fact)| fact.as_ref());
        let carried: BTreeSet<ChangeId> =
            carried.filter(|(_, safe)| !safe).flat_map(|(named, _)| named).copied().collect();
        let mut absorbed = BTreeSet::new();
        for id in carried.iter().filter(|id| !self.0.contains(id)) {
            if let Some(named) = facts.named_if_safe(id)? {
                absorbed.extend(named);
            }
        }
        absorbed.extend(
            given.into_iter().filter_map(|(_, fact)| fact).filter(|fact| fact.1).flat_map(|fact| fact.0),
        );
        let named = carried.into_iter().chain(self.0.iter().copied());
        let named: Vec<ChangeId> = named.collect();
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, convert::Infallible};

    use super::*;

    struct Facts(BTreeMap<ChangeId, (Vec<ChangeId>, bool)>);

    impl ObservedFacts for Facts {
        type Error = Infallible;
        fn observed(&self, id: &ChangeId) -> Result<Option<(Vec<ChangeId>, bool)>, Infallible> {
            Ok(self.0.get(id).cloned())
        }
    }

    fn id(name: &str) -> ChangeId {
        ChangeId::of(name.as_bytes())
    }

    fn supersedes(given: &[&str], facts: &[(&str, &[&str], bool)]) -> BTreeSet<ChangeId> {
        let facts = facts.iter().map(|(name, named, replicated)| {
            (id(name), (named.iter().map(|name| id(name)).collect(), *replicated))
        });
        let observed: Observed = given.iter().map(|name| id(name)).collect();
        let Ok(ids) = observed.supersedes(&Facts(facts.collect()));
        assert!(ids.is_sorted_by(|a, b| a < b));
        ids.into_iter().collect()
    }

    fn set(names: &[&str]) -> BTreeSet<ChangeId> {
        names.iter().map(|name| id(name)).collect()
    }

    #[test]
    fn an_id_absorbs_what_it_names_once_it_is_safe() {
        let safe = [("b", &["a"][..], true), ("a", &[][..], true)];
        assert_eq!(supersedes(&["a", "b"], &safe), set(&["b"]));
        assert_eq!(supersedes(&["b"], &safe), set(&["b"]));
        let alone = [("b", &["a"][..], false), ("a", &[][..], true)];
        assert_eq!(supersedes(&["b"], &alone), set(&["a", "b"]));
        // What is carried absorbs, too: c names b and a; b is safe and names a.
        let chain = [("c", &["a", "b"][..], false), ("b", &["a"][..], true)];
        assert_eq!(supersedes(&["c"], &chain), set(&["b", "c"]));
        // What is not known here (we were restored) is named all the same.
        assert_eq!(supersedes(&["lost"], &[]), set(&["lost"]));
    }

    #[test]
    fn bounds_drop_the_oldest() {
        let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let observed: Observed = names.iter().map(|name| id(name)).collect();
        assert_eq!(observed.ids().len(), MAX_OBSERVED);
        let Ok(ids) = observed.supersedes(&Facts(BTreeMap::new()));
        let newest: BTreeSet<_> = names[100 - MAX_SUPERSEDES..].iter().map(|name| id(name)).collect();
        assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), newest);
        let mut again = Observed::from_iter([id("a"), id("b")]);
        again.give(id("a"));
        assert_eq!(again.ids(), [id("b"), id("a")]);
    }
}
