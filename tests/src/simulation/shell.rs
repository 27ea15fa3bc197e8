//! What the simulated servers do with what happens to them: the counterpart of
//! the replication driver and of the service beneath it.

use causeway_replication::{Advertise, Delta, Down, Effect, Input, Message, Pull, limits};
use causeway_shared_space::{Change, ItemKey, Kind, Stamp};
use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Broken,
    network::{Packet, Payload},
    server::Job,
    store::sure,
    world::{Event, World},
};

/// A room event, as much of it as matters here.
#[derive(Serialize, Deserialize)]
struct RoomEvent {
    sender: OwnedUserId,
    state_key: String,
    content: Box<RawValue>,
}

impl World {
    /// Does what was on the agenda.
    pub fn happen(&mut self, event: Event) {
        match event {
            Event::Sync(server, epoch) if self.servers[server].epoch == epoch => self.synced(server),
            Event::Tell(server, epoch, input) if self.servers[server].epoch == epoch => {
                self.feed(server, input, None);
            }
            Event::Start(server) => self.start(server),
            Event::Sync(..) | Event::Tell(..) => {}
        }
    }

    fn synced(&mut self, server: usize) {
        let Some((job, outcome)) = self.servers[server].sync() else { return };
        let new = outcome.new > 0;
        match job {
            Job::Local(change, device) => {
                if let Some(number) = self.truth.number(&change.id()) {
                    self.truth.acknowledged |= 1 << number;
                }
                let key = change.header().key().clone();
                // A redaction is no sibling, and no event carries it in a stamp.
                let redaction = change.header().kind() == Kind::Redact;
                if !redaction {
                    self.devices[device].see(&key, &[change.id()], &self.truth);
                }
                self.watch_store(server);
                if !redaction {
                    self.send_events(server, &change);
                }
                self.feed(server, Input::LocalChange, None);
            }
            Job::Remote(from, _, _) => {
                self.note(|_| {
                    format!(
                        "s{server} applied from {from}: {} new, {} known, {} refused",
                        outcome.new, outcome.known, outcome.refused
                    )
                });
                if new {
                    self.watch_store(server);
                }
                self.feed(server, Input::Applied { from, outcome }, None);
            }
            Job::Event(change) => {
                if new {
                    self.watch_store(server);
                }
                self.feed(server, Input::Applied { from: change.server().to_string(), outcome }, None);
            }
        }
    }

    /// The change as a state event, to some of the servers, in no order.
    fn send_events(&mut self, from: usize, change: &Change) {
        for to in (0..self.servers.len()).filter(|to| *to != from) {
            if !self.dice.chance(self.plan.stamps) || !self.reachable(from, to) {
                continue;
            }
            let carrier = change.header().author().to_owned();
            let stamp = Stamp::sign(change.clone(), carrier.clone(), &self.servers[from].key);
            let event = RoomEvent {
                sender: carrier,
                state_key: change.header().key().to_string(),
                content: RawValue::from_string(stamp.content(&[])).expect("a stamp's content is JSON"),
            };
            let bytes = serde_json::to_vec(&event).expect("an event is JSON");
            let packet = Packet { from, to, payload: Payload::RoomEvent(bytes) };
            self.network.send(self.now_ms, &packet, &mut self.dice);
        }
    }

    /// A packet arrives.
    pub fn deliver(&mut self, packet: Packet) {
        let Packet { from, to, payload } = packet;
        if !self.servers[to].up {
            return;
        }
        let name = self.names[from].clone();
        match payload {
            Payload::Edu(bytes) => {
                if let Ok((room_id, message)) = Advertise::from_content(&bytes)
                    && room_id == self.room_id.as_str()
                {
                    self.feed(to, Input::Received { from: name, message: Message::Advertise(message) }, None);
                }
            }
            Payload::Request(number, bytes) => {
                if let Ok(pull) = Pull::from_body(&bytes) {
                    let message = Message::Pull(pull);
                    self.feed(to, Input::Received { from: name, message }, Some((number, from)));
                }
            }
            Payload::Response(number, bytes) => {
                if self.servers[to].life.asked != Some((number, from)) {
                    return;
                }
                self.servers[to].life.asked = None;
                match Delta::from_body(&bytes) {
                    Ok(delta) => {
                        self.feed(to, Input::Received { from: name, message: Message::Delta(delta) }, None);
                    }
                    Err(_) => self.feed(to, Input::PeerDown { peer: name, why: Down::Unreachable }, None),
                }
            }
            Payload::RoomEvent(bytes) => self.room_event(to, &bytes),
        }
    }

    fn room_event(&mut self, to: usize, bytes: &[u8]) {
        let Ok(event) = serde_json::from_slice::<RoomEvent>(bytes) else { return };
        let Ok(key) = ItemKey::new(&event.state_key) else { return };
        let stamp = Stamp::read(&self.room_id, &key, &event.sender, event.content.get().as_bytes());
        let Ok(Some(stamp)) = stamp else { return };
        let origin = stamp.change().server().to_owned();
        if stamp.verify(|_| self.verifier.key(&origin)) != Ok(true) {
            return;
        }
        let change = stamp.into_change();
        self.note(|world| format!("s{to} sees #{:?} by room event", world.truth.number(&change.id())));
        self.servers[to].commit(Job::Event(change));
        self.sync_soon(to);
    }

