//! A cache with a bound: two generations, the older dropped when the younger is full.
//!
//! Whatever is used stays, whatever is not goes after at most two fillings;
//! nothing is counted or sorted on a hit. A bound is a number of entries, or where
//! others choose how large these are, of bytes.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A bounded map of values that are cheap to clone.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    /// What the entries of a generation weigh; twice as much is held at most.
    generation_max: usize,
    weight: fn(&V) -> usize,
    generations: Mutex<Generations<K, V>>,
}

#[derive(Debug)]
struct Generations<K, V> {
    young: HashMap<K, V>,
    /// What `young` weighs.
    weighs: usize,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash + Clone, V: Clone> Cache<K, V> {
    /// Of so many entries in a generation.
    pub(crate) fn new(generation_max: usize) -> Self {
        Self::weighed(generation_max, |_| 1)
    }

    /// Of entries that weigh so much in a generation. What weighs more by itself is not kept.
    pub(crate) fn weighed(generation_max: usize, weight: fn(&V) -> usize) -> Self {
        let generations = Generations { young: HashMap::new(), weighs: 0, old: HashMap::new() };
        Self { generation_max, weight, generations: Mutex::new(generations) }
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
        let weight = (self.weight)(&value);
        if let Some(replaced) = generations.young.remove(&key) {
            generations.weighs = generations.weighs.saturating_sub((self.weight)(&replaced));
        }
        if weight > self.generation_max {
            return;
        }
        if generations.weighs.saturating_add(weight) > self.generation_max {
            generations.old = std::mem::take(&mut generations.young);
            generations.weighs = 0;
        }
        generations.weighs = generations.weighs.saturating_add(weight);
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

    #[test]
    fn large_entries_leave_room_for_few() {
        let cache = Cache::weighed(100, String::len);
        for n in 0..50 {
            cache.insert(n, "x".repeat(30));
        }
        let held = |cache: &Cache<i32, String>| {
            let generations = cache.lock();
            generations.young.values().chain(generations.old.values()).map(String::len).sum::<usize>()
        };
        assert!((90..=200).contains(&held(&cache)), "{}", held(&cache));
        assert_eq!(cache.get(&49), Some("x".repeat(30)));
        cache.insert(49, "x".repeat(101));
        assert_eq!(cache.get(&49), None, "neither what is too large nor what it replaced");
    }
}
