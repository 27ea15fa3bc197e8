//! What stands for a past that can't be had: the state before an event, and what authorises it.
//!
//! What is bridged so has its place before what comes of that past later: it is the last that
//! is tried.

use std::collections::{HashMap, HashSet};

use causeway_room::Pdu;
use causeway_service::error::{Chain, MatrixError};
use ruma::OwnedEventId;

use super::{FillError, Gap, Lack, past::BRIDGED_AFTER};
use crate::error::blocking;

/// Single events asked for one by one; for more, the whole state is.
const SINGLE_EVENTS_MAX: usize = 100;

impl Gap<'_> {
    /// Fetches what stands for something of the past that is missing, or gives it up; false if
    /// there is nothing more to try.
    pub(super) async fn fetch_instead(
        &mut self,
        lacks: HashMap<OwnedEventId, Lack>,
    ) -> Result<bool, MatrixError> {
        // An event whose missing past waits here too is not the gap's edge; nor, for a while, is
        // one whose past is here and could not be bridged.
        let is_here = |event_id: &OwnedEventId| {
            let is_waited_for = self.tries < BRIDGED_AFTER && self.given_up.contains_key(event_id);
            is_waited_for || self.waiting.contains_key(event_id)
        };
        let at_edge = |lack: &Lack| !lack.prev.iter().any(is_here);
        let edge = lacks.into_iter().filter(|(_, lack)| at_edge(lack));
        // The oldest edge first: what follows it may then be complete. Later what was asked
        // for in vain: the answer for another may bring it.
        let order = |event_id: &OwnedEventId| {
            let raw = self.waiting.get(event_id);
            let depth = raw.and_then(|raw| self.parse([raw]).pop()).map_or(u64::MAX, |pdu| pdu.depth());
            (self.asked_auth.contains(event_id), depth)
        };
        let Some((event_id, lack)) = edge.min_by_key(|(event_id, _)| order(event_id)) else {
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

    async fn fetch_auth(&mut self, event_id: &OwnedEventId) -> Result<(), MatrixError> {
        match self.in_time(self.source.event_auth(self.state, event_id)).await {
            Ok(Ok(pdus)) => {
                let ids = pdus.iter().map(|pdu| pdu.event_id().to_owned()).collect();
                let absent = self.absent(ids).await?;
                self.take_outliers(pdus.into_iter().filter(|pdu| absent.contains(pdu.event_id()))).await
            }
            Ok(Err(error)) => {
                tracing::info!(%event_id, error = %Chain(&error), "what authorises an event can't be had");
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    /// The state before `event_id`, and the event with it.
    async fn fetch_state(&mut self, event_id: OwnedEventId) -> Result<(), MatrixError> {
        let Some(raw) = self.waiting.remove(&event_id) else { return Ok(()) };
        let ids = match self.state_before(&event_id).await {
            Ok(ids) => ids,
            Err(FillError::Storage(error)) => return Err(error),
            Err(error) => {
                tracing::info!(%event_id, error = %Chain(&error), "the state before an event can't be had");
                // It may be had at another time: a server that lacks much itself says that it has it not.
                self.is_unanswered = true;
                let why = format!("the state before it can't be had: {error}");
                self.given_up.insert(event_id, (raw, why));
                return Ok(());
            }
        };
        let Some(pdu) = self.parse([&raw]).pop() else { return Ok(()) };
        let (server, lacked) = (self.source.server, pdu.prev_events());
        tracing::info!(%server, %event_id, ?lacked, "the state before an event stands for its past");
        let (services, room_id) = (self.state.services().clone(), self.source.room_id.to_owned());
        let import = move || Ok(services.rooms.import_state(&room_id, pdu, &ids)?);
        self.taken.push((event_id, Ok(blocking(import).await?)));
        Ok(())
    }

    /// Makes sure that the state before an event is held; its ids.
    async fn state_before(&mut self, event_id: &OwnedEventId) -> Result<Vec<OwnedEventId>, FillError> {
        let (state_ids, auth_ids) = self.in_time(self.source.state_ids(self.state, event_id)).await??;
        let absent = self.absent(state_ids.iter().chain(&auth_ids).cloned().collect()).await?;
        if absent.is_empty() {
            return Ok(state_ids);
        }
        let pdus = if absent.len() > SINGLE_EVENTS_MAX {
            self.in_time(self.source.state(self.state, event_id)).await??
        } else {
            self.in_time(self.source.events(self.state, absent.iter().cloned().collect())).await?
        };
        self.take_outliers(pdus.into_iter().filter(|pdu| absent.contains(pdu.event_id()))).await?;
        if self.events_left == 0 {
            // What was stored is a part; the next fill goes on from there.
            return Err(FillError::Full);
        }
        // What is still absent was withheld or forged: the state is without it.
        let absent = self.absent(state_ids.iter().cloned().collect()).await?;
        Ok(state_ids.into_iter().filter(|event_id| !absent.contains(event_id)).collect())
    }

    /// Those of `ids` that are not held.
    async fn absent(&self, mut ids: HashSet<OwnedEventId>) -> Result<HashSet<OwnedEventId>, MatrixError> {
        let services = self.state.services().clone();
        blocking(move || {
            let mut held = Vec::new();
            for event_id in &ids {
                if services.rooms.held(event_id)?.is_some() {
                    held.push(event_id.clone());
                }
            }
            for event_id in held {
                ids.remove(&event_id);
            }
            Ok(ids)
        })
        .await
    }

    async fn take_outliers(&mut self, pdus: impl Iterator<Item = Pdu>) -> Result<(), MatrixError> {
        let pdus: Vec<Pdu> = pdus.filter(|pdu| self.spend(pdu)).collect();
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
        if let Some(raw) = self.waiting.remove(&event_id) {
            self.given_up.insert(event_id, (raw, "what authorises it can't be had".to_owned()));
        }
    }
}
