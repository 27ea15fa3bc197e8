//! What a device has been given of a room: the rule behind the promise that an
//! ordinary client's write is a conflict only if its device had not been given
//! what it overwrites.
//!
//! # The rule
//! A device *was given* an item event if an answer held it, after filters and
//! lazy loading, and the device then presented the token of that answer, or of
//! a later one that followed from it, as its `since`. It is derived from three
//! things that don't grow with the number of items: the acknowledged position;
//! for each room the position above which nothing was left out; and the state
//! (a root of the state tree) that came along when the room was new or had a
//! gap.
//!
//! # Generations
//! Whenever an answer says something that a position can't tell (a room that is
//! new to the device, a gap, a filter that may hide items) its token gets a new
//! *generation*, a number that is never given twice, to any device. What it
//! said is *pending* until that token comes back, and dropped when a token of
//! another answer comes back instead. Within a generation every answer
//! continues the one before without a gap, so (generation, position) tells
//! exactly what led to a token. A client that goes back to an older token it
//! had stored loses what came later, and nothing else.
//!
//! # Conservative
//! What is forgotten, unknown (a token of another device, of an abandoned
//! answer, of before a restore) or possible to have been hidden counts as not
//! given. That costs a false conflict; the opposite would lose a write. Two
//! connections of one device that sync at the same time take each other's
//! acknowledgements for steps back: they are given less, never more.

use causeway_storage::{
    StreamPosition,
    sync_progress::{GivenRoom, PendingAnswer, Progress},
};
use ruma::{OwnedRoomId, RoomId};

use super::token::SyncToken;

/// Answers with a new generation that may wait for their acknowledgement; the
/// oldest are dropped first.
pub const PENDING_MAX: usize = 4;

/// Generations that a client may go back to.
pub const LINEAGE_MAX: usize = 16;

/// A stretch of a room that a device was given whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// All item events of the timeline above this position …
    pub after: u64,
    /// … and up to this one, which the device acknowledged.
    pub up_to: u64,
    /// Hexadecimal root of a state whose item events it was given as well.
    pub state: Option<String>,
}

/// What a `since` does to what is known of a device.
#[derive(Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// Nothing new.
    Same,
    /// The device went on; rooms to be written.
    Onward(Vec<(OwnedRoomId, GivenRoom)>),
    /// The device went back: of rooms with a row of a later generation than
    /// this one it is unknown what it was given: see [`unknown_room`].
    Back(u64),
    /// An unknown token: all rows are to be deleted.
    Unknown,
    /// The same, and these rows written then: an answer to an unknown token was acknowledged.
    Afresh(Vec<(OwnedRoomId, GivenRoom)>),
}

/// Takes note of the token that a device presents.
pub fn acknowledge(progress: &mut Progress, since: SyncToken) -> Acknowledgement {
    let position = StreamPosition(since.position);
    let before = (progress.acknowledged, progress.generation);
    if let Some(at) = progress.pending.iter().position(|answer| answer.generation == since.generation) {
        let answer = progress.pending.swap_remove(at);
        progress.pending.clear();
        progress.acknowledged = position;
        progress.generation = since.generation;
        if answer.floor.is_some() {
            progress.floor = answer.floor;
            progress.lineage = vec![since.generation];
            return Acknowledgement::Afresh(answer.rooms);
        }
        progress.lineage.push(since.generation);
        if progress.lineage.len() > LINEAGE_MAX {
            progress.lineage.remove(0);
        }
        return Acknowledgement::Onward(answer.rooms);
    }
    if !progress.lineage.contains(&since.generation) {
        *progress = Progress { acknowledged: position, floor: Some(position), ..Progress::default() };
        return Acknowledgement::Unknown;
    }
    progress.acknowledged = position;
    progress.generation = since.generation;
    match before {
        before if before == (position, since.generation) => Acknowledgement::Same,
        (acknowledged, generation) if generation == since.generation && acknowledged <= position => {
            progress.pending.clear();
            Acknowledgement::Onward(Vec::new())
        }
        _ => {
            progress.pending.clear();
            progress.lineage.retain(|generation| *generation <= since.generation);
            Acknowledgement::Back(since.generation)
        }
    }
}

/// Replaces the row of a room of which only later answers told.
pub fn unknown_room(progress: &Progress) -> GivenRoom {
    GivenRoom { generation: progress.generation, state: None, from: progress.acknowledged }
}

