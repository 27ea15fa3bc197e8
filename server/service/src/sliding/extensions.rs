//! What goes beside the rooms in an answer of simplified sliding sync:
//! to-device messages, device lists, account data, receipts, typing.
//!
//! What belongs to a room is told for the rooms that the answer is about, from
//! where the connection was told of it last: `None` is a room whose receipts
//! (or account data) the connection does not have.

use std::collections::BTreeMap;

use causeway_storage::{StreamPosition, keys, rooms::Member, to_device};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, events::room::member::MembershipState};

use super::{
    lists::{Entry, Wanted},
    making::Making,
    request::RoomSwitch,
    response::{AccountData, ByRoom, E2ee, Response, ToDevice},
};
use crate::{
    error::MatrixError,
    sync::{TO_DEVICE_MAX, account_data, typing_event},
};

/// A room that the answer is about.
pub type Asked<'a> = (&'a Entry, &'a Wanted);

/// Messages since the token that the client presents; those before are deleted
/// when the request comes, see [`super::SlidingSync::acknowledge`].
pub fn to_device(making: &Making<'_>) -> Result<Option<ToDevice>, MatrixError> {
    let wanted = &making.request.extensions.to_device;
    if !wanted.is_on() {
        return Ok(None);
    }
    let since = to_device_since(making.request)?.filter(|since| *since <= making.until).unwrap_or(0);
    let limit = wanted.limit.map_or(TO_DEVICE_MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let limit = limit.clamp(1, TO_DEVICE_MAX);
    let (user_id, device_id) = (&making.request.user_id, &making.request.device_id);
    let (from, until) = (StreamPosition(since), StreamPosition(making.until));
    let events = to_device::events(making.view.database(), user_id, device_id, from, until, limit)?;
    let reached = match events.last() {
        Some((last, _)) if events.len() == limit => last.0,
        _ => making.until,
    };
    let events = events.into_iter().map(|(_, event)| event).collect();
    Ok(Some(ToDevice { next_batch: reached.to_string(), events }))
}

/// The position that the extension's `since` names.
///
/// # Errors
/// 400 `M_INVALID_PARAM` for what is no token.
pub fn to_device_since(request: &super::Request) -> Result<Option<u64>, MatrixError> {
    let since = request.extensions.to_device.since.as_deref().filter(|since| !since.is_empty());
    let parsed = since.map(str::parse).transpose();
    parsed.map_err(|_| MatrixError::invalid_param("`since` of to_device is not a token of this server"))
}

/// Device lists and key counts.
pub fn e2ee(making: &Making<'_>, memberships: &[(OwnedRoomId, Member)]) -> Result<Option<E2ee>, MatrixError> {
    if !making.request.extensions.e2ee.is_on() {
        return Ok(None);
    }
    let (user_id, device_id) = (&making.request.user_id, &making.request.device_id);
    let database = making.view.database();
    let device_lists = match making.since() {
        since @ Some(_) => Some(making.services.device_lists(user_id, since, memberships, making.until)?),
        None => None,
    };
    let mut counts = keys::one_time_key_counts(database, user_id, device_id)?;
    // Clients tell from the count of this algorithm whether the server holds keys at all.
    counts.entry("signed_curve25519".to_owned()).or_insert(0);
    Ok(Some(E2ee {
        has_given: making.services.gave_keys(user_id, device_id, making.since(), making.until)?,
        device_lists,
        device_one_time_keys_count: counts,
        device_unused_fallback_key_types: keys::unused_fallback_algorithms(database, user_id, device_id)?,
    }))
}

/// Account data; notes for which rooms the connection has it now.
pub fn account_data(
    making: &mut Making<'_>,
    asked: &[Asked<'_>],
) -> Result<Option<AccountData>, MatrixError> {
    let switch = making.request.extensions.account_data.clone();
    let since = since_by_room(making, asked, &switch, |row| &mut row.account_data);
    if !switch.is_on() {
        return Ok(None);
    }
    let known = making.since().filter(|_| making.standing.account_data);
    let global_since = known.unwrap_or(0);
    let earliest = since.values().map(|since| since.unwrap_or(0)).fold(global_since, u64::min);
    let user_id = &making.request.user_id;
    let earliest = known.map(|_| earliest);
    let pieces = account_data::changed(making.view.database(), user_id, earliest, making.until)?;
    let mut told = AccountData::default();
    for (room_id, pieces) in pieces {
        if room_id.is_empty() {
            let new = pieces.into_iter().filter(|piece| piece.position > global_since);
            told.global = new.map(|piece| piece.event).collect();
        } else if let Some((room_id, since)) = since.get_key_value(room_id.as_str()) {
            let new = pieces.into_iter().filter(|piece| piece.position > since.unwrap_or(0));
            let events: Vec<_> = new.map(|piece| piece.event).collect();
            if !events.is_empty() {
                told.rooms.insert(room_id.clone(), events);
            }
        }
    }
    Ok(Some(told))
}

/// Receipts. Of a room that is new to the connection only those of the events
/// in the answer, and the user's own.
pub fn receipts(
    making: &mut Making<'_>,
    asked: &[Asked<'_>],
    response: &Response,
) -> Result<Option<ByRoom>, MatrixError> {
    let switch = making.request.extensions.receipts.clone();
    let since = since_by_room(making, asked, &switch, |row| &mut row.receipts);
    if !switch.is_on() {
        return Ok(None);
    }
    let until = StreamPosition(making.until);
    let user_id = &making.request.user_id;
    let mut told = ByRoom::default();
    for (room_id, since) in since {
        let receipts = making.services.receipts();
        let event = if let Some(since) = since {
            receipts.told(&room_id, user_id, StreamPosition(since), until)?
        } else {
            let shown = response.rooms.get(&room_id).map_or(&[][..], |room| &room.timeline);
            receipts.told_of(&room_id, user_id, shown, until)?
        };
        told.rooms.extend(event.map(|event| (room_id, event)));
    }
    Ok(Some(told))
}

/// Who types; and the number of the last change, for the token: zero while nobody asks.
pub fn typing(making: &Making<'_>, asked: &[Asked<'_>]) -> (Option<ByRoom>, u64) {
    let switch = &making.request.extensions.typing;
    if !switch.is_on() {
        return (None, 0);
    }
    let rooms = typing_rooms(making, asked);
    let is_live =
        |room_id: &RoomId| making.standing.sent.get(room_id).is_some_and(|sent| sent.until.is_none());
    let (live, new): (Vec<_>, Vec<_>) = rooms.partition(|room_id| is_live(room_id));
    let since = making.request.pos.map_or(0, |pos| pos.typing);
    let known = making.services.typing().changed_since(live, since);
    let unknown = making.services.typing().changed_since(new.iter().copied(), 0);
    // Somebody may have typed when the connection was last told of a room that comes back.
    let back = new.iter().filter(|room_id| making.standing.sent.contains_key(**room_id));
    let mut silent: BTreeMap<OwnedRoomId, Vec<OwnedUserId>> =
        back.map(|room_id| ((*room_id).to_owned(), Vec::new())).collect();
    silent.extend(unknown.by_room);
    let rooms = known.by_room.into_iter().chain(silent);
    let rooms = rooms.map(|(room_id, users)| (room_id, typing_event(&users)));
    (Some(ByRoom { rooms: rooms.collect() }), known.changes.min(unknown.changes))
}

/// The rooms of which the answer says who types; none while nobody asks.
pub fn typing_rooms<'a>(making: &'a Making<'_>, asked: &'a [Asked<'_>]) -> impl Iterator<Item = &'a RoomId> {
    let switch = &making.request.extensions.typing;
    asked.iter().filter(|asked| is_about(switch, asked)).map(|(entry, _)| &*entry.room_id)
}

fn is_about(switch: &RoomSwitch, (entry, wanted): &Asked<'_>) -> bool {
    entry.member.membership == MembershipState::Join
        && switch.is_about(&entry.room_id, &wanted.lists, wanted.is_subscribed)
}

/// From where on a room's data is told, for the rooms that the extension is
/// about; `flag` is what notes that the connection has it.
fn since_by_room(
    making: &mut Making<'_>,
    asked: &[Asked<'_>],
    switch: &RoomSwitch,
    flag: impl Fn(&mut causeway_storage::sliding::SentRoom) -> &mut bool,
) -> BTreeMap<OwnedRoomId, Option<u64>> {
    let mut since = BTreeMap::new();
    for asked in asked {
        let room_id = &asked.0.room_id;
        let told_until = making.told_until(room_id);
        let Some(row) = making.rows.get_mut(room_id) else { continue };
        let had = std::mem::replace(flag(row), is_about(switch, asked));
        if *flag(row) {
            since.insert(room_id.clone(), told_until.filter(|_| had));
        }
    }
    since
}
