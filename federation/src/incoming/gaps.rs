//! Filling the gap before events whose past is not known here.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use causeway_room::Pdu;
use causeway_service::{
    error::{Chain, MatrixError},
    rooms::{Received, VersionRules},
};
use ruma::{OwnedEventId, RoomId, ServerName};
use serde_json::value::RawValue;

use super::{Outcome, fetch::Source, hand_over};
use crate::{error::blocking, state::FederationState};

/// Rounds of fetching and trying again for the events of one transaction.
pub const ROUNDS_MAX: usize = 12;
/// Events between what is here and what came that are asked for at first.
const BETWEEN_MAX: usize = 100;
/// Single events asked for one by one; for more, the whole state is.
const SINGLE_EVENTS_MAX: usize = 100;

/// Events by id, as text: they are tried more than once.
type Waiting = BTreeMap<OwnedEventId, Box<RawValue>>;

/// Takes in `waiting` (signatures checked) after fetching what it lacks.
///
/// # Errors
/// Storage only; what can't be completed stays out with its outcome.
pub(super) async fn fill(
    state: &FederationState,
    origin: &ServerName,
    room_id: &RoomId,
    version: &Arc<VersionRules>,
    waiting: Vec<Box<RawValue>>,
) -> Result<Vec<(OwnedEventId, Outcome)>, MatrixError> {
    let _one_gap_at_a_time = state.gap_of(room_id).await;
    let mut gap = Gap {
        state,
        source: Source { server: origin, room_id, version },
        wanted: HashSet::new(),
        waiting: Waiting::new(),
        outcomes: Vec::new(),
        asked_between: false,
        asked_auth: HashSet::new(),
    };
    for pdu in gap.parse(&waiting) {
        gap.wanted.insert(pdu.event_id().to_owned());
        gap.keep(&pdu);
    }
    for _round in 0..ROUNDS_MAX {
        let missing = gap.hand_over().await?;
        if missing.is_empty() || !gap.fetch(missing).await? {
            break;
        }
    }
    for event_id in gap.waiting.into_keys() {
        gap.outcomes.push((event_id, Err("events that it names can't be had".to_owned())));
    }
    gap.outcomes.retain(|(event_id, _)| gap.wanted.contains(event_id));
    Ok(gap.outcomes)
}

struct Gap<'a> {
    state: &'a FederationState,
    source: Source<'a>,
    /// Events whose outcome is asked for; the others were fetched on the way.
    wanted: HashSet<OwnedEventId>,
    waiting: Waiting,
    outcomes: Vec<(OwnedEventId, Outcome)>,
    asked_between: bool,
    asked_auth: HashSet<OwnedEventId>,
}

/// What an event lacks.
struct Lack {
    prev: Vec<OwnedEventId>,
    auth: Vec<OwnedEventId>,
}

