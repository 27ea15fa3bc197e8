//! Asking what room state showed before adopted events: how a newcomer comes to
//! judge adoptions from before his time as everybody else does.
//!
//! Not here: what follows from it (`causeway_service::shared_space::pasts`), and
//! how what several servers say is weighed ([`super::voices`]).
//! Invariants: only servers in the room that take part are asked, and about an
//! adoption its own server last; nothing is believed held whose signatures were
//! not checked; one run sends a bounded number of requests, and only what it
//! settles makes the next one come sooner.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_replication::limits::MAX_DELTA_BODY_BYTES;
use causeway_room::Pdu;
use causeway_service::{
    error::{Chain, MatrixError},
    rooms::{Received, VersionRules},
    shared_space::pasts::{Before, Lacking},
};
use causeway_shared_space::ChangeId;
use http::Method;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName};
use serde::{Deserialize, Deserializer};
use serde_json::{json, value::RawValue};

use super::{exchange::decompressed, voices::Voices};
use crate::{
    client::{Request, escape},
    error::blocking,
    incoming::fetch::Source,
    state::FederationState,
};

/// What an entry is about may be on its way when the entry comes.
const ASK_AFTER: Duration = Duration::from_millis(500);
/// Pauses after a run in which something stayed unknown: they double.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
const PAUSE_LAST: Duration = Duration::from_hours(1);
/// Runs in which nobody could tell anything, after which the adoptions count
/// without what they name: to hide a value for ever would be worse.
const PATIENCE: u32 = 6;
/// Servers that are asked in one run.
const PEERS_MAX: usize = 8;
/// Events whose auth events are fetched in one run, of all servers' answers.
const AUTH_FETCHES_MAX: usize = 16;

/// Pages asked about in a row.
const PAGES_MAX: u32 = 20;

/// When a room's task asks, and where it goes on.
#[derive(Debug, Default)]
pub struct Pasts {
    due: Option<Instant>,
    running: bool,
    /// Something came in during a run.
    again: bool,
    /// The last entry that was looked at.
    after: Option<ChangeId>,
    pages: u32,
    /// What the pages of this round came to so far.
    round: Asked,
    /// Rounds in a row that brought nothing; and those among them in which somebody answered.
    idle: u32,
    vain: u32,
    /// When the pause after the last round of these is over.
    paused_until: Option<Instant>,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Where the next one goes on; `None` at the end.
    after: Option<ChangeId>,
    /// Something is not lacking any more.
    learnt: bool,
    /// Something stayed unknown.
    lacking: bool,
    /// Somebody answered.
    answered: bool,
}

/// One run: a page.
pub struct Run {
    state: FederationState,
    room: OwnedRoomId,
    /// Servers in the room that take part and can be reached.
    peers: Vec<OwnedServerName>,
    after: Option<ChangeId>,
    /// What nobody can tell now is taken for what nobody knows.
    last_try: bool,
    /// Events whose auth events may still be fetched.
    auth_fetches: usize,
}

impl Pasts {
    /// When a run is due.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Entries came in, or a server that may know something: asks soon.
    pub fn ask_soon(&mut self, now: Instant) {
        self.again |= self.running;
        if !self.running {
            let soon = now + ASK_AFTER;
            self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
        }
    }

    /// A run over the next page.
    pub fn begin(&mut self, state: FederationState, room: OwnedRoomId, peers: Vec<OwnedServerName>) -> Run {
        let last_try = self.start();
        Run { state, room, peers, after: self.after, last_try, auth_fetches: AUTH_FETCHES_MAX }
    }

    /// Whether it is the last try.
    fn start(&mut self) -> bool {
        (self.due, self.running) = (None, true);
        self.vain + 1 >= PATIENCE
    }

    /// A run ended; `None`: it failed.
    pub fn ended(&mut self, now: Instant, asked: Option<Asked>) {
        self.running = false;
        let asked = asked.unwrap_or(Asked { lacking: true, ..Asked::default() });
        self.after = asked.after;
        self.pages += 1;
        self.round.learnt |= asked.learnt;
        self.round.lacking |= asked.lacking;
        self.round.answered |= asked.answered;
        let pause = match self.after {
            Some(_) if self.pages.is_multiple_of(PAGES_MAX) => Some(PAUSE_FIRST),
            Some(_) => Some(ASK_AFTER),
            None => self.round_ended(now),
        };
        self.due = pause.map(|pause| now + pause);
        if std::mem::take(&mut self.again) {
            self.ask_soon(now);
        }
    }

