//! The world of one schedule: its clock, its agenda, what happens at random, and
//! how it is healed.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use causeway_replication::{Input, Snapshot as _};
use causeway_shared_space::{Body, ItemKey, Value};
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, signatures::Ed25519KeyPair};

use super::{
    Broken, Report, Violation,
    device::Device,
    network::{Network, Weather},
    plan::{Lie, Plan},
    server::{Life, SimServer, Verifier, Write},
    store::Store,
    truth::Truth,
    watch::{Dangers, Watch},
};
use crate::dice::Dice;

/// How long healing may take: the timer's longest interval, several times.
const HEALED_WITHIN_MS: u64 = 12 * 3_600_000;

/// For so long after healing servers may not even know that others are back.
const FIRST_MS: u64 = 60_000;

/// How long a server may leave another one alone that it could not reach.
const BACK_OFF_MS: usize = 300_000;

/// Something on the agenda.
#[derive(Clone, Debug)]
pub enum Event {
    /// A server's oldest commit is synced.
    Sync(usize, u64),
    /// A server's process starts.
    Start(usize),
    /// The outcome of something, told to a server in the life that it was meant for.
    Tell(usize, u64, Input),
}

/// A schedule under way.
#[derive(Clone, Debug)]
pub struct World {
    /// Milliseconds since the beginning.
    pub now_ms: u64,
    /// All choices.
    pub dice: Dice,
    /// What may happen.
    pub plan: Plan,
    /// The servers; the last may be a liar.
    pub servers: Vec<SimServer>,
    /// Their names as text.
    pub names: Vec<String>,
    /// The devices.
    pub devices: Vec<Device>,
    /// The items' keys.
    pub keys: Vec<ItemKey>,
    /// The room.
    pub room_id: OwnedRoomId,
    /// What is on its way.
    pub network: Network,
    /// What really happened.
    pub truth: Truth,
    /// Signatures.
    pub verifier: Verifier,
    /// What the checkers remember.
    pub watch: Watch,
    /// The first violation.
    pub violation: Option<Violation>,
    /// Requests sent so far.
    pub requests: u64,
    agenda: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    backups: Vec<Vec<(Store, Life)>>,
    trace: Option<Vec<String>>,
    healed_in_ms: u64,
}

/// The key pair of a server: always the same, so that a seed gives the same ids.
fn key_of(index: usize) -> Arc<Ed25519KeyPair> {
    /// PKCS #8 of an Ed25519 key, up to the 32 bytes of the key.
    const PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let secret = [u8::try_from(index).unwrap_or(u8::MAX).wrapping_add(7); 32];
    let document: Vec<u8> = PREFIX.into_iter().chain(secret).collect();
    Arc::new(Ed25519KeyPair::from_der(&document, "1".to_owned()).expect("a well-formed key"))
}

impl World {
    /// The world of a seed before anything happens: all servers run and know of
    /// each other.
    ///
    /// # Panics
    /// If a plan has no servers.
    pub fn new(seed: u64, plan: Plan, broken: Option<Broken>, trace: bool) -> Self {
        let mut dice = Dice::new(seed);
        let mut verifier = Verifier::default();
        let servers: Vec<SimServer> = (0..plan.servers)
            .map(|index| {
                let name: OwnedServerName = format!("s{index}.example").try_into().expect("a server name");
                let key = key_of(index);
                verifier.learn(&name, &key);
                let honest = plan.lie.is_none() || index + 1 < plan.servers;
                let life = Life::started(Store::new(broken), &name, &mut dice);
                SimServer {
                    name,
                    key,
                    honest,
                    broken,
                    up: true,
                    epoch: 0,
                    life,
                    twin: None,
                    ever: HashSet::new(),
                    dangers: Dangers::default(),
                }
            })
            .collect();
        let homes = (0..plan.servers).flat_map(|home| (0..plan.devices).map(move |number| (home, number)));
        let user =
            |home, number| OwnedUserId::try_from(format!("@u{number}:s{home}.example")).expect("a user id");
        let mut world = Self {
            now_ms: 1_000,
            plan,
            names: servers.iter().map(|server| server.name.to_string()).collect(),
            devices: homes.map(|(home, number)| Device::new(home, user(home, number))).collect(),
            keys: (0..plan.keys).map(|key| ItemKey::new(&format!("item/{key}")).expect("a key")).collect(),
            room_id: "!simulated-room:s0.example".try_into().expect("a room id"),
            network: Network::new(plan.weather),
            truth: Truth::default(),
            verifier,
            watch: Watch::new(plan.servers),
            violation: None,
            requests: 0,
            agenda: BTreeMap::new(),
            scheduled: 0,
            backups: vec![Vec::new(); plan.servers],
            trace: trace.then(Vec::new),
            healed_in_ms: 0,
            servers,
            dice,
        };
        // Where nothing fails, they know each other when the first writes.
        if plan.crashes || plan.cuts {
            world.meet(BACK_OFF_MS);
        } else {
            world.meet(500);
            world.run_until(2_000);
        }
        if plan.lie == Some(Lie::Equivocate) {
            let liar = world.servers.last_mut().expect("there are servers");
            liar.twin = Some(Box::new(liar.life.clone()));
        }
        world
    }

