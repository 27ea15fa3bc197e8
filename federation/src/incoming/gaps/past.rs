//! The missing past itself, which comes in order: from who sent what follows it, and, as that
//! server may lack it too, from those whose users' events they are that lack something. A
//! server that was cut off in the middle of being told bridges what it lost, and cites what
//! follows; only who made an event surely has what it follows.
//!
//! Who should have it and does not answer is waited for, some tries long ([`BRIDGED_AFTER`]):
//! what is bridged has its place before what comes of its past later.

use std::{collections::HashMap, time::Duration};

use causeway_room::Pdu;
use causeway_service::error::{Chain, MatrixError};
use ruma::{OwnedEventId, OwnedServerName, ServerName};

use super::{Between, Gap, Lack};
use crate::{client::ClientError, error::blocking, incoming::fetch::Source};

/// Events between what is here and what came that are asked for at first.
const BETWEEN_MAX: usize = 100;
/// Events before which they are asked for at once; servers refuse more.
const EDGES_MAX: usize = 100;
/// How often one server is asked for such events: a Synapse gives 20 at once, and more by another
/// way. What is bridged by the state behind it instead has its place after what follows it.
const BETWEEN_ROUNDS_MAX: usize = 3;
/// How often they are asked for when no answer comes, and the pause before another time: a
/// connection that was cut is made anew.
const BETWEEN_ATTEMPTS_MAX: usize = 3;
const BETWEEN_PAUSE: Duration = Duration::from_millis(300);
/// Servers that are asked besides who sent what lacks its past.
pub const AUTHORS_MAX: usize = 2;
/// Tries in vain after which a past is bridged that a server which did not answer may have:
/// pauses of some 50 s in all ([`causeway_service::outbox::again::pause_ms`]), and the tries
/// themselves. Meanwhile what follows it stays out.
pub const BRIDGED_AFTER: u32 = 5;

/// What one server may still be asked for.
pub(super) struct Askable {
    between_left: usize,
    is_history_left: bool,
}

impl Default for Askable {
    fn default() -> Self {
        Self { between_left: BETWEEN_ROUNDS_MAX, is_history_left: true }
    }
}

impl Gap<'_> {
    /// Fetches something of the past that is missing.
    pub(super) async fn fetch_past(
        &mut self,
        lacks: &HashMap<OwnedEventId, Lack>,
    ) -> Result<Between, MatrixError> {
        // Not what waits for others of them: that would be given once more.
        let lacks_more = |lack: &Lack| lack.prev.iter().any(|id| !self.waiting.contains_key(id));
        let edge = lacks.iter().filter(|(_, lack)| lacks_more(lack)).map(|(id, _)| id.clone());
        let edge: Vec<_> = edge.take(EDGES_MAX).collect();
        if edge.is_empty() {
            return Ok(Between::None);
        }
        let sender = self.source.server.to_owned();
        match self.fetch_past_from(&sender, &edge).await? {
            Between::None => {}
            other => return Ok(other),
        }
        for author in self.authors(&edge).await? {
            match self.fetch_past_from(&author, &edge).await? {
                Between::None => {}
                Between::Some => return Ok(Between::Some),
                Between::Unanswered if self.tries < BRIDGED_AFTER => return Ok(Between::Unanswered),
                Between::Unanswered => tracing::info!(%author, "it is not waited for any longer"),
            }
        }
        Ok(Between::None)
    }

    /// The servers in the room whose users' events these are, but for who sent them.
    async fn authors(&mut self, edge: &[OwnedEventId]) -> Result<Vec<OwnedServerName>, MatrixError> {
        let mut pdus = self.parse(edge.iter().filter_map(|event_id| self.waiting.get(event_id)));
        pdus.sort_by_key(Pdu::depth);
        let (services, room_id) = (self.state.services().clone(), self.source.room_id.to_owned());
        let joined = blocking(move || Ok(services.rooms.joined_servers(&room_id)?)).await?;
        for pdu in &pdus {
            let author = pdu.sender().server_name();
            let is_other = author != self.source.server && author != self.state.server_name();
            if self.authors.len() < AUTHORS_MAX
                && is_other
                && !self.authors.iter().any(|known| known == author)
                && joined.iter().any(|server| server == author)
            {
                self.authors.push(author.to_owned());
            }
        }
        Ok(self.authors.clone())
    }

    async fn fetch_past_from(
        &mut self,
        server: &ServerName,
        edge: &[OwnedEventId],
    ) -> Result<Between, MatrixError> {
        let source = Source { server, ..self.source };
        let askable = self.askable.entry(server.to_owned()).or_default();
        if askable.between_left > 0 {
            askable.between_left -= 1;
            match self.fetch_between(source, edge).await? {
                Between::None => self.askable.entry(server.to_owned()).or_default().between_left = 0,
                other => return Ok(other),
            }
        }
        let askable = self.askable.entry(server.to_owned()).or_default();
        if std::mem::take(&mut askable.is_history_left) {
            return self.fetch_history(source).await;
        }
        Ok(Between::None)
    }

    /// The events between the room's heads here and some that wait.
    async fn fetch_between(
        &mut self,
        source: Source<'_>,
        latest: &[OwnedEventId],
    ) -> Result<Between, MatrixError> {
        let (services, room_id) = (self.state.services().clone(), source.room_id.to_owned());
        let heads = blocking(move || Ok(services.rooms.heads(&room_id)?)).await?;
        let mut attempts = 0;
        let pdus = loop {
            attempts += 1;
            let ask = source.missing_events(self.state, &heads, latest, BETWEEN_MAX);
            let error = match self.in_time(ask).await {
                Ok(Ok(pdus)) => break pdus,
                Ok(Err(error)) => error,
                Err(_) => return Ok(Between::Unanswered),
            };
            let server = source.server;
            tracing::info!(%server, attempts, error = %Chain(&error), "the events in between can't be had");
            if !error.is_outage() {
                return Ok(Between::None);
            }
            // Of others it is known less whether they are there at all.
            let attempts_max = if server == self.source.server { BETWEEN_ATTEMPTS_MAX } else { 1 };
            if attempts == attempts_max || self.left() < BETWEEN_PAUSE {
                return Ok(self.without_answer(&error));
            }
            tokio::time::sleep(BETWEEN_PAUSE).await;
        };
        let before = self.waiting.len();
        for pdu in &pdus {
            if !self.waiting.contains_key(pdu.event_id()) && self.spend(pdu) {
                self.waiting.insert(pdu.event_id().to_owned(), pdu.raw().to_owned());
            }
        }
        Ok(if self.waiting.len() > before { Between::Some } else { Between::None })
    }

    /// What it comes to that a server was not to be had: one that says so (too busy, or a proxy
    /// before one that is down) may go on saying it while it answers for the state.
    pub(super) fn without_answer(&self, error: &ClientError) -> Between {
        let is_answer = matches!(error, ClientError::Status { .. });
        if is_answer && self.tries >= BRIDGED_AFTER { Between::None } else { Between::Unanswered }
    }
}
