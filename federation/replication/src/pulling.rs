//! Whom the replicator asks, and what it makes of the end of a session.
//!
//! The origin of what is missing comes first, then whoever claims it, then, if
//! that one can't be reached, any other peer. A claim that brought nothing from
//! the one who made it waits out a back-off of its own, unless what was claimed came
//! otherwise meanwhile; the origin is not blamed for what others claim of it. A peer that
//! took all the time that a session has is not asked next while somebody else can be.

use causeway_shared_space::VersionVector;

use crate::{
    digest::Digest,
    effect::{Effect, Outcome, ServerName},
    limits::{FAILURE_FIRST_MS, FRUITLESS_FIRST_MS, LARGE_ROOM},
    message::Message,
    peer::Wish,
    replicator::Replicator,
    session::Session,
    snapshot::Snapshot,
};

impl Replicator {
    /// In a large room, waits 0 to 2 s × log2(peers) before the next pull.
    pub(crate) fn spread(&mut self, now_ms: u64) {
        if self.peers.len() > LARGE_ROOM && self.session.is_none() && self.spread_until_ms.is_none() {
            let most = 2_000 * u64::from(self.peers.len().ilog2());
            self.spread_until_ms = Some(now_ms.saturating_add(self.dice.below(most)));
        }
    }

    /// Peers with a wish are looked at again: what we hold has changed.
    pub(crate) fn assess_wishes<S: Snapshot>(&mut self, now_ms: u64, at: &S) -> Result<(), S::Error> {
        let own = Digest::of(&at.log().vector());
        for peer in self.peers.values_mut().filter(|peer| peer.wish != Wish::Nothing) {
            peer.assess(now_ms, own, at)?;
        }
        Ok(())
    }

    /// The next pull, if one is due and somebody can be asked.
    pub(crate) fn start_session<S: Snapshot>(
        &mut self,
        now_ms: u64,
        at: &S,
    ) -> Result<Option<Effect>, S::Error> {
        let later = |until: Option<u64>| until.is_some_and(|until| now_ms < until);
        if later(self.spread_until_ms) || later(self.riding_until_ms) {
            return Ok(None);
        }
        let mut session = self.choose(now_ms, at)?;
        if session.is_none() && self.had_turn.take().is_some() {
            // Nobody else can be asked: it may go on where it stopped.
            session = self.choose(now_ms, at)?;
        }
        let Some(mut session) = session else { return Ok(None) };
        self.had_turn = None;
        self.spread_until_ms = None;
        let message = Message::Pull(session.pull(now_ms, at));
        let to = session.peer.clone();
        self.session = Some(session);
        Ok(Some(Effect::Send { to, message }))
    }

    fn choose<S: Snapshot>(&mut self, now_ms: u64, at: &S) -> Result<Option<Session>, S::Error> {
        Ok(match self.choose_claim(now_ms, at)? {
            Some(session) => Some(session),
            None => self.choose_hint(now_ms),
        })
    }