    /// Feeds a server's replicator and does what it says. `reply` is the request
    /// that the input came with.
    pub fn feed(&mut self, server: usize, input: Input, reply: Option<(u64, usize)>) {
        let state = &mut self.servers[server];
        if !state.up {
            return;
        }
        if let Input::PeerDown { peer, .. } = &input
            && state.life.asked.is_some_and(|(_, asked)| self.names[asked] == *peer)
        {
            state.life.asked = None;
        }
        let early = state.broken == Some(Broken::TellBeforeSync);
        let life = &mut state.life;
        let at = if early { &life.memory } else { &life.disk };
        let effects = sure(life.replicator.handle(self.now_ms, input, at));
        for effect in effects {
            self.act(server, effect, reply);
        }
        self.watch_knowledge(server);
    }

    fn act(&mut self, server: usize, effect: Effect, reply: Option<(u64, usize)>) {
        match effect {
            Effect::Apply { from, entries, .. } => {
                let room_id = &self.room_id;
                let count = entries.len();
                let mut valid = entries;
                valid.retain(|change| change.header().room_id() == room_id && self.verifier.verify(change));
                let refused = (count - valid.len()) as u64;
                self.servers[server].commit(Job::Remote(from, valid, refused));
                self.sync_soon(server);
            }
            Effect::ForkFound(proof) => {
                self.note(|_| format!("s{server} finds a fork at {}", proof.dot()));
                self.watch.forks.insert(proof.dot().clone());
            }
            Effect::Send { to, mut message } => {
                let Some(to) = self.names.iter().position(|name| *name == to) else { return };
                if let (Some(Broken::OverfillAdvertisements), Message::Advertise(message)) =
                    (self.servers[server].broken, &mut message)
                {
                    let disk = &self.servers[server].life.disk;
                    message.changes = disk.changes().take(limits::MAX_RIDING_ENTRIES + 1).cloned().collect();
                }
                if self.servers[server].honest {
                    self.watch_message(server, &message);
                    self.send(server, to, message, reply);
                } else if let Some(message) = self.lie(server, message) {
                    self.send(server, to, message, reply);
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message, reply: Option<(u64, usize)>) {
        let room_id = self.room_id.clone();
        self.note(|world| format!("s{from} -> s{to} {}", world.describe(&message)));
        let payload = match message {
            Message::Advertise(message) => {
                let content = message.to_content(room_id.as_str()).expect("an advertisement is JSON");
                Payload::Edu(content.get().as_bytes().to_vec())
            }
            Message::Pull(mut pull) => {
                pull.limit = pull.limit.min(self.plan.page);
                self.requests += 1;
                self.watch_pull(from);
                self.servers[from].life.asked = Some((self.requests, to));
                Payload::Request(self.requests, pull.to_body().expect("a pull is JSON"))
            }
            Message::Delta(delta) => {
                let Some((number, _)) = reply else { return };
                Payload::Response(number, delta.to_body().expect("a delta is JSON"))
            }
        };
        let mut payload = self.spoil(from, payload);
        if let (Some(Broken::PadAdvertisements), Payload::Edu(bytes)) =
            (self.servers[from].broken, &mut payload)
        {
            bytes.resize(limits::MAX_ADVERTISE_BYTES + 1, b' ');
        }
        self.watch_size(from, &payload);
        let edu = matches!(payload, Payload::Edu(_));
        let twice =
            self.servers[from].broken == Some(Broken::PullTwice) && matches!(payload, Payload::Request(..));
        let epoch = self.servers[from].epoch;
        let packet = Packet { from, to, payload };
        if self.reachable(from, to) && self.network.send(self.now_ms, &packet, &mut self.dice) {
            if twice {
                self.watch_pull(from);
            }
            if edu {
                self.delivered(from, to);
            }
        } else {
            let input = Input::PeerDown { peer: self.names[to].clone(), why: Down::Unreachable };
            self.after(1, Event::Tell(from, epoch, input));
        }
    }

    /// The peer answers 200, whatever becomes of the advertisement there.
    fn delivered(&mut self, from: usize, to: usize) {
        let ms = 20 + self.dice.below(400) as u64;
        let epoch = self.servers[from].epoch;
        let to = self.names[to].clone();
        if self.servers[from].broken == Some(Broken::TrustDelivery) {
            use causeway_replication::{Digest, Snapshot as _};
            let vector = self.servers[from].life.disk.log().vector();
            let digest = Digest::of(&vector);
            let message =
                Message::Advertise(Advertise { vector, full: true, digest, ..Advertise::default() });
            self.after(ms, Event::Tell(from, epoch, Input::Received { from: to.clone(), message }));
        }
        self.after(ms, Event::Tell(from, epoch, Input::Delivered { to }));
    }

    fn describe(&self, message: &Message) -> String {
        let numbers = |changes: &[Change]| -> Vec<_> {
            changes.iter().map(|change| self.truth.number(&change.id())).collect()
        };
        match message {
            Message::Advertise(message) => {
                format!("advertises {}, with {:?}", message.vector.to_json(), numbers(&message.changes))
            }
            Message::Pull(pull) => format!("asks above {}, of {:?}", pull.after.to_json(), pull.servers),
            Message::Delta(delta) => {
                format!(
                    "answers {:?}, holds {}, next {}",
                    numbers(&delta.changes),
                    delta.vector.to_json(),
                    delta.next
                )
            }
        }
    }
}

/// The bound that a payload of an honest server keeps.
pub fn bound(payload: &Payload) -> usize {
    match payload {
        Payload::Edu(_) => limits::MAX_ADVERTISE_BYTES,
        Payload::Request(..) => limits::MAX_PULL_BODY_BYTES,
        Payload::Response(..) => limits::MAX_DELTA_BODY_BYTES,
        Payload::RoomEvent(_) => 65_536,
    }
}
