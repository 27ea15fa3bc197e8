//! Asking another server for events of a room. What comes is parsed, checked to
//! be of that room, and its signatures are verified; what does not hold is left
//! out with a line in the log.
//!
//! Invariant: each answer has a bound that fits what is asked for.

use std::sync::Arc;

use causeway_room::Pdu;
use causeway_service::{
    error::{Chain, MatrixError},
    rooms::VersionRules,
};
use futures_util::{StreamExt, stream};
use http::Method;
use ruma::{EventId, OwnedEventId, RoomId, ServerName};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{json, value::RawValue};

use crate::{
    bounded::BoundedList,
    client::{ClientError, LargeTurn, Request, STATE_BYTES_MAX, escape},
    error::blocking,
    state::FederationState,
    verification::verify,
};

/// Events of one answer about a room's history.
pub const HISTORY_EVENTS_MAX: usize = 500;
/// Events of one answer about a room's state.
pub const STATE_EVENTS_MAX: usize = 200_000;
/// Single events that are asked for at once.
const EVENTS_AT_ONCE: usize = 16;
/// Largest answer with one event, in bytes: some servers write it with more than it is made of.
const EVENT_BYTES_MAX: usize = 256 * 1024;
/// What each event of an answer about history may take, in bytes: twice the largest event.
const HISTORY_EVENT_BYTES: usize = 128 * 1024;
/// Largest answer with the ids of a state, in bytes: 300,000 of them.
const IDS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Where and of what to ask.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Which server.
    pub server: &'a ServerName,
    /// About which room.
    pub room_id: &'a RoomId,
    /// Of which version.
    pub version: &'a Arc<VersionRules>,
}

/// The ids of a state and of what authorises it.
#[derive(Debug, Deserialize)]
struct StateIds {
    pdu_ids: BoundedList<OwnedEventId, STATE_EVENTS_MAX>,
    #[serde(default)]
    auth_chain_ids: BoundedList<OwnedEventId, STATE_EVENTS_MAX>,
}

