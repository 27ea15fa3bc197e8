//! Comparing what is held with what a peer says that it holds.
//!
//! A point of the peer is *known* if its entry is held here: then all that the
//! point implies is known, too, for the hashes fix it. An unknown one proves
//! that the peer has something that is not held here, and leaves open what of
//! ours it has: usually everything of that server, because it is ahead; after a
//! fork or a restore perhaps not. So there are two [`Scope`]s. Without a scope an
//! unknown point counts for the best: of its server nothing is sent. With a
//! scope the asker names the servers of which he found something lacking, adds a
//! locator, and only points that are known count.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
};

use ruma::OwnedServerName;

use super::{ChangeLog, Entries, Link, Range, Run, RunId};
use crate::{
    ids::ChangeId,
    replica::{Counter, Dot, ReplicaId},
    version_vector::{Point, VersionVector},
};

/// Of which servers' logs a peer asks for what it lacks.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Of all; of a server of which the peer knows more than we, of none.
    All,
    /// Of these, of which the peer says exactly what it holds.
    Servers(&'a BTreeSet<OwnedServerName>),
}

/// Most points that a locator adds.
pub const MAX_LOCATOR_POINTS: usize = 256;

/// The counters of runs that a peer holds: closed intervals for each run.
type Coverage = HashMap<(ReplicaId, RunId), Vec<(Counter, Counter)>>;

impl ChangeLog {
    /// Those points of `theirs` that are not held as they say: empty means that
    /// nothing of theirs is lacking here. A point with a wrong counter or
    /// replica says nothing.
    pub fn lacking<S: Entries>(&self, theirs: &VersionVector, at: &S) -> Result<VersionVector, S::Error> {
        let mut lacking = VersionVector::new();
        for (replica, point) in theirs.iter() {
            let held = match at.link(&point.id)? {
                None => false,
                Some(link) if !fits(&link, replica, point) => true,
                Some(link) => self.run(replica, link.run).is_some_and(|run| {
                    run.chained || point.floor.is_some_and(|floor| self.floor(replica, run) <= floor)
                }),
            };
            if !held {
                lacking.insert(replica, *point);
            }
        }
        Ok(lacking)
    }

    /// What to send to a peer that holds `theirs`, in an order in which an entry
    /// comes after those that it hangs on.
    pub fn after<S: Entries>(
        &self,
        theirs: &VersionVector,
        scope: Scope<'_>,
        at: &S,
    ) -> Result<Vec<Range>, S::Error> {
        let mut coverage = Coverage::new();
        let mut ahead = BTreeSet::new();
        for (replica, point) in theirs.iter() {
            match at.link(&point.id)?.filter(|link| fits(link, replica, point)) {
                Some(link) => self.cover(&mut coverage, replica, link.run, point),
                None if point.floor.is_none() => {
                    ahead.insert(replica.server_text());
                }
                None => {}
            }
        }
        let wanted = |replica: &ReplicaId| match scope {
            Scope::All => !ahead.contains(replica.server_text()),
            Scope::Servers(servers) => servers.contains(replica.server()),
        };
        let mut ranges = Vec::new();
        for (replica, run) in self.runs().filter(|(replica, _)| wanted(replica)) {
            let covered = coverage.remove(&(replica.clone(), run.id)).unwrap_or_default();
            let order = self.generation(run);
            let gaps = gaps(run, covered);
            ranges.extend(
                gaps.into_iter()
                    .map(|(from, to)| (order, Range { replica: replica.clone(), run: run.id, from, to })),
            );
        }
        ranges.sort_by(|(a, left), (b, right)| {
            (a, &left.replica, left.from, left.run).cmp(&(b, &right.replica, right.from, right.run))
        });
        Ok(ranges.into_iter().map(|(_, range)| range).collect())
    }

    /// Notes what a known point implies.
    fn cover(&self, coverage: &mut Coverage, replica: &ReplicaId, run: RunId, point: &Point) {
        let mut at = Some((replica.clone(), run, point.counter));
        while let Some((in_replica, id, to)) = at.take() {
            let Some(run) = self.run(&in_replica, id) else { return };
            let from = point.floor.map_or(run.from, |floor| floor.max(run.from));
            if from > to || point.floor.is_some() && in_replica != *replica {
                return;
            }
            let intervals = coverage.entry((in_replica, id)).or_default();
            // What another point covered whole is covered below, too.
            if point.floor.is_none() && intervals.iter().any(|(low, high)| *low == run.from && *high >= to) {
                return;
            }
            intervals.push((from, to));
            at = run.parent.as_ref().map(|(dot, below)| (dot.replica.clone(), *below, dot.counter));
        }
    }

    /// True if all that a known point implies is covered. Points without floor
    /// are covered first, so that what covers a run's beginning covers what is
    /// below it, too.
    fn is_covered(&self, coverage: &Coverage, replica: &ReplicaId, run: RunId, point: &Point) -> bool {
        let mut at = Some((run, point.counter));
        while let Some((id, to)) = at.take() {
            let Some(run) = self.run(replica, id) else { return false };
            let from = point.floor.map_or(run.from, |floor| floor.max(run.from));
            let intervals = coverage.get(&(replica.clone(), id)).map_or(&[][..], Vec::as_slice);
            if from > to {
                return true;
            }
            if !intervals.iter().any(|(low, high)| *low <= from && *high >= to) {
                return false;
            }
            let below =
                run.parent.as_ref().filter(|(dot, _)| point.floor.is_some() && dot.replica == *replica);
            at = below.map(|(dot, below)| (*below, dot.counter));
        }
        true
    }

