//! The replicator of one room: decides whom to tell, whom to ask and when.
//!
//! Not here: any IO, clock, lock or task; the shell feeds inputs, one at a time,
//! and does the effects in order. It holds nothing durable: after a restart a new
//! one is fed with the peers that are up and finds out the rest.
//!
//! Invariants: one pull in flight per room; one advertisement in flight per peer;
//! what is sent is read from the snapshot of that very call, so it is durable;
//! knowledge of a peer moves only by what the peer says ([`crate::peer`]).

use std::collections::BTreeMap;

use causeway_shared_space::VersionVector;

use crate::{
    answer::answer,
    digest::Digest,
    effect::{Down, Effect, Input, Outcome, ServerName},
    limits::{
        ADVERT_TIMEOUT_MS, FAILURE_FIRST_MS, MAX_PEERS, REPLY_INTERVAL_MS, RIDING_TIMEOUT_MS, START_FANOUT,
        TIMER_FANOUT,
    },
    message::{Advertise, Delta, Message, Pull},
    peer::{Peer, Wish},
    schedule::{Dice, Timer},
    session::{Phase, Session},
    snapshot::Snapshot,
};

/// One room's anti-entropy.
#[derive(Clone, Debug)]
pub struct Replicator {
    pub(crate) own: ServerName,
    pub(crate) dice: Dice,
    pub(crate) peers: BTreeMap<ServerName, Peer>,
    pub(crate) session: Option<Session>,
    /// The peer whose session ended because it took too long, until the next begins.
    pub(crate) had_turn: Option<ServerName>,
    /// In a large room the next pull starts no sooner, in milliseconds.
    pub(crate) spread_until_ms: Option<u64>,
    /// Entries that rode along are being applied: no pull before that, at most
    /// until this time, in milliseconds.
    pub(crate) riding_until_ms: Option<u64>,
    timer: Timer,
    /// This server has just come into the room.
    is_newcomer: bool,
    /// Time of the last input: what was due by then has been done.
    now_ms: u64,
}

impl Replicator {
    /// A replicator that knows nobody. `own` is this server's name as it stands
    /// in its replicas' names; `seed` makes jitter and choices differ between
    /// rooms and servers.
    pub fn new(own: impl Into<ServerName>, seed: u64) -> Self {
        Self {
            own: own.into(),
            dice: Dice::new(seed),
            peers: BTreeMap::new(),
            session: None,
            had_turn: None,
            spread_until_ms: None,
            riding_until_ms: None,
            timer: Timer::new(),
            is_newcomer: false,
            now_ms: 0,
        }
    }

    /// With another first and longest interval between two rounds of the timer,
    /// in milliseconds.
    #[must_use]
    pub fn with_timer(mut self, first_ms: u64, last_ms: u64) -> Self {
        self.timer = Timer::between(first_ms, last_ms);
        self
    }

    /// What to do about something that happened at `now_ms` (milliseconds of any
    /// clock that does not go back), when `at` is what is durably held.
    ///
    /// # Errors
    /// Those of the snapshot. The replicator is then as before or a little
    /// further; the next deadline carries on.
    pub fn handle<S: Snapshot>(
        &mut self,
        now_ms: u64,
        input: Input,
        at: &S,
    ) -> Result<Vec<Effect>, S::Error> {
        let mut effects = Vec::new();
        self.now_ms = now_ms;
        match input {
            Input::LocalChange => {
                self.timer.traffic(now_ms, &mut self.dice);
                self.peers.values_mut().filter(|peer| peer.up).for_each(|peer| peer.dirty = true);
            }
            Input::Received { from, message: Message::Advertise(message) } => {
                self.advertised(now_ms, &from, message, at, &mut effects)?;
            }
            Input::Received { from, message: Message::Pull(pull) } => {
                let message = Message::Delta(answer(&self.own, &pull, at)?);
                effects.push(Effect::Send { to: from.clone(), message });
                self.pulled(now_ms, &from, pull, at)?;
            }
            Input::Received { from, message: Message::Delta(delta) } => {
                self.answered(now_ms, &from, delta, at, &mut effects)?;
            }
            Input::Applied { from, outcome } => {
                self.applied(now_ms, &from, outcome, at, &mut effects)?;
            }
            Input::Delivered { to } => {
                if let Some(peer) = self.peers.get_mut(&to) {
                    peer.in_flight_until_ms = None;
                }
            }
            Input::Joined => self.joined(now_ms, at),
            Input::PeerUp { peer } => self.peer_up(now_ms, &peer, at),
            Input::PeerDown { peer, why } => self.peer_down(now_ms, &peer, why, at)?,
            Input::Deadline => {}
        }
        self.advance(now_ms, at, &mut effects)?;
        Ok(effects)
    }