/// What one answer told of one room, where a position alone would not say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Nothing of the timeline above this position was left out.
    pub from: u64,
    /// The state that came along.
    pub state: ToldState,
}

/// What an answer said of a room's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToldState {
    /// All of it, as of this (hexadecimal) root.
    Whole(String),
    /// What changed up to this root; whole only for a device that had a whole state.
    Changes(String),
    /// Nothing that could be relied on.
    Hidden,
}

/// Notes an answer to a request with `since`, and says the generation of its
/// token. `fresh` is a generation that was never used, taken if needed.
/// `known` finds what the device was given so far.
pub fn answer(
    progress: &mut Progress,
    since: Option<SyncToken>,
    told: Vec<Told>,
    known: impl Fn(&RoomId) -> Option<GivenRoom>,
    fresh: u64,
) -> u64 {
    let lost = since.is_none_or(|since| !progress.lineage.contains(&since.generation));
    if told.is_empty() && !lost {
        return progress.generation;
    }
    let rooms = told.into_iter().map(|told| {
        let known = if lost { None } else { known(&told.room_id) };
        let state = match (told.state, known.and_then(|known| known.state)) {
            (ToldState::Whole(root), _) | (ToldState::Changes(root), Some(_)) => Some(root),
            (ToldState::Changes(_), None) => None,
            (ToldState::Hidden, before) => before,
        };
        (told.room_id, GivenRoom { generation: fresh, state, from: StreamPosition(told.from) })
    });
    let floor = lost.then(|| StreamPosition(since.map_or(u64::MAX, |since| since.position)));
    let pending = PendingAnswer { generation: fresh, floor, rooms: rooms.collect() };
    progress.pending.push(pending);
    if progress.pending.len() > PENDING_MAX {
        progress.pending.remove(0);
    }
    fresh
}

