//! Room events from other servers: parsed, checked, completed with what they
//! stand on, handed to the rooms.
//!
//! The rooms judge; this fetches. What an event names and this server lacks is
//! asked of a server in the room, the one that sent it if that is: first the
//! events in between, then, where the gap is too wide, the state before the event.
//!
//! What nobody answers for, be it for its past or for the key that it is signed with, is tried
//! [`again`]. Of rooms that this server is not in only
//! [`rescinded`] invites and refused knocks are taken.
//!
//! Invariants: nothing is handed on whose signatures were not checked; what is
//! fetched, and for how long, is bounded (see [`gaps`]).

pub(crate) mod again;
pub mod fetch;
mod gaps;
mod rescinded;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use causeway_room::Pdu;
use causeway_service::{
    Services,
    error::{Chain, MatrixError},
    rooms::{Held, Received, VersionRules},
};
use ruma::{OwnedEventId, OwnedRoomId, RoomId, ServerName};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use self::rescinded::Rescinded;
use crate::{
    error::blocking,
    metrics::Metrics,
    state::FederationState,
    verification::{VerificationError, verify},
};

/// What became of an event, or why it could not be looked at.
pub type Outcome = Result<Received, String>;

/// The events of a transaction.
#[derive(Default)]
struct Sorted {
    groups: HashMap<OwnedRoomId, Group>,
    rescinded: Vec<Rescinded>,
    outcomes: BTreeMap<OwnedEventId, Outcome>,
}

/// The events of one room in a transaction.
struct Group {
    version: Arc<VersionRules>,
    pdus: Vec<Pdu>,
}

/// Takes in the events of a transaction. Every event that can be told apart
/// gets its result: an empty object, or one with `error`.
pub async fn receive_pdus(
    state: &FederationState,
    origin: &ServerName,
    pdus: Vec<Box<RawValue>>,
) -> BTreeMap<OwnedEventId, Value> {
    if pdus.is_empty() {
        return BTreeMap::new();
    }
    state.joins().wait(|| rooms_of(&pdus)).await;
    let (services, from, counting) = (state.services().clone(), origin.to_owned(), state.clone());
    let Ok(sorted) = blocking(move || Ok(sort(&services, counting.metrics(), &from, pdus))).await else {
        return BTreeMap::new();
    };
    let Sorted { groups, rescinded, mut outcomes } = sorted;
    for (room_id, group) in groups {
        outcomes.extend(receive_group(state, origin, &room_id, group).await);
    }
    for rescinded in rescinded {
        let event_id = rescinded.pdu.event_id().to_owned();
        let taken = rescinded.take(state).await.map(|()| Received::Accepted);
        outcomes.insert(event_id, taken.map_err(|error| error.message));
    }
    for outcome in outcomes.values() {
        state.metrics().received(outcome.as_ref().ok());
    }
    outcomes.into_iter().map(|(event_id, outcome)| (event_id, told(outcome))).collect()
}

/// The rooms that events say they are of.
fn rooms_of(pdus: &[Box<RawValue>]) -> Vec<OwnedRoomId> {
    pdus.iter()
        .filter_map(|raw| serde_json::from_str::<Peek>(raw.get()).ok())
        .map(|peek| peek.room_id)
        .collect()
}

/// What the sender is told.
fn told(outcome: Outcome) -> Value {
    match outcome {
        Ok(Received::Accepted | Received::SoftFailed(_) | Received::Duplicate) => json!({}),
        Ok(Received::Rejected(why) | Received::Refused(why)) | Err(why) => json!({"error": why}),
        Ok(Received::Missing { .. }) => json!({"error": "events that it names can't be had"}),
    }
}

/// Parses the events and sorts them by room. What can't be parsed has no id to
/// answer under, and is logged.
fn sort(services: &Services, metrics: &Metrics, origin: &ServerName, pdus: Vec<Box<RawValue>>) -> Sorted {
    let mut sorted = Sorted::default();
    for raw in pdus {
        if let Some(rescinded) = Rescinded::read(services, &raw) {
            sorted.rescinded.push(rescinded);
            continue;
        }
        let (room_id, version, pdu) = match parse(services, &raw) {
            Ok(parsed) => parsed,
            Err(why) => {
                tracing::warn!(%origin, why, "an event is dropped");
                metrics.received(None);
                continue;
            }
        };
        match may_send(services, &room_id, origin) {
            Ok(()) => {
                let fresh = || Group { version, pdus: Vec::new() };
                sorted.groups.entry(room_id).or_insert_with(fresh).pdus.push(pdu);
            }
            Err(error) => {
                sorted.outcomes.insert(pdu.event_id().to_owned(), Err(error.message));
            }
        }
    }
    sorted
}

/// What has to be known of an event before it can be parsed.
#[derive(Deserialize)]
struct Peek {
    room_id: OwnedRoomId,
}

fn parse(services: &Services, raw: &RawValue) -> Result<(OwnedRoomId, Arc<VersionRules>, Pdu), String> {
    let peek: Peek = serde_json::from_str(raw.get()).map_err(|_| "no room id".to_owned())?;
    let version = services.rooms.version_rules(&peek.room_id).map_err(|error| error.to_string())?;
    let pdu = Pdu::parse(&version.rules, raw.get()).map_err(|error| Chain(&error).to_string())?;
    Ok((peek.room_id, version, pdu))
}

/// Whether this server takes events of the room from `origin`.
fn may_send(services: &Services, room_id: &RoomId, origin: &ServerName) -> Result<(), MatrixError> {
    crate::access::in_room_here(&services.rooms, room_id)?;
    crate::access::acl(&services.rooms, room_id, origin)
}

