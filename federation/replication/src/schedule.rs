//! When things happen: back-off, the timer, jitter.
//!
//! Time is a number of milliseconds that only has to go forward; randomness is
//! a seed. Both are arguments, so that a schedule can be played again.

use crate::limits::{BACKOFF_LAST_MS, TIMER_FIRST_MS, TIMER_LAST_MS};

/// A small generator for jitter and for picking peers (splitmix64). Not for
/// secrets.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        match bound {
            0 => 0,
            bound => self.next() % bound,
        }
    }

    /// Between three and five quarters of `ms`.
    pub(crate) fn jitter(&mut self, ms: u64) -> u64 {
        ms - ms / 4 + self.below(ms / 2 + 1)
    }

    /// At most `count` elements of a list, each as likely as the other.
    pub(crate) fn pick<T>(&mut self, mut from: Vec<T>, count: usize) -> Vec<T> {
        let mut picked = Vec::with_capacity(count.min(from.len()));
        while picked.len() < count && !from.is_empty() {
            let at = self.below(from.len() as u64);
            picked.push(from.swap_remove(usize::try_from(at).unwrap_or(0)));
        }
        picked
    }
}

/// A wait that doubles.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    wait_ms: u64,
    until_ms: u64,
}

impl Backoff {
    /// Not now, and longer each time.
    pub(crate) fn grow(&mut self, now_ms: u64, first_ms: u64, dice: &mut Dice) {
        self.wait_ms = (self.wait_ms * 2).clamp(first_ms, BACKOFF_LAST_MS);
        self.hold(now_ms + dice.jitter(self.wait_ms));
    }

    /// Not before a given time.
    pub(crate) fn hold(&mut self, until_ms: u64) {
        self.until_ms = self.until_ms.max(until_ms);
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn over(&self, now_ms: u64) -> bool {
        self.until_ms <= now_ms
    }

    pub(crate) fn until_ms(&self) -> u64 {
        self.until_ms
    }
}

/// The timer of advertisements: a minute after traffic, doubling to an hour.
#[derive(Clone, Debug)]
#[expect(clippy::struct_field_names, reason = "units go last in a name")]
pub(crate) struct Timer {
    first_ms: u64,
    last_ms: u64,
    interval_ms: u64,
    due_ms: u64,
}

impl Timer {
    pub(crate) fn new() -> Self {
        Self::between(TIMER_FIRST_MS, TIMER_LAST_MS)
    }

    /// Other intervals than the usual ones.
    pub(crate) fn between(first_ms: u64, last_ms: u64) -> Self {
        let first_ms = first_ms.max(1);
        Self { first_ms, last_ms: last_ms.max(first_ms), interval_ms: first_ms, due_ms: 0 }
    }

    /// Something changed: the next round is the first interval from now, unless one comes
    /// sooner.
    pub(crate) fn traffic(&mut self, now_ms: u64, dice: &mut Dice) {
        let restart = self.interval_ms > self.first_ms || self.due_ms == 0;
        self.interval_ms = self.first_ms;
        let due = now_ms + dice.jitter(self.first_ms);
        if restart && (self.due_ms == 0 || due < self.due_ms) {
            self.due_ms = due;
        }
    }

    /// Whether the round is due; the next one is then set. A timer that was
    /// never started starts.
    pub(crate) fn ring(&mut self, now_ms: u64, dice: &mut Dice) -> bool {
        if self.due_ms == 0 {
            self.due_ms = now_ms + dice.jitter(self.first_ms);
        }
        if now_ms < self.due_ms {
            return false;
        }
        self.interval_ms = (self.interval_ms * 2).min(self.last_ms);
        self.due_ms = now_ms + dice.jitter(self.interval_ms);
        true
    }

    pub(crate) fn due_ms(&self) -> u64 {
        self.due_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::FAILURE_FIRST_MS;

    #[test]
    fn a_backoff_doubles_to_its_bound_and_clears() {
        let (mut backoff, mut dice) = (Backoff::default(), Dice::new(1));
        assert!(backoff.over(0));
        backoff.grow(0, FAILURE_FIRST_MS, &mut dice);
        let first = backoff.until_ms();
        assert!((FAILURE_FIRST_MS * 3 / 4..=FAILURE_FIRST_MS * 5 / 4).contains(&first), "{first}");
        assert!(!backoff.over(first - 1) && backoff.over(first));
        for _ in 0..40 {
            backoff.grow(0, FAILURE_FIRST_MS, &mut dice);
        }
        assert!(backoff.until_ms() <= BACKOFF_LAST_MS * 5 / 4);
        backoff.clear();
        assert!(backoff.over(0));
    }

    #[test]
    fn the_timer_doubles_in_a_quiet_room_and_starts_again_with_traffic() {
        let (mut timer, mut dice) = (Timer::new(), Dice::new(7));
        assert!(!timer.ring(1_000, &mut dice));
        let mut last = 0;
        for _ in 0..12 {
            let now = timer.due_ms();
            assert!(timer.ring(now, &mut dice));
            last = timer.due_ms() - now;
        }
        assert!(last >= TIMER_LAST_MS * 3 / 4, "{last}");
        let now = timer.due_ms() - last + 1;
        timer.traffic(now, &mut dice);
        assert!(timer.due_ms() <= now + TIMER_FIRST_MS * 5 / 4);
    }

    #[test]
    fn picking_takes_no_more_than_there_is_and_none_twice() {
        let mut dice = Dice::new(3);
        let mut picked = dice.pick((0..10).collect(), 20);
        picked.sort_unstable();
        assert_eq!(picked, (0..10).collect::<Vec<_>>());
        assert_eq!(dice.pick(vec![1, 2, 3, 4], 2).len(), 2);
        assert_eq!(dice.below(0), 0);
    }
}
