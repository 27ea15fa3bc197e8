//! One random schedule of the model, and what is wrong with it at the end.
//!
//! Ground truth: `history[u]` is everything that the author of `u` had really
//! been shown, transitively.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Scene, StartRule, Variant,
    context::{Change, Context, Dot, Rule, Uid},
    server::{Server, Store},
};
use crate::dice::Dice;

/// Servers of a schedule.
pub const SERVERS: usize = 3;
/// Devices of each server.
pub const DEVICES_EACH: usize = 2;
/// Items.
pub const KEYS: usize = 2;
/// Random actions before healing.
pub const STEPS: usize = 60;
/// Most entries that one pull takes: one of these.
pub const PAGES: [u32; 3] = [1, 3, 99];

/// What can be wrong at the end of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Two servers show different siblings after healing.
    Diverged,
    /// Two changes with one dot.
    DotReuse,
    /// A change that is neither live nor seen by a live one.
    Lost,
    /// Two siblings of which one author had seen the other.
    FalseConflict,
    /// The same, where what connected them was lost with a disk: unavoidable.
    FalseViaLost,
    /// Another rule, which the model has no notion of and [`super::real`] checks.
    Other(&'static str),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.pad(match self {
            Self::Diverged => "diverged",
            Self::DotReuse => "dot_reuse",
            Self::Lost => "lost",
            Self::FalseConflict => "false_conflict",
            Self::FalseViaLost => "false_via_lost",
            Self::Other(rule) => rule,
        })
    }
}

/// One person's device: what it was given, encoded, and the truth.
#[derive(Clone, Debug)]
struct Device {
    home: usize,
    seen: BTreeMap<usize, Context>,
    truth: BTreeMap<usize, BTreeSet<Uid>>,
}

struct World {
    dice: Dice,
    variant: Variant,
    scene: Scene,
    servers: Vec<Server>,
    devices: Vec<Device>,
    changes: Vec<Change>,
    history: Vec<BTreeSet<Uid>>,
    issued: BTreeMap<Dot, u32>,
    unavoidable: BTreeSet<Uid>,
    cut: BTreeSet<(usize, usize)>,
    backups: BTreeMap<usize, Vec<Store>>,
    incarnations: u32,
}

/// Runs one schedule; the faults it ended with.
pub fn run(seed: u64, variant: Variant, scene: Scene) -> BTreeSet<Fault> {
    let mut world = World::new(seed, variant, scene);
    for _ in 0..STEPS {
        world.step();
    }
    world.heal();
    world.faults()
}

impl World {
    fn new(seed: u64, variant: Variant, scene: Scene) -> Self {
        let homes = (0..SERVERS).flat_map(|home| std::iter::repeat_n(home, DEVICES_EACH));
        Self {
            dice: Dice::new(seed),
            variant,
            scene,
            servers: (0..SERVERS).map(|name| Server::new(name, variant)).collect(),
            devices: homes
                .map(|home| Device { home, seen: BTreeMap::new(), truth: BTreeMap::new() })
                .collect(),
            changes: Vec::new(),
            history: Vec::new(),
            issued: BTreeMap::new(),
            unavoidable: BTreeSet::new(),
            cut: BTreeSet::new(),
            backups: BTreeMap::new(),
            incarnations: 0,
        }
    }

