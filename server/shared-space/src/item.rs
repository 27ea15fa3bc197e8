//! An item: the known effective changes of one key that none of them supersedes.
//!
//! Siblings(item) = known changes − ids named by known changes. That is a
//! function of a *set*, so the order in which changes arrive, their number and
//! their repetition make no difference, and no clock has a part in it.
//!
//! What it is not: the list of what may be shown. Redacted values and banned
//! authors are the service's to judge.
//!
//! # Adoptions
//! Two servers can adopt one unstamped event. Both entries have the same
//! [`crate::Header::item_id`] and are one sibling that supersedes what either
//! names. As an adopter names what *his* room state showed, an adopted change
//! and another one could name each other, and both would vanish. So what an
//! adoption names is not superseded by it if that itself names the adopted event:
//! whoever names an event came after it. Between ordinary changes a circle is
//! impossible: an id is a hash over the ids that it names.
//!
//! Invariants: siblings are in display order, one for each item id; `missing`
//! are ids that known changes name and that are not known, at most
//! [`MAX_MISSING`] of them.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use ruma::UserId;
use serde::{Deserialize, Serialize};

use crate::{
    conflict::Conflict, ids::ChangeId, item_key::ItemKey, observed::Observed, replica::Counter,
    sibling::Sibling,
};

/// Most siblings before a local write that adds one is refused.
pub const MAX_SIBLINGS: usize = 16;
/// Most missing ids that an item remembers; it is incomplete with any of them.
pub const MAX_MISSING: usize = 64;

/// The lookups that a join needs, among the *effective* changes of the item.
///
/// A change supersedes only within its own item: a name counts among the
/// changes of one key, wherever else the named id may occur.
pub trait ItemFacts {
    /// The failure of a lookup.
    type Error;
    /// The item ids of the known effective changes that name `id` in their
    /// `supersedes` (the successor index; it answers for ids not held, too).
    fn successors(&self, id: &ChangeId) -> Result<Vec<ChangeId>, Self::Error>;
    /// True if an effective change with this item id is known.
    fn is_known(&self, id: &ChangeId) -> Result<bool, Self::Error>;
    /// True if an effective change that is no adoption is known under this id,
    /// and it is cheap to tell. False is always a right answer.
    fn is_known_entry(&self, _id: &ChangeId) -> Result<bool, Self::Error> {
        Ok(false)
    }
    /// The known effective entries whose item id is `id` and which are
    /// adoptions; none for an ordinary change or an unknown one.
    fn adoptions(&self, id: &ChangeId) -> Result<Vec<Sibling>, Self::Error>;
}

/// What became of an item by a join.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Joined {
    /// The change is a sibling now and was not before.
    pub added: bool,
    /// The item ids that are siblings no more.
    pub removed: Vec<ChangeId>,
    /// The successor rows to write, each `(named, by)`. Not those of a change
    /// that is known and live no more: it has one, which is enough.
    pub successors: Vec<(ChangeId, ChangeId)>,
}

/// The derived state of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    siblings: Vec<Sibling>,
    missing: BTreeSet<ChangeId>,
}

impl Item {
    /// An item without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an effective change. Any order and any repetition give the same item.
    ///
    /// `facts` are those *before* this change: the caller writes
    /// [`Joined::successors`] in the same batch as the item.
    pub fn join<F: ItemFacts>(&mut self, change: &Sibling, facts: &F) -> Result<Joined, F::Error> {
        let mut joined = Joined::default();
        let mut change = change.clone();
        let adoption = change.is_adoption();
        if adoption {
            facts.adoptions(&change.id)?.iter().for_each(|other| change.unite(other));
        }
        self.missing.remove(&change.id);
        for named in change.supersedes.iter().filter(|named| **named != change.id) {
            let alive = self.siblings.iter().position(|sibling| sibling.id == *named);
            if alive.is_none() && facts.is_known_entry(named)? {
                // Superseded already, or a change of another item. A circle, for
                // which another row would matter, is for adoptions only.
                continue;
            }
            joined.successors.push((*named, change.id));
            if let Some(index) = alive {
                let circle = adoption && self.siblings[index].supersedes.contains(&change.id);
                if !circle {
                    self.siblings.remove(index);
                    joined.removed.push(*named);
                }
            } else if self.missing.len() < MAX_MISSING && !facts.is_known(named)? {
                self.missing.insert(*named);
            }
        }
        if let Some(known) = self.siblings.iter_mut().find(|sibling| sibling.id == change.id) {
            *known = change;
        } else if Self::is_live(&change, facts)? {
            self.siblings.push(change);
            joined.added = true;
        }
        self.siblings.sort_by_key(Sibling::display_order);
        Ok(joined)
    }

    fn is_live<F: ItemFacts>(change: &Sibling, facts: &F) -> Result<bool, F::Error> {
        for by in facts.successors(&change.id)? {
            let circle = change.supersedes.contains(&by)
                && (!change.is_adoption() || !facts.adoptions(&by)?.is_empty());
            if by != change.id && !circle {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The siblings in display order.
    pub fn siblings(&self) -> &[Sibling] {
        &self.siblings
    }
    /// The ids that known changes name and that are not known.
    pub fn missing(&self) -> impl Iterator<Item = &ChangeId> {
        self.missing.iter()
    }
    /// True while a named change is not known: shown, but not announced.
    pub fn is_incomplete(&self) -> bool {
        !self.missing.is_empty()
    }
    /// Forgets a missing id, for example because its origin says it is gone.
    pub fn give_up(&mut self, id: &ChangeId) -> bool {
        self.missing.remove(id)
    }
    /// True if there is nothing but deletes (or nothing).
    pub fn is_deleted(&self) -> bool {
        self.siblings.iter().all(Sibling::is_tombstone)
    }
    /// True if a local write that would add a sibling is to be refused.
    pub fn is_full(&self) -> bool {
        self.siblings.len() >= MAX_SIBLINGS
    }
    /// The first in display order: the item's face in room state.
    pub fn face(&self) -> Option<&Sibling> {
        self.siblings.first()
    }
    /// The sibling with this item id.
    pub fn sibling(&self, id: &ChangeId) -> Option<&Sibling> {
        self.siblings.iter().find(|sibling| sibling.id == *id)
    }
    /// The siblings by this author.
    pub fn siblings_by<'a>(&'a self, author: &'a UserId) -> impl Iterator<Item = &'a Sibling> {
        self.siblings.iter().filter(move |sibling| sibling.author == author)
    }
    /// The conflict, if siblings have different values.
    pub fn conflict<'a>(&'a self, key: &'a ItemKey) -> Option<Conflict<'a>> {
        Conflict::among(key, &self.siblings)
    }
    /// What someone who is given the whole item has been given.
    pub fn observed(&self) -> Observed {
        self.siblings.iter().map(|sibling| sibling.id).collect()
    }
    /// The depth of a change that supersedes siblings of this item.
    pub fn next_depth(&self) -> Counter {
        let deepest = self.siblings.iter().map(|sibling| sibling.depth).max();
        deepest.map_or(Counter::FIRST, |depth| depth.next().unwrap_or(depth))
    }
}
