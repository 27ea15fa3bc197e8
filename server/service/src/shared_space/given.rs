//! What a device has been given, from the answers of /sync that it acknowledged.
//!
//! Not stored for each item. A device has stretches of the stream that it was
//! given (one, if it never lost its token), and for each room what was left out
//! of them, with the state that came instead. From this follows which of an
//! item's live changes it was given.
//!
//! Invariant: says "given" only of an event that was in an acknowledged answer.
//! Whatever is forgotten or unsure counts as not given: that costs a false
//! conflict; the opposite would lose a write.

use causeway_storage::shared_space::devices::{Answer, DeviceRow, LeftOut};

/// Stretches remembered for a device; the oldest is forgotten first.
pub const STRETCHES_MAX: usize = 8;

/// Stretches left out of a room that are told apart; the oldest are merged.
pub const LEFT_OUT_MAX: usize = 8;

/// Answers that may be unacknowledged; the oldest is forgotten first. More than
/// one because a device may retry, or poll from two windows.
pub const PENDING_MAX: usize = 8;

/// Notes an answer that is being sent.
pub fn sent(row: &mut DeviceRow, answer: Answer) {
    row.pending.push(answer);
    if row.pending.len() > PENDING_MAX {
        row.pending.remove(0);
    }
}

/// The device showed the token of position `since`: it has the answer that
/// ended there. What that left out is returned, to be added to the rooms.
///
/// An answer with a lower token that was never shown may have been lost.
pub fn acknowledged(row: &mut DeviceRow, since: u64) -> Vec<Answer> {
    let (shown, rest): (Vec<_>, Vec<_>) =
        std::mem::take(&mut row.pending).into_iter().partition(|answer| answer.up_to == since);
    row.pending = rest.into_iter().filter(|answer| answer.up_to > since).collect();
    // Two answers with one token may differ: only what both gave is sure.
    if let Some(after) = shown.iter().map(|answer| answer.after).max() {
        extend(&mut row.given, after, since);
    }
    shown
}

fn extend(stretches: &mut Vec<(u64, u64)>, after: u64, up_to: u64) {
    match stretches.iter_mut().rev().find(|(from, to)| *from <= after && after <= *to) {
        Some((_, to)) => *to = up_to.max(*to),
        None => stretches.push((after, up_to)),
    }
    if stretches.len() > STRETCHES_MAX {
        stretches.remove(0);
    }
}

/// Adds what was left out of a room. Past the bound the two oldest become one,
/// which gives away nothing: only the later state counts, and what lay between
/// them counts as left out.
pub fn leave_out(rows: &mut Vec<LeftOut>, new: LeftOut) {
    if rows.contains(&new) {
        return;
    }
    rows.push(new);
    if rows.len() > LEFT_OUT_MAX {
        let oldest = rows.remove(0);
        let next = &mut rows[0];
        next.after = next.after.min(oldest.after);
        next.up_to = next.up_to.max(oldest.up_to);
    }
}

/// Whether the device was given the event at `position` of a room; `in_state`
/// says whether that event was in the state that was current at a position.
pub fn was_given(
    stretches: &[(u64, u64)],
    left_out: &[LeftOut],
    position: u64,
    mut in_state: impl FnMut(u64) -> bool,
) -> bool {
    let covers = |after: u64, up_to: u64| after < position && position <= up_to;
    let in_stream = stretches.iter().any(|(after, up_to)| covers(*after, *up_to))
        && !left_out.iter().any(|left_out| covers(left_out.after, left_out.up_to));
    in_stream || left_out.iter().filter_map(|left_out| left_out.state).any(&mut in_state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(after: u64, up_to: u64) -> Answer {
        Answer { after, up_to, left_out: Vec::new() }
    }

    fn left_out(after: u64, up_to: u64, state: Option<u64>) -> LeftOut {
        LeftOut { after, up_to, state }
    }

    #[test]
    fn syncs_in_a_row_stay_one_stretch() {
        let mut row = DeviceRow::default();
        sent(&mut row, answer(10, 10));
        assert!(row.given.is_empty(), "not before it is acknowledged");
        acknowledged(&mut row, 10);
        for token in 11..200 {
            sent(&mut row, answer(token - 1, token));
            assert_eq!(acknowledged(&mut row, token).len(), 1);
        }
        assert_eq!(row.given, [(10, 199)]);
        assert!(was_given(&row.given, &[], 199, |_| false) && !was_given(&row.given, &[], 200, |_| false));
        // What came before was given only as state.
        let initial = [left_out(0, 10, Some(10))];
        assert!(was_given(&row.given, &initial, 3, |at| at == 10));
        assert!(!was_given(&row.given, &initial, 3, |_| false));
    }

    #[test]
    fn a_gap_is_not_given_unless_its_state_was() {
        let given = [(0, 50)];
        let gap = [left_out(10, 40, Some(40))];
        assert!(was_given(&given, &gap, 9, |_| false));
        assert!(!was_given(&given, &gap, 20, |_| false), "fell into the gap");
        assert!(was_given(&given, &gap, 20, |at| at == 40), "was state when the gap ended");
        assert!(was_given(&given, &gap, 45, |_| false));
    }

    #[test]
    fn an_answer_that_was_never_acknowledged_does_not_count() {
        let mut row = DeviceRow::default();
        sent(&mut row, answer(0, 10));
        sent(&mut row, answer(10, 12));
        assert_eq!(acknowledged(&mut row, 12).len(), 1);
        assert!(row.pending.is_empty());
        assert_eq!(row.given, [(10, 12)]);
        sent(&mut row, answer(12, 20));
        assert!(acknowledged(&mut row, 19).is_empty());
        assert!(!was_given(&row.given, &[], 15, |_| false));
    }

    #[test]
    fn forgetting_never_turns_left_out_into_given() {
        let mut rows = Vec::new();
        for n in 0..50 {
            leave_out(&mut rows, left_out(n * 10, n * 10 + 5, None));
        }
        assert_eq!(rows.len(), LEFT_OUT_MAX);
        assert!((0..50).all(|n| !was_given(&[(0, 1000)], &rows, n * 10 + 3, |_| false)));
    }
}
