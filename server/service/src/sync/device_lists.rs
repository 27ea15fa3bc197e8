//! Whose keys a device is to look at again, and whose it may forget, between
//! two positions of the stream.
//!
//! Changed are those who share a room with the user and whose keys changed, or
//! who share one since then; left are those who shared one and share none any
//! more. More than needed may be told of as changed; nobody is left out.

use std::collections::BTreeSet;

use causeway_room::Root;
use causeway_storage::{
    Database, StreamPosition, key_changes,
    rooms::{self as rows, Member},
};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState};

use super::{is_joined, response::DeviceLists};
use crate::{error::MatrixError, room_view::RoomView};

/// Key changes looked at; if there are more, all whom the user shares a room with are told of.
const KEY_CHANGES_MAX: usize = 20_000;

/// Of these, those of users with whom a room is shared.
const CHANGED_MAX: usize = 5_000;

/// Key changes that are read at once.
const KEY_CHANGES_PAGE: usize = 1_000;

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
    let mut changed = match keys_changed(database, user_id, &joined, (since, until))? {
        Some(changed) => changed,
        None => all_members(database, &joined)?.into_iter().collect(),
    };
    let (mut came, mut gone) = (BTreeSet::new(), BTreeSet::new());
    for (room_id, member) in memberships {
        let moved = movements(view, user_id, room_id, member, since, until)?;
        came.extend(moved.came);
        gone.extend(moved.went);
    }
    for other in came {
        if other == user_id || shares_room(database, &other, &joined)? {
            changed.insert(other);
        }
    }
    let mut lists = DeviceLists { changed: changed.into_iter().collect(), ..DeviceLists::default() };
    for other in gone {
        if other != user_id && !shares_room(database, &other, &joined)? {
            lists.left.push(other);
        }
    }
    Ok(lists)
}

/// Whose keys changed, of those with whom a room is shared and the user itself;
/// `None` if too many did. What strangers do counts only as far as it was read.
fn keys_changed(
    database: &Database,
    user_id: &UserId,
    joined: &[&RoomId],
    (since, until): (u64, u64),
) -> Result<Option<BTreeSet<OwnedUserId>>, MatrixError> {
    let (mut since, until) = (StreamPosition(since), StreamPosition(until));
    let mut changed = BTreeSet::new();
    for _ in 0..KEY_CHANGES_MAX / KEY_CHANGES_PAGE {
        let page = key_changes::between(database, since, until, KEY_CHANGES_PAGE)?;
        let is_last = page.len() < KEY_CHANGES_PAGE;
        since = page.last().map_or(until, |change| change.position);
        for change in page {
            let other = change.user_id;
            let is_for_user = change.only_for.is_none_or(|only| only == user_id);
            if is_for_user && (other == user_id || shares_room(database, &other, joined)?) {
                changed.insert(other);
            }
        }
        if changed.len() > CHANGED_MAX {
            return Ok(None);
        }
        if is_last {
            return Ok(Some(changed));
        }
    }
    Ok(None)
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
