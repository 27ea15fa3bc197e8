//! When a newcomer asks what room state showed before adopted events.
//!
//! - [`run`]: one run of it, a page of events.
//!
//! Not here: how long he tries and what follows from it
//! (`causeway_service::shared_space::pasts`), and how what several servers say is
//! weighed ([`super::voices`]).
//! Invariant: only what a run settles makes the next one come sooner, and an event
//! that has been asked for only a few times.

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
    /// When patience with some event wants the next round.
    next: Option<Instant>,
    /// Rounds in a row that brought nothing.
    idle: u32,
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
    /// How soon patience with one of these wants the next one.
    next: Option<Duration>,
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
        self.start();
        Run { state, room, peers, after: self.after }
    }

    fn start(&mut self) {
        (self.due, self.running) = (None, true);
    }

    /// A run ended; `None`: it failed.
    pub fn ended(&mut self, now: Instant, asked: Option<Asked>) {
        self.running = false;
        let asked = asked.unwrap_or(Asked { lacking: true, ..Asked::default() });
        self.after = asked.after;
        self.pages += 1;
        self.round.learnt |= asked.learnt;
        self.round.lacking |= asked.lacking;
        self.next = self.next.into_iter().chain(asked.next.map(|next| now + next)).min();
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
        let Asked { learnt, lacking, .. } = std::mem::take(&mut self.round);
        let next = self.next.take().map(|next| next.saturating_duration_since(now).max(PAUSE_FIRST));
        self.pages = 0;
        if learnt || !lacking {
            (self.idle, self.paused_until) = (0, None);
            return lacking.then_some(PAUSE_FIRST);
        }
        let rest = self.paused_until.and_then(|until| until.checked_duration_since(now));
        // A round that began earlier makes no later one come later.
        let pause = rest.filter(|rest| !rest.is_zero()).unwrap_or_else(|| {
            self.idle = self.idle.saturating_add(1);
            let pause = PAUSE_FIRST.saturating_mul(1 << self.idle.min(20)).min(PAUSE_LAST);
            self.paused_until = Some(now + pause);
            pause
        });
        Some(next.map_or(pause, |next| next.min(pause)))
    }
}

#[cfg(test)]
mod tests {
    use causeway_service::clock::Clock;

    use super::*;

    #[test]
    fn rounds_in_vain_come_less_and_less_often() {
        let mut now = Clock::System.instant();
        let mut pasts = Pasts::default();
        pasts.ask_soon(now);
        let vain = Asked { lacking: true, ..Asked::default() };
        let mut pauses = Vec::new();
        for _ in 0..6 {
            now = pasts.due().expect("is due");
            pasts.start();
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
        pasts.ended(now, Some(Asked::default()));
        assert_eq!(pasts.due(), Some(now + ASK_AFTER));
        pasts.start();
        pasts.ended(now, Some(Asked::default()));
        assert_eq!(pasts.due(), None, "nothing is lacking");
    }

    #[test]
    fn news_make_no_later_round_come_later() {
        let mut now = Clock::System.instant();
        let mut pasts = Pasts::default();
        let vain = Asked { lacking: true, ..Asked::default() };
        pasts.start();
        pasts.ended(now, Some(vain));
        let due = pasts.due();
        for _ in 0..60 {
            pasts.ask_soon(now);
            pasts.start();
            now += Duration::from_millis(1);
            pasts.ended(now, Some(vain));
            assert_eq!(pasts.due(), due);
        }
    }

    #[test]
    fn an_event_that_is_new_waits_for_no_pause_that_others_brought_about() {
        let mut now = Clock::System.instant();
        let mut pasts = Pasts::default();
        let vain = Asked { lacking: true, ..Asked::default() };
        for _ in 0..12 {
            pasts.start();
            pasts.ended(now, Some(vain));
            now = pasts.due().expect("goes on");
        }
        pasts.start();
        pasts.ended(now, Some(vain));
        let late = pasts.due().expect("goes on");
        assert!(late >= now + PAUSE_LAST);
        let soon = Duration::from_secs(8);
        for (next, due) in [(Some(soon), now + soon), (Some(Duration::ZERO), now + PAUSE_FIRST), (None, late)]
        {
            pasts.start();
            pasts.ended(now, Some(Asked { next, ..vain }));
            assert_eq!(pasts.due(), Some(due), "{next:?}");
        }
    }

    #[test]
    fn a_long_list_is_gone_through_in_stretches() {
        let now = Clock::System.instant();
        let mut pasts = Pasts::default();
        let page = Asked { after: Some(ChangeId::of(b"somewhere")), lacking: true, ..Asked::default() };
        for number in 1..=PAGES_MAX {
            pasts.start();
            pasts.ended(now, Some(page));
            let pause: Duration = pasts.due().expect("goes on") - now;
            assert_eq!(pause > ASK_AFTER, number == PAGES_MAX, "page {number}");
        }
    }
}
