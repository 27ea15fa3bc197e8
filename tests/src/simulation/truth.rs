//! What really happened: which change was written by whom after having really
//! been shown what. No server knows this; the checkers do.

use std::collections::{BTreeMap, HashMap};

use causeway_shared_space::{Change, ChangeId, Dot};

/// A set of changes, by their number in the world.
pub type Set = u128;

/// Most changes in a world: a [`Set`] has a bit for each.
pub const MAX_CHANGES: usize = 120;

/// Everything that was ever written.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    changes: Vec<Change>,
    histories: Vec<Set>,
    numbers: HashMap<ChangeId, usize>,
    dots: BTreeMap<Dot, ChangeId>,
    /// Written on an honest server's device.
    pub honest: Set,
    /// Answered with success.
    pub acknowledged: Set,
    /// Lost with a disk when no other honest server held them: nobody can bring
    /// those back, and what hangs on them may be announced in vain.
    pub unavoidable: Set,
    /// Dots that an honest server gave out twice.
    pub reused: Vec<Dot>,
}

impl Truth {
    /// Whether there is room for another change.
    pub fn full(&self) -> bool {
        self.changes.len() >= MAX_CHANGES
    }

    /// Notes a change by an author who had been shown `shown`; its number.
    pub fn note(&mut self, change: &Change, shown: Set, honest: bool) -> usize {
        let number = self.changes.len();
        let mut history = 1 << number;
        for seen in members(shown) {
            history |= self.histories[seen];
        }
        if !honest {
            for named in change.header().supersedes() {
                history |= self.number(named).map_or(0, |named| self.histories[named]);
            }
        }
        let dot = change.header().dot();
        let other = self.dots.insert(dot.clone(), change.id());
        if honest && other.is_some() {
            self.reused.push(dot.clone());
        }
        self.numbers.insert(change.id(), number);
        self.histories.push(history);
        self.changes.push(change.clone());
        self.honest |= Set::from(honest) << number;
        number
    }

    /// A change's number.
    pub fn number(&self, id: &ChangeId) -> Option<usize> {
        self.numbers.get(id).copied()
    }

    /// A change by its number.
    pub fn change(&self, number: usize) -> &Change {
        &self.changes[number]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// All that the author of a change had been shown, and the change.
    pub fn history(&self, number: usize) -> Set {
        self.histories[number]
    }

    /// The union of histories.
    pub fn alive<'a>(&self, siblings: impl IntoIterator<Item = &'a ChangeId>) -> Set {
        siblings
            .into_iter()
            .filter_map(|id| self.number(id))
            .fold(0, |alive, number| alive | self.histories[number])
    }
}

/// The numbers in a set.
pub fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..Set::BITS as usize).filter(move |number| set >> number & 1 == 1)
}
