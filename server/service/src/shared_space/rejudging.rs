//! Entries that could not be judged are judged again, in rounds.
//!
//! Whenever a room moves on, a round goes over all its open entries, a page at a
//! step, in the order of their ids from where the page before ended. So whoever
//! fills the list with what can never be proven keeps nobody else from being
//! judged. What moves the room during a round asks for one more.
//!
//! In memory only: after a start the next thing that moves a room begins a round.

use std::collections::{BTreeMap, btree_map::Entry};

use causeway_shared_space::ChangeId;
use causeway_storage::shared_space::entries;
use ruma::{OwnedRoomId, RoomId};

use super::{SharedSpace, error::SpaceError, lock, stored};

/// Entries judged under one lock of a room.
const PAGE_MAX: usize = 500;

/// Rounds that are not over, by room; none without an open entry.
pub type Rounds = BTreeMap<OwnedRoomId, Round>;

/// Where a round is.
#[derive(Debug, Default)]
pub struct Round {
    /// The last entry that was judged.
    after: Option<ChangeId>,
    /// The room has moved on since the round began.
    again: bool,
}

impl SharedSpace {
    /// The room has moved on: what is open there is judged again soon.
    pub(super) fn judge_soon(&self, room: &RoomId) -> Result<(), SpaceError> {
        if entries::unproven(&self.db, room, None, 1)?.is_empty() {
            return Ok(());
        }
        match lock(&self.rounds).entry(room.to_owned()) {
            Entry::Vacant(none) => drop(none.insert(Round::default())),
            Entry::Occupied(mut round) => round.get_mut().again |= round.get().after.is_some(),
        }
        Ok(())
    }

    /// Takes each round a page further.
    pub(super) fn judge_waiting(&self) -> Result<(), SpaceError> {
        let rooms: Vec<OwnedRoomId> = lock(&self.rounds).keys().cloned().collect();
        for room in rooms {
            let after = lock(&self.rounds).get(&room).and_then(|round| round.after);
            let page = entries::unproven(&self.db, &room, after.as_ref(), PAGE_MAX)?;
            self.judge_page(&room, &page)?;
            let mut rounds = lock(&self.rounds);
            let Some(round) = rounds.get_mut(&room) else { continue };
            round.after = page.last().copied().filter(|_| page.len() == PAGE_MAX);
            if round.after.is_none() && !std::mem::take(&mut round.again) {
                rounds.remove(&room);
            }
        }
        Ok(())
    }

    /// Whether a round is not over.
    pub(super) fn is_judging(&self) -> bool {
        !lock(&self.rounds).is_empty()
    }

    fn judge_page(&self, room: &RoomId, page: &[ChangeId]) -> Result<(), SpaceError> {
        if page.is_empty() {
            return Ok(());
        }
        self.rooms.write_judging(room, |writer| {
            self.in_draft(writer, |_, draft, writer| {
                for id in page {
                    let Some(change) = stored::change(&self.db, room, id)? else { continue };
                    let verdict = self.judge(writer, draft, &change)?;
                    draft.judge(writer.batch(), &change, &verdict)?;
                }
                Ok(())
            })
        })
    }
}
