//! State resolution: one state from several.
//!
//! The algorithm is version 2 of the specification, and 2.1 for room version 12,
//! as Synapse has it: `tests/src/forks` holds the two against each other. Here are
//! the sets that it works on: the conflicted keys (by walking only the parts of
//! the states that differ), the auth difference over *whole* states, and the
//! conflicted subgraph; `order` sorts, `checks` applies what is sorted. Of
//! unconflicted state only that is read which an authorisation rule looks at, so
//! that a large room costs what its conflict costs.
//!
//! The result does not depend on the order of the states.

mod checks;
mod order;
mod plain;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    room_version_rules::{RoomVersionRules, StateResolutionV2Rules},
};

use crate::{
    pdu::Pdu,
    state_tree::{self, Difference, NodeStore, Root, StateKey},
};

/// Where events are found by id.
pub trait EventSource {
    /// Why an event could not be read.
    type Error;

    /// The event, or `None` when this server does not hold it.
    fn event(&self, id: &EventId) -> Result<Option<Arc<Pdu>>, Self::Error>;

    /// The events that an event says authorise it; none for one that this server does not hold.
    /// Whole chains are walked by this, where the events themselves are not asked for.
    fn auth_events(&self, id: &EventId) -> Result<Arc<[OwnedEventId]>, Self::Error> {
        Ok(self.event(id)?.map_or_else(|| Arc::from([]), |event| event.auth_events().into()))
    }
}

/// Why states could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError<E> {
    /// Reading nodes or events failed.
    #[error("reading a room's state failed")]
    Read(#[source] E),
    /// The room version has no resolution that this server knows.
    #[error("the room version's state resolution is not supported")]
    Unsupported,
}

impl<E> From<E> for ResolveError<E> {
    fn from(error: E) -> Self {
        Self::Read(error)
    }
}

type Resolved<T, E> = Result<T, ResolveError<E>>;

/// The resolution of these states; of none, the empty state.
///
/// # Errors
/// When reading fails.
pub fn resolve<S, E>(rules: &RoomVersionRules, store: &mut S, roots: &[Root]) -> Resolved<Root, E>
where
    S: NodeStore<Error = E> + EventSource<Error = E>,
{
    let distinct: BTreeSet<Root> = roots.iter().copied().collect();
    let roots: Vec<Root> = distinct.into_iter().collect();
    let Some(base) = roots.first().copied() else {
        return Ok(state_tree::empty());
    };
    if roots.len() == 1 {
        return Ok(base);
    }
    let version = *rules.state_res.v2_rules().ok_or(ResolveError::Unsupported)?;
    let conflicts = conflicts(store, &roots)?;
    if let Some(winners) = plain::winners(rules, store, &base, &conflicts)? {
        let changes = winners.into_iter().map(|(key, event_id)| (key, Some(event_id)));
        return Ok(state_tree::apply(store, &base, changes)?);
    }
    let events = RefCell::default();
    let resolution = Resolution { rules, version, store: &*store, base, conflicts: &conflicts, events };
    let resolved = resolution.run(roots.len())?;
    let mut changes: BTreeMap<StateKey, Option<OwnedEventId>> =
        conflicts.keys().map(|key| (key.clone(), resolved.get(key).cloned())).collect();
    // A piece of state that only the auth difference brought back.
    for (key, event_id) in resolved {
        if !conflicts.contains_key(&key) && state_tree::get(store, &base, &key)?.is_none() {
            changes.insert(key, Some(event_id));
        }
    }
    Ok(state_tree::apply(store, &base, changes)?)
}

/// What each state holds where they differ, in the order of the states.
type Conflicts = BTreeMap<StateKey, Vec<Option<OwnedEventId>>>;

fn conflicts<S: NodeStore>(store: &S, roots: &[Root]) -> Result<Conflicts, S::Error> {
    let mut conflicts = Conflicts::new();
    for (at, other) in roots.iter().enumerate().skip(1) {
        for Difference { key, old, new } in state_tree::diff(store, &roots[0], other)? {
            conflicts.entry(key).or_insert_with(|| vec![old; roots.len()])[at] = new;
        }
    }
    Ok(conflicts)
}

/// What the algorithm has decided so far.
type Decided = HashMap<StateKey, OwnedEventId>;

/// One run of the algorithm over the conflicted keys of some states.
struct Resolution<'a, S> {
    rules: &'a RoomVersionRules,
    version: StateResolutionV2Rules,
    store: &'a S,
    /// One of the states: where they agree, it is as good as any.
    base: Root,
    conflicts: &'a Conflicts,
    events: RefCell<HashMap<OwnedEventId, Option<Arc<Pdu>>>>,
}

