//! When a newcomer asks what room state showed before adopted events, and how
//! long he tries.
//!
//! - [`run`]: one run of it, a page of events.
//!
//! Not here: what follows from it (`causeway_service::shared_space::pasts`), and
//! how what several servers say is weighed ([`super::voices`]).
//! Invariant: only what a run settles makes the next one come sooner.

mod run;

use std::time::{Duration, Instant};

use causeway_shared_space::ChangeId;
use ruma::{OwnedRoomId, OwnedServerName};

use self::run::Run;
use crate::state::FederationState;

/// What an entry is about may be on its way when the entry comes.
const ASK_AFTER: Duration = Duration::from_millis(500);
/// Pauses after a run in which something stayed unknown: they double.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
const PAUSE_LAST: Duration = Duration::from_hours(1);
/// Runs in which nobody could tell anything, after which the adoptions count
/// without what they name: to hide a value for ever would be worse.
const PATIENCE: u32 = 6;
/// Pages asked about in a row.
const PAGES_MAX: u32 = 20;

/// When a room's task asks, and where it goes on.
#[derive(Debug, Default)]
pub struct Pasts {
    due: Option<Instant>,
    running: bool,
    /// Something came in during a run.
    again: bool,
    /// The last entry that was looked at.
    after: Option<ChangeId>,
    pages: u32,
    /// What the pages of this round came to so far.
    round: Asked,
    /// Rounds in a row that brought nothing; and those among them in which somebody answered.
    idle: u32,
    vain: u32,
    /// When the pause after the last round of these is over.
    paused_until: Option<Instant>,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Where the next one goes on; `None` at the end.
    after: Option<ChangeId>,
    /// Something is not lacking any more.
    learnt: bool,
    /// Something stayed unknown.
    lacking: bool,
    /// Somebody answered.
    answered: bool,
}

impl Pasts {
    /// When a run is due.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Entries came in, or a server that may know something: asks soon.
    pub fn ask_soon(&mut self, now: Instant) {
        self.again |= self.running;
        if !self.running {
            let soon = now + ASK_AFTER;
            self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
        }
    }

    /// A run over the next page.
    pub fn begin(&mut self, state: FederationState, room: OwnedRoomId, peers: Vec<OwnedServerName>) -> Run {
        let last_try = self.start();
        Run { state, room, peers, after: self.after, last_try }
    }

    /// Whether it is the last try.
    fn start(&mut self) -> bool {
        (self.due, self.running) = (None, true);
        self.vain + 1 >= PATIENCE
    }

    /// A run ended; `None`: it failed.
    pub fn ended(&mut self, now: Instant, asked: Option<Asked>) {
        self.running = false;
        let asked = asked.unwrap_or(Asked { lacking: true, ..Asked::default() });
        self.after = asked.after;
        self.pages += 1;
        self.round.learnt |= asked.learnt;
        self.round.lacking |= asked.lacking;
        self.round.answered |= asked.answered;
        let pause = match self.after {
            Some(_) if self.pages.is_multiple_of(PAGES_MAX) => Some(PAUSE_FIRST),
            Some(_) => Some(ASK_AFTER),
            None => self.round_ended(now),
        };
        self.due = pause.map(|pause| now + pause);
        if std::mem::take(&mut self.again) {
            self.ask_soon(now);
        }
    }

    /// The pause before the next round; `None` if there is nothing to ask for.
    fn round_ended(&mut self, now: Instant) -> Option<Duration> {
        let Asked { learnt, lacking, answered, .. } = std::mem::take(&mut self.round);
        self.pages = 0;
        if learnt || !lacking {
            (self.idle, self.vain, self.paused_until) = (0, 0, None);
            return lacking.then_some(PAUSE_FIRST);
        }
        // A round that only news made begin early uses up no patience.
        if let Some(rest) = self.paused_until.and_then(|until| until.checked_duration_since(now))
            && !rest.is_zero()
        {
            return Some(rest);
        }
        self.idle = self.idle.saturating_add(1);
        self.vain = self.vain.saturating_add(u32::from(answered));
        let pause = PAUSE_FIRST.saturating_mul(1 << self.idle.min(20)).min(PAUSE_LAST);
        self.paused_until = Some(now + pause);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use causeway_service::clock::Clock;

    use super::*;

    #[test]
    fn rounds_in_vain_come_less_and_less_often_and_the_last_one_settles_it() {
        let mut now = Clock::System.instant();
        let mut pasts = Pasts::default();
        pasts.ask_soon(now);
        let vain = Asked { lacking: true, answered: true, ..Asked::default() };
        let mut pauses = Vec::new();
        for round in 1..=PATIENCE {
            now = pasts.due().expect("is due");
            assert_eq!(pasts.start(), round == PATIENCE);
            assert_eq!(pasts.due(), None, "one run at a time");
            pasts.ended(now, Some(vain));
            pauses.push(pasts.due().expect("goes on") - now);
        }
        assert!(pauses.is_sorted() && pauses[0] < pauses[1]);
        // Who knows something may have come; what came in during a run is not missed.
        pasts.ask_soon(now);
        assert_eq!(pasts.due(), Some(now + ASK_AFTER));
        pasts.start();
        pasts.ask_soon(now);
        pasts.ended(now, Some(Asked { answered: true, ..Asked::default() }));
        assert_eq!(pasts.due(), Some(now + ASK_AFTER));
        assert!(!pasts.start(), "patience begins anew");
        pasts.ended(now, Some(Asked::default()));
        assert_eq!(pasts.due(), None, "nothing is lacking");
    }

    #[test]
    fn news_use_up_no_patience() {
        let mut now = Clock::System.instant();
        let mut pasts = Pasts::default();
        let vain = Asked { lacking: true, answered: true, ..Asked::default() };
        pasts.start();
        pasts.ended(now, Some(vain));
        let due = pasts.due();
        for _ in 0..10 * PATIENCE {
            pasts.ask_soon(now);
            assert!(!pasts.start(), "nobody's patience ends by what somebody else sends");
            now += Duration::from_millis(1);
            pasts.ended(now, Some(vain));
            assert_eq!(pasts.due(), due);
        }
    }

    #[test]
    fn a_long_list_is_gone_through_in_stretches() {
        let now = Clock::System.instant();
        let mut pasts = Pasts::default();
        let page = Asked {
            after: Some(ChangeId::of(b"somewhere")),
            lacking: true,
            answered: true,
            ..Asked::default()
        };
        for number in 1..=PAGES_MAX {
            assert!(!pasts.start());
            pasts.ended(now, Some(page));
            let pause: Duration = pasts.due().expect("goes on") - now;
            assert_eq!(pause > ASK_AFTER, number == PAGES_MAX, "page {number}");
        }
    }
}
