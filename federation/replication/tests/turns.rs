//! Whom a replicator asks: a newcomer the first that it meets; and a peer that
//! never comes to an end has its turn, and then another one has.

use std::convert::Infallible;

use causeway_replication::{
    Advertise, Delta, Digest, Down, Effect, Input, Message, Outcome, Replicator, Snapshot,
    limits::{PULL_TIMEOUT_MS, SESSION_MS, TIMER_FANOUT},
};
use causeway_shared_space::{
    Change, ChangeId, ChangeLog, Counter, Dot, Entries, Link, Point, Range, RunId, VersionVector,
};
use serde_json::value::RawValue;

/// Nothing is held; but these entries are so far known that nothing of them is lacking.
struct Nothing(ChangeLog, Vec<ChangeId>);

impl Entries for Nothing {
    type Error = Infallible;

    fn link(&self, id: &ChangeId) -> Result<Option<Link>, Infallible> {
        let counter = Counter::new(1).expect("a counter");
        let replica = "a.example/5f3c9a1e00d1b2c3".parse().expect("a replica");
        let link = Link { dot: Dot { replica, counter }, previous: None, run: RunId(0) };
        Ok(self.1.contains(id).then_some(link))
    }

    fn at(&self, _: &Dot) -> Result<Vec<ChangeId>, Infallible> {
        Ok(Vec::new())
    }
}

impl Snapshot for Nothing {
    fn log(&self) -> &ChangeLog {
        &self.0
    }

    fn read(&self, _: &Range, _: usize, _: usize) -> Result<Vec<Change>, Infallible> {
        Ok(Vec::new())
    }

    fn keys(&self, _: &str) -> Result<Vec<Box<RawValue>>, Infallible> {
        Ok(Vec::new())
    }
}

/// A room in which peers claim more than is ever held here.
struct Room {
    replicator: Replicator,
    now_ms: u64,
    /// Came otherwise than by being asked for.
    came: Vec<ChangeId>,
}

impl Room {
    fn new(seed: u64) -> Self {
        Self { replicator: Replicator::new("a.example", seed), now_ms: 1, came: Vec::new() }
    }

    fn handle(&mut self, input: Input) -> Vec<Effect> {
        let at = Nothing(ChangeLog::new(), self.came.clone());
        let Ok(effects) = self.replicator.handle(self.now_ms, input, &at);
        effects
    }

    fn claim(&mut self, peer: &str) -> Vec<Effect> {
        self.claim_entry(peer, peer)
    }

    fn claim_entry(&mut self, peer: &str, entry: &str) -> Vec<Effect> {
        let (vector, digest) = claimed_entry(peer, entry);
        let message = Advertise { vector, full: true, digest, ..Advertise::default() };
        self.handle(Input::Received { from: peer.to_owned(), message: Message::Advertise(message) })
    }

    /// `peer` answers a pull as late as it may, with one entry and the promise of
    /// more; whom that makes us ask next.
    fn drip(&mut self, peer: &str) -> Option<String> {
        self.now_ms += PULL_TIMEOUT_MS - 1;
        let delta =
            Delta { vector: claimed(peer).0, next: true, broken: vec!["one".to_owned()], ..Delta::default() };
        let from = peer.to_owned();
        self.handle(Input::Received { from: from.clone(), message: Message::Delta(delta) });
        let outcome = Outcome { new: 1, ..Outcome::default() };
        asked(&self.handle(Input::Applied { from, outcome }))
    }
}

/// The peers that a newcomer asked, one after the other, as each answered or, if
/// not `answers`, failed. So many of them came up `before` it knew that it is one.
fn asked_by_a_newcomer(answers: bool, before: usize) -> Vec<String> {
    let mut room = Room::new(1);
    let mut found = Vec::new();
    for n in 0..10 {
        if n == before {
            found.extend(asked(&room.handle(Input::Joined)));
        }
        found.extend(asked(&room.handle(Input::PeerUp { peer: format!("{n}.example") })));
    }
    for _ in 0..10 {
        let Some(from) = found.last().cloned() else { break };
        let input = if answers {
            Input::Received { from, message: Message::Delta(Delta::default()) }
        } else {
            Input::PeerDown { peer: from, why: Down::Unreachable }
        };
        found.extend(asked(&room.handle(input)));
    }
    found
}

fn claimed(peer: &str) -> (VersionVector, Digest) {
    claimed_entry(peer, peer)
}

