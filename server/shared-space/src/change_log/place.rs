//! Placing an entry in the shape: extend a run, open one, join two.

use std::collections::BTreeSet;

use super::{ChangeLog, Entries, Link, MAX_RELABEL, MAX_TIPS_PER_SERVER, MemoryEntries, Overlay, Run, RunId};
use crate::{
    header::Header,
    ids::ChangeId,
    replica::{Dot, ReplicaId},
};

/// What placing an entry did: what has to be written, in one batch with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The entry's place.
    pub link: Link,
    /// False if the entry is an island for now.
    pub chained: bool,
    /// Other entries whose run changed: their rows are to be rewritten.
    pub relabelled: Vec<(ChangeId, Link)>,
    /// The replicas whose row ([`ChangeLog::row`]) changed.
    pub touched: BTreeSet<ReplicaId>,
    /// The other entries with the same dot: each makes a [`crate::ForkProof`] with this one.
    pub forks: Vec<ChangeId>,
}

/// Why an entry is not placed now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError<E> {
    /// A lookup failed.
    #[error("a held entry can't be looked up")]
    Entries(#[source] E),
    /// Its server has [`MAX_TIPS_PER_SERVER`] tips and islands already.
    #[error("too many branches and islands of one server")]
    TooManyTips,
}

impl ChangeLog {
    /// Places a verified entry; `None` if it is held already.
    ///
    /// `at` shows the entries held before this one (with those placed earlier in
    /// the same batch: [`Overlay`]). The caller writes the entry with
    /// [`Placed::link`], the relabelled ones and the touched rows in one batch;
    /// if that fails, this shape is no longer true and is to be loaded again.
    /// After an error the shape is as it was.
    pub fn place<S: Entries>(
        &mut self,
        header: &Header,
        at: &S,
    ) -> Result<Option<Placed>, PlaceError<S::Error>> {
        self.place_entry(header.id(), header.dot(), header.previous(), at)
    }

    pub(super) fn place_entry<S: Entries>(
        &mut self,
        id: ChangeId,
        dot: &Dot,
        previous: Option<ChangeId>,
        at: &S,
    ) -> Result<Option<Placed>, PlaceError<S::Error>> {
        if at.link(&id).map_err(PlaceError::Entries)?.is_some() {
            return Ok(None);
        }
        let parent = match previous {
            Some(previous) => at.link(&previous).map_err(PlaceError::Entries)?,
            None => None,
        };
        let parent = parent.filter(|link| hangs_on(dot, &link.dot));
        let forks = self.others_at(dot, at).map_err(PlaceError::Entries)?;
        // Looked up before anything changes, so that an error changes nothing.
        let above = self.waiting_above(id, dot);
        let extends = parent.as_ref().and_then(|link| self.extends(dot, previous, link));
        let join = self.plan_join(&above, dot, extends, at).map_err(PlaceError::Entries)?;
        if extends.is_none() && above.is_empty() && self.adds_tip(dot, previous, parent.as_ref()) {
            return Err(PlaceError::TooManyTips);
        }
        let mut placed = Placed {
            link: Link { dot: dot.clone(), previous, run: RunId(0) },
            chained: false,
            relabelled: Vec::new(),
            touched: BTreeSet::from([dot.replica.clone()]),
            forks,
        };
        let (run, chained) = match extends {
            Some(run) => self.extend(run, id, dot),
            None => self.open(id, dot, previous, parent),
        };
        placed.link.run = run;
        placed.chained = chained;
        self.adopt_above(id, &placed.link, &above, &mut placed.touched);
        if let Some(join) = join {
            self.join_runs(join, &mut placed);
        }
        Ok(Some(placed))
    }

    fn others_at<S: Entries>(&self, dot: &Dot, at: &S) -> Result<Vec<ChangeId>, S::Error> {
        let row = self.replicas.get(&dot.replica);
        let taken = row.is_some_and(|row| row.runs.iter().any(|run| run.spans(dot.counter)));
        if taken { at.at(dot) } else { Ok(Vec::new()) }
    }

