//! A cache with a bound: two generations, the older dropped when the younger is full.
//!
//! Whatever is used stays, whatever is not goes after at most two fillings;
//! nothing is counted or sorted on a hit.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A bounded map of values that are cheap to clone.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    /// Entries of a generation; twice as many are held at most.
    generation_max: usize,
    generations: Mutex<Generations<K, V>>,
}

#[derive(Debug)]
struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash + Clone, V: Clone> Cache<K, V> {
    pub(crate) fn new(generation_max: usize) -> Self {
        let generations = Generations { young: HashMap::new(), old: HashMap::new() };
        Self { generation_max, generations: Mutex::new(generations) }
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut generations = self.lock();
        if let Some(value) = generations.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = generations.old.remove_entry(key)?;
        self.put(&mut generations, key, value.clone());
        Some(value)
    }

    /// Sets what is now true.
    pub(crate) fn insert(&self, key: K, value: V) {
        let mut generations = self.lock();
        generations.old.remove(&key);
        self.put(&mut generations, key, value);
    }

    /// Keeps what was read, unless something is there: a writer may have been
    /// faster, and what it put is the truth.
    pub(crate) fn insert_read(&self, key: K, value: V) {
        let mut generations = self.lock();
        if !generations.young.contains_key(&key) && !generations.old.contains_key(&key) {
            self.put(&mut generations, key, value);
        }
    }

    fn put(&self, generations: &mut Generations<K, V>, key: K, value: V) {
        if generations.young.len() >= self.generation_max {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, value);
    }

    /// The maps are whole between statements, so a panic elsewhere is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, Generations<K, V>> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_bound_holds() {
        let cache = Cache::new(10);
        cache.insert(0, 0);
        for n in 1..100 {
            cache.insert_read(n, n);
            assert_eq!(cache.get(&0), Some(0));
        }
        assert_eq!(cache.get(&1), None);
        cache.insert_read(0, 7);
        assert_eq!(cache.get(&0), Some(0), "a reader does not undo a writer");
        let generations = cache.lock();
        assert!(generations.young.len() + generations.old.len() <= 20);
    }
}
