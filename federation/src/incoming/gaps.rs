//! Filling the gap before events whose past is not known here: by that [`past`] or, where it
//! can't be had, by what stands for it ([`bridge`]).
//!
//! Invariants: only servers in the room are asked, so that nobody outside
//! decides what is stored of it; one fill ends within [`GapLimits::time`] and
//! holds or stores no more than [`GapLimits`] allows; no server's fills hold up those of
//! others for longer than [`TURN_WAIT`].
//!
//! [`GapLimits`]: crate::settings::GapLimits
//! [`GapLimits::time`]: crate::settings::GapLimits::time

mod bridge;
mod history;
mod past;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_room::Pdu;
use causeway_service::{
    Services,
    error::MatrixError,
    rooms::{Received, RoomError, VersionRules},
};
use ruma::{
    OwnedEventId, OwnedServerName, RoomId, ServerName, UserId, events::room::member::MembershipState,
};
use serde_json::value::RawValue;

use self::past::Askable;
use super::{Outcome, again, fetch::Source, hand_over};
use crate::{client::ClientError, error::blocking, settings::GapLimits, state::FederationState};

/// Rounds of fetching from one server and trying again.
pub const ROUNDS_MAX: usize = 12;
/// Servers that are asked for one gap.
pub const SOURCES_MAX: usize = 3;
/// Longest wait for another fill in the same room, which may bring the same
/// events. Then this one begins all the same: the other's server may be stalling.
pub const TURN_WAIT: Duration = Duration::from_secs(5);
/// Events that are handed to the room at once: others write in between.
const HANDED_OVER_MAX: usize = 500;

/// Events by id, as text: they are tried more than once.
type Waiting = BTreeMap<OwnedEventId, Box<RawValue>>;

