//! What a replicator knows of one peer in one room.
//!
//! Knowledge of what a peer holds moves only by what the peer says itself: in
//! an advertisement, a pull or a delta. That it answered 200 means nothing. A
//! peer that says less than before was restored, or its words came out of order:
//! it is believed, and asked once. A peer that
//! says more than it holds harms itself (it is told less) and is found out by the
//! next pull, after which its claims wait out a back-off that doubles.

use causeway_shared_space::{Change, Point, VersionVector, change_log::Scope, version_vector::MAX_POINTS};

use crate::{
    answer::{length, page},
    digest::Digest,
    limits::{EXPLAINED_HINT_MS, MAX_ADVERTISED, MAX_RIDING_BYTES, MAX_RIDING_ENTRIES},
    message::Advertise,
    schedule::Backoff,
    snapshot::Snapshot,
};

/// Why a pull is due because of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// None is.
    Nothing,
    /// It claims entries that we don't hold.
    Claim,
    /// Its digest does not follow from what we know of it, or we are newcomers and
    /// it has said nothing yet: look once, at this time.
    Hint {
        /// Milliseconds.
        not_before_ms: u64,
    },
}

/// One peer.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each true or not")]
pub(crate) struct Peer {
    /// It can be reached, as far as we know.
    pub(crate) up: bool,
    /// What it said it holds; at most twice [`MAX_POINTS`].
    pub(crate) vector: VersionVector,
    /// Its digest when it last said one.
    pub(crate) digest: Option<Digest>,
    /// It is to be told what we hold.
    pub(crate) dirty: bool,
    /// An advertisement is on its way; given up at this time.
    pub(crate) in_flight_until_ms: Option<u64>,
    /// What we last told it, and when.
    pub(crate) told: Option<(Digest, u64)>,
    /// Whether to pull because of it.
    pub(crate) wish: Wish,
    /// It said less than before, and was not asked since.
    pub(crate) receded: bool,
    /// The origin was asked for what this peer claims.
    pub(crate) origin_asked: bool,
    /// After requests that failed.
    pub(crate) failures: Backoff,
    /// After claims that brought nothing.
    pub(crate) claims: Backoff,
    /// After hints that brought nothing.
    pub(crate) hints: Backoff,
}

/// Whether points of a replica say less than one of it did before.
fn is_below(points: &[Point], before: &Point) -> bool {
    points.iter().all(|now| now.counter < before.counter)
}

impl Peer {
    pub(crate) fn new() -> Self {
        Self {
            up: false,
            vector: VersionVector::new(),
            digest: None,
            dirty: false,
            in_flight_until_ms: None,
            told: None,
            wish: Wish::Nothing,
            receded: false,
            origin_asked: false,
            failures: Backoff::default(),
            claims: Backoff::default(),
            hints: Backoff::default(),
        }
    }

    /// It can be asked now.
    pub(crate) fn available(&self, now_ms: u64) -> bool {
        self.up && self.failures.over(now_ms)
    }

    /// It said all that it holds. If that is less than before, it has lost what
    /// we told it, too.
    pub(crate) fn said_all(&mut self, vector: VersionVector) {
        if self.vector.iter().any(|(replica, point)| is_below(vector.points(replica), point)) {
            self.told = None;
            self.receded = true;
        }
        self.digest = Some(Digest::of(&vector));
        self.vector = vector;
        self.origin_asked = false;
    }

    /// It said that it holds `vector`, perhaps before what it said last: nothing
    /// that is known of it is taken back.
    pub(crate) fn also_said<S: Snapshot>(&mut self, vector: &VersionVector, at: &S) -> Result<(), S::Error> {
        self.vector.join(vector);
        self.trim(vector, at)
    }

    /// Keeps what it said within the bound, and without incarnations that another
    /// one follows: those are not named any more.
    fn trim<S: Snapshot>(&mut self, latest: &VersionVector, at: &S) -> Result<(), S::Error> {
        if self.vector.len() > 2 * MAX_POINTS {
            self.vector = latest.clone();
        }
        at.log().reduce(&mut self.vector, at)
    }

