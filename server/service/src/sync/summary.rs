//! The summary of a room: what clients name it after when it has no name.

use causeway_room::Root;
use ruma::{OwnedUserId, RoomId, UserId};

use super::response::Summary;
use crate::{error::MatrixError, room_view::RoomView};

/// Members named; the specification's number.
const HEROES_MAX: usize = 5;

/// Counts and names a room's members by its current state.
pub fn summary(view: RoomView<'_>, room_id: &RoomId, user_id: &UserId) -> Result<Summary, MatrixError> {
    let crowd = view.crowd(room_id)?;
    let others = |list: &[(u64, OwnedUserId)]| -> Vec<OwnedUserId> {
        let others = list.iter().map(|(_, other)| other).filter(|other| **other != user_id);
        others.take(HEROES_MAX).cloned().collect()
    };
    let mut heroes = others(&crowd.present);
    if heroes.is_empty() {
        heroes = others(&crowd.gone);
    }
    Ok(Summary { heroes, joined_member_count: crowd.joined, invited_member_count: crowd.invited })
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