    fn linked(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn pair(&mut self) -> (usize, usize) {
        let a = self.dice.below(SERVERS);
        (a, (a + 1 + self.dice.below(SERVERS - 1)) % SERVERS)
    }

    fn incarnate(&mut self, server: usize) {
        self.incarnations += 1;
        self.servers[server].incarnate(self.incarnations);
    }

    /// Asks a peer how far it has come with our log, where the rule says so.
    fn note_vector(&mut self, server: usize, peer: usize) {
        if self.servers[server].outlived_by(&self.servers[peer]) {
            self.incarnate(server);
        }
    }

    fn before_write(&mut self, server: usize) {
        let state = &self.servers[server];
        if state.store.replica.is_none() || (state.unsure && self.variant.start == StartRule::EachStart) {
            self.incarnate(server);
        } else if state.unsure {
            let peers: Vec<usize> =
                (0..SERVERS).filter(|peer| *peer != server && self.linked(server, *peer)).collect();
            match peers.get(self.dice.below(peers.len())) {
                None => self.incarnate(server),
                Some(peer) => {
                    self.note_vector(server, *peer);
                    self.servers[server].unsure = false;
                }
            }
        }
    }

    fn pull(&mut self, server: usize, peer: usize, limit: usize) -> usize {
        self.note_vector(server, peer);
        let peer = self.servers[peer].clone();
        self.servers[server].pull(&peer, &self.changes, limit)
    }

    fn step(&mut self) {
        let device = self.dice.below(self.devices.len());
        let key = self.dice.below(KEYS);
        match self.dice.below(100) {
            0..30 => self.write(device, key),
            30..42 => self.read(device, key),
            42..52 if self.scene.face => self.read_face(device, key),
            52..72 => {
                let (a, b) = self.pair();
                if self.linked(a, b) {
                    let limit = PAGES[self.dice.below(PAGES.len())];
                    self.pull(a, b, limit as usize);
                }
            }
            72..80 if self.scene.stamps => self.stamp(),
            80..88 => {
                let pairs = (0..SERVERS).flat_map(|a| (a + 1..SERVERS).map(move |b| (a, b)));
                self.cut = pairs.filter(|_| self.dice.below(2) == 0).collect();
            }
            88..93 => {
                let server = self.dice.below(SERVERS);
                let copy = self.servers[server].store.clone();
                self.backups.entry(server).or_default().push(copy);
            }
            93..97 if self.scene.restores => self.restore(),
            _ => {
                let server = self.dice.below(SERVERS);
                self.servers[server].unsure = true;
            }
        }
    }

    fn write(&mut self, device: usize, key: usize) {
        let home = self.devices[device].home;
        self.before_write(home);
        let context = self.context(device, key);
        let uid = self.changes.len();
        let Some(replica) = self.servers[home].store.replica else { return };
        let log = self.servers[home].store.log.entry(replica).or_default();
        let counter = u32::try_from(log.len() + 1).unwrap_or(u32::MAX);
        let clock = self.dice.below(1_000_000) as u64;
        let change =
            Change { uid, key, dot: (replica, counter), previous: log.last().copied(), context, clock };
        log.push(uid);
        self.servers[home].store.held.insert(uid);
        self.servers[home].item(key).join(&change);
        *self.issued.entry(change.dot).or_default() += 1;
        let mut history = BTreeSet::from([uid]);
        for seen in self.devices[device].truth.get(&key).into_iter().flatten() {
            history.extend(&self.history[*seen]);
        }
        self.history.push(history);
        self.changes.push(change.clone());
        self.see(device, key, &[change]);
    }

    /// What a write says that its author had seen.
    fn context(&self, device: usize, key: usize) -> Context {
        let rule = self.variant.context;
        let device = &self.devices[device];
        let server = &self.servers[device.home];
        let seen = device.seen.get(&key).cloned().unwrap_or_else(|| Context::empty(rule));
        let shown = device.truth.get(&key).is_some_and(|truth| !truth.is_empty());
        match (rule, seen) {
            (Rule::RoomVector, _) if shown => {
                let writers =
                    self.changes.iter().filter(|change| change.key == key && server.knows(change.uid));
                let length = |change: &Change| {
                    let replica = change.dot.0;
                    (replica, u32::try_from(server.length(replica)).unwrap_or(u32::MAX))
                };
                Context::Vector(writers.map(length).collect(), BTreeSet::new())
            }
            (Rule::Dots, Context::Vector(vector, dots)) => self.compacted(server, key, vector, dots),
            (_, seen) => seen,
        }
    }

    /// Turns dots into vector entries, only inside the held prefix.
    fn compacted(
        &self,
        server: &Server,
        key: usize,
        mut vector: BTreeMap<super::context::Replica, u32>,
        dots: BTreeSet<Dot>,
    ) -> Context {
        for replica in dots.iter().map(|dot| dot.0).collect::<BTreeSet<_>>() {
            for (counter, uid) in (1..).zip(server.store.log.get(&replica).into_iter().flatten()) {
                if counter <= vector.get(&replica).copied().unwrap_or(0) || self.changes[*uid].key != key {
                    continue;
                }
                if !dots.contains(&(replica, counter)) {
                    break;
                }
                vector.insert(replica, counter);
            }
        }
        let mut context = Context::Vector(vector, BTreeSet::new());
        context.join(&Context::Vector(BTreeMap::new(), dots));
        context
    }

    fn read(&mut self, device: usize, key: usize) {
        let home = self.devices[device].home;
        let siblings: Vec<Change> = self.servers[home].item(key).siblings.values().cloned().collect();
        self.see(device, key, &siblings);
    }

    /// An ordinary client is shown one of the siblings.
    fn read_face(&mut self, device: usize, key: usize) {
        let home = self.devices[device].home;
        let face =
            self.servers[home].item(key).siblings.values().max_by_key(|change| (change.clock, change.dot));
        if let Some(face) = face.cloned() {
            self.see(device, key, &[face]);
        }
    }

    fn see(&mut self, device: usize, key: usize, siblings: &[Change]) {
        let rule = self.variant.context;
        let home = self.devices[device].home;
        let mut seen = self.devices[device].seen.remove(&key).unwrap_or_else(|| Context::empty(rule));
        for change in siblings {
            match rule {
                Rule::Ids => {
                    seen.join(&Context::Ids(BTreeSet::from([change.uid])));
                    seen.join(&change.context);
                }
                rule => {
                    seen.join(&change.context);
                    seen.join(&Context::of_dot(rule, change.dot));
                }
            }
            self.devices[device].truth.entry(key).or_default().insert(change.uid);
        }
        if let Context::Ids(ids) = &mut seen {
            // A head absorbs what it names once a second server holds that head.
            let elsewhere = |uid: &Uid| {
                let mut others = self.servers.iter().filter(|other| other.name != home);
                self.servers[home].knows(*uid) && others.any(|other| other.store.held.contains(uid))
            };
            let mut absorbed: BTreeSet<Uid> = BTreeSet::new();
            for uid in ids.iter().filter(|uid| elsewhere(uid)) {
                if let Context::Ids(named) = &self.changes[*uid].context {
                    absorbed.extend(named);
                }
            }
            ids.retain(|uid| !absorbed.contains(uid));
        }
        self.devices[device].seen.insert(key, seen);
    }

    /// One state event with a stamp, out of order.
    fn stamp(&mut self) {
        let (a, b) = self.pair();
        let lacked: Vec<Uid> =
            self.servers[b].store.held.iter().copied().filter(|uid| !self.servers[a].knows(*uid)).collect();
        if lacked.is_empty() || !self.linked(a, b) {
            return;
        }
        let change = self.changes[lacked[self.dice.below(lacked.len())]].clone();
        self.servers[a].store.loose.insert(change.uid);
        self.servers[a].item(change.key).join(&change);
    }

    fn restore(&mut self) {
        let server = self.dice.below(SERVERS);
        let Some(backups) = self.backups.get(&server) else { return };
        let store = backups[self.dice.below(backups.len())].clone();
        let before = self.servers[server].known();
        self.servers[server].store = store;
        self.servers[server].unsure = !self.scene.unnoticed;
        let left: BTreeSet<Uid> = self.servers.iter().flat_map(Server::known).collect();
        self.unavoidable.extend(before.difference(&left));
    }

    fn heal(&mut self) {
        self.cut.clear();
        for _ in 0..200 {
            let mut got = 0;
            for a in 0..SERVERS {
                for b in (0..SERVERS).filter(|b| *b != a) {
                    got += self.pull(a, b, usize::MAX);
                }
            }
            if got == 0 {
                break;
            }
        }
    }

    fn faults(&mut self) -> BTreeSet<Fault> {
        let mut faults = BTreeSet::new();
        if self.issued.values().any(|times| *times > 1) {
            faults.insert(Fault::DotReuse);
        }
        for key in 0..KEYS {
            let shown: Vec<BTreeSet<Uid>> = self
                .servers
                .iter_mut()
                .map(|server| server.item(key).siblings.keys().copied().collect())
                .collect();
            if shown.iter().any(|siblings| *siblings != shown[0]) {
                faults.insert(Fault::Diverged);
            }
            for siblings in &shown {
                let alive: BTreeSet<Uid> =
                    siblings.iter().flat_map(|uid| &self.history[*uid]).copied().collect();
                let gone = |change: &&Change| {
                    change.key == key
                        && !alive.contains(&change.uid)
                        && !self.unavoidable.contains(&change.uid)
                };
                if self.changes.iter().any(|change| gone(&change)) {
                    faults.insert(Fault::Lost);
                }
                faults.extend(self.false_conflicts(siblings));
            }
        }
        faults
    }

    fn false_conflicts(&self, siblings: &BTreeSet<Uid>) -> BTreeSet<Fault> {
        let pairs = siblings.iter().flat_map(|over| siblings.iter().map(move |under| (over, under)));
        pairs
            .filter(|(over, under)| over != under && self.history[**over].contains(under))
            .map(|(over, under)| {
                let mut lost = self.history[*over].intersection(&self.unavoidable);
                if lost.any(|link| self.history[*link].contains(under)) {
                    Fault::FalseViaLost
                } else {
                    Fault::FalseConflict
                }
            })
            .collect()
    }
}