    /// It said what it holds of some replicas, and the digest of the whole.
    pub(crate) fn said_some<S: Snapshot>(
        &mut self,
        vector: &VersionVector,
        digest: Digest,
        at: &S,
    ) -> Result<(), S::Error> {
        for (replica, _) in vector.iter() {
            for point in self.vector.points(replica).to_vec() {
                self.receded |= is_below(vector.points(replica), &point);
                self.vector.remove(replica, &point);
            }
        }
        self.vector.join(vector);
        self.trim(vector, at)?;
        self.digest = Some(digest);
        self.origin_asked = false;
        Ok(())
    }

    /// It is asked though it has said nothing yet, if nothing is held.
    pub(crate) fn ask_as_newcomer<S: Snapshot>(&mut self, now_ms: u64, at: &S) {
        if self.digest.is_none() && at.log().is_empty() {
            self.wish = Wish::Hint { not_before_ms: now_ms };
        }
    }

    /// Sets [`Peer::wish`] from what it said and what is held.
    pub(crate) fn assess<S: Snapshot>(&mut self, now_ms: u64, own: Digest, at: &S) -> Result<(), S::Error> {
        let Some(digest) = self.digest else {
            // As long as nothing is held, it is still to be asked.
            if !at.log().is_empty() {
                self.wish = Wish::Nothing;
            }
            return Ok(());
        };
        if digest == own {
            self.vector = at.log().vector();
            self.claims.clear();
            self.hints.clear();
            self.receded = false;
            self.wish = Wish::Nothing;
        } else if !at.log().lacking(&self.vector, at)?.is_empty() {
            self.wish = Wish::Claim;
        } else if digest == Digest::of(&self.vector) && !self.receded {
            // We know its vector exactly and hold all of it: it lags behind us.
            self.wish = Wish::Nothing;
        } else {
            let behind = !self.receded && self.lags(at)?;
            let due_ms = now_ms.saturating_add(if behind { EXPLAINED_HINT_MS } else { 0 });
            let not_before_ms = match self.wish {
                Wish::Hint { not_before_ms } => not_before_ms.min(due_ms),
                Wish::Nothing | Wish::Claim => due_ms,
            };
            self.wish = Wish::Hint { not_before_ms };
        }
        Ok(())
    }

    /// Whether it lacks something that we hold, as far as can be told.
    pub(crate) fn lags<S: Snapshot>(&self, at: &S) -> Result<bool, S::Error> {
        Ok(!at.log().after(&self.vector, Scope::All, at)?.is_empty())
    }

    /// What to tell it: the points that it did not show itself, and the entries
    /// that it lacks if they are few and small and did not ride along before.
    pub(crate) fn advertisement<S: Snapshot>(&self, own: Digest, at: &S) -> Result<Advertise, S::Error> {
        let whole = at.log().vector();
        let mut vector = VersionVector::new();
        for (replica, point) in whole.iter() {
            if vector.len() < MAX_ADVERTISED && whole.points(replica) != self.vector.points(replica) {
                vector.insert(replica, *point);
            }
        }
        let full = vector.len() == whole.len();
        let fresh = self.told.is_none_or(|(told, _)| told != own);
        let changes = if fresh && self.digest.is_some() { self.riding(at)? } else { Vec::new() };
        Ok(Advertise { vector, full, digest: own, changes, broken: Vec::new() })
    }

    fn riding<S: Snapshot>(&self, at: &S) -> Result<Vec<Change>, S::Error> {
        let ranges = at.log().after(&self.vector, Scope::All, at)?;
        let lacked: u64 = ranges.iter().map(length).sum();
        if lacked == 0 || lacked > MAX_RIDING_ENTRIES as u64 {
            return Ok(Vec::new());
        }
        let delta = page(ranges, 0, MAX_RIDING_ENTRIES, MAX_RIDING_BYTES, at)?;
        let bytes: usize = delta.changes.iter().map(crate::answer::size).sum();
        Ok(if delta.next || bytes > MAX_RIDING_BYTES { Vec::new() } else { delta.changes })
    }
}