/// Why something that is missing was not fetched.
#[derive(Debug, thiserror::Error)]
enum FillError {
    #[error("the time for filling the gap is over")]
    Late,
    #[error("the gap is larger than what is stored for one")]
    Full,
    #[error("it can't be had")]
    Client(#[from] ClientError),
    #[error("it can't be read or stored")]
    Storage(#[from] MatrixError),
}

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
    let limits = state.settings().gap;
    let source = Source { server: origin, room_id, version };
    let mut gap = Gap::new(state, source, limits);
    let key = (room_id.to_owned(), origin.to_owned());
    gap.tries = state.later().of(&key).map_or(0, |waiting| waiting.tries);
    let pdus = gap.parse(&waiting);
    for pdu in &pdus {
        gap.wanted.insert(pdu.event_id().to_owned());
        gap.waiting.insert(pdu.event_id().to_owned(), pdu.raw().to_owned());
    }
    let (services, asked, from) = (state.services().clone(), room_id.to_owned(), origin.to_owned());
    let servers = blocking(move || Ok(sources(&services, &asked, &from, &pdus)?)).await?;
    // A server in the room holds up its own fills only; those outside, each other's.
    let inside = servers.first().filter(|first| *first == origin);
    let turns = async {
        let own = state.gap_with(room_id, inside).await;
        let room = tokio::time::timeout(TURN_WAIT, state.gap_of(room_id)).await;
        (own, room, state.fill_for(origin).await)
    };
    match tokio::time::timeout(limits.time, turns).await {
        Ok(_turns) => gap.ask_all(&servers).await?,
        Err(_) => gap.is_unanswered = true,
    }
    if let Some(pdu) = gap.left_over() {
        again::keep(state, key, pdu).await?;
    }
    Ok(gap.outcomes())
}

/// Whom to ask about the past of `pdus`: who sent them, if it is in the room, or
/// else some that are. A server that this one does not see in the room may be
/// so all the same, when what authorises its user's event says it.
fn sources(
    services: &Services,
    room_id: &RoomId,
    origin: &ServerName,
    pdus: &[Pdu],
) -> Result<Vec<OwnedServerName>, RoomError> {
    let rooms = &services.rooms;
    let joined = rooms.joined_servers(room_id)?;
    if joined.iter().any(|server| server == origin) {
        return Ok(vec![origin.to_owned()]);
    }
    let senders: HashSet<&ServerName> = pdus.iter().map(|pdu| pdu.sender().server_name()).collect();
    let mut servers: Vec<_> = joined.into_iter().filter(|server| *server != *rooms.server_name()).collect();
    // By chance, so that nobody is always asked; who made the events knows most.
    servers.sort_by_cached_key(|server| (!senders.contains(&**server), rand::random::<u64>()));
    servers.truncate(SOURCES_MAX);
    for pdu in pdus.iter().filter(|pdu| pdu.sender().server_name() == origin) {
        if is_shown_joined(services, room_id, pdu.sender(), pdu)? {
            servers.push(origin.to_owned());
            break;
        }
    }
    Ok(servers)
}

/// Whether an accepted event that authorises `pdu` says that `user` joined, and
/// the room's present state knows nothing else of him.
fn is_shown_joined(
    services: &Services,
    room_id: &RoomId,
    user: &UserId,
    pdu: &Pdu,
) -> Result<bool, RoomError> {
    let rooms = &services.rooms;
    let gone =
        |membership: &MembershipState| matches!(membership, MembershipState::Leave | MembershipState::Ban);
    if rooms.member(room_id, user)?.is_some_and(|member| gone(&member.membership)) {
        return Ok(false);
    }
    for event_id in pdu.auth_events() {
        let held = rooms.held(event_id)?.filter(|held| held.meta.rejected.is_none());
        let held = held.filter(|held| *held.meta.room_id == *room_id);
        let says = |pdu: &Pdu| {
            pdu.is_state("m.room.member", user.as_str()) && pdu.membership() == Some(MembershipState::Join)
        };
        if held.is_some_and(|held| says(&held.pdu)) {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Gap<'a> {
    state: &'a FederationState,
    source: Source<'a>,
    limits: GapLimits,
    begun: Instant,
    /// Events and bytes that may still be stored; none once something did not fit.
    events_left: usize,
    bytes_left: usize,
    /// Events whose outcome is asked for; the others were fetched on the way.
    wanted: HashSet<OwnedEventId>,
    waiting: Waiting,
    /// What the present source could not complete, and why.
    given_up: BTreeMap<OwnedEventId, (Box<RawValue>, String)>,
    taken: Vec<(OwnedEventId, Outcome)>,
    /// How often the event that waits of who sent these was tried in vain.
    tries: u32,
    /// What each server may still be asked for.
    askable: HashMap<OwnedServerName, Askable>,
    /// Whom to ask besides.
    authors: Vec<OwnedServerName>,
    asked_auth: HashSet<OwnedEventId>,
    /// Whether somebody did not answer who should have, or could not be asked for all.
    is_unanswered: bool,
}

/// What an event lacks.
struct Lack {
    prev: Vec<OwnedEventId>,
    auth: Vec<OwnedEventId>,
}

/// What came of asking for the events in between.
enum Between {
    Some,
    None,
    Unanswered,
}

impl<'a> Gap<'a> {
    fn new(state: &'a FederationState, source: Source<'a>, limits: GapLimits) -> Self {
        Self {
            state,
            source,
            limits,
            begun: state.clock().instant(),
            events_left: limits.events,
            bytes_left: limits.bytes,
            wanted: HashSet::new(),
            waiting: Waiting::new(),
            given_up: BTreeMap::new(),
            taken: Vec::new(),
            tries: 0,
            askable: HashMap::new(),
            authors: Vec::new(),
            asked_auth: HashSet::new(),
            is_unanswered: false,
        }
    }

    /// Asks one server after the other for what is missing.
    async fn ask_all(&mut self, servers: &'a [OwnedServerName]) -> Result<(), MatrixError> {
        for server in servers {
            self.source.server = server;
            self.asked_auth.clear();
            for (event_id, (raw, _)) in std::mem::take(&mut self.given_up) {
                self.waiting.insert(event_id, raw);
            }
            let mut rounds = 0;
            loop {
                let missing = self.hand_over().await?;
                rounds += 1;
                if missing.is_empty() {
                    break;
                }
                if self.is_over() || rounds == ROUNDS_MAX {
                    self.is_unanswered = true;
                    break;
                }
                if !self.fetch(missing).await? {
                    break;
                }
            }
            if self.is_over() || (self.waiting.is_empty() && self.given_up.is_empty()) {
                break;
            }
        }
        Ok(())
    }

    /// The deepest of the events asked for that stay out and may not when they are tried again:
    /// somebody did not answer, or there was more to fetch than fits into one time.
    fn left_over(&self) -> Option<Pdu> {
        let left =
            self.waiting.iter().chain(self.given_up.iter().map(|(event_id, (raw, _))| (event_id, raw)));
        let left = left.filter(|(event_id, _)| self.is_unanswered && self.wanted.contains(*event_id));
        self.parse(left.map(|(_, raw)| raw)).into_iter().max_by_key(Pdu::depth)
    }

    /// What became of the events that are asked for.
    fn outcomes(mut self) -> Vec<(OwnedEventId, Outcome)> {
        for event_id in self.waiting.into_keys() {
            self.taken.push((event_id, Err("events that it names can't be had".to_owned())));
        }
        for (event_id, (_, why)) in self.given_up {
            self.taken.push((event_id, Err(why)));
        }
        self.taken.retain(|(event_id, _)| self.wanted.contains(event_id));
        self.taken
    }

    fn is_over(&self) -> bool {
        self.events_left == 0 || self.left().is_zero()
    }

    fn left(&self) -> Duration {
        let now = self.state.clock().instant();
        self.limits.time.saturating_sub(now.saturating_duration_since(self.begun))
    }

    /// What `ask` gives, if it does so while there is time.
    async fn in_time<T>(&self, ask: impl Future<Output = T>) -> Result<T, FillError> {
        let left = self.left();
        if left.is_zero() {
            // Even without time a request would be begun, and over an open connection sent.
            return Err(FillError::Late);
        }
        tokio::time::timeout(left, ask).await.map_err(|_| FillError::Late)
    }

    /// Takes what `pdu` needs out of what may be stored; false if it is too much.
    fn spend(&mut self, pdu: &Pdu) -> bool {
        let bytes = pdu.raw().get().len();
        let fits = self.events_left > 0 && self.bytes_left >= bytes;
        self.events_left = if fits { self.events_left - 1 } else { 0 };
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        fits
    }

    fn parse<'b>(&self, raw: impl IntoIterator<Item = &'b Box<RawValue>>) -> Vec<Pdu> {
        let rules = &self.source.version.rules;
        raw.into_iter().filter_map(|raw| Pdu::parse(rules, raw.get()).ok()).collect()
    }

    /// Hands everything that waits to the room; what it still lacks.
    async fn hand_over(&mut self) -> Result<HashMap<OwnedEventId, Lack>, MatrixError> {
        let mut pdus = self.parse(self.waiting.values());
        // Mostly none then names one of a later piece; one that does is tried once more.
        pdus.sort_by_key(Pdu::depth);
        let Source { server, room_id, .. } = self.source;
        let mut lacks = HashMap::new();
        while !pdus.is_empty() {
            let later = pdus.split_off(pdus.len().min(HANDED_OVER_MAX));
            for (event_id, result) in hand_over(self.state, server, room_id, pdus).await? {
                if let Received::Missing { prev, auth } = result {
                    lacks.insert(event_id, Lack { prev, auth });
                } else {
                    self.waiting.remove(&event_id);
                    self.taken.push((event_id, Ok(result)));
                }
            }
            pdus = later;
        }
        Ok(lacks)
    }

    /// Fetches something of what is missing; false if there is nothing more to try.
    async fn fetch(&mut self, lacks: HashMap<OwnedEventId, Lack>) -> Result<bool, MatrixError> {
        match self.fetch_past(&lacks).await? {
            Between::Some => Ok(true),
            Between::None => self.fetch_instead(lacks).await,
            Between::Unanswered => {
                self.is_unanswered = true;
                Ok(false)
            }
        }
    }
}
