//! The simulated network: bytes between servers that are late, lost, doubled or
//! out of order, and links that are cut.
//!
//! Not here: what the bytes mean. Time is a number of milliseconds; a packet is
//! delivered by whoever runs the clock.

use std::collections::{BTreeMap, BTreeSet};

use super::watch::Dangers;
use crate::dice::Dice;

/// What travels.
#[derive(Clone, Debug)]
pub enum Payload {
    /// An advertisement (an EDU in a federation transaction).
    Edu(Vec<u8>),
    /// A request, and its number at the one who asks.
    Request(u64, Vec<u8>),
    /// The response to it.
    Response(u64, Vec<u8>),
    /// A room event that carries a change (its stamp and value).
    RoomEvent(Vec<u8>),
}

/// A payload on its way.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Who sent it.
    pub from: usize,
    /// Whom it is for.
    pub to: usize,
    /// What it is.
    pub payload: Payload,
}

/// How bad the network is, each in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Packets lost.
    pub drop: usize,
    /// Packets that arrive twice.
    pub duplicate: usize,
    /// Packets that take up to a minute instead of a fraction of a second.
    pub delay: usize,
}

/// All packets in flight, and the links that are cut.
#[derive(Clone, Debug, Default)]
pub struct Network {
    in_flight: BTreeMap<(u64, u64), Packet>,
    cut: BTreeSet<(usize, usize)>,
    sent: u64,
    /// How bad it is.
    pub weather: Weather,
    /// Bytes that were sent, for the record.
    pub bytes: u64,
    /// What the weather did.
    pub dangers: Dangers,
}

impl Network {
    /// All links up, nothing on its way.
    pub fn new(weather: Weather) -> Self {
        Self { weather, ..Self::default() }
    }

    /// Whether two servers can reach each other.
    pub fn linked(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a.min(b), a.max(b)))
    }

    /// Cuts or mends one link. What is on its way when a link is cut is lost.
    pub fn set_link(&mut self, a: usize, b: usize, up: bool) {
        let link = (a.min(b), a.max(b));
        if up {
            self.cut.remove(&link);
        } else if self.cut.insert(link) {
            self.in_flight
                .retain(|_, packet| (packet.from.min(packet.to), packet.from.max(packet.to)) != link);
        }
    }

    /// Mends all links.
    pub fn mend(&mut self) {
        self.cut.clear();
    }

    /// What was on its way to or from a server that crashed is lost.
    pub fn forget(&mut self, server: usize) {
        self.in_flight.retain(|_, packet| packet.from != server && packet.to != server);
    }

    /// Sends; false when the link is cut, which the sender notices (the
    /// connection is refused). What the weather does to it he doesn't.
    pub fn send(&mut self, now_ms: u64, packet: &Packet, dice: &mut Dice) -> bool {
        if !self.linked(packet.from, packet.to) {
            return false;
        }
        let copies = match () {
            () if dice.chance(self.weather.drop) => 0,
            () if dice.chance(self.weather.duplicate) => 2,
            () => 1,
        };
        self.dangers.lost += u64::from(copies == 0);
        self.dangers.doubled += u64::from(copies == 2);
        for _ in 0..copies {
            let is_late = dice.chance(self.weather.delay);
            self.dangers.late += u64::from(is_late);
            let most = if is_late { 60_000 } else { 400 };
            let at = now_ms + 1 + dice.below(most) as u64;
            self.sent += 1;
            self.bytes += packet.payload.len() as u64;
            self.in_flight.insert((at, self.sent), packet.clone());
        }
        true
    }

    /// When the next packet arrives.
    pub fn next_ms(&self) -> Option<u64> {
        self.in_flight.keys().next().map(|(at, _)| *at)
    }

    /// The next packet that has arrived by now.
    pub fn receive(&mut self, now_ms: u64) -> Option<Packet> {
        let first = *self.in_flight.keys().next().filter(|(at, _)| *at <= now_ms)?;
        self.in_flight.remove(&first)
    }
}

impl Payload {
    /// Its size in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no payload is empty")]
    pub fn len(&self) -> usize {
        match self {
            Self::Edu(bytes)
            | Self::Request(_, bytes)
            | Self::Response(_, bytes)
            | Self::RoomEvent(bytes) => bytes.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_link_refuses_and_loses_what_was_on_its_way() {
        let (mut network, mut dice) = (Network::default(), Dice::new(1));
        let packet = Packet { from: 0, to: 1, payload: Payload::Edu(vec![1]) };
        assert!(network.send(0, &packet, &mut dice));
        network.set_link(1, 0, false);
        assert!(network.next_ms().is_none() && !network.send(0, &packet, &mut dice));
        network.mend();
        assert!(network.send(0, &packet, &mut dice));
        assert!(network.receive(500).is_some() && network.receive(500).is_none());
    }
}
