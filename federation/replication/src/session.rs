//! One pull from one peer, page by page, until nothing is left to ask for.
//!
//! After the last page, what the peer says it holds is compared with what is
//! held now. If something is still lacking, the two stand on different branches
//! of a replica, or on different sides of a hole: the next pull is limited to the
//! servers concerned and carries a locator.
//! A session ends by itself: pages are counted, those that bring nothing new
//! are counted more strictly, and none is asked for after [`SESSION_MS`]: a peer
//! that drips its pages must not keep the others from being asked.

use std::collections::BTreeSet;

use causeway_shared_space::{ChangeId, VersionVector, version_vector::MAX_POINTS};
use ruma::OwnedServerName;

use crate::{
    answer::capped,
    effect::{Outcome, ServerName},
    limits::{
        APPLY_TIMEOUT_MS, MAX_DELTA_BYTES, MAX_DELTA_ENTRIES, MAX_IDLE_PAGES, MAX_PAGES, MAX_SCOPE,
        PULL_TIMEOUT_MS, SESSION_MS,
    },
    message::{Delta, Pull},
    snapshot::Snapshot,
};

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The peer's answer.
    Asked,
    /// The shell's word that the entries are applied.
    Applying,
}

/// A pull in flight.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) peer: ServerName,
    /// Whose claim or digest led to it.
    pub(crate) because_of: ServerName,
    pub(crate) hint: bool,
    /// What was claimed and not held when it began.
    pub(crate) claimed: VersionVector,
    pub(crate) phase: Phase,
    pub(crate) deadline_ms: u64,
    begun_ms: u64,
    /// New entries so far.
    pub(crate) gained: u64,
    /// What the peer said it holds, on the last page.
    pub(crate) said: Option<VersionVector>,
    /// The peer has spoken otherwise since it was asked: what its pages say it
    /// holds may be older than that.
    pub(crate) overtaken: bool,
    next: bool,
    also: VersionVector,
    scope: BTreeSet<OwnedServerName>,
    skip: u32,
    /// The last entry of each stretch of the page being applied.
    ends: Vec<ChangeId>,
    gained_in_round: u64,
    pages: u64,
    idle_pages: u64,
}

impl Session {
    /// Because of a claim, or of a hint if nothing is `claimed`.
    pub(crate) fn new(now_ms: u64, peer: ServerName, because_of: ServerName, claimed: VersionVector) -> Self {
        Self {
            peer,
            because_of,
            hint: claimed.is_empty(),
            claimed,
            phase: Phase::Asked,
            deadline_ms: 0,
            begun_ms: now_ms,
            gained: 0,
            said: None,
            overtaken: false,
            next: false,
            also: VersionVector::new(),
            scope: BTreeSet::new(),
            skip: 0,
            ends: Vec::new(),
            gained_in_round: 0,
            pages: 0,
            idle_pages: 0,
        }
    }

    /// The next request.
    pub(crate) fn pull<S: Snapshot>(&mut self, now_ms: u64, at: &S) -> Pull {
        self.phase = Phase::Asked;
        self.deadline_ms = now_ms.saturating_add(PULL_TIMEOUT_MS);
        Pull {
            after: capped(at.log().vector()),
            also: capped(self.also.clone()),
            servers: self.scope.clone(),
            skip: self.skip,
            limit: u32::try_from(MAX_DELTA_ENTRIES).unwrap_or(u32::MAX),
            bytes: u32::try_from(MAX_DELTA_BYTES).unwrap_or(u32::MAX),
        }
    }

    /// A page has come. Its entries go to the shell; what else it says is kept.
    pub(crate) fn page(&mut self, delta: &mut Delta, now_ms: u64) {
        self.phase = Phase::Applying;
        self.deadline_ms = now_ms.saturating_add(APPLY_TIMEOUT_MS);
        self.pages += 1;
        self.next = delta.next;
        self.said = Some(std::mem::take(&mut delta.vector));
        let ends = delta.changes.iter().enumerate().filter(|(index, change)| {
            let after = delta.changes.get(index + 1);
            after.is_none_or(|after| after.header().previous() != Some(change.id()))
        });
        self.ends = ends.map(|(_, change)| change.id()).collect();
        let broken = u32::try_from(delta.broken.len()).unwrap_or(u32::MAX);
        self.skip = self.skip.saturating_add(broken);
    }

    /// Whether it has taken as long as a session may.
    pub(crate) fn is_overlong(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.begun_ms) >= SESSION_MS
    }

    /// Whether to ask on after a page was applied.
    pub(crate) fn proceed<S: Snapshot>(
        &mut self,
        now_ms: u64,
        outcome: &Outcome,
        at: &S,
    ) -> Result<bool, S::Error> {
        self.gained += outcome.new;
        self.gained_in_round += outcome.new;
        self.idle_pages = if outcome.new == 0 { self.idle_pages + 1 } else { 0 };
        self.skip = self.skip.saturating_add(u32::try_from(outcome.refused).unwrap_or(u32::MAX));
        let explained = at.log().entries() / MAX_DELTA_ENTRIES as u64;
        if self.pages >= MAX_PAGES || self.is_overlong(now_ms) || self.idle_pages > MAX_IDLE_PAGES + explained
        {
            return Ok(false);
        }
        if self.next {
            if outcome.known > 0 {
                self.note_ends(at)?;
            }
            return Ok(true);
        }
        let Some(said) = &self.said else { return Ok(false) };
        let lacking = at.log().lacking(said, at)?;
        if lacking.is_empty() {
            return Ok(false);
        }
        let stuck = std::mem::take(&mut self.gained_in_round) == 0 && !self.scope.is_empty();
        self.scope = lacking.iter().map(|(replica, _)| replica.server().to_owned()).take(MAX_SCOPE).collect();
        self.also = at.log().locator(&lacking, at)?;
        self.skip = 0;
        Ok(!stuck)
    }

    /// A page repeated what was held: the peer does not see that we hold it, so
    /// it is told where the page ended.
    fn note_ends<S: Snapshot>(&mut self, at: &S) -> Result<(), S::Error> {
        for id in std::mem::take(&mut self.ends) {
            if let Some((replica, point)) = at.log().point(&id, at)?
                && self.also.len() < MAX_POINTS
            {
                self.also.insert(&replica, point);
            }
        }
        Ok(())
    }
}
