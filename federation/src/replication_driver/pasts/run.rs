//! Asking other servers what room state showed before a page of adopted events:
//! how a newcomer comes to judge adoptions from before his time as everybody else does.
//!
//! Not here: when it is done ([`super`]), and what of what is said counts
//! ([`super::super::voices`]).
//! Invariants: only servers in the room that take part are asked, and about an
//! adoption its own server last; nothing is believed held whose signatures were
//! not checked; one run sends a bounded number of requests, and what one server
//! answers takes nothing of what is done for another one's answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use causeway_replication::limits::MAX_DELTA_BODY_BYTES;
use causeway_room::Pdu;
use causeway_service::{
    error::{Chain, MatrixError},
    rooms::{Received, VersionRules},
    shared_space::pasts::{Before, Lacking, Tried},
};
use causeway_shared_space::ChangeId;
use http::Method;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName};
use serde::{Deserialize, Deserializer};
use serde_json::{json, value::RawValue};

use super::{
    super::{
        exchange::decompressed,
        voices::{Heard, Said},
    },
    Asked,
};
use crate::{
    client::{Request, escape},
    error::blocking,
    incoming::fetch::Source,
    settings::Mode,
    state::FederationState,
};

/// Servers that are asked in one run about what others adopted, and as many about
/// what they adopted themselves.
const PEERS_MAX: usize = 8;
/// Events whose auth events are fetched for one server's answer.
const AUTH_FETCHES_MAX: usize = 2;

/// One run: a page.
pub struct Run {
    pub(super) state: FederationState,
    pub(super) room: OwnedRoomId,
    /// Servers in the room that take part and can be reached.
    pub(super) peers: Vec<OwnedServerName>,
    pub(super) after: Option<ChangeId>,
}

impl Run {
    /// Asks about a page of events.
    pub async fn ask(mut self) -> Result<Asked, MatrixError> {
        let (services, room, after) = (self.state.services().clone(), self.room.clone(), self.after);
        let found = blocking(move || Ok(services.shared_space.lacking_pasts(&room, after)?));
        let (mut lacking, after) = found.await?;
        let mut asked = Asked { after, ..Asked::default() };
        if lacking.is_empty() {
            return Ok(asked);
        }
        if self.state.settings().mode == Mode::Sidecar {
            // Nothing that others tell could be checked: what is shown here has neither the
            // signatures nor the depths of events. So it is as if nobody knew.
            let tried = Tried { answered: true, counts: true, learnt: false };
            (asked.lacking, asked.next) = (true, self.conclude(lacking, tried).await?);
            return Ok(asked);
        }
        let (services, room) = (self.state.services().clone(), self.room.clone());
        let version = blocking(move || Ok(services.rooms.version_rules(&room)?)).await?;
        // By chance, so that nobody is always asked.
        self.peers.sort_by_cached_key(|_| rand::random::<u64>());
        let mut heard = Heard::of(lacking.iter().map(|(event_id, lack)| (event_id, lack.last_try)));
        let others = heard.of_others();
        let mut answered = self.ask_peers(&lacking, &mut heard, &version, (others, false)).await?;
        let adopters = heard.of_adopters();
        answered |= self.ask_peers(&lacking, &mut heard, &version, (adopters, true)).await?;
        // Whoever was not asked has his turn next time, which comes whoever answers.
        let counts = answered || heard.left_some();
        let count = lacking.len();
        lacking = self.learn(lacking, heard).await?;
        (asked.learnt, asked.lacking) = (lacking.len() < count, !lacking.is_empty());
        asked.next = self.conclude(lacking, Tried { answered, counts, learnt: asked.learnt }).await?;
        Ok(asked)
    }