#[tracing::instrument(name = "federation.room_events.receive", level = "debug", skip_all, fields(events = group.pdus.len()))]
async fn receive_group(
    state: &FederationState,
    origin: &ServerName,
    room_id: &RoomId,
    group: Group,
) -> Vec<(OwnedEventId, Outcome)> {
    let ids: Vec<OwnedEventId> = group.pdus.iter().map(|pdu| pdu.event_id().to_owned()).collect();
    let received = receive_room(state, origin, room_id, &group.version, group.pdus).await;
    let failed = |error: MatrixError| ids.into_iter().map(|id| (id, Err(error.message.clone()))).collect();
    received.unwrap_or_else(failed)
}

/// Checks and takes in events of one room, fetching what they lack.
pub async fn receive_room(
    state: &FederationState,
    origin: &ServerName,
    room_id: &RoomId,
    version: &Arc<VersionRules>,
    pdus: Vec<Pdu>,
) -> Result<Vec<(OwnedEventId, Outcome)>, MatrixError> {
    let (mut outcomes, fresh) = without_known(state, pdus).await?;
    if fresh.is_empty() {
        return Ok(outcomes);
    }
    let checked = verified(state, origin, version, fresh, &mut outcomes).await;
    if let Some(unchecked) = checked.unchecked {
        again::keep(state, (room_id.to_owned(), origin.to_owned()), unchecked).await?;
    }
    let verified = checked.good;
    // Kept for the case that something is missing, which is known only afterwards.
    let raw: HashMap<OwnedEventId, Box<RawValue>> =
        verified.iter().map(|pdu| (pdu.event_id().to_owned(), pdu.raw().to_owned())).collect();
    let results = hand_over(state, origin, room_id, verified).await?;
    let mut waiting = Vec::new();
    for (event_id, result) in results {
        match (result, raw.get(&event_id)) {
            (Received::Missing { .. }, Some(raw)) => waiting.push(raw.clone()),
            (result, _) => outcomes.push((event_id, Ok(result))),
        }
    }
    if !waiting.is_empty() {
        let filled = gaps::fill(state, origin, room_id, version, waiting).await?;
        outcomes.extend(filled);
    }
    Ok(outcomes)
}

/// Sets apart what is here already: a repetition costs no signatures.
async fn without_known(
    state: &FederationState,
    pdus: Vec<Pdu>,
) -> Result<(Vec<(OwnedEventId, Outcome)>, Vec<Pdu>), MatrixError> {
    let services = state.services().clone();
    blocking(move || {
        let (mut known, mut fresh) = (Vec::new(), Vec::new());
        for pdu in pdus {
            let held = services.rooms.held(pdu.event_id())?;
            let is_known = |held: &Held| {
                let is_news = held.meta.outlier || held.meta.is_unplaced_history();
                !is_news && *held.meta.room_id == *pdu.room_id()
            };
            match held.filter(is_known) {
                Some(held) => {
                    let rejected = held.meta.rejected.clone();
                    let outcome = rejected.map_or(Received::Duplicate, Received::Rejected);
                    known.push((pdu.event_id().to_owned(), Ok(outcome)));
                }
                None => fresh.push(pdu),
            }
        }
        Ok((known, fresh))
    })
    .await
}

/// What came of checking signatures.
struct Checked {
    good: Vec<Pdu>,
    /// The deepest that can't be checked now: whose key it is did not answer. Who sent it won't
    /// send it again, so it is tried again.
    unchecked: Option<Pdu>,
}

/// Those whose signatures hold; the others get their outcome.
async fn verified(
    state: &FederationState,
    origin: &ServerName,
    version: &VersionRules,
    pdus: Vec<Pdu>,
    outcomes: &mut Vec<(OwnedEventId, Outcome)>,
) -> Checked {
    // As they came: one that can't be checked now is to be checked so.
    let came: Vec<_> = pdus.iter().map(|pdu| (pdu.event_id().to_owned(), pdu.raw().to_owned())).collect();
    let results = verify(state.keys(), &version.rules, pdus, None).await;
    let mut checked = Checked { good: Vec::with_capacity(results.len()), unchecked: None };
    for ((event_id, raw), result) in came.into_iter().zip(results) {
        match result {
            Ok(pdu) => checked.good.push(pdu),
            Err(error) => {
                tracing::warn!(%origin, %event_id, %error, "an event is dropped");
                if matches!(error, VerificationError::NoKey(_)) {
                    let pdu = Pdu::parse(&version.rules, raw.get()).ok();
                    checked.unchecked = pdu.into_iter().chain(checked.unchecked).max_by_key(Pdu::depth);
                }
                outcomes.push((event_id, Err(error.to_string())));
            }
        }
    }
    checked
}

async fn hand_over(
    state: &FederationState,
    origin: &ServerName,
    room_id: &RoomId,
    pdus: Vec<Pdu>,
) -> Result<Vec<(OwnedEventId, Received)>, MatrixError> {
    if pdus.is_empty() {
        return Ok(Vec::new());
    }
    let pdus = crate::policy::complete(state, room_id, pdus).await?;
    let (services, origin, room_id) = (state.services().clone(), origin.to_owned(), room_id.to_owned());
    let turn = services.rooms.turn(&room_id).await;
    blocking(move || {
        let _turn = turn;
        Ok(services.rooms.receive_pdus(&origin, &room_id, pdus)?)
    })
    .await
}