/// What the device was given of a room.
pub fn given(progress: &Progress, room: Option<GivenRoom>) -> Option<Given> {
    let up_to = progress.acknowledged.0;
    let (after, state) = match room {
        Some(room) => (room.from.0, room.state),
        None => (progress.floor?.0, None),
    };
    (after < up_to || state.is_some()).then_some(Given { after, up_to: up_to.max(after), state })
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::HashMap};

    use ruma::room_id;

    use super::*;

    /// A device, its rows and a client that keeps tokens.
    #[derive(Default)]
    struct Device {
        progress: Progress,
        rows: RefCell<HashMap<OwnedRoomId, GivenRoom>>,
        fresh: u64,
    }

    fn room() -> OwnedRoomId {
        room_id!("!a:b.c").to_owned()
    }

    fn told(from: u64, state: ToldState) -> Vec<Told> {
        vec![Told { room_id: room(), from, state }]
    }

    fn whole(root: &str) -> ToldState {
        ToldState::Whole(root.to_owned())
    }

    fn changes(root: &str) -> ToldState {
        ToldState::Changes(root.to_owned())
    }

    impl Device {
        fn sync(&mut self, since: Option<SyncToken>, until: u64, told: Vec<Told>) -> SyncToken {
            if let Some(since) = since {
                let acknowledgement = acknowledge(&mut self.progress, since);
                let mut rows = self.rows.borrow_mut();
                match acknowledgement {
                    Acknowledgement::Same => {}
                    Acknowledgement::Onward(new) => rows.extend(new),
                    Acknowledgement::Afresh(new) => *rows = new.into_iter().collect(),
                    Acknowledgement::Unknown => rows.clear(),
                    Acknowledgement::Back(generation) => {
                        for row in rows.values_mut().filter(|row| row.generation > generation) {
                            *row = unknown_room(&self.progress);
                        }
                    }
                }
            }
            self.fresh += 1;
            let known = |room_id: &RoomId| self.rows.borrow().get(room_id).cloned();
            let generation = answer(&mut self.progress, since, told, known, self.fresh);
            SyncToken { position: until, typing: 0, generation }
        }

        fn given(&self) -> Option<(u64, u64, Option<String>)> {
            let row = self.rows.borrow().get(&room()).cloned();
            given(&self.progress, row).map(|given| (given.after, given.up_to, given.state))
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "compared with an Option")]
    fn some(after: u64, up_to: u64, state: Option<&str>) -> Option<(u64, u64, Option<String>)> {
        Some((after, up_to, state.map(str::to_owned)))
    }

    #[test]
    fn nothing_counts_before_it_is_acknowledged() {
        let mut device = Device::default();
        let first = device.sync(None, 10, told(5, whole("r5")));
        assert_eq!(device.given(), None);
        let second = device.sync(Some(first), 20, vec![]);
        assert_eq!(device.given(), some(5, 10, Some("r5")));
        device.sync(Some(second), 30, vec![]);
        assert_eq!(device.given(), some(5, 20, Some("r5")));
        device.sync(Some(second), 31, vec![]);
        assert_eq!(device.given(), some(5, 20, Some("r5")), "a retry acknowledges nothing new");
    }

    #[test]
    fn a_gap_leaves_the_state_that_followed_it() {
        let mut device = Device::default();
        let token = device.sync(None, 10, told(5, whole("r5")));
        let token = device.sync(Some(token), 100, told(90, changes("r90")));
        device.sync(Some(token), 101, vec![]);
        assert_eq!(device.given(), some(90, 100, Some("r90")));
    }

    #[test]
    fn a_filter_that_hides_leaves_what_was_given_before() {
        let mut device = Device::default();
        let token = device.sync(None, 10, told(5, whole("r5")));
        let token = device.sync(Some(token), 100, told(100, ToldState::Hidden));
        let token = device.sync(Some(token), 110, vec![]);
        device.sync(Some(token), 110, vec![]);
        assert_eq!(device.given(), some(100, 110, Some("r5")));
    }

    #[test]
    fn changes_are_no_whole_state_to_one_who_had_none() {
        let mut device = Device::default();
        let token = device.sync(None, 10, told(10, ToldState::Hidden));
        let token = device.sync(Some(token), 100, told(90, changes("r90")));
        device.sync(Some(token), 100, vec![]);
        assert_eq!(device.given(), some(90, 100, None));
    }

    #[test]
    fn an_abandoned_answer_never_counts() {
        let mut device = Device::default();
        let base = device.sync(None, 10, told(10, ToldState::Hidden));
        device.sync(Some(base), 20, vec![]);
        let lost = device.sync(Some(base), 90, told(80, whole("r80")));
        let received = device.sync(Some(base), 95, vec![]);
        device.sync(Some(received), 96, vec![]);
        assert_eq!(device.given(), some(10, 95, None));
        device.sync(Some(lost), 97, vec![]);
        assert_eq!(device.given(), None, "its token is unknown by now");
    }

    #[test]
    fn a_client_that_goes_back_loses_what_came_later() {
        let mut device = Device::default();
        let first = device.sync(None, 10, told(5, whole("r5")));
        let stored = device.sync(Some(first), 20, vec![]);
        let later = device.sync(Some(stored), 30, vec![]);
        device.sync(Some(later), 40, vec![]);
        assert_eq!(device.given(), some(5, 30, Some("r5")));
        let again = device.sync(Some(stored), 50, vec![]);
        assert_eq!(device.given(), some(5, 20, Some("r5")));
        let gap = device.sync(Some(again), 90, told(80, changes("r80")));
        device.sync(Some(gap), 91, vec![]);
        assert_eq!(device.given(), some(80, 90, Some("r80")));
        device.sync(Some(again), 92, vec![]);
        assert_eq!(device.given(), None, "what was known then has been overwritten");
    }

    #[test]
    fn a_token_of_another_device_gives_nothing_but_what_follows() {
        let mut device = Device::default();
        let token = device.sync(None, 10, told(5, whole("r5")));
        device.sync(Some(token), 20, vec![]);
        let foreign = SyncToken { position: 500, typing: 0, generation: 999 };
        let next = device.sync(Some(foreign), 510, vec![]);
        assert_eq!(device.given(), None);
        device.sync(Some(next), 520, vec![]);
        assert_eq!(device.given(), some(500, 510, None));
    }

    #[test]
    fn an_initial_sync_starts_anew() {
        let mut device = Device::default();
        let token = device.sync(None, 10, told(5, whole("r5")));
        device.sync(Some(token), 20, vec![]);
        let token = device.sync(None, 50, vec![]);
        assert_eq!(device.given(), some(5, 10, Some("r5")), "until it is acknowledged");
        device.sync(Some(token), 60, vec![]);
        assert_eq!(device.given(), None, "the room was not in it");
    }
}