    fn choose_claim<S: Snapshot>(&mut self, now_ms: u64, at: &S) -> Result<Option<Session>, S::Error> {
        let claims: Vec<ServerName> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.wish == Wish::Claim && peer.claims.over(now_ms))
            .map(|(name, _)| name.clone())
            .collect();
        for claimant in self.dice.pick(claims, usize::MAX) {
            let lacking = at.log().lacking(&self.peers[&claimant].vector, at)?;
            if lacking.is_empty() {
                // It came with events, of which nobody tells us.
                let own = Digest::of(&at.log().vector());
                if let Some(peer) = self.peers.get_mut(&claimant) {
                    peer.assess(now_ms, own, at)?;
                }
                continue;
            }
            let peer = &self.peers[&claimant];
            let (peers, had_turn) = (&self.peers, self.had_turn.as_deref());
            // Not the one that was just asked for too long.
            let available = |name: &str| {
                had_turn != Some(name) && peers.get(name).is_some_and(|peer| peer.available(now_ms))
            };
            let mut origins: Vec<ServerName> =
                lacking.iter().map(|(replica, _)| replica.server_text().to_owned()).collect();
            origins.dedup();
            let own_claim = origins.contains(&claimant);
            origins.retain(|origin| available(origin));
            let asked = if available(&claimant) && (own_claim || peer.origin_asked || origins.is_empty()) {
                Some(claimant.clone())
            } else if !peer.origin_asked && !origins.is_empty() {
                self.dice.pick(origins, 1).pop()
            } else {
                let others = self.peers.keys().filter(|name| available(name)).cloned().collect();
                self.dice.pick(others, 1).pop()
            };
            if let Some(asked) = asked {
                return Ok(Some(Session::new(now_ms, asked, claimant, lacking)));
            }
        }
        Ok(None)
    }

    fn choose_hint(&mut self, now_ms: u64) -> Option<Session> {
        let due = |wish| matches!(wish, Wish::Hint { not_before_ms } if not_before_ms <= now_ms);
        let hints: Vec<ServerName> = self
            .peers
            .iter()
            .filter(|(_, peer)| due(peer.wish) && peer.hints.over(now_ms) && peer.available(now_ms))
            .filter(|(name, _)| self.had_turn.as_ref() != Some(*name))
            .map(|(name, _)| name.clone())
            .collect();
        let peer = self.dice.pick(hints, 1).pop()?;
        Some(Session::new(now_ms, peer.clone(), peer, VersionVector::new()))
    }

    /// A page is applied: the next one, or the end.
    pub(crate) fn continue_session<S: Snapshot>(
        &mut self,
        now_ms: u64,
        outcome: &Outcome,
        at: &S,
        effects: &mut Vec<Effect>,
    ) -> Result<(), S::Error> {
        let Some(session) = &mut self.session else { return Ok(()) };
        if !session.proceed(now_ms, outcome, at)? {
            return self.end_session(now_ms, false, at);
        }
        let message = Message::Pull(session.pull(now_ms, at));
        effects.push(Effect::Send { to: session.peer.clone(), message });
        Ok(())
    }

    /// Draws the conclusions from a session that is over or has `failed`.
    pub(crate) fn end_session<S: Snapshot>(
        &mut self,
        now_ms: u64,
        failed: bool,
        at: &S,
    ) -> Result<(), S::Error> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let gained = session.gained > 0;
        self.had_turn = session.is_overlong(now_ms).then(|| session.peer.clone());
        if let Some(peer) = self.peers.get_mut(&session.peer) {
            if failed {
                peer.failures.grow(now_ms, FAILURE_FIRST_MS, &mut self.dice);
            }
            if let Some(vector) = session.said {
                if session.overtaken {
                    peer.also_said(&vector, at)?;
                } else {
                    peer.said_all(vector);
                    peer.receded = false;
                }
                peer.assess(now_ms, Digest::of(&at.log().vector()), at)?;
            }
            if gained {
                // It is told what we hold now: so it learns that its entries have
                // a second holder, without waiting for our timer.
                peer.claims.clear();
                peer.dirty = true;
            } else if session.hint && !failed {
                peer.hints.grow(now_ms, FRUITLESS_FIRST_MS, &mut self.dice);
            }
        }
        if let Some(claimant) = self.peers.get_mut(&session.because_of)
            && !session.hint
        {
            let own_word = session.peer == session.because_of;
            // Under steady writing entries often come with an event or an advertisement first.
            let came_otherwise = !gained && at.log().lacking(&session.claimed, at)?.is_empty();
            if came_otherwise {
                claimant.claims.clear();
            } else if !own_word && claimant.available(now_ms) {
                claimant.origin_asked = true;
            } else if !(gained || own_word && failed) {
                claimant.claims.grow(now_ms, FRUITLESS_FIRST_MS, &mut self.dice);
            }
        }
        self.assess_wishes(now_ms, at)
    }

    /// The times at which a pull may become possible that is not possible now.
    pub(crate) fn pull_times(&self, at: &mut impl FnMut(u64)) {
        let wishes = self.peers.values().any(|peer| peer.wish != Wish::Nothing);
        if !wishes {
            return;
        }
        for until in [self.spread_until_ms, self.riding_until_ms].into_iter().flatten() {
            at(until);
        }
        for peer in self.peers.values() {
            match peer.wish {
                Wish::Nothing => {}
                Wish::Claim => at(peer.claims.until_ms()),
                Wish::Hint { not_before_ms } => at(not_before_ms.max(peer.hints.until_ms())),
            }
            if peer.up {
                at(peer.failures.until_ms());
            }
        }
    }
}
