//! What a dishonest server makes of its messages.
//!
//! It may do anything but sign in another server's name. Nothing of anybody
//! else may be lost by it, and no honest server may stop because of it.

use causeway_replication::{Delta, Message};
use causeway_shared_space::{
    Body, Change, ChangeId, Counter, NewChange, Point, ReplicaId, VersionVector, version_vector::MAX_POINTS,
};

use super::{network::Payload, plan::Lie, world::World};
use crate::dice::Dice;

/// Entries of its own, each on nothing, that a liar makes up: with more than
/// [`causeway_shared_space::change_log::MAX_TIPS_PER_SERVER`] the honest servers
/// would refuse some, and each others.
const MAX_FORGED: usize = 60;

impl World {
    /// The message that is sent instead; none is sent now and then.
    pub fn lie(&mut self, server: usize, message: Message) -> Option<Message> {
        let Some(lie) = self.plan.lie else { return Some(message) };
        Some(match (lie, message) {
            (Lie::Forge, Message::Delta(mut delta)) => {
                let forged: Vec<Change> =
                    delta.changes.iter().take(3).flat_map(|change| self.forgeries(server, change)).collect();
                self.watch.dangers.lies += u64::from(!forged.is_empty());
                delta.changes.extend(forged);
                Message::Delta(delta)
            }
            (Lie::Withhold, Message::Delta(delta)) => {
                let held = delta.changes.len();
                let told = withhold(delta, &mut self.dice);
                self.watch.dangers.lies += u64::from(told.changes.len() < held);
                Message::Delta(told)
            }
            (Lie::Withhold, message) if !self.dice.chance(80) => {
                return matches!(message, Message::Pull(_)).then_some(message);
            }
            (Lie::Overclaim, Message::Advertise(mut message)) => {
                self.overclaim(&mut message.vector);
                Message::Advertise(message)
            }
            (Lie::Overclaim, Message::Delta(mut delta)) => {
                self.overclaim(&mut delta.vector);
                delta.next = self.dice.chance(50);
                Message::Delta(delta)
            }
            (_, message) => message,
        })
    }

    /// Entries like this one that an honest server must refuse, or hold without
    /// effect.
    fn forgeries(&mut self, server: usize, change: &Change) -> Vec<Change> {
        let state = &self.servers[server];
        let header = change.header();
        let in_the_name_of_another = |dot: causeway_shared_space::Dot, previous| NewChange {
            room_id: header.room_id().to_owned(),
            key: header.key().clone(),
            body: Body::Delete,
            dot,
            previous,
            supersedes: vec![change.id()],
            depth: header.depth(),
            author: self.devices[0].user.clone(),
            origin_server_ts: header.origin_server_ts(),
            authorized_by: Vec::new(),
            adopts: None,
            restores: None,
        };
        let mut forged = Vec::new();
        // The victim's log, our signature: refused.
        if let Some(counter) = header.dot().counter.next() {
            let dot = causeway_shared_space::Dot { replica: header.dot().replica.clone(), counter };
            forged.extend(Change::build(in_the_name_of_another(dot, Some(change.id())), &state.key));
        }
        // Our log, somebody else as author: held, void.
        self.watch.forged += 1;
        if self.watch.forged < MAX_FORGED
            && let Some(replica) = ReplicaId::new(&state.name, self.dice.bits())
        {
            let dot = causeway_shared_space::Dot { replica, counter: Counter::FIRST };
            forged.extend(Change::build(in_the_name_of_another(dot, None), &state.key));
        }
        forged
    }

    /// Points of entries that do not exist.
    fn overclaim(&mut self, vector: &mut VersionVector) {
        self.watch.dangers.lies += 1;
        for server in 0..self.servers.len() {
            let Some(replica) = ReplicaId::new(&self.servers[server].name, self.dice.below(3) as u64) else {
                continue;
            };
            let id = ChangeId::of(&self.dice.bits().to_be_bytes());
            let counter = Counter::new(1 + self.dice.bits() % 1_000).unwrap_or(Counter::FIRST);
            let floor = self.dice.chance(30).then_some(Counter::FIRST);
            if vector.len() < MAX_POINTS {
                vector.insert(&replica, Point { counter, id, floor });
            }
        }
    }

    /// Breaks the bytes of a [`Lie::Junk`].
    pub fn spoil(&mut self, from: usize, payload: Payload) -> Payload {
        if self.servers[from].honest || self.plan.lie != Some(Lie::Junk) || self.dice.chance(40) {
            return payload;
        }
        self.watch.dangers.lies += 1;
        let dice = &mut self.dice;
        let mut spoil = |mut bytes: Vec<u8>| {
            match dice.below(4) {
                0 => bytes.truncate(dice.below(bytes.len())),
                1 => bytes.clear(),
                2 => bytes = vec![b'['; 5_000],
                _ => {
                    for _ in 0..3 {
                        let at = dice.below(bytes.len());
                        bytes[at] = u8::try_from(dice.below(256)).unwrap_or(0);
                    }
                }
            }
            bytes
        };
        match payload {
            Payload::Edu(bytes) => Payload::Edu(spoil(bytes)),
            Payload::Request(number, bytes) => Payload::Request(number, spoil(bytes)),
            Payload::Response(number, bytes) => Payload::Response(number, spoil(bytes)),
            Payload::RoomEvent(bytes) => Payload::RoomEvent(spoil(bytes)),
        }
    }
}

fn withhold(mut delta: Delta, dice: &mut Dice) -> Delta {
    if dice.chance(30) {
        delta.changes.clear();
        delta.next = dice.chance(50);
    } else {
        delta.changes.retain(|_| dice.chance(60));
    }
    delta
}
