//! The summary of a room: what clients name it after when it has no name.

use causeway_room::Root;
use causeway_storage::rooms as rows;
use ruma::{OwnedUserId, RoomId, UserId, events::room::member::MembershipState};

use super::response::Summary;
use crate::{error::MatrixError, room_view::RoomView};

/// Members named; the specification's number.
const HEROES_MAX: usize = 5;

/// Members read at once.
const PAGE: usize = 1_000;

/// Counts and names a room's members by its current state.
pub fn summary(view: RoomView<'_>, room_id: &RoomId, user_id: &UserId) -> Result<Summary, MatrixError> {
    let mut summary = Summary::default();
    let mut present: Vec<(u64, OwnedUserId)> = Vec::new();
    let mut gone: Vec<(u64, OwnedUserId)> = Vec::new();
    let mut after: Option<OwnedUserId> = None;
    loop {
        let page = rows::members(view.database(), room_id, after.as_deref(), PAGE)?;
        let is_last = page.len() < PAGE;
        after = page.last().map(|(user_id, _)| user_id.clone());
        for (member_id, member) in page {
            let list = match member.membership {
                MembershipState::Join => {
                    summary.joined_member_count += 1;
                    &mut present
                }
                MembershipState::Invite => {
                    summary.invited_member_count += 1;
                    &mut present
                }
                MembershipState::Leave | MembershipState::Ban => &mut gone,
                _ => continue,
            };
            if member_id != user_id {
                keep_earliest(list, member.position.0, member_id);
            }
        }
        if is_last {
            break;
        }
    }
    let named = if present.is_empty() { gone } else { present };
    summary.heroes = named.into_iter().map(|(_, user_id)| user_id).collect();
    Ok(summary)
}

/// Whether the room has a name or an alias to show: its members need not stand for one.
pub fn is_named(view: RoomView<'_>, root: &Root) -> Result<bool, MatrixError> {
    for (kind, field) in [("m.room.name", "name"), ("m.room.canonical_alias", "alias")] {
        let event = view.state(root, kind, "")?;
        let text = event.and_then(|event| event.content_object().remove(field));
        if text.is_some_and(|text| text.as_str().is_some_and(|text| !text.is_empty())) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The first ones by arrival, so that an unnamed room keeps its name.
fn keep_earliest(list: &mut Vec<(u64, OwnedUserId)>, position: u64, user_id: OwnedUserId) {
    let entry = (position, user_id);
    let at = list.partition_point(|held| *held < entry);
    if at < HEROES_MAX {
        list.insert(at, entry);
        list.truncate(HEROES_MAX);
    }
}

/// Whether the summary may differ between two states.
pub fn may_differ(view: RoomView<'_>, old: Option<Root>, new: &Root) -> Result<bool, MatrixError> {
    let Some(old) = old else { return Ok(true) };
    if old == *new {
        return Ok(false);
    }
    let differences = view.state_diff(&old, new)?;
    Ok(differences.iter().any(|difference| {
        matches!(&*difference.key.kind, "m.room.member" | "m.room.name" | "m.room.canonical_alias")
    }))
}
