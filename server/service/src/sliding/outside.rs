//! Rooms that the user is not in, as one answer of simplified sliding sync tells
//! them: invited to, knocked on, left, put out of.
//!
//! Invariant: a row of such a room ends with the membership; nothing that happened
//! in the room after the user was in it is told, or counts as told.

use causeway_storage::sliding::SentRoom;

use super::{
    lists::{Entry, Wanted},
    making::Making,
    response::Room,
    room::{MEMBER, in_room},
};
use crate::{error::MatrixError, sync::others::ending, visible::Viewer};

/// Of a room that the user is invited to or knocked on.
pub(super) fn asked_in(making: &mut Making<'_>, entry: &Entry) -> Result<Option<Room>, MatrixError> {
    if !outside(making, entry, false) {
        return Ok(None);
    }
    let position = entry.member.position.0;
    let invite_state = making.stripped(&entry.room_id, &entry.member)?;
    let is_dm = making.direct.contains(&entry.room_id);
    Ok(Some(Room {
        initial: true,
        bump_stamp: Some(position),
        is_dm: Some(is_dm),
        invite_state: Some(invite_state),
        ..Room::default()
    }))
}

/// Of a room that the user left, or was put out of.
pub(super) fn gone(
    making: &mut Making<'_>,
    entry: &Entry,
    wanted: &Wanted,
) -> Result<Option<Room>, MatrixError> {
    let room_id = &entry.room_id;
    let left = Viewer::new(making.view, room_id, &making.request.user_id)?.left();
    let left = left.and_then(|left| u64::try_from(left).ok());
    let mut is_new = true;
    if let Some(left) = left
        && making.view.root_at(room_id, left)?.is_some()
    {
        // Who was put out may have been banned since: then that alone is news.
        is_new = making.told_until(room_id).is_none_or(|told| told < left);
        if is_new || left >= entry.member.position.0 {
            return in_room(making, entry, wanted, left.min(making.until));
        }
    }
    if !outside(making, entry, !is_new) {
        return Ok(None);
    }
    // Of a room that the user never was in there is the end of the invite, and no more.
    let event = ending(making.view, &making.shower, &making.request.user_id, &entry.member)?;
    let is_required = wanted.config.required.has(MEMBER, making.request.user_id.as_str());
    Ok(Some(Room {
        initial: is_new,
        bump_stamp: is_new.then_some(entry.member.position.0),
        required_state: is_required.then(|| event.clone()).into_iter().collect(),
        timeline: vec![event],
        num_live: Some(1),
        limited: Some(false),
        ..Room::default()
    }))
}

/// The row of a room that the user is not in, and whether that is news. It ends
/// with the membership: what happens in the room from there on is not told. What the
/// connection has of it counts on only if it `keeps` that.
fn outside(making: &mut Making<'_>, entry: &Entry, keeps: bool) -> bool {
    let position = entry.member.position;
    let is_told = making.told_until(&entry.room_id).is_some_and(|until| until >= position.0);
    let row = match making.standing.sent.get(&entry.room_id) {
        Some(sent) if is_told => SentRoom { until: Some(position), ..sent.clone() },
        // What came between was not told.
        Some(sent) if keeps => {
            SentRoom { until: Some(position), from: position, lazy_from: None, ..sent.clone() }
        }
        _ => SentRoom { until: Some(position), from: position, ..SentRoom::default() },
    };
    making.rows.insert(entry.room_id.clone(), row);
    !is_told
}