    /// The pause before the next round; `None` if there is nothing to ask for.
    fn round_ended(&mut self, now: Instant) -> Option<Duration> {
        let Asked { learnt, lacking, answered, .. } = std::mem::take(&mut self.round);
        self.pages = 0;
        if learnt || !lacking {
            (self.idle, self.vain, self.paused_until) = (0, 0, None);
            return lacking.then_some(PAUSE_FIRST);
        }
        // A round that only news made begin early uses up no patience.
        if let Some(rest) = self.paused_until.and_then(|until| until.checked_duration_since(now))
            && !rest.is_zero()
        {
            return Some(rest);
        }
        self.idle = self.idle.saturating_add(1);
        self.vain = self.vain.saturating_add(u32::from(answered));
        let pause = PAUSE_FIRST.saturating_mul(1 << self.idle.min(20)).min(PAUSE_LAST);
        self.paused_until = Some(now + pause);
        Some(pause)
    }
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
        let (services, room) = (self.state.services().clone(), self.room.clone());
        let version = blocking(move || Ok(services.rooms.version_rules(&room)?)).await?;
        // By chance, so that nobody is always asked.
        self.peers.sort_by_cached_key(|_| rand::random::<u64>());
        self.peers.truncate(PEERS_MAX);
        let mut voices: Heard =
            lacking.keys().map(|event_id| (event_id.clone(), Voices::default())).collect();
        // Who adopted an event could gain by lying about it: he is asked if nobody else knows.
        let others = self.ask_peers(&lacking, &mut voices, &version, false).await?;
        let adopters = self.ask_peers(&lacking, &mut voices, &version, true).await?;
        asked.answered = others.answered > 0 || adopters.answered > 0;
        // Who did not answer may when it is tried again.
        let all_heard = others.silent == 0 && adopters.silent == 0;
        voices.retain(|_, voices| voices.suffice() || all_heard || self.last_try);
        let count = lacking.len();
        lacking = self.learn(lacking, voices).await?;
        (asked.learnt, asked.lacking) = (lacking.len() < count, !lacking.is_empty());
        self.conclude(lacking, &asked).await?;
        Ok(asked)
    }

    /// Asks one server after the other, about events that it adopted or about the others.
    async fn ask_peers(
        &mut self,
        lacking: &Lacking,
        voices: &mut Heard,
        version: &Arc<VersionRules>,
        by_adopter: bool,
    ) -> Result<Answers, MatrixError> {
        let mut answers = Answers::default();
        let open: Vec<OwnedEventId> = voices
            .iter()
            .filter(|(_, voices)| !by_adopter || voices.is_silent())
            .map(|(event_id, _)| event_id.clone())
            .collect();
        let room = self.room.clone();
        for peer in self.peers.clone() {
            let of_peer = |event_id: &&OwnedEventId| {
                let adopted = lacking.get(*event_id).is_some_and(|lack| lack.adopters.contains(&peer));
                adopted == by_adopter && !voices.get(*event_id).is_none_or(Voices::suffice)
            };
            let events: Vec<OwnedEventId> = open.iter().filter(of_peer).cloned().collect();
            if events.is_empty() {
                continue;
            }
            let Some(said) = self.ask_one(Source { server: &peer, room_id: &room, version }, &events).await?
            else {
                answers.silent += 1;
                continue;
            };
            answers.answered += 1;
            for (event_id, before) in said {
                voices.entry(event_id).or_default().add(before);
            }
        }
        Ok(answers)
    }

    /// Notes what most said; what is lacking then.
    async fn learn(&self, lacking: Lacking, voices: Heard) -> Result<Lacking, MatrixError> {
        let (services, room) = (self.state.services().clone(), self.room.clone());
        blocking(move || {
            let space = &services.shared_space;
            for (event_id, voices) in voices {
                if let Some(before) = voices.most() {
                    space.learn_past(&room, &event_id, before.as_ref().map(|id| &**id))?;
                }
            }
            Ok(space.still_lacking(&room, lacking)?)
        })
        .await
    }

    /// Has everything judged again that may be proven now.
    async fn conclude(&self, lacking: Lacking, asked: &Asked) -> Result<(), MatrixError> {
        let give_up = self.last_try && asked.answered && !asked.learnt;
        if !asked.learnt && !give_up {
            return Ok(());
        }
        let (services, room) = (self.state.services().clone(), self.room.clone());
        blocking(move || {
            let space = &services.shared_space;
            if give_up {
                space.nobody_knows_past(&room, lacking.keys())?;
            }
            Ok(space.judge_again(&room)?)
        })
        .await
    }

    /// Asks one server; what it said that may be. `None` if it did not answer.
    async fn ask_one(
        &mut self,
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
        let response = match self.state.client().send_ok(request).await {
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

    /// Takes in what a server told; what of it may be.
    async fn take(&mut self, source: Source<'_>, told: Vec<ToldEvent>) -> Result<Said, MatrixError> {
        let mut raw = Vec::new();
        let mut pasts = Said::new();
        for ToldEvent { event, before } in told {
            pasts.push((event.0, before.as_ref().map(|(id, _)| id.clone())));
            raw.push(event.1);
            raw.extend(before.event().map(|(_, raw)| raw));
        }
        let pdus = source.checked(&self.state, raw).await;
        self.keep(source, pdus).await?;
        let (services, room) = (self.state.services().clone(), self.room.clone());
        blocking(move || {
            let mut may_be = Said::new();
            for (event_id, before) in pasts {
                let id = before.as_ref().map(|id| &**id);
                if services.shared_space.may_be_past(&room, &event_id, id)? {
                    may_be.push((event_id, before));
                }
            }
            Ok(may_be)
        })
        .await
    }

    /// Keeps events, and what authorises those for which that is lacking.
    async fn keep(&mut self, source: Source<'_>, pdus: Vec<Pdu>) -> Result<(), MatrixError> {
        let raw: HashMap<OwnedEventId, Box<RawValue>> =
            pdus.iter().map(|pdu| (pdu.event_id().to_owned(), pdu.raw().to_owned())).collect();
        let mut unauthorised = self.keep_outliers(pdus).await?;
        unauthorised.truncate(self.auth_fetches);
        self.auth_fetches -= unauthorised.len();
        for event_id in unauthorised {
            match source.event_auth(&self.state, &event_id).await {
                Ok(mut chain) => {
                    let raw = raw.get(&event_id);
                    chain.extend(raw.and_then(|raw| Pdu::parse(&source.version.rules, raw.get()).ok()));
                    self.keep_outliers(chain).await?;
                }
                Err(error) => {
                    tracing::info!(%event_id, error = %Chain(&error), "what authorises an event can't be had");
                }
            }
        }
        Ok(())
    }

    /// Those that can't be kept because an event that authorises them is lacking.
    async fn keep_outliers(&self, pdus: Vec<Pdu>) -> Result<Vec<OwnedEventId>, MatrixError> {
        if pdus.is_empty() {
            return Ok(Vec::new());
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

/// What was said of each event.
type Heard = BTreeMap<OwnedEventId, Voices>;

/// How many servers answered, and how many did not.
#[derive(Default)]
struct Answers {
    answered: usize,
    silent: usize,
}

/// What one server says was before events.
type Said = Vec<(OwnedEventId, Before<OwnedEventId>)>;

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
    use causeway_service::clock::Clock;

    use super::*;

    #[test]
    fn rounds_in_vain_come_less_and_less_often_and_the_last_one_settles_it() {
        let mut now = Clock::System.instant();
        let mut pasts = Pasts::default();
        pasts.ask_soon(now);
        let vain = Asked { lacking: true, answered: true, ..Asked::default() };
        let mut pauses = Vec::new();
        for round in 1..=PATIENCE {
            now = pasts.due().expect("is due");
            assert_eq!(pasts.start(), round == PATIENCE);
            assert_eq!(pasts.due(), None, "one run at a time");
            pasts.ended(now, Some(vain));
            pauses.push(pasts.due().expect("goes on") - now);
        }
        assert!(pauses.is_sorted() && pauses[0] < pauses[1]);
        // Who knows something may have come; what came in during a run is not missed.
        pasts.ask_soon(now);
        assert_eq!(pasts.due(), Some(now + ASK_AFTER));
        pasts.start();
        pasts.ask_soon(now);
        pasts.ended(now, Some(Asked { answered: true, ..Asked::default() }));
        assert_eq!(pasts.due(), Some(now + ASK_AFTER));
        assert!(!pasts.start(), "patience begins anew");
        pasts.ended(now, Some(Asked::default()));
        assert_eq!(pasts.due(), None, "nothing is lacking");
    }

    #[test]
    fn news_use_up_no_patience() {
        let mut now = Clock::System.instant();
        let mut pasts = Pasts::default();
        let vain = Asked { lacking: true, answered: true, ..Asked::default() };
        pasts.start();
        pasts.ended(now, Some(vain));
        let due = pasts.due();
        for _ in 0..10 * PATIENCE {
            pasts.ask_soon(now);
            assert!(!pasts.start(), "nobody's patience ends by what somebody else sends");
            now += Duration::from_millis(1);
            pasts.ended(now, Some(vain));
            assert_eq!(pasts.due(), due);
        }
    }

    #[test]
    fn a_long_list_is_gone_through_in_stretches() {
        let now = Clock::System.instant();
        let mut pasts = Pasts::default();
        let page = Asked {
            after: Some(ChangeId::of(b"somewhere")),
            lacking: true,
            answered: true,
            ..Asked::default()
        };
        for number in 1..=PAGES_MAX {
            assert!(!pasts.start());
            pasts.ended(now, Some(page));
            let pause: Duration = pasts.due().expect("goes on") - now;
            assert_eq!(pause > ASK_AFTER, number == PAGES_MAX, "page {number}");
        }
    }

    #[test]
    fn nothing_before_an_event_is_told_from_not_knowing_it() {
        let read = |text: &str| serde_json::from_str::<Adopted>(text).expect("is read").before;
        assert!(matches!(read(r#"{"event": {}, "before": {}}"#), Before::Event(_)));
        assert!(matches!(read(r#"{"event": {}, "before": null}"#), Before::Nothing));
        assert!(matches!(read(r#"{"event": {}}"#), Before::Unknown));
    }
}