impl Gap<'_> {
    fn keep(&mut self, pdu: &Pdu) {
        self.waiting.insert(pdu.event_id().to_owned(), pdu.raw().to_owned());
    }

    fn parse<'b>(&self, raw: impl IntoIterator<Item = &'b Box<RawValue>>) -> Vec<Pdu> {
        let rules = &self.source.version.rules;
        raw.into_iter().filter_map(|raw| Pdu::parse(rules, raw.get()).ok()).collect()
    }

    /// Hands everything that waits to the room; what it still lacks.
    async fn hand_over(&mut self) -> Result<HashMap<OwnedEventId, Lack>, MatrixError> {
        let pdus = self.parse(self.waiting.values());
        let Source { server, room_id, .. } = self.source;
        let mut lacks = HashMap::new();
        for (event_id, result) in hand_over(self.state, server, room_id, pdus).await? {
            if let Received::Missing { prev, auth } = result {
                lacks.insert(event_id, Lack { prev, auth });
            } else {
                self.waiting.remove(&event_id);
                self.outcomes.push((event_id, Ok(result)));
            }
        }
        Ok(lacks)
    }

    /// Fetches something of what is missing; false if there is nothing more to try.
    async fn fetch(&mut self, lacks: HashMap<OwnedEventId, Lack>) -> Result<bool, MatrixError> {
        if !self.asked_between && lacks.values().any(|lack| !lack.prev.is_empty()) {
            self.asked_between = true;
            if self.fetch_between().await? {
                return Ok(true);
            }
        }
        // An event whose missing past waits here too is not the gap's edge.
        let at_edge = |lack: &Lack| lack.prev.iter().all(|id| !self.waiting.contains_key(id));
        let edge = lacks.into_iter().filter(|(_, lack)| at_edge(lack));
        // The oldest edge first: what follows it may then be complete.
        let depth = |event_id: &OwnedEventId| {
            let raw = self.waiting.get(event_id);
            raw.and_then(|raw| self.parse([raw]).pop()).map_or(u64::MAX, |pdu| pdu.depth())
        };
        let Some((event_id, lack)) = edge.min_by_key(|(event_id, _)| depth(event_id)) else {
            return Ok(false);
        };
        if !lack.auth.is_empty() && self.asked_auth.insert(event_id.clone()) {
            self.fetch_auth(&event_id).await?;
            return Ok(true);
        }
        if lack.prev.is_empty() {
            self.give_up(event_id);
            return Ok(true);
        }
        self.fetch_state(event_id).await?;
        Ok(true)
    }

    /// The events between the room's heads here and what waits.
    async fn fetch_between(&mut self) -> Result<bool, MatrixError> {
        let (services, room_id) = (self.state.services().clone(), self.source.room_id.to_owned());
        let heads = blocking(move || Ok(services.rooms.heads(&room_id)?)).await?;
        let latest: Vec<OwnedEventId> = self.waiting.keys().cloned().collect();
        match self.source.missing_events(self.state, &heads, &latest, BETWEEN_MAX).await {
            Ok(pdus) => {
                let before = self.waiting.len();
                for pdu in &pdus {
                    self.keep(pdu);
                }
                Ok(self.waiting.len() > before)
            }
            Err(error) => {
                tracing::info!(error = %Chain(&error), "the events in between can't be had");
                Ok(false)
            }
        }
    }

    async fn fetch_auth(&mut self, event_id: &OwnedEventId) -> Result<(), MatrixError> {
        match self.source.event_auth(self.state, event_id).await {
            Ok(pdus) => self.take_outliers(pdus).await,
            Err(error) => {
                tracing::info!(%event_id, error = %Chain(&error), "what authorises an event can't be had");
                Ok(())
            }
        }
    }

    /// The state before `event_id`, and the event with it.
    async fn fetch_state(&mut self, event_id: OwnedEventId) -> Result<(), MatrixError> {
        let Some(raw) = self.waiting.remove(&event_id) else { return Ok(()) };
        let outcome = match self.state_before(&event_id).await {
            Ok(ids) => {
                let (services, room_id) = (self.state.services().clone(), self.source.room_id.to_owned());
                let Some(pdu) = self.parse([&raw]).pop() else { return Ok(()) };
                let import = move || Ok(services.rooms.import_state(&room_id, pdu, &ids)?);
                Ok(blocking(import).await?)
            }
            Err(error) => {
                tracing::info!(%event_id, error = %Chain(&*error), "the state before an event can't be had");
                Err("the state before it can't be had".to_owned())
            }
        };
        self.outcomes.push((event_id, outcome));
        Ok(())
    }

    /// Makes sure that the state before an event is held; its ids.
    async fn state_before(
        &self,
        event_id: &OwnedEventId,
    ) -> Result<Vec<OwnedEventId>, Box<dyn std::error::Error + Send + Sync>> {
        let (state_ids, auth_ids) = self.source.state_ids(self.state, event_id).await?;
        let services = self.state.services().clone();
        let all: HashSet<OwnedEventId> = state_ids.iter().chain(&auth_ids).cloned().collect();
        let absent = blocking(move || {
            let mut absent = Vec::new();
            for event_id in all {
                if services.rooms.held(&event_id)?.is_none() {
                    absent.push(event_id);
                }
            }
            Ok(absent)
        });
        let absent = absent.await?;
        if absent.is_empty() {
            return Ok(state_ids);
        }
        let pdus = if absent.len() > SINGLE_EVENTS_MAX {
            self.source.state(self.state, event_id).await?
        } else {
            self.source.events(self.state, absent).await
        };
        self.take_outliers(pdus).await?;
        // What is still absent was withheld or forged: the state is without it.
        let services = self.state.services().clone();
        let held = blocking(move || {
            let mut held = Vec::with_capacity(state_ids.len());
            for event_id in state_ids {
                if services.rooms.held(&event_id)?.is_some() {
                    held.push(event_id);
                }
            }
            Ok(held)
        });
        Ok(held.await?)
    }

    async fn take_outliers(&self, pdus: Vec<Pdu>) -> Result<(), MatrixError> {
        if pdus.is_empty() {
            return Ok(());
        }
        let (services, room_id) = (self.state.services().clone(), self.source.room_id.to_owned());
        blocking(move || {
            services.rooms.receive_outliers(&room_id, pdus)?;
            Ok(())
        })
        .await
    }

    fn give_up(&mut self, event_id: OwnedEventId) {
        self.waiting.remove(&event_id);
        self.outcomes.push((event_id, Err("what authorises it can't be had".to_owned())));
    }
}
