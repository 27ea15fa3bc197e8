//! Whose keys a device is to look at again, and whose it may forget, between
//! two positions of the stream.
//!
//! Changed are those who share a room with the user and whose keys changed, or
//! who share one since then; left are those who shared one and share none any
//! more. More than needed may be told of as changed; nobody is left out.

use std::collections::BTreeSet;

use causeway_room::Root;
use causeway_storage::{
    Database, StreamPosition, keys,
    rooms::{self as rows, Member},
};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState};

use super::{is_joined, response::DeviceLists};
use crate::{error::MatrixError, room_view::RoomView};

/// Key changes looked at; if there are more, all whom the user shares a room with are told of.
const KEY_CHANGES_MAX: usize = 10_000;

/// Members of a room that are read at once.
const MEMBERS_PAGE: usize = 1_000;

/// See the module. `memberships` are those of the user at `until`.
///
/// # Errors
/// Storage.
pub fn device_lists(
    view: RoomView<'_>,
    user_id: &UserId,
    memberships: &[(OwnedRoomId, Member)],
    since: u64,
    until: u64,
) -> Result<DeviceLists, MatrixError> {
    let database = view.database();
    let joined: Vec<&RoomId> =
        memberships.iter().filter(|(_, member)| is_joined(member)).map(|(room_id, _)| &**room_id).collect();
    let mut candidates = match keys_changed(database, user_id, since, until)? {
        Some(changed) => changed,
        None => all_members(database, &joined)?.into_iter().collect(),
    };
    let mut gone = BTreeSet::new();
    for (room_id, member) in memberships {
        let moved = movements(view, user_id, room_id, member, since, until)?;
        candidates.extend(moved.came);
        gone.extend(moved.went);
    }
    let mut lists = DeviceLists::default();
    for other in candidates {
        if other == user_id || shares_room(database, &other, &joined)? {
            lists.changed.push(other);
        }
    }
    for other in gone {
        if other != user_id && !shares_room(database, &other, &joined)? {
            lists.left.push(other);
        }
    }
    Ok(lists)
}

/// Whose keys changed; `None` if too many did.
fn keys_changed(
    database: &Database,
    user_id: &UserId,
    since: u64,
    until: u64,
) -> Result<Option<BTreeSet<OwnedUserId>>, MatrixError> {
    let (since, until) = (StreamPosition(since), StreamPosition(until));
    let changes = keys::key_changes(database, since, until, KEY_CHANGES_MAX)?;
    if changes.len() == KEY_CHANGES_MAX {
        return Ok(None);
    }
    let for_user = |change: &keys::KeyChange| change.only_for.as_ref().is_none_or(|only| only == user_id);
    Ok(Some(changes.into_iter().filter(for_user).map(|change| change.user_id).collect()))
}

/// Who came into a room that the user is in, and who went out of one that the user is or was in.
#[derive(Default)]
struct Moved {
    came: Vec<OwnedUserId>,
    went: Vec<OwnedUserId>,
}

fn movements(
    view: RoomView<'_>,
    user_id: &UserId,
    room_id: &RoomId,
    member: &Member,
    since: u64,
    until: u64,
) -> Result<Moved, MatrixError> {
    let mut moved = Moved::default();
    let is_in = is_joined(member);
    let stayed = member.position.0 <= since;
    if stayed && !is_in {
        return Ok(moved);
    }
    let before = view.root_at(room_id, since)?;
    let was_joined = |root: &Root| view.is_joined_in(root, user_id);
    let was_in = stayed || before.as_ref().map(was_joined).transpose()?.unwrap_or(false);
    match (was_in, is_in) {
        (false, false) => {}
        (false, true) => moved.came = all_members(view.database(), &[room_id])?,
        (true, false) => moved.went = all_members(view.database(), &[room_id])?,
        (true, true) => {
            let (Some(before), Some(after)) = (before, view.root_at(room_id, until)?) else {
                return Ok(moved);
            };
            for difference in view.state_diff(&before, &after)? {
                if difference.key.kind != "m.room.member" {
                    continue;
                }
                let Ok(other) = UserId::parse(&*difference.key.key) else { continue };
                let joined = |event_id: Option<&ruma::EventId>| -> Result<bool, MatrixError> {
                    let event = event_id.map(|event_id| view.event(event_id)).transpose()?.flatten();
                    Ok(event.and_then(|event| event.membership()) == Some(MembershipState::Join))
                };
                match (joined(difference.old.as_deref())?, joined(difference.new.as_deref())?) {
                    (false, true) => moved.came.push(other),
                    (true, false) => moved.went.push(other),
                    _ => {}
                }
            }
        }
    }
    Ok(moved)
}

/// Who is joined to the rooms, as this server knows it.
fn all_members(database: &Database, rooms: &[&RoomId]) -> Result<Vec<OwnedUserId>, MatrixError> {
    let mut all = Vec::new();
    for room_id in rooms {
        let mut after: Option<OwnedUserId> = None;
        loop {
            let page = rows::members(database, room_id, after.as_deref(), MEMBERS_PAGE)?;
            let is_last = page.len() < MEMBERS_PAGE;
            after = page.last().map(|(user_id, _)| user_id.clone());
            all.extend(page.into_iter().filter(|(_, member)| is_joined(member)).map(|(user_id, _)| user_id));
            if is_last {
                break;
            }
        }
    }
    Ok(all)
}

fn shares_room(database: &Database, user_id: &UserId, joined: &[&RoomId]) -> Result<bool, MatrixError> {
    for room_id in joined {
        if rows::member(database, room_id, user_id)?.is_some_and(|member| is_joined(&member)) {
            return Ok(true);
        }
    }
    Ok(false)
}
