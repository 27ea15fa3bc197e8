//! What a join needs to know of a room's other changes, committed and drafted.

use std::collections::{HashMap, HashSet};

use causeway_shared_space::{ChangeId, ItemFacts, ItemKey, Sibling, item::MAX_SIBLINGS};
use causeway_storage::{
    Database, StorageError,
    shared_space::{entries, items},
};
use ruma::RoomId;

use super::{super::stored, ADOPTIONS_MAX};
use crate::cache::Cache;

/// Successors of one change that are looked at: one is enough to end it.
const SUCCESSORS_MAX: usize = MAX_SIBLINGS;

/// Effective changes that are remembered to be, at most twice as many.
const EFFECTIVE_MAX: usize = 16_384;

/// Ids of committed effective changes that were asked for: a change that was
/// effective once stays it. A writer's changes name the same ids again and again.
pub(in super::super) type EffectiveCache = Cache<ChangeId, ()>;

/// An empty [`EffectiveCache`].
pub(in super::super) fn effective_cache() -> EffectiveCache {
    Cache::new(EFFECTIVE_MAX)
}

/// What is known of a room's effective changes, committed and drafted.
pub(super) struct Facts<'a> {
    pub(super) db: &'a Database,
    pub(super) room: &'a RoomId,
    pub(super) successors: HashMap<(ItemKey, ChangeId), Vec<ChangeId>>,
    pub(super) effective: HashSet<ChangeId>,
    /// Of those that are committed, what was asked for before.
    pub(super) stored: &'a EffectiveCache,
    /// Changes made in this draft, which nobody can have named yet.
    pub(super) written: HashSet<ChangeId>,
    pub(super) adoptions: HashMap<ChangeId, Vec<Sibling>>,
}

impl Facts<'_> {
    pub(super) fn of<'f>(&'f self, key: &'f ItemKey) -> FactsOfItem<'f> {
        FactsOfItem { facts: self, key }
    }
}

/// The same for one item: a name has effect within its item only, so that the
/// order in which changes of different items arrive can't matter.
pub(super) struct FactsOfItem<'f> {
    facts: &'f Facts<'f>,
    key: &'f ItemKey,
}

impl ItemFacts for FactsOfItem<'_> {
    type Error = StorageError;

    fn successors(&self, id: &ChangeId) -> Result<Vec<ChangeId>, StorageError> {
        let Facts { db, room, successors, .. } = self.facts;
        let mut found = if self.facts.written.contains(id) {
            Vec::new()
        } else {
            items::successors(*db, room, self.key.as_str(), id, SUCCESSORS_MAX)?
        };
        found.extend(successors.get(&(self.key.clone(), *id)).into_iter().flatten());
        Ok(found)
    }

    fn is_known(&self, id: &ChangeId) -> Result<bool, StorageError> {
        let Facts { db, room, effective, .. } = self.facts;
        Ok(effective.contains(id)
            || self.is_known_entry(id)?
            || !items::adoptions(*db, room, id, 1)?.is_empty())
    }

    fn is_known_entry(&self, id: &ChangeId) -> Result<bool, StorageError> {
        let Facts { db, room, stored, .. } = self.facts;
        if stored.get(id).is_some() {
            return Ok(true);
        }
        let known = entries::link(*db, room, id)?.is_some_and(|link| link.effective);
        if known {
            stored.insert(*id, ());
        }
        Ok(known)
    }

    fn adoptions(&self, id: &ChangeId) -> Result<Vec<Sibling>, StorageError> {
        let Facts { db, room, adoptions, .. } = self.facts;
        let mut found = adoptions.get(id).cloned().unwrap_or_default();
        for entry in items::adoptions(*db, room, id, ADOPTIONS_MAX)? {
            if let Some(row) = entries::entry(*db, room, &entry)?
                && let Some((header, _)) = stored::parts(&row)
                && let Some(mut sibling) = Sibling::of(&header)
            {
                if let Some(ends) = items::adoption_ends(*db, room, id, &entry)? {
                    sibling.supersedes = ends;
                }
                found.push(sibling);
            }
        }
        Ok(found)
    }
}