    /// When [`Input::Deadline`] is due, in milliseconds of the same clock.
    pub fn next_deadline(&self) -> Option<u64> {
        let mut earliest = None::<u64>;
        let mut at = |ms: u64| {
            if ms > self.now_ms {
                earliest = Some(earliest.map_or(ms, |before| before.min(ms)));
            }
        };
        at(self.timer.due_ms());
        for peer in self.peers.values() {
            if let Some(until) = peer.in_flight_until_ms {
                at(until);
            }
        }
        match &self.session {
            Some(session) => at(session.deadline_ms),
            None => self.pull_times(&mut at),
        }
        earliest
    }

    /// What a peer says it holds, if it said anything; for the status page, the lag
    /// metric and [`causeway_shared_space::ObservedFacts`]. Its points need not be
    /// held here.
    pub fn peer_vector(&self, peer: &str) -> Option<&VersionVector> {
        self.peers.get(peer).filter(|peer| peer.digest.is_some()).map(|peer| &peer.vector)
    }

    /// Whether a peer can be reached; `None`: it is no peer.
    pub fn is_up(&self, peer: &str) -> Option<bool> {
        self.peers.get(peer).map(|peer| peer.up)
    }

    /// Whether a pull is under way: what is held is about to change.
    pub fn is_pulling(&self) -> bool {
        self.session.is_some()
    }

    /// Peers that are up.
    pub fn peers_up(&self) -> impl Iterator<Item = &str> {
        self.peers.iter().filter(|(_, peer)| peer.up).map(|(name, _)| name.as_str())
    }

    /// Peers may have told what they hold before this server was here to listen: the
    /// first that are up, or come up, are asked.
    fn joined<S: Snapshot>(&mut self, now_ms: u64, at: &S) {
        self.is_newcomer = true;
        for peer in self.peers.values_mut().filter(|peer| peer.up).take(TIMER_FANOUT) {
            peer.ask_as_newcomer(now_ms, at);
        }
    }

    fn peer_up<S: Snapshot>(&mut self, now_ms: u64, name: &str, at: &S) {
        let others = self.peers.values().filter(|peer| peer.up).count();
        let told = others < START_FANOUT || self.dice.below(others as u64) < START_FANOUT as u64;
        let is_asked = self.is_newcomer && others < TIMER_FANOUT;
        let Some(peer) = self.heard(name) else { return };
        peer.dirty = told;
        if is_asked {
            peer.ask_as_newcomer(now_ms, at);
        }
        self.timer.traffic(now_ms, &mut self.dice);
    }

    fn peer_down<S: Snapshot>(&mut self, now_ms: u64, name: &str, why: Down, at: &S) -> Result<(), S::Error> {
        let Some(peer) = self.peers.get_mut(name) else { return Ok(()) };
        peer.in_flight_until_ms = None;
        match why {
            Down::Unreachable => {
                peer.up = false;
                peer.failures.grow(now_ms, FAILURE_FIRST_MS, &mut self.dice);
            }
            Down::Busy(ms) => peer.failures.hold(now_ms.saturating_add(ms)),
            Down::Gone => {
                self.peers.remove(name);
            }
        }
        if self.session.as_ref().is_some_and(|session| session.peer == name) {
            self.end_session(now_ms, true, at)?;
        }
        Ok(())
    }

    /// The peer spoke, so it is up; nothing when there is no room for it.
    fn heard(&mut self, name: &str) -> Option<&mut Peer> {
        if name == self.own || (!self.peers.contains_key(name) && self.peers.len() >= MAX_PEERS) {
            return None;
        }
        let peer = self.peers.entry(name.to_owned()).or_insert_with(Peer::new);
        peer.dirty |= !peer.up;
        peer.up = true;
        peer.failures.clear();
        Some(peer)
    }

    /// The peer says what it holds while it is being asked: the page that is
    /// awaited or being applied does not know of it.
    fn overtakes(&mut self, from: &str) {
        if let Some(session) = self.session.as_mut().filter(|session| session.peer == from) {
            session.overtaken = true;
        }
    }

    fn advertised<S: Snapshot>(
        &mut self,
        now_ms: u64,
        from: &str,
        message: Advertise,
        at: &S,
        effects: &mut Vec<Effect>,
    ) -> Result<(), S::Error> {
        let Advertise { vector, full, digest, changes, broken } = message;
        let own = Digest::of(&at.log().vector());
        self.overtakes(from);
        let Some(peer) = self.heard(from) else { return Ok(()) };
        if full {
            peer.said_all(vector);
        } else {
            peer.said_some(&vector, digest, at)?;
        }
        peer.assess(now_ms, own, at)?;
        if peer.wish != Wish::Claim && digest != own && peer.lags(at)? {
            let told_already = peer
                .told
                .is_some_and(|(told, when)| told == own && now_ms < when.saturating_add(REPLY_INTERVAL_MS));
            peer.dirty |= !told_already;
        }
        if !changes.is_empty() || !broken.is_empty() {
            self.riding_until_ms = Some(now_ms.saturating_add(RIDING_TIMEOUT_MS));
            effects.push(Effect::Apply { from: from.to_owned(), entries: changes, keys: Vec::new(), broken });
        }
        self.spread(now_ms);
        Ok(())
    }

