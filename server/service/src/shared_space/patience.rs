//! How long a newcomer goes on asking what was before one adopted event.
//!
//! Not here: asking, and what follows from the answer ([`super::pasts`]).
//! Invariants: what is asked, or becomes known, of other events makes the patience
//! with one neither shorter nor longer than its bounds; and who has none left, has none
//! for good.

use causeway_storage::shared_space::pasts::{PastRow, Patience};

/// Times that nobody could tell anything, after which the adoption counts without what
/// it names: to hide a value for ever would be worse.
const TRIES: u32 = 6;
/// Pause before the next one that counts, in milliseconds: it doubles. Or whoever makes
/// it asked for often could have patience end before others can answer.
const PAUSE_FIRST_MS: u64 = 4_000;
/// When it ends though something of others becomes known again and again, in
/// milliseconds.
const LONGEST_MS: u64 = 60 * 60 * 1000;

/// Whether a try that begins now is the last one.
pub(super) fn is_over(row: Option<&PastRow>, now_ms: u64) -> bool {
    match row {
        Some(PastRow::Untold) => true,
        Some(PastRow::Asked(patience)) => {
            let is_next = patience.vain + 1 >= TRIES && patience.next_ms <= now_ms;
            is_next || patience.since_ms.saturating_add(LONGEST_MS) <= now_ms
        }
        Some(PastRow::Shown(_) | PastRow::Nothing) | None => false,
    }
}

/// What is left after a try that was not the last one; `in_vain`: it brought nothing of
/// any event.
pub(super) fn after_try(row: Option<&PastRow>, now_ms: u64, in_vain: bool) -> Patience {
    let new = Patience { vain: 0, since_ms: now_ms, next_ms: now_ms };
    let known = match row {
        // A clock that was put back keeps nobody waiting.
        Some(PastRow::Asked(patience)) if patience.since_ms <= now_ms => Some(*patience),
        _ => None,
    };
    let patience = known.unwrap_or(new);
    if !in_vain || patience.next_ms > now_ms {
        return patience;
    }
    let pause_ms = PAUSE_FIRST_MS.saturating_mul(1 << patience.vain.min(TRIES));
    Patience { vain: patience.vain + 1, next_ms: now_ms.saturating_add(pause_ms), ..patience }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The row of an event after one more try at this time; `None` after the last one.
    fn tried(row: Option<&PastRow>, now_ms: u64, in_vain: bool) -> Option<PastRow> {
        (!is_over(row, now_ms)).then(|| PastRow::Asked(after_try(row, now_ms, in_vain)))
    }

    /// When patience ends with tries all these milliseconds.
    fn ends(step_ms: u64, in_vain: impl Fn(u64) -> bool) -> u64 {
        let (mut row, mut now_ms) = (None, 1_000);
        while let Some(next) = tried(row.as_ref(), now_ms, in_vain(now_ms)) {
            row = Some(next);
            now_ms += step_ms;
        }
        now_ms - 1_000
    }

    #[test]
    fn it_ends_after_some_tries_and_not_sooner_by_more_of_them() {
        assert_eq!(ends(4_000, |_| true), (4 + 8 + 16 + 32 + 64) * 1_000);
        assert_eq!(ends(500, |_| true), (4 + 8 + 16 + 32 + 64) * 1_000);
        assert_eq!(ends(LONGEST_MS, |_| true), LONGEST_MS, "nor much later");
    }

    #[test]
    fn what_becomes_known_of_others_puts_it_off_only_so_long() {
        assert_eq!(ends(2_000, |_| false), LONGEST_MS);
        let mixed = ends(2_000, |now_ms| now_ms % 60_000 < 30_000);
        assert!(mixed < 10 * 60_000, "what was in vain stays so: {mixed}");
    }

    #[test]
    fn what_nobody_knew_is_asked_for_without_patience_and_a_clock_may_be_put_back() {
        assert!(is_over(Some(&PastRow::Untold), 0) && !is_over(None, u64::MAX));
        let row = PastRow::Asked(after_try(None, LONGEST_MS, true));
        assert_eq!(after_try(Some(&row), 5, true), after_try(None, 5, true));
    }
}