    /// Asks one server after the other about those of these events that it adopted,
    /// or about the rest of them. Whether there was an answer.
    async fn ask_peers(
        &self,
        lacking: &Lacking,
        heard: &mut Heard,
        version: &Arc<VersionRules>,
        (open, by_adopter): (Vec<OwnedEventId>, bool),
    ) -> Result<bool, MatrixError> {
        let (mut peers_left, mut answered) = (PEERS_MAX, false);
        for peer in &self.peers {
            let of_peer = |event_id: &&OwnedEventId| {
                let adopted = lacking.get(*event_id).is_some_and(|lack| lack.adopters.contains(peer));
                adopted == by_adopter && !heard.suffices(event_id)
            };
            let events: Vec<OwnedEventId> = open.iter().filter(of_peer).cloned().collect();
            if events.is_empty() {
                continue;
            }
            let Some(left) = peers_left.checked_sub(1) else {
                heard.unasked(&events);
                continue;
            };
            peers_left = left;
            let source = Source { server: peer, room_id: &self.room, version };
            match self.ask_one(source, &events).await? {
                Some(said) => {
                    answered = true;
                    heard.said(said);
                }
                None => heard.unanswered(&events),
            }
        }
        Ok(answered)
    }

    /// Notes what most said; what is lacking then.
    async fn learn(&self, lacking: Lacking, heard: Heard) -> Result<Lacking, MatrixError> {
        let (services, room) = (self.state.services().clone(), self.room.clone());
        blocking(move || {
            let space = &services.shared_space;
            for (event_id, before) in heard.settled() {
                space.learn_past(&room, &event_id, before.as_ref().map(|id| &**id))?;
            }
            Ok(space.still_lacking(&room, lacking)?)
        })
        .await
    }

    /// Notes what was asked for in vain, and has everything judged again that may be
    /// proven now. When patience wants the next try.
    async fn conclude(&self, lacking: Lacking, tried: Tried) -> Result<Option<Duration>, MatrixError> {
        let (services, room) = (self.state.services().clone(), self.room.clone());
        blocking(move || {
            let space = &services.shared_space;
            let after = space.asked_for_pasts(&room, &lacking, tried)?;
            if tried.learnt || after.gave_up {
                space.judge_again(&room)?;
            }
            Ok(after.next)
        })
        .await
    }

    /// Asks one server; what it said that may be. `None` if it did not answer.
    async fn ask_one(
        &self,
        source: Source<'_>,
        events: &[OwnedEventId],
    ) -> Result<Option<Said>, MatrixError> {
        let path = format!("/_matrix/federation/unstable/org.causeway/rooms/{}/adopted", escape(&self.room));
        let mut request = Request::new(source.server, Method::POST, &path);
        request.body = Some(
            serde_json::to_vec(&json!({ "events": events }))
                .map_err(|error| MatrixError::internal(&error))?,
        );
        request.response_bytes_max = MAX_DELTA_BODY_BYTES;
        let response = match self.state.claims().send_ok(request).await {
            Ok(response) => response,
            Err(error) => {
                let (peer, room) = (source.server, &self.room);
                tracing::info!(%peer, %room, error = %Chain(&error), "adopted events could not be asked for");
                return Ok(None);
            }
        };
        let answer = decompressed(&response).and_then(|body| serde_json::from_slice::<Answer>(&body).ok());
        let Some(answer) = answer else {
            tracing::warn!(peer = %source.server, "an answer about adopted events can't be read");
            return Ok(None);
        };
        let told = told(answer, events, source.version);
        self.take(source, told).await.map(Some)
    }

    /// Takes in what a server told: what of it may be, and what can't be checked now.
    async fn take(&self, source: Source<'_>, told: Vec<ToldEvent>) -> Result<Said, MatrixError> {
        let mut raw = Vec::new();
        let mut pasts = Vec::new();
        for ToldEvent { event, before } in told {
            pasts.push((event.0, before.as_ref().map(|(id, _)| id.clone())));
            raw.push(event.1);
            raw.extend(before.event().map(|(_, raw)| raw));
        }
        let pdus = source.checked(&self.state, raw).await;
        self.keep(source, pdus).await?;
        let (services, room) = (self.state.services().clone(), self.room.clone());
        blocking(move || {
            let mut said = Said::default();
            for (event_id, before) in pasts {
                let shown = before.as_ref().map(|id| &**id);
                let mut is_checked = true;
                for id in [Some(&*event_id), shown.event()].into_iter().flatten() {
                    is_checked &= services.rooms.held(id)?.is_some();
                }
                if !is_checked {
                    said.unchecked.push(event_id);
                } else if services.shared_space.may_be_past(&room, &event_id, shown)? {
                    said.may_be.push((event_id, before));
                }
            }
            Ok(said)
        })
        .await
    }