    /// A peer asked: its `after` is what it holds.
    fn pulled<S: Snapshot>(&mut self, now_ms: u64, from: &str, pull: Pull, at: &S) -> Result<(), S::Error> {
        let own = Digest::of(&at.log().vector());
        self.overtakes(from);
        let Some(peer) = self.heard(from) else { return Ok(()) };
        peer.said_all(pull.after);
        peer.assess(now_ms, own, at)?;
        self.spread(now_ms);
        Ok(())
    }

    fn answered<S: Snapshot>(
        &mut self,
        now_ms: u64,
        from: &str,
        mut delta: Delta,
        at: &S,
        effects: &mut Vec<Effect>,
    ) -> Result<(), S::Error> {
        let Some(session) = &mut self.session else { return Ok(()) };
        if session.peer != from || session.phase != Phase::Asked {
            return Ok(());
        }
        session.page(&mut delta, now_ms);
        self.heard(from);
        let Delta { changes: entries, keys, broken, .. } = delta;
        if entries.is_empty() && broken.is_empty() {
            return self.continue_session(now_ms, &Outcome::default(), at, effects);
        }
        effects.push(Effect::Apply { from: from.to_owned(), entries, keys, broken });
        Ok(())
    }

    fn applied<S: Snapshot>(
        &mut self,
        now_ms: u64,
        from: &str,
        mut outcome: Outcome,
        at: &S,
        effects: &mut Vec<Effect>,
    ) -> Result<(), S::Error> {
        if outcome.new > 0 {
            self.timer.traffic(now_ms, &mut self.dice);
        }
        for proof in std::mem::take(&mut outcome.forks) {
            if let Some(origin) = self.peers.get_mut(proof.dot().replica.server_text()) {
                origin.dirty = true;
            }
            effects.push(Effect::ForkFound(proof));
        }
        let applying = |session: &Session| session.peer == from && session.phase == Phase::Applying;
        if !self.session.as_ref().is_some_and(applying) {
            self.riding_until_ms = None;
            if outcome.new > 0
                && let Some(peer) = self.peers.get_mut(from)
            {
                peer.dirty = true;
            }
            self.assess_wishes(now_ms, at)
        } else if outcome.failed {
            self.end_session(now_ms, true, at)
        } else {
            self.continue_session(now_ms, &outcome, at, effects)
        }
    }

    /// Whatever is due now.
    fn advance<S: Snapshot>(
        &mut self,
        now_ms: u64,
        at: &S,
        effects: &mut Vec<Effect>,
    ) -> Result<(), S::Error> {
        if self.session.as_ref().is_some_and(|session| session.deadline_ms <= now_ms) {
            self.end_session(now_ms, true, at)?;
        }
        if self.session.is_none()
            && let Some(effect) = self.start_session(now_ms, at)?
        {
            effects.push(effect);
        }
        if self.timer.ring(now_ms, &mut self.dice) {
            self.timer_round(at)?;
        }
        let own = Digest::of(&at.log().vector());
        for (name, peer) in &mut self.peers {
            if peer.in_flight_until_ms.is_some_and(|until| until <= now_ms) {
                peer.in_flight_until_ms = None;
            }
            if !peer.up || !peer.dirty || peer.in_flight_until_ms.is_some() {
                continue;
            }
            let message = Message::Advertise(peer.advertisement(own, at)?);
            peer.dirty = false;
            peer.in_flight_until_ms = Some(now_ms.saturating_add(ADVERT_TIMEOUT_MS));
            peer.told = Some((own, now_ms));
            effects.push(Effect::Send { to: name.clone(), message });
        }
        Ok(())
    }

    /// The timer's round: three peers by chance, and the origins of what is
    /// missing. This heals a room in which nobody writes.
    fn timer_round<S: Snapshot>(&mut self, at: &S) -> Result<(), S::Error> {
        let up: Vec<&ServerName> =
            self.peers.iter().filter(|(_, peer)| peer.up).map(|(name, _)| name).collect();
        let mut names: Vec<ServerName> = self.dice.pick(up, TIMER_FANOUT).into_iter().cloned().collect();
        for peer in self.peers.values().filter(|peer| peer.wish == Wish::Claim) {
            let lacking = at.log().lacking(&peer.vector, at)?;
            names.extend(lacking.iter().map(|(replica, _)| replica.server_text().to_owned()));
        }
        for name in names {
            if let Some(peer) = self.peers.get_mut(&name) {
                peer.dirty |= peer.up;
            }
        }
        Ok(())
    }
}