fn claimed_entry(peer: &str, entry: &str) -> (VersionVector, Digest) {
    let mut vector = VersionVector::new();
    let replica = format!("{peer}/5f3c9a1e00d1b2c3").parse().expect("a replica");
    let counter = Counter::new(1_000_000).expect("a counter");
    vector.insert(&replica, Point { counter, id: ChangeId::of(entry.as_bytes()), floor: None });
    let digest = Digest::of(&vector);
    (vector, digest)
}

fn asked(effects: &[Effect]) -> Option<String> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send { to, message: Message::Pull(_) } => Some(to.clone()),
        _ => None,
    })
}

#[test]
fn a_newcomer_asks_the_first_peers_that_come_up_and_each_once() {
    for (answers, before) in [(true, 0), (false, 0), (true, 2), (false, 2)] {
        let mut found = asked_by_a_newcomer(answers, before);
        assert_eq!(found.len(), TIMER_FANOUT, "{found:?}");
        found.sort();
        found.dedup();
        assert_eq!(found.len(), TIMER_FANOUT, "each once");
    }
}

#[test]
fn a_peer_that_drips_its_pages_gives_way_to_another() {
    for seed in 0..20 {
        let mut room = Room::new(seed);
        assert_eq!(asked(&room.claim("slow.example")).as_deref(), Some("slow.example"));
        room.claim("b.example");
        let begun_ms = room.now_ms;
        let next = loop {
            match room.drip("slow.example").expect("somebody is asked") {
                next if next == "slow.example" => {}
                next => break next,
            }
            assert!(room.now_ms - begun_ms < SESSION_MS, "its turn does not end");
        };
        assert_eq!(next, "b.example");
    }
}

#[test]
fn who_is_alone_goes_on_where_it_stopped() {
    let mut room = Room::new(1);
    room.claim("slow.example");
    for _ in 0..2 * SESSION_MS / PULL_TIMEOUT_MS {
        assert_eq!(room.drip("slow.example").as_deref(), Some("slow.example"));
    }
}

#[test]
fn who_claims_what_comes_with_events_meanwhile_is_asked_for_the_next_at_once() {
    let b = "b.example";
    for came_before in [true, false] {
        let mut room = Room::new(1);
        assert_eq!(asked(&room.claim_entry(b, "one")).as_deref(), Some(b));
        if came_before {
            room.came.push(ChangeId::of(b"one"));
        }
        // It has nothing to say that did not come, nor of the next claim.
        let delta = Delta { vector: claimed_entry(b, "one").0, ..Delta::default() };
        let mut found = room.handle(Input::Received { from: b.to_owned(), message: Message::Delta(delta) });
        while asked(&found).is_some() {
            let delta = Delta { vector: claimed_entry(b, "one").0, ..Delta::default() };
            found = room.handle(Input::Received { from: b.to_owned(), message: Message::Delta(delta) });
        }
        room.now_ms += 1_000;
        let next = asked(&room.claim_entry(b, "two"));
        assert_eq!(next.is_some(), came_before, "who claimed what never came waits");
    }
}

#[test]
fn nobody_is_asked_for_what_came_with_events_while_he_was_busy() {
    const BUSY_MS: u64 = 60_000;
    let mut room = Room::new(1);
    assert_eq!(asked(&room.claim("b.example")).as_deref(), Some("b.example"));
    room.handle(Input::PeerDown { peer: "b.example".to_owned(), why: Down::Busy(BUSY_MS) });
    room.came.push(ChangeId::of(b"b.example"));
    room.now_ms += BUSY_MS;
    assert_eq!(asked(&room.handle(Input::Deadline)), None);
}

#[test]
fn who_refuses_or_is_busy_stays_a_peer_and_is_left_alone_as_long_as_is_said() {
    const BUSY_MS: u64 = 60_000;
    let mut room = Room::new(1);
    assert_eq!(asked(&room.claim("b.example")).as_deref(), Some("b.example"));
    let refused = Input::PeerDown { peer: "b.example".to_owned(), why: Down::Busy(BUSY_MS) };
    assert_eq!(asked(&room.handle(refused)), None);
    assert_eq!(room.replicator.is_up("b.example"), Some(true));
    let until_ms = room.now_ms + BUSY_MS;
    let asked_again = loop {
        room.now_ms = room.replicator.next_deadline().expect("something is due");
        if let Some(peer) = asked(&room.handle(Input::Deadline)) {
            break peer;
        }
        assert!(room.now_ms <= until_ms, "it is not asked again");
    };
    assert_eq!(asked_again, "b.example");
    assert!(room.now_ms >= until_ms, "it was to be left alone");
}