    /// How many runs are below this one: a run's parent has fewer.
    fn generation(&self, run: &Run) -> u32 {
        let mut generation = 0;
        let mut lowest = run;
        while let Some(below) = lowest.parent.as_ref().and_then(|(dot, id)| self.run(&dot.replica, *id)) {
            generation += 1;
            lowest = below;
        }
        generation
    }

    /// Takes out of `vector` the points that another of its points implies, as
    /// far as that is known here.
    pub fn reduce<S: Entries>(&self, vector: &mut VersionVector, at: &S) -> Result<(), S::Error> {
        let mut known = Vec::new();
        for (replica, point) in vector.iter() {
            if let Some(link) = at.link(&point.id)?.filter(|link| fits(link, replica, point)) {
                known.push((replica.clone(), *point, link.run));
            }
        }
        // Highest first: a point that is covered when its turn comes is implied.
        known.sort_by_key(|(replica, point, run)| {
            let generation = self.run(replica, *run).map_or(0, |run| self.generation(run));
            (point.floor.is_some(), Reverse((generation, point.counter)), point.floor)
        });
        let mut coverage = Coverage::new();
        for (replica, point, run) in known {
            let implied = self.is_covered(&coverage, &replica, run, &point);
            if implied {
                vector.remove(&replica, &point);
            } else {
                self.cover(&mut coverage, &replica, run, &point);
            }
        }
        Ok(())
    }

    /// What to say to a peer in a question with [`Scope::Servers`]: our points of
    /// the servers of `lacking`, and below them ever sparser ones, so that the
    /// peer knows one not far below the place where our logs part.
    pub fn locator<S: Entries>(&self, lacking: &VersionVector, at: &S) -> Result<VersionVector, S::Error> {
        let mut located = VersionVector::new();
        let servers: BTreeSet<_> = lacking.iter().map(|(replica, _)| replica.server()).collect();
        let mut starts = Vec::new();
        for server in servers {
            for (replica, point) in self.vector_of_server(server).iter() {
                located.insert(replica, *point);
                starts.extend(at.link(&point.id)?);
            }
        }
        // In a replica that both have, the logs part at or below the lesser tip.
        for (replica, point) in lacking.iter() {
            for id in at.at(&Dot { replica: replica.clone(), counter: point.counter })? {
                starts.extend(at.link(&id)?);
            }
        }
        let budget = (MAX_LOCATOR_POINTS / starts.len().max(1)).max(2);
        for start in starts {
            self.descend(start, budget, &mut located, at)?;
        }
        Ok(located)
    }

    /// Adds points at distances 0, 1, 2, 4 … below an entry, and the last entries
    /// of the earlier incarnations that it comes past.
    fn descend<S: Entries>(
        &self,
        start: Link,
        budget: usize,
        located: &mut VersionVector,
        at: &S,
    ) -> Result<(), S::Error> {
        let Link { dot: mut place, run, .. } = start;
        let Some(mut run) = self.run(&place.replica, run).filter(|run| run.chained) else { return Ok(()) };
        let mut step = 1_u64;
        for _ in 0..budget {
            for id in at.at(&place)? {
                if at.link(&id)?.is_some_and(|link| link.run == run.id) {
                    located.insert(&place.replica, Point { counter: place.counter, id, floor: None });
                }
            }
            let below = Counter::new(place.counter.value().saturating_sub(step));
            if let Some(below) = below.filter(|below| *below >= run.from) {
                place.counter = below;
            } else {
                let Some((dot, id)) = run.parent.clone() else { break };
                let Some(below) = self.run(&dot.replica, id) else { break };
                (run, place) = (below, dot);
            }
            step = step.saturating_mul(2);
        }
        Ok(())
    }

    /// The point that says truthfully what is held at and below a held entry.
    /// An asker adds the last entries that he received to his next question, so
    /// that the answer moves on even where it repeated what he had.
    pub fn point<S: Entries>(&self, id: &ChangeId, at: &S) -> Result<Option<(ReplicaId, Point)>, S::Error> {
        let Some(Link { dot, run, .. }) = at.link(id)? else { return Ok(None) };
        Ok(self.run(&dot.replica, run).map(|run| {
            let floor = (!run.chained).then(|| self.floor(&dot.replica, run));
            (dot.replica.clone(), Point { counter: dot.counter, id: *id, floor })
        }))
    }
}

fn fits(link: &Link, replica: &ReplicaId, point: &Point) -> bool {
    link.dot.replica == *replica && link.dot.counter == point.counter
}

/// What of a run is in none of the intervals.
fn gaps(run: &Run, mut covered: Vec<(Counter, Counter)>) -> Vec<(Counter, Counter)> {
    covered.sort_unstable();
    let mut gaps = Vec::new();
    let mut next = Some(run.from);
    for (low, high) in covered {
        let Some(from) = next else { break };
        if let Some(to) = low.previous().filter(|to| *to >= from) {
            gaps.push((from, to));
        }
        next = high.next().map(|after| after.max(from));
    }
    if let Some(from) = next.filter(|from| *from <= run.to) {
        gaps.push((from, run.to));
    }
    gaps
}
