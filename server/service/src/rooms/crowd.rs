//! Who is in a room, in short: how many, and the first ones. Counted once for each state of
//! the room: every client of a large room asks for it after each change of its members.

use std::sync::Arc;

use causeway_room::Root;
use causeway_storage::rooms as rows;
use ruma::{OwnedUserId, RoomId, events::room::member::MembershipState};

use super::{Rooms, error::RoomError};

/// Members who are named; one more than anybody is told, who may be among them.
const NAMED_MAX: usize = 6;
/// Members read at once.
const PAGE: usize = 1_000;
/// Rooms in a generation of the cache.
pub(super) const CROWDS_CACHED: usize = 1_024;

/// The members of a room.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    pub(crate) joined: u64,
    pub(crate) invited: u64,
    /// The first who are joined or invited, by when this server learnt of them.
    pub(crate) present: Vec<(u64, OwnedUserId)>,
    /// The first who left or are banned.
    pub(crate) gone: Vec<(u64, OwnedUserId)>,
}

/// The members by a state.
pub(super) type Counted = (Root, Arc<Crowd>);

impl Rooms {
    /// Who is in the room by its current state.
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn crowd(&self, room_id: &RoomId) -> Result<Arc<Crowd>, RoomError> {
        let root = rows::room(&self.store.database, room_id)?.map(|room| room.state);
        if let Some((counted, crowd)) = self.crowds.get(room_id)
            && Some(counted) == root
        {
            return Ok(crowd);
        }
        let crowd = Arc::new(self.count(room_id)?);
        let now = rows::room(&self.store.database, room_id)?.map(|room| room.state);
        // It may have changed while it was counted.
        if let Some(root) = root.filter(|_| root == now) {
            self.crowds.insert(room_id.to_owned(), (root, Arc::clone(&crowd)));
        }
        Ok(crowd)
    }

    fn count(&self, room_id: &RoomId) -> Result<Crowd, RoomError> {
        let (mut crowd, mut after) = (Crowd::default(), None::<OwnedUserId>);
        loop {
            let page = rows::members(&self.store.database, room_id, after.as_deref(), PAGE)?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|(user_id, _)| user_id.clone());
            for (user_id, member) in page {
                let list = match member.membership {
                    MembershipState::Join => {
                        crowd.joined += 1;
                        &mut crowd.present
                    }
                    MembershipState::Invite => {
                        crowd.invited += 1;
                        &mut crowd.present
                    }
                    MembershipState::Leave | MembershipState::Ban => &mut crowd.gone,
                    _ => continue,
                };
                keep_earliest(list, (member.position.0, user_id));
            }
            if is_last {
                return Ok(crowd);
            }
        }
    }
}

/// The first ones by arrival, so that an unnamed room keeps its name.
fn keep_earliest(list: &mut Vec<(u64, OwnedUserId)>, entry: (u64, OwnedUserId)) {
    let at = list.partition_point(|held| *held < entry);
    if at < NAMED_MAX {
        list.insert(at, entry);
        list.truncate(NAMED_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rooms::{
        Preset,
        tests::{Server, message},
    };

    #[test]
    fn members_are_counted_once_for_each_state() {
        let server = Server::new("a.example");
        let alice = server.user("alice");
        let room_id = server.create(&alice, Preset::PublicChat);
        let first = server.rooms.crowd(&room_id).expect("counts");
        assert_eq!((first.joined, first.present.len()), (1, 1));
        server.send(&room_id, message(&alice, "no change"));
        assert!(Arc::ptr_eq(&first, &server.rooms.crowd(&room_id).expect("is counted")));
        let others: Vec<_> = (0..NAMED_MAX + 2).map(|n| server.user(&n.to_string())).collect();
        for user_id in &others {
            server.join(&room_id, user_id);
        }
        server.rooms.leave(&room_id, &others[0], None).expect("leaves");
        let now = server.rooms.crowd(&room_id).expect("counts");
        assert_eq!((now.joined, now.gone.len()), (others.len() as u64, 1));
        let named: Vec<_> = now.present.iter().map(|(_, user_id)| user_id).collect();
        assert_eq!(named.len(), NAMED_MAX);
        assert_eq!((named[0], named[1]), (&alice, &others[1]), "the first ones");
    }
}
