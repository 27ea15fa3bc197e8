//! Asking another server for events of a room. What comes is parsed, checked to
//! be of that room, and its signatures are verified; what does not hold is left
//! out with a line in the log.

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
    client::{ClientError, Request, escape},
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
        let request = Request::new(self.server, Method::POST, &path).json(&body)?;
        let answer: Answer = self.ask(state, request).await?;
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
        let answer: Answer = self.ask(state, Request::new(self.server, Method::GET, &path)).await?;
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
        let ids: StateIds = self.ask(state, Request::new(self.server, Method::GET, &path)).await?;
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
        let answer: Answer = self.ask(state, Request::new(self.server, Method::GET, &path)).await?;
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
        let answer: Answer = self.ask(state, Request::new(self.server, Method::GET, &path)).await?;
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
                let request = Request::new(self.server, Method::GET, &path);
                let answer: Result<Answer, _> = self.ask(state, request).await;
                match answer {
                    Ok(answer) => answer.pdus.0.into_iter().next(),
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

    async fn ask<T: DeserializeOwned + Send + 'static>(
        self,
        state: &FederationState,
        request: Request<'_>,
    ) -> Result<T, ClientError> {
        let response = state.client().send_ok(request).await?;
        let malformed = || ClientError::Answer(self.server.to_owned(), "it is malformed".to_owned());
        let parsed = blocking(move || {
            serde_json::from_slice(&response.body).map_err(|_| MatrixError::bad_json("malformed"))
        });
        parsed.await.map_err(|_| malformed())
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
