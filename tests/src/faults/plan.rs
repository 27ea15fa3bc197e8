//! Which faults, when: from a seed, one after the other for each server and for each link,
//! with pauses between them.

use std::time::Duration;

use crate::{dice::Dice, link::Cut};

/// Between two faults of one server or link, ms: at least, and what is added at random.
const PAUSE_MS: (usize, usize) = (4_000, 16_000);
/// How long a link is bad.
const LINK_MS: (usize, usize) = (3_000, 15_000);
/// How long a server is down.
const DOWN_MS: (usize, usize) = (500, 7_000);
/// Of a hundred packets of a bad link, as many get lost, at most.
const LOSS_MAX: usize = 30;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Two servers can't reach each other.
    Cut(usize, usize, Cut),
    /// So many of a hundred packets between them get lost.
    Loss(usize, usize, usize),
    /// The line to a server is slow.
    Slow(usize),
    /// A server is told to end, and started again.
    Restart(usize),
    /// A server is killed, and started again.
    Kill(usize),
}

impl Fault {
    /// The server that it happens to; or the link, by both ends.
    pub fn place(self) -> (usize, Option<usize>) {
        match self {
            Self::Cut(a, b, _) | Self::Loss(a, b, _) => (a, Some(b)),
            Self::Slow(a) | Self::Restart(a) | Self::Kill(a) => (a, None),
        }
    }
}

/// A fault and its time, from the start.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// What.
    pub fault: Fault,
    /// When it begins.
    pub from: Duration,
    /// When it is mended.
    pub until: Duration,
}

/// The faults of a run between `servers` servers, in the order of their beginning.
pub fn make(seed: u64, seconds: u64, servers: usize) -> Vec<Planned> {
    let mut dice = Dice::new(seed);
    let end = usize::try_from(seconds * 1_000).unwrap_or(usize::MAX);
    let mut plan = Vec::new();
    for a in 0..servers {
        lane(&mut dice, end, &mut plan, |dice| match dice.below(5) {
            0 | 1 => (Fault::Kill(a), DOWN_MS),
            2 => (Fault::Restart(a), DOWN_MS),
            _ => (Fault::Slow(a), LINK_MS),
        });
        for b in a + 1..servers {
            lane(&mut dice, end, &mut plan, |dice| {
                let fault = match dice.below(4) {
                    0 => Fault::Cut(a, b, Cut::Refused),
                    1 => Fault::Loss(a, b, 1 + dice.below(LOSS_MAX)),
                    _ => Fault::Cut(a, b, Cut::Silent),
                };
                (fault, LINK_MS)
            });
        }
    }
    plan.sort_by_key(|planned| planned.from);
    plan
}

/// One fault after the other until the end.
fn lane(
    dice: &mut Dice,
    end: usize,
    plan: &mut Vec<Planned>,
    fault: impl Fn(&mut Dice) -> (Fault, (usize, usize)),
) {
    let mut at = dice.below(PAUSE_MS.1);
    while at < end {
        let (fault, (least, more)) = fault(dice);
        let until = (at + least + dice.below(more)).min(end);
        let time = |ms: usize| Duration::from_millis(ms as u64);
        plan.push(Planned { fault, from: time(at), until: time(until) });
        at = until + PAUSE_MS.0 + dice.below(PAUSE_MS.1);
    }
}