    /// Keeps events, and what authorises those for which that is lacking, as far as
    /// this one server may have us ask for it.
    async fn keep(&self, source: Source<'_>, pdus: Vec<Pdu>) -> Result<(), MatrixError> {
        let mut open = pdus.clone();
        let missing = self.keep_outliers(pdus).await?;
        open.retain(|pdu| missing.contains(pdu.event_id()));
        for _ in 0..AUTH_FETCHES_MAX {
            let Some(next) = open.pop() else { break };
            match source.event_auth(&self.state, next.event_id()).await {
                Ok(mut chain) => {
                    // It may authorise the others, too.
                    chain.extend(open.iter().cloned());
                    chain.push(next);
                    let missing = self.keep_outliers(chain).await?;
                    open.retain(|pdu| missing.contains(pdu.event_id()));
                }
                Err(error) => {
                    let (event_id, error) = (next.event_id(), Chain(&error));
                    tracing::info!(%event_id, %error, "what authorises an event can't be had");
                }
            }
        }
        Ok(())
    }

    /// Those that can't be kept because an event that authorises them is lacking.
    async fn keep_outliers(&self, pdus: Vec<Pdu>) -> Result<BTreeSet<OwnedEventId>, MatrixError> {
        if pdus.is_empty() {
            return Ok(BTreeSet::new());
        }
        let (services, room) = (self.state.services().clone(), self.room.clone());
        blocking(move || {
            let results = services.rooms.receive_outliers(&room, pdus)?;
            let missing =
                results.into_iter().filter(|(_, result)| matches!(result, Received::Missing { .. }));
            Ok(missing.map(|(event_id, _)| event_id).collect())
        })
        .await
    }
}

#[derive(Deserialize)]
struct Answer {
    events: BTreeMap<OwnedEventId, Adopted>,
}

#[derive(Deserialize)]
struct Adopted {
    event: Box<RawValue>,
    #[serde(default, deserialize_with = "event_or_nothing")]
    before: Before<Box<RawValue>>,
}

/// Absent is the default: not known.
fn event_or_nothing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Before<Box<RawValue>>, D::Error> {
    Ok(Option::deserialize(deserializer)?.map_or(Before::Nothing, Before::Event))
}

/// An event as text, with its id.
type Text = (OwnedEventId, Box<RawValue>);

/// An adopted event and the item's event before it.
struct ToldEvent {
    event: Text,
    before: Before<Text>,
}

/// What an answer says of what was asked for, under the ids that the events have.
fn told(answer: Answer, asked: &[OwnedEventId], version: &Arc<VersionRules>) -> Vec<ToldEvent> {
    let read = |raw: Box<RawValue>| {
        let pdu = Pdu::parse(&version.rules, raw.get()).ok()?;
        Some((pdu.event_id().to_owned(), raw))
    };
    let of = |event_id: &EventId, adopted: Adopted| {
        let event = read(adopted.event).filter(|(id, _)| id == event_id)?;
        let before = match adopted.before {
            Before::Event(raw) => Before::Event(read(raw)?),
            Before::Nothing => Before::Nothing,
            Before::Unknown => Before::Unknown,
        };
        Some(ToldEvent { event, before })
    };
    let events = answer.events.into_iter().filter(|(event_id, _)| asked.contains(event_id));
    events.filter_map(|(event_id, adopted)| of(&event_id, adopted)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_before_an_event_is_told_from_not_knowing_it() {
        let read = |text: &str| serde_json::from_str::<Adopted>(text).expect("is read").before;
        assert!(matches!(read(r#"{"event": {}, "before": {}}"#), Before::Event(_)));
        assert!(matches!(read(r#"{"event": {}, "before": null}"#), Before::Nothing));
        assert!(matches!(read(r#"{"event": {}}"#), Before::Unknown));
    }
}