    /// The runs that wait for this entry and fit on it.
    fn waiting_above(&self, id: ChangeId, dot: &Dot) -> Vec<(ReplicaId, RunId)> {
        let waiting = self.waiting.get(&id).into_iter().flatten();
        let fitting = waiting.filter(|(replica, run)| {
            self.run(replica, *run)
                .is_some_and(|run| hangs_on(&Dot { replica: replica.clone(), counter: run.from }, dot))
        });
        fitting.cloned().collect()
    }

    /// The run that this entry lengthens, if its `previous` is that run's tip.
    fn extends(&self, dot: &Dot, previous: Option<ChangeId>, parent: &Link) -> Option<RunId> {
        let run = self.run(&parent.dot.replica, parent.run)?;
        (parent.dot.replica == dot.replica && Some(run.tip) == previous).then_some(run.id)
    }

    /// True if opening a run for this entry makes one tip too many.
    fn adds_tip(&self, dot: &Dot, previous: Option<ChangeId>, parent: Option<&Link>) -> bool {
        let vector = self.vector_of_server(dot.replica.server());
        let replaces = parent.is_some_and(|link| {
            vector
                .points(&link.dot.replica)
                .iter()
                .any(|point| Some(point.id) == previous && point.floor.is_none())
        });
        !replaces && vector.len() >= MAX_TIPS_PER_SERVER
    }

    fn extend(&mut self, run: RunId, id: ChangeId, dot: &Dot) -> (RunId, bool) {
        let row = self.replicas.entry(dot.replica.clone()).or_default();
        let run = row.run_mut(run).expect("looked up just before");
        run.to = dot.counter;
        run.tip = id;
        (run.id, run.chained)
    }

    fn open(
        &mut self,
        tip: ChangeId,
        dot: &Dot,
        previous: Option<ChangeId>,
        parent: Option<Link>,
    ) -> (RunId, bool) {
        let chained = match &parent {
            Some(link) => self.run(&link.dot.replica, link.run).is_some_and(|run| run.chained),
            None => previous.is_none(),
        };
        let row = self.replicas.entry(dot.replica.clone()).or_default();
        let id = RunId(row.next_run);
        row.next_run += 1;
        if let (Some(previous), None) = (previous, &parent) {
            self.waiting.entry(previous).or_default().insert((dot.replica.clone(), id));
        }
        let parent = parent.map(|link| (link.dot, link.run));
        row.runs.push(Run { id, from: dot.counter, to: dot.counter, tip, previous, parent, chained });
        (id, chained)
    }

    /// Hangs the waiting runs on the entry and carries `chained` up from it.
    fn adopt_above(
        &mut self,
        id: ChangeId,
        link: &Link,
        above: &[(ReplicaId, RunId)],
        touched: &mut BTreeSet<ReplicaId>,
    ) {
        for (replica, run) in above {
            let row = self.replicas.get_mut(replica).expect("looked up just before");
            row.run_mut(*run).expect("looked up just before").parent = Some((link.dot.clone(), link.run));
            touched.insert(replica.clone());
            if let Some(waiting) = self.waiting.get_mut(&id) {
                waiting.remove(&(replica.clone(), *run));
            }
        }
        if self.waiting.get(&id).is_some_and(BTreeSet::is_empty) {
            self.waiting.remove(&id);
        }
        if above.is_empty() || !self.run(&link.dot.replica, link.run).is_some_and(|run| run.chained) {
            return;
        }
        let server = link.dot.replica.server().to_owned();
        let mut reached = above.to_vec();
        while let Some((replica, id)) = reached.pop() {
            let row = self.replicas.get_mut(&replica).expect("a run's replica has a row");
            row.run_mut(id).expect("found by its label").chained = true;
            let hanging = self.runs_of(&server).filter(|(_, run)| {
                !run.chained
                    && run.parent.as_ref().is_some_and(|(dot, below)| dot.replica == replica && *below == id)
            });
            reached.extend(hanging.map(|(replica, run)| (replica.clone(), run.id)).collect::<Vec<_>>());
            touched.insert(replica);
        }
    }
}

/// True if an entry at `dot` can hang on one at `below`.
fn hangs_on(dot: &Dot, below: &Dot) -> bool {
    match dot.counter.previous() {
        Some(counter) => below.replica == dot.replica && below.counter == counter,
        None => below.replica != dot.replica && below.replica.server_text() == dot.replica.server_text(),
    }
}