    /// Notes what happens, if somebody wants to read it.
    pub fn note(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>9} {}", self.now_ms, what(self));
            self.trace.iter_mut().for_each(|trace| trace.push(line.clone()));
        }
    }

    /// Puts something on the agenda.
    pub fn after(&mut self, ms: u64, event: Event) {
        self.scheduled += 1;
        self.agenda.insert((self.now_ms + ms, self.scheduled), event);
    }

    /// Whether a packet between two servers would arrive anywhere.
    pub fn reachable(&self, from: usize, to: usize) -> bool {
        self.network.linked(from, to) && self.servers[from].up && self.servers[to].up
    }

    /// Every pair of servers that can reach each other finds that out in time.
    fn meet(&mut self, within_ms: usize) {
        for a in 0..self.servers.len() {
            for b in 0..self.servers.len() {
                if a != b && self.reachable(a, b) {
                    let ms = self.dice.below(within_ms) as u64 >> self.dice.below(8);
                    let input = Input::PeerUp { peer: self.names[b].clone() };
                    self.after(ms, Event::Tell(a, self.servers[a].epoch, input));
                }
            }
        }
    }

    /// One random action, then some time.
    pub fn step(&mut self) {
        let device = self.dice.below(self.devices.len());
        let key = self.keys[self.dice.below(self.keys.len())].clone();
        let plan = self.plan;
        match self.dice.below(100) {
            0..34 => self.write(device, &key),
            44..46 if plan.redactions => self.redact(device, &key),
            34..46 => self.read(device, &key, false),
            46..56 if plan.face => self.read(device, &key, true),
            56..68 if plan.cuts => self.weather_links(),
            68..76 if plan.crashes => {
                let server = self.dice.below(self.servers.len());
                self.crash(server, None);
            }
            76..82 => self.back_up(),
            82..86 if plan.restores => self.restore(),
            86..90 if plan.unnoticed => self.roll_back(),
            90..95 if plan.unnoticed => self.copy_or_swap(),
            95..100 if plan.lie == Some(Lie::Equivocate) => self.swap(self.servers.len() - 1),
            _ => {}
        }
        let longest =
            if plan.pace_ms > 0 { plan.pace_ms } else { [200, 3_000, 20_000, 90_000][self.dice.below(4)] };
        let until = self.now_ms + self.dice.below(longest) as u64;
        self.run_until(until);
    }

    fn write(&mut self, device: usize, key: &ItemKey) {
        let home = self.devices[device].home;
        let server = &self.servers[home];
        let full = server.is_full(key);
        if !server.up || self.truth.full() || full {
            return;
        }
        let supersedes = self.devices[device].supersedes(key, server, &self.names);
        let text = format!("{{\"v\":{}}}", self.dice.below(1_000));
        let put = || Body::Put(Value::parse(text.as_bytes()).expect("a value"));
        let body = if self.dice.chance(15) { Body::Delete } else { put() };
        let author = self.devices[device].user.clone();
        let write = Write { room_id: &self.room_id, key, body, supersedes, author, now_ms: self.now_ms };
        let Some(change) = self.servers[home].write(write, device, &mut self.dice) else { return };
        let (honest, broken) = (self.servers[home].honest, self.servers[home].broken);
        let number = self.truth.note(&change, self.devices[device].shown(key, broken), honest);
        self.note(|world| {
            let named = change.header().supersedes().iter().map(|id| world.truth.number(id));
            format!(
                "write #{number} {} {key} by device {device}, supersedes {:?}",
                change.header().dot(),
                named.collect::<Vec<_>>()
            )
        });
        if self.servers[home].broken == Some(Broken::AnswerBeforeSync) {
            self.truth.acknowledged |= 1 << number;
        }
        self.sync_soon(home);
    }

    /// A commit is synced a little later.
    pub fn sync_soon(&mut self, server: usize) {
        let slow = self.dice.chance(10);
        let ms = 1 + self.dice.below(if slow { 2_000 } else { 30 }) as u64;
        self.after(ms, Event::Sync(server, self.servers[server].epoch));
    }

    fn read(&mut self, device: usize, key: &ItemKey, face: bool) {
        let server = &self.servers[self.devices[device].home];
        let Some(item) = server.life.disk.item(key).filter(|_| server.up) else { return };
        let shown: Vec<_> = item
            .siblings()
            .iter()
            .take(if face { 1 } else { usize::MAX })
            .map(|sibling| sibling.id)
            .collect();
        self.watch.dangers.faces += u64::from(shown.len() < item.siblings().len());
        self.note(|world| {
            let shown: Vec<_> = shown.iter().map(|id| world.truth.number(id)).collect();
            format!("device {device} is shown {shown:?} of {key}")
        });
        self.devices[device].see(key, &shown, &self.truth);
    }

    fn weather_links(&mut self) {
        let mend = self.dice.chance(40);
        for a in 0..self.servers.len() {
            for b in a + 1..self.servers.len() {
                let up = mend || self.dice.chance(50);
                self.watch.dangers.cuts += u64::from(!up && self.network.linked(a, b));
                let mended = up && !self.network.linked(a, b);
                self.network.set_link(a, b, up);
                // One side finds out when it tries again; sometimes neither does
                // before healing.
                if mended && self.dice.chance(80) {
                    let (from, to) = if self.dice.chance(50) { (a, b) } else { (b, a) };
                    let input = Input::PeerUp { peer: self.names[to].clone() };
                    let ms = self.dice.below(30_000) as u64;
                    self.after(ms, Event::Tell(from, self.servers[from].epoch, input));
                }
            }
        }
        self.note(|world| format!("links change: {:?}", world.network));
    }

    /// Kills a server: what is not synced is lost, but for some of the oldest
    /// commits, whose clients are not answered. It starts again later, perhaps
    /// with another disk.
    fn crash(&mut self, server: usize, disk: Option<Store>) {
        if !self.servers[server].up {
            return;
        }
        for _ in 0..self.dice.below(self.servers[server].life.jobs.len() + 1) {
            self.servers[server].sync();
        }
        let state = &mut self.servers[server];
        self.watch.dangers.crashes += 1;
        let lost = state.life.jobs.len();
        let kept = state.life.replica.clone().filter(|_| state.broken == Some(Broken::KeepIncarnation));
        let disk = disk.unwrap_or_else(|| state.life.disk.clone());
        state.life = Life::started(disk, &state.name, &mut self.dice);
        state.life.replica = kept;
        state.up = false;
        state.epoch += 1;
        self.network.forget(server);
        self.note(|_| format!("s{server} crashes, {lost} commits lost"));
        let ms = self.dice.below(60_000) as u64;
        self.after(ms, Event::Start(server));
    }

    /// A server's process starts; it and its peers find each other.
    pub fn start(&mut self, server: usize) {
        self.servers[server].up = true;
        self.note(|_| format!("s{server} starts"));
        for peer in (0..self.servers.len()).filter(|peer| *peer != server) {
            if self.reachable(server, peer) && self.dice.chance(80) {
                let ms = self.dice.below(5_000) as u64;
                let input = Input::PeerUp { peer: self.names[peer].clone() };
                self.after(ms, Event::Tell(server, self.servers[server].epoch, input));
            }
        }
    }

    fn back_up(&mut self) {
        let server = self.dice.below(self.servers.len());
        let life = self.servers[server].life.clone();
        self.note(|_| format!("backup of s{server}"));
        self.backups[server].push((life.disk.clone(), life));
    }

    fn old(&mut self) -> Option<(usize, Store, Life)> {
        let server = self.dice.below(self.servers.len());
        let (disk, life) = self.dice.pick(&self.backups[server])?.clone();
        (self.servers[server].up && self.servers[server].honest).then_some((server, disk, life))
    }

    /// The operator stops a server and puts an old disk in.
    fn restore(&mut self) {
        let Some((server, disk, _)) = self.old() else { return };
        let before = self.servers[server].life.disk.clone();
        self.crash(server, Some(disk));
        self.watch.dangers.restores += 1;
        self.lost_with(&before);
        self.watch.forget(server);
        self.note(|_| format!("s{server} gets an old disk"));
    }

    /// A machine is rolled back, memory and all, and notices nothing.
    fn roll_back(&mut self) {
        let Some((server, _, life)) = self.old() else { return };
        self.replace_life(server, life);
        self.note(|_| format!("s{server} is rolled back"));
    }

    fn replace_life(&mut self, server: usize, life: Life) -> Life {
        let before = std::mem::replace(&mut self.servers[server].life, life);
        let state = &mut self.servers[server];
        state.life.asked = None;
        state.epoch += 1;
        state.life.jobs.clear();
        state.life.memory = state.life.disk.clone();
        self.network.forget(server);
        self.watch.forget(server);
        self.watch.unnoticed.insert(server);
        self.watch.dangers.unnoticed += 1;
        self.lost_with(&before.disk);
        before
    }

    /// A machine is copied; from then on now the one, now the other is on the net.
    fn copy_or_swap(&mut self) {
        let server = self.dice.below(self.servers.len());
        let state = &mut self.servers[server];
        if !state.honest || !state.up {
            return;
        }
        if state.twin.is_none() {
            state.twin = Some(Box::new(state.life.clone()));
            self.watch.copied(server);
            self.note(|_| format!("s{server} is copied"));
        } else {
            self.swap(server);
        }
    }

    fn swap(&mut self, server: usize) {
        let Some(twin) = self.servers[server].twin.take().filter(|_| self.servers[server].up) else { return };
        let other = self.replace_life(server, *twin);
        self.servers[server].twin = Some(Box::new(other));
        self.note(|_| format!("s{server} and its copy change places"));
    }

    /// What was on a disk and is now on no honest one, nobody can bring back.
    fn lost_with(&mut self, before: &Store) {
        let honest = || self.servers.iter().filter(|server| server.honest);
        for change in before.changes() {
            let twins = honest().filter_map(|server| server.twin.as_ref()).map(|twin| &twin.disk);
            let held =
                honest().map(|server| &server.life.disk).chain(twins).any(|disk| disk.holds(&change.id()));
            if let Some(number) = self.truth.number(&change.id()).filter(|_| !held) {
                self.truth.unavoidable |= 1 << number;
            }
        }
    }

    /// Lets time pass, with all that is due.
    pub fn run_until(&mut self, until_ms: u64) {
        while self.violation.is_none() {
            let deadlines =
                (0..self.servers.len()).filter_map(|server| self.deadline(server).map(|ms| (ms, server)));
            let deadline = deadlines.min();
            let agenda = self.agenda.keys().next().map(|(ms, _)| *ms);
            let due = [agenda, self.network.next_ms(), deadline.map(|due| due.0)].into_iter().flatten().min();
            let Some(due) = due.filter(|due| *due <= until_ms) else { break };
            self.now_ms = self.now_ms.max(due);
            if agenda == Some(due) {
                let event = self.agenda.pop_first().map(|(_, event)| event);
                if let Some(event) = event {
                    self.happen(event);
                }
            } else if let Some(packet) = self.network.receive(due) {
                self.deliver(packet);
            } else if let Some((_, server)) = deadline {
                self.feed(server, Input::Deadline, None);
            }
        }
        self.now_ms = self.now_ms.max(until_ms);
    }

    fn deadline(&self, server: usize) -> Option<u64> {
        let server = &self.servers[server];
        let hears = server.up && server.broken != Some(Broken::Deaf);
        server.life.replicator.next_deadline().filter(|_| hears)
    }

    /// Ends all faults and lets the servers come to an agreement without any new
    /// write.
    pub fn heal(&mut self) {
        self.note(|_| "healing".to_owned());
        self.network.mend();
        self.network.weather = Weather { drop: self.plan.weather.drop.min(5), ..Weather::default() };
        for server in 0..self.servers.len() {
            if let Some(twin) = self.servers[server].twin.take() {
                self.lost_with(&twin.disk);
            }
        }
        let begin = self.now_ms;
        let mut met = false;
        while self.violation.is_none() && !self.agree() && self.now_ms < begin + HEALED_WITHIN_MS {
            let early = self.now_ms < begin + FIRST_MS;
            self.run_until(self.now_ms + if early { 100 } else { 1_000 });
            if !early && !std::mem::replace(&mut met, true) {
                self.meet(BACK_OFF_MS);
            }
        }
        self.healed_in_ms = self.now_ms - begin;
        if self.violation.is_none() {
            self.check_agreement();
        }
    }

    /// Whether all honest servers run, have nothing under way, and hold the same.
    pub fn agree(&self) -> bool {
        let honest = || self.servers.iter().filter(|server| server.honest);
        let mut vectors = honest().map(|server| server.life.disk.log().vector());
        let first = vectors.next();
        honest().all(|server| server.up && server.life.jobs.is_empty())
            && vectors.all(|vector| Some(&vector) == first.as_ref())
    }

    /// How it went.
    pub fn report(self) -> Report {
        let seen_conflicts = self.seen_conflicts();
        let dangers = self.servers.iter().map(|server| server.dangers);
        let dangers = dangers.chain([self.watch.dangers, self.network.dangers]).sum();
        let items = self.servers[0].life.disk.items();
        Report {
            violation: self.violation,
            trace: self.trace.unwrap_or_default(),
            changes: self.truth.len() as u64,
            conflicts: items.iter().filter(|(key, item)| item.conflict(key).is_some()).count() as u64,
            bytes: self.network.bytes,
            forks: self.watch.forks.len() as u64,
            pulls: self.requests,
            healed_in_ms: self.healed_in_ms,
            dangers,
            reused: self.truth.reused.len() as u64,
            seen_conflicts,
        }
    }
}
