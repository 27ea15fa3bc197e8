//! Gaps that are wider than `get_missing_events` brings: the history before what waits is asked
//! for, as for scrolling back, until it meets what is here. All of it is then handed to the
//! room at once, oldest first, so that it has its places in order.
//!
//! Invariant: it takes no more than half of what a gap may cost.

use std::collections::{BTreeSet, HashSet};

use causeway_room::Pdu;
use causeway_service::error::{Chain, MatrixError};
use ruma::OwnedEventId;

use super::{Between, Gap, past::BRIDGED_AFTER};
use crate::{error::blocking, incoming::fetch::Source};

/// Events of one answer about the history before a gap that is wider.
const HISTORY_MAX: usize = 100;
/// Events that history is asked for before, at once.
const HISTORY_EDGES_MAX: usize = 10;

impl Gap<'_> {
    /// What is before the events that wait, back to what is here, where that is further than the
    /// events in between were asked for: for half of what a gap may cost, so that the rest is
    /// left for bridging one that is wider still.
    pub(super) async fn fetch_history(&mut self, source: Source<'_>) -> Result<Between, MatrixError> {
        let (services, room_id) = (self.state.services().clone(), source.room_id.to_owned());
        // What is before this server's time is not followed: it is never met.
        let floor = blocking(move || Ok(services.rooms.least_live_depth(&room_id)?)).await?;
        let mut named = named_by(&self.parse(self.waiting.values()), floor);
        let (mut asked, before) = (HashSet::new(), self.waiting.len());
        loop {
            if !self.has_half() {
                // Slowness alone proves nothing: there is more, and another time for it.
                let is_late = self.left() <= self.limits.time / 2;
                if is_late && self.tries < BRIDGED_AFTER {
                    return Ok(Between::Unanswered);
                }
                break;
            }
            named = self.unknown(named).await?;
            let edge: Vec<_> =
                named.iter().filter(|id| !asked.contains(*id)).take(HISTORY_EDGES_MAX).cloned().collect();
            if edge.is_empty() {
                break;
            }
            let ask = source.backfill(self.state, &edge, HISTORY_MAX);
            let pdus = match self.in_time(ask).await {
                Ok(Ok(pdus)) => pdus,
                Ok(Err(error)) => {
                    tracing::info!(error = %Chain(&error), "the history before a gap can't be had");
                    if error.is_outage() && matches!(self.without_answer(&error), Between::Unanswered) {
                        return Ok(Between::Unanswered);
                    }
                    break;
                }
                Err(_) => return Ok(Between::Unanswered),
            };
            // What is deepest comes first: what a full answer did not get to is asked for again.
            let came: HashSet<_> = pdus.iter().map(Pdu::event_id).collect();
            let is_all = came.len() < HISTORY_MAX || !edge.iter().any(|id| came.contains(&**id));
            asked.extend(edge.into_iter().filter(|id| is_all || came.contains(&**id)));
            let fresh = self.unknown(pdus.iter().map(|pdu| pdu.event_id().to_owned()).collect()).await?;
            let fresh: Vec<Pdu> = pdus.into_iter().filter(|pdu| fresh.contains(pdu.event_id())).collect();
            named.extend(named_by(&fresh, floor));
            for pdu in fresh {
                if self.spend(&pdu) {
                    self.waiting.insert(pdu.event_id().to_owned(), pdu.raw().to_owned());
                }
            }
        }
        Ok(if self.waiting.len() > before { Between::Some } else { Between::None })
    }

    /// Whether half of what the gap may cost is left.
    fn has_half(&self) -> bool {
        self.events_left > self.limits.events / 2
            && self.bytes_left > self.limits.bytes / 2
            && self.left() > self.limits.time / 2
    }

    /// Those of `ids` that neither wait nor have a place here.
    async fn unknown(&self, ids: BTreeSet<OwnedEventId>) -> Result<BTreeSet<OwnedEventId>, MatrixError> {
        let mut ids: Vec<_> = ids.into_iter().filter(|id| !self.waiting.contains_key(id)).collect();
        let services = self.state.services().clone();
        blocking(move || {
            let mut unknown = BTreeSet::new();
            for event_id in ids.drain(..) {
                if services.rooms.held(&event_id)?.is_none_or(|held| held.meta.outlier) {
                    unknown.insert(event_id);
                }
            }
            Ok(unknown)
        })
        .await
    }
}

/// What events of this server's time name as before them.
fn named_by(pdus: &[Pdu], floor: u64) -> BTreeSet<OwnedEventId> {
    let live = pdus.iter().filter(|pdu| pdu.depth() > floor);
    live.flat_map(Pdu::prev_events).cloned().collect()
}