impl<S, E> Resolution<'_, S>
where
    S: NodeStore<Error = E> + EventSource<Error = E>,
{
    fn run(&self, states: usize) -> Resolved<Decided, E> {
        let conflicted: BTreeSet<OwnedEventId> =
            self.conflicts.values().flatten().flatten().cloned().collect();
        let mut full: HashSet<OwnedEventId> = self.auth_difference(states)?;
        if self.version.consider_conflicted_state_subgraph {
            full.extend(self.conflicted_subgraph(&conflicted)?);
        }
        full.extend(conflicted);
        let mut known = BTreeMap::new();
        for event_id in full {
            if let Some(event) = self.event(&event_id)? {
                known.insert(event_id, event);
            }
        }
        let mut decided = Decided::new();
        let (power, rest) = self.by_power(known)?;
        self.check_each(&power, &mut decided)?;
        let rest = self.by_mainline(rest, &decided)?;
        self.check_each(&rest, &mut decided)?;
        Ok(decided)
    }

    fn event(&self, id: &EventId) -> Result<Option<Arc<Pdu>>, E> {
        if let Some(event) = self.events.borrow().get(id) {
            return Ok(event.clone());
        }
        let event = self.store.event(id)?;
        self.events.borrow_mut().insert(id.to_owned(), event.clone());
        Ok(event)
    }

    fn auth_events(&self, id: &EventId) -> Result<Arc<[OwnedEventId]>, E> {
        self.store.auth_events(id)
    }

    /// What the state holds that the algorithm has come to: what was decided, and
    /// below that, up to room version 11, what was never in question.
    fn held(&self, decided: &Decided, key: &StateKey) -> Resolved<Option<OwnedEventId>, E> {
        if let Some(event_id) = decided.get(key) {
            return Ok(Some(event_id.clone()));
        }
        if self.version.begin_iterative_auth_checks_with_empty_state_map || self.conflicts.contains_key(key) {
            return Ok(None);
        }
        Ok(state_tree::get(self.store, &self.base, key)?)
    }

    /// The events in the auth chain of some whole state and not of all.
    ///
    /// Unconflicted events are in every state, so they and their chains can only
    /// take events out of the difference of the conflicted ones: they are walked
    /// only until nothing is left to take out. That a state's own events count as
    /// in its chain is what Synapse does; the specification's words leave them out
    /// unless another event of the state cites them.
    fn auth_difference(&self, states: usize) -> Resolved<HashSet<OwnedEventId>, E> {
        let mut counts: HashMap<OwnedEventId, usize> = HashMap::new();
        for at in 0..states {
            let mut chain = HashSet::new();
            for event_id in self.conflicts.values().filter_map(|held| held[at].as_ref()) {
                self.extend_chain(event_id, &mut chain, &mut |_| {})?;
            }
            for event_id in chain {
                *counts.entry(event_id).or_default() += 1;
            }
        }
        let mut difference = HashSet::new();
        for (event_id, _) in counts.into_iter().filter(|(_, count)| *count < states) {
            if !self.is_unconflicted(&event_id)? {
                difference.insert(event_id);
            }
        }
        if difference.is_empty() {
            return Ok(difference);
        }
        let mut seen = HashSet::new();
        for entry in state_tree::entries(self.store, &self.base)? {
            if self.conflicts.contains_key(&entry.key) {
                continue;
            }
            self.extend_chain(&entry.event_id, &mut seen, &mut |event_id| {
                difference.remove(event_id);
            })?;
            if difference.is_empty() {
                break;
            }
        }
        Ok(difference)
    }

    /// Whether every state holds this event.
    fn is_unconflicted(&self, event_id: &EventId) -> Resolved<bool, E> {
        let Some(event) = self.event(event_id)? else { return Ok(false) };
        let Some(key) = event.state_key().map(|key| StateKey::new(event.kind_text(), key)) else {
            return Ok(false);
        };
        let held = state_tree::get(self.store, &self.base, &key)?;
        Ok(!self.conflicts.contains_key(&key) && held.as_deref() == Some(event_id))
    }

    /// Adds the auth chain of an event (without the event) to `chain`.
    fn extend_chain(
        &self,
        event_id: &EventId,
        chain: &mut HashSet<OwnedEventId>,
        each: &mut impl FnMut(&EventId),
    ) -> Resolved<(), E> {
        let mut pending = self.auth_events(event_id)?.to_vec();
        while let Some(event_id) = pending.pop() {
            if !chain.contains(&event_id) {
                each(&event_id);
                pending.extend(self.auth_events(&event_id)?.iter().cloned());
                chain.insert(event_id);
            }
        }
        Ok(())
    }

    /// The events on paths of `auth_events` from one conflicted event to
    /// another, and the conflicted events themselves (room version 12, "State
    /// resolution").
    fn conflicted_subgraph(&self, conflicted: &BTreeSet<OwnedEventId>) -> Resolved<HashSet<OwnedEventId>, E> {
        // Whether following `auth_events` from an event meets a conflicted one.
        let mut reaches: HashMap<OwnedEventId, bool> = HashMap::new();
        for start in conflicted {
            let mut path = vec![(start.clone(), false)];
            while let Some((event_id, expanded)) = path.pop() {
                if !expanded && reaches.contains_key(&event_id) {
                    continue;
                }
                let parents = self.auth_events(&event_id)?;
                if expanded {
                    let met = conflicted.contains(&event_id)
                        || parents.iter().any(|parent| reaches.get(parent).copied().unwrap_or(false));
                    reaches.insert(event_id, met);
                } else {
                    path.push((event_id, true));
                    path.extend(
                        parents
                            .iter()
                            .filter(|parent| !reaches.contains_key(*parent))
                            .map(|parent| (parent.clone(), false)),
                    );
                }
            }
        }
        Ok(reaches.into_iter().filter(|(_, met)| *met).map(|(event_id, _)| event_id).collect())
    }
}
