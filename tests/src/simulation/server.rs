//! A simulated server: the shell around one replicator.
//!
//! It commits into memory, syncs later, and shows only what is synced; it may
//! crash in between, come up with an old disk, or be rolled back without noticing.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use causeway_replication::{Outcome, Replicator};
use causeway_shared_space::{Body, Change, ChangeId, Counter, Item, ItemKey, NewChange, ReplicaId};
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, signatures::Ed25519KeyPair};

use super::{
    Broken,
    store::{Joining, Store},
    watch::Dangers,
};
use crate::dice::Dice;

/// A commit that is not synced yet.
#[derive(Clone, Debug)]
pub enum Job {
    /// A local write, and the device that waits for the answer.
    Local(Change, usize),
    /// Entries that a peer served, already verified; those refused are counted.
    Remote(String, Vec<Change>, u64),
    /// A change that came by room event.
    Event(Change),
}

/// What a crash, a restore or a roll-back exchanges.
#[derive(Clone, Debug)]
pub struct Life {
    /// What is synced.
    pub disk: Store,
    /// What is committed.
    pub memory: Store,
    /// Commits not synced, oldest first.
    pub jobs: VecDeque<Job>,
    /// The replica that the server writes as, once it has written.
    pub replica: Option<ReplicaId>,
    /// The state machine under test.
    pub replicator: Replicator,
    /// The request that is waited for: its number and the peer.
    pub asked: Option<(u64, usize)>,
}

/// A server.
#[derive(Clone, Debug)]
pub struct SimServer {
    /// Its name.
    pub name: OwnedServerName,
    /// Its key.
    pub key: Arc<Ed25519KeyPair>,
    /// It does as the protocol says.
    pub honest: bool,
    /// Broken on purpose, to see that a checker trips.
    pub broken: Option<Broken>,
    /// Its process runs.
    pub up: bool,
    /// Counts its starts: what was under way in an earlier life is void.
    pub epoch: u64,
    /// Its state.
    pub life: Life,
    /// A copy of its machine that runs elsewhere, unknown to it.
    pub twin: Option<Box<Life>>,
    /// All that it ever held durably.
    pub ever: HashSet<ChangeId>,
    /// What came about on it.
    pub dangers: Dangers,
}

/// A write that was committed.
#[derive(Clone, Debug)]
pub struct Write<'a> {
    /// The room.
    pub room_id: &'a OwnedRoomId,
    /// The item.
    pub key: &'a ItemKey,
    /// What is done to it.
    pub body: Body,
    /// What it supersedes.
    pub supersedes: Vec<ChangeId>,
    /// Who writes.
    pub author: OwnedUserId,
    /// When.
    pub now_ms: u64,
}

impl Life {
    /// A machine with this disk that has just started.
    pub fn started(disk: Store, name: &OwnedServerName, dice: &mut Dice) -> Self {
        Self {
            memory: disk.clone(),
            disk,
            jobs: VecDeque::new(),
            replica: None,
            replicator: Replicator::new(name.as_str(), dice.bits()),
            asked: None,
        }
    }
}

impl SimServer {
    /// The replica whose log its next write continues.
    pub fn continued(&self) -> Option<&ReplicaId> {
        use causeway_replication::Snapshot as _;
        let replica = self.life.replica.as_ref()?;
        self.life.memory.log().next(replica).map(|_| replica)
    }

    /// Writes; the change is committed, not synced. Nothing if the log has no
    /// place for it (never in practice).
    pub fn write(&mut self, write: Write<'_>, device: usize, dice: &mut Dice) -> Option<Change> {
        use causeway_replication::Snapshot as _;
        let life = &mut self.life;
        let next = |life: &Life, replica: &ReplicaId| life.memory.log().next(replica);
        let mut place = life.replica.as_ref().and_then(|replica| next(life, replica));
        if place.is_none() {
            life.replica = ReplicaId::new(&self.name, dice.bits());
            place = life.replica.as_ref().and_then(|replica| next(life, replica));
        }
        let (dot, previous) = place?;
        let depth = life.memory.item(write.key).map_or(Counter::FIRST, Item::next_depth);
        let new = NewChange {
            room_id: write.room_id.clone(),
            key: write.key.clone(),
            body: write.body,
            dot,
            previous,
            supersedes: write.supersedes,
            depth,
            author: write.author,
            origin_server_ts: write.now_ms,
            authorized_by: Vec::new(),
            adopts: None,
            restores: None,
        };
        let change = Change::build(new, &self.key).ok()?;
        life.memory.join(&change);
        life.jobs.push_back(Job::Local(change.clone(), device));
        Some(change)
    }

    /// Whether a write that adds a sibling is to be refused.
    pub fn is_full(&self, key: &ItemKey) -> bool {
        self.broken != Some(Broken::Crowd) && self.life.memory.item(key).is_some_and(Item::is_full)
    }

    /// Commits what came from elsewhere.
    pub fn commit(&mut self, job: Job) {
        match &job {
            Job::Remote(_, changes, _) => changes.iter().for_each(|change| self.take_in(change)),
            Job::Event(change) | Job::Local(change, _) => self.take_in(change),
        }
        self.life.jobs.push_back(job);
    }

    fn take_in(&mut self, change: &Change) {
        let new = matches!(self.life.memory.join(change), Joining::New(_));
        // Shown an entry of our own that we don't hold: we were restored or
        // copied, and must not go on in that log.
        if new && change.server() == self.name && self.broken != Some(Broken::KeepIncarnation) {
            self.life.replica = None;
        }
    }

    /// Syncs the oldest commit; what became of it.
    pub fn sync(&mut self) -> Option<(Job, Outcome)> {
        let job = self.life.jobs.pop_front()?;
        let mut outcome = Outcome::default();
        let changes = match &job {
            Job::Local(change, _) | Job::Event(change) => std::slice::from_ref(change),
            Job::Remote(_, changes, refused) => {
                outcome.refused = *refused;
                changes
            }
        };
        for change in changes {
            let late = change.value().is_some() && self.life.disk.is_erased(&change.header().item_id());
            match self.life.disk.join(change) {
                Joining::Known => outcome.known += 1,
                Joining::Refused => outcome.refused += 1,
                Joining::New(forks) => {
                    outcome.new += 1;
                    outcome.forks.extend(forks);
                    self.ever.insert(change.id());
                    let behind_a_hole = |previous| !self.life.disk.holds(&previous);
                    let island = change.header().previous().is_some_and(behind_a_hole);
                    self.dangers.islands += u64::from(island);
                    self.dangers.erased_late += u64::from(late);
                }
            }
        }
        Some((job, outcome))
    }
}

/// Signature checks, each done once.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    keys: HashMap<OwnedServerName, Vec<u8>>,
    checked: HashMap<(ChangeId, String), bool>,
}

impl Verifier {
    /// Learns a server's key.
    pub fn learn(&mut self, server: &OwnedServerName, key: &Ed25519KeyPair) {
        self.keys.insert(server.clone(), key.public_key().to_vec());
    }

    /// The key of a server.
    pub fn key(&self, server: &ruma::ServerName) -> Option<&[u8]> {
        self.keys.get(server).map(Vec::as_slice)
    }

    /// Whether the origin really signed the change.
    pub fn verify(&mut self, change: &Change) -> bool {
        let Some(key) = self.keys.get(change.server()) else { return false };
        let once = (change.id(), change.signature().to_json());
        *self.checked.entry(once).or_insert_with(|| change.verify(key).is_ok())
    }
}