/// Two runs of one replica that the new entry makes one.
struct Join {
    /// The run below; `None` if the new entry opens it.
    lower: Option<RunId>,
    upper: RunId,
    /// True: the upper one's entries get the lower one's label.
    keep_lower: bool,
    /// The entries that get the other label, without the new one.
    relabelled: Vec<(ChangeId, Link)>,
}

impl ChangeLog {
    fn plan_join<S: Entries>(
        &self,
        above: &[(ReplicaId, RunId)],
        dot: &Dot,
        lower: Option<RunId>,
        at: &S,
    ) -> Result<Option<Join>, S::Error> {
        let Some((_, upper)) = above.iter().find(|(replica, _)| *replica == dot.replica) else {
            return Ok(None);
        };
        let Some(upper_run) = self.run(&dot.replica, *upper) else { return Ok(None) };
        let lower_run = lower.and_then(|lower| self.run(&dot.replica, lower));
        let below = lower_run.map_or(0, Run::entries);
        let keep_lower = below >= upper_run.entries();
        let (tip, count) = match lower_run {
            _ if keep_lower => (upper_run.tip, upper_run.entries()),
            Some(run) => (run.tip, below),
            None => (upper_run.tip, 0),
        };
        if count > MAX_RELABEL {
            return Ok(None);
        }
        let mut relabelled = Vec::new();
        let mut next = Some(tip);
        for _ in 0..count {
            let Some((id, link)) = next.map(|id| Ok((id, at.link(&id)?))).transpose()? else { break };
            // A run's entries are held; if the store lost one, leave the runs apart.
            let Some(link) = link else { return Ok(None) };
            next = link.previous;
            relabelled.push((id, link));
        }
        Ok(Some(Join { lower, upper: *upper, keep_lower, relabelled }))
    }

    fn join_runs(&mut self, join: Join, placed: &mut Placed) {
        let replica = placed.link.dot.replica.clone();
        let lower = join.lower.unwrap_or(placed.link.run);
        let (kept, gone) = if join.keep_lower { (lower, join.upper) } else { (join.upper, lower) };
        let row = self.replicas.get_mut(&replica).expect("the entry was placed in it");
        let take = |row: &mut super::ReplicaLog, id| {
            let index = row.runs.iter().position(|run| run.id == id).expect("planned from this shape");
            row.runs.swap_remove(index)
        };
        let (below, above) = (take(row, lower), take(row, join.upper));
        let (to, tip) = (above.to, above.tip);
        row.runs.push(Run { id: kept, to, tip, ..below });
        for (id, mut link) in join.relabelled {
            link.run = kept;
            placed.relabelled.push((id, link));
        }
        placed.link.run = kept;
        self.rename(&replica, gone, kept, &mut placed.touched);
    }

    /// Lets all that hangs on or waits as run `gone` do so as `kept`.
    fn rename(&mut self, replica: &ReplicaId, gone: RunId, kept: RunId, touched: &mut BTreeSet<ReplicaId>) {
        for (other, row) in &mut self.replicas {
            if other.server_text() != replica.server_text() {
                continue;
            }
            for (dot, below) in row.runs.iter_mut().filter_map(|run| run.parent.as_mut()) {
                if dot.replica == *replica && *below == gone {
                    *below = kept;
                    touched.insert(other.clone());
                }
            }
        }
        for waiting in self.waiting.values_mut() {
            if waiting.remove(&(replica.clone(), gone)) {
                waiting.insert((replica.clone(), kept));
            }
        }
    }
}

impl MemoryEntries {
    /// Notes what was placed.
    pub fn apply(&mut self, id: ChangeId, placed: &Placed) {
        self.insert(id, placed.link.clone());
        for (id, link) in &placed.relabelled {
            self.insert(*id, link.clone());
        }
    }
}

impl<S: Entries> Overlay<'_, S> {
    /// Notes what was placed.
    pub fn apply(&mut self, id: ChangeId, placed: &Placed) {
        self.insert(id, placed.link.clone());
        for (id, link) in &placed.relabelled {
            self.insert(*id, link.clone());
        }
    }
}