impl Source<'_> {
    /// The events between `earliest` and `latest`, at most `limit`.
    pub async fn missing_events(
        self,
        state: &FederationState,
        earliest: &[OwnedEventId],
        latest: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Pdu>, ClientError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            events: BoundedList<Box<RawValue>, HISTORY_EVENTS_MAX>,
        }
        let path = format!("/_matrix/federation/v1/get_missing_events/{}", escape(self.room_id));
        let body = json!({
            "earliest_events": earliest, "latest_events": latest, "limit": limit, "min_depth": 0,
        });
        let mut request = Request::new(self.server, Method::POST, &path).json(&body)?;
        request.response_bytes_max = history_bytes_max(limit);
        let (answer, _): (Answer, _) = self.ask(state, request).await?;
        Ok(self.checked(state, answer.events.0).await)
    }

    /// The events before `from`, at most `limit`.
    pub async fn backfill(
        self,
        state: &FederationState,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Pdu>, ClientError> {
        #[derive(Deserialize)]
        struct Answer {
            pdus: BoundedList<Box<RawValue>, HISTORY_EVENTS_MAX>,
        }
        let mut path = format!("/_matrix/federation/v1/backfill/{}?limit={limit}", escape(self.room_id));
        for event_id in from {
            path.push_str("&v=");
            path.push_str(&escape(event_id));
        }
        let mut request = Request::new(self.server, Method::GET, &path);
        request.response_bytes_max = history_bytes_max(limit);
        let (answer, _): (Answer, _) = self.ask(state, request).await?;
        Ok(self.checked(state, answer.pdus.0).await)
    }

    /// The ids of the state before an event, and of what authorises it.
    pub async fn state_ids(
        self,
        state: &FederationState,
        event_id: &EventId,
    ) -> Result<(Vec<OwnedEventId>, Vec<OwnedEventId>), ClientError> {
        let path = format!(
            "/_matrix/federation/v1/state_ids/{}?event_id={}",
            escape(self.room_id),
            escape(event_id)
        );
        let mut request = Request::new(self.server, Method::GET, &path);
        request.response_bytes_max = IDS_BYTES_MAX;
        let (ids, _): (StateIds, _) = self.ask(state, request).await?;
        Ok((ids.pdu_ids.0, ids.auth_chain_ids.0))
    }

    /// The whole state before an event, and what authorises it.
    pub async fn state(self, state: &FederationState, event_id: &EventId) -> Result<Vec<Pdu>, ClientError> {
        #[derive(Deserialize)]
        struct Answer {
            pdus: BoundedList<Box<RawValue>, STATE_EVENTS_MAX>,
            #[serde(default)]
            auth_chain: BoundedList<Box<RawValue>, STATE_EVENTS_MAX>,
        }
        let path =
            format!("/_matrix/federation/v1/state/{}?event_id={}", escape(self.room_id), escape(event_id));
        let mut request = Request::new(self.server, Method::GET, &path);
        request.response_bytes_max = STATE_BYTES_MAX;
        let (answer, _turn): (Answer, _) = self.ask(state, request).await?;
        // First what authorises: where not all can be stored at once, the rest finds it held.
        let mut all = answer.auth_chain.0;
        all.extend(answer.pdus.0);
        Ok(self.checked(state, all).await)
    }

    /// What authorises an event.
    pub async fn event_auth(
        self,
        state: &FederationState,
        event_id: &EventId,
    ) -> Result<Vec<Pdu>, ClientError> {
        #[derive(Deserialize)]
        struct Answer {
            auth_chain: BoundedList<Box<RawValue>, STATE_EVENTS_MAX>,
        }
        let path = format!("/_matrix/federation/v1/event_auth/{}/{}", escape(self.room_id), escape(event_id));
        let mut request = Request::new(self.server, Method::GET, &path);
        request.response_bytes_max = STATE_BYTES_MAX;
        let (answer, _turn): (Answer, _) = self.ask(state, request).await?;
        Ok(self.checked(state, answer.auth_chain.0).await)
    }

    /// Single events; those that can't be had are left out.
    pub async fn events(self, state: &FederationState, ids: Vec<OwnedEventId>) -> Vec<Pdu> {
        #[derive(Deserialize)]
        struct Answer {
            pdus: BoundedList<Box<RawValue>, 8>,
        }
        let found: Vec<Option<Box<RawValue>>> = stream::iter(ids)
            .map(|event_id| async move {
                let path = format!("/_matrix/federation/v1/event/{}", escape(&event_id));
                let mut request = Request::new(self.server, Method::GET, &path);
                request.response_bytes_max = EVENT_BYTES_MAX;
                let answer: Result<(Answer, _), _> = self.ask(state, request).await;
                match answer {
                    Ok((answer, _)) => answer.pdus.0.into_iter().next(),
                    Err(error) => {
                        tracing::debug!(%event_id, error = %Chain(&error), "an event can't be had");
                        None
                    }
                }
            })
            .buffer_unordered(EVENTS_AT_ONCE)
            .collect()
            .await;
        self.checked(state, found.into_iter().flatten().collect()).await
    }

    /// An answer, and the turn that it took if it is large.
    async fn ask<T: DeserializeOwned + Send + 'static>(
        self,
        state: &FederationState,
        request: Request<'_>,
    ) -> Result<(T, Option<Arc<LargeTurn>>), ClientError> {
        let response = state.client().send_ok(request).await?;
        let turn = response.turn();
        let malformed = || ClientError::Answer(self.server.to_owned(), "it is malformed".to_owned());
        let parsed = blocking(move || {
            serde_json::from_slice(&response.body).map_err(|_| MatrixError::bad_json("malformed"))
        });
        Ok((parsed.await.map_err(|_| malformed())?, turn))
    }

    /// Those of these events that are of the room and whose signatures hold.
    pub(crate) async fn checked(self, state: &FederationState, raw: Vec<Box<RawValue>>) -> Vec<Pdu> {
        let (version, room_id) = (Arc::clone(self.version), self.room_id.to_owned());
        let parsed = blocking(move || {
            let parse = |raw: Box<RawValue>| match Pdu::parse(&version.rules, raw.get()) {
                Ok(pdu) if *pdu.room_id() == *room_id => Some(pdu),
                Ok(pdu) => {
                    tracing::warn!(event_id = %pdu.event_id(), "an event of another room is left out");
                    None
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "a malformed event is left out");
                    None
                }
            };
            Ok(raw.into_iter().filter_map(parse).collect::<Vec<_>>())
        });
        let parsed = parsed.await.unwrap_or_default();
        let results = verify(state.keys(), &self.version.rules, parsed, None).await;
        let log = |error: &_| tracing::warn!(server = %self.server, %error, "an event is left out");
        results.into_iter().filter_map(|result| result.inspect_err(log).ok()).collect()
    }
}

/// The largest answer with so many events, in bytes.
fn history_bytes_max(events: usize) -> usize {
    (events.min(HISTORY_EVENTS_MAX) + 1) * HISTORY_EVENT_BYTES
}
