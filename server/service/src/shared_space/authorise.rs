//! Who may write items, and what shows it.
//!
//! A local writer is judged by the room's current state. A change of another
//! server is judged by the events that its header names, which are immutable:
//! every server that has them judges alike.

use causeway_shared_space::{Header, Standing, VoidReason};
use ruma::{
    OwnedEventId, UserId,
    events::room::{member::MembershipState, power_levels::UserPowerLevel},
    int,
};

use super::{ITEM_TYPE, error::SpaceError};
use crate::rooms::{Power, RoomWriter};

/// Shows that a user may write, or says why he may not.
///
/// Returns what goes into `authorized_by`.
pub fn local_writer(writer: &mut RoomWriter<'_>, user: &UserId) -> Result<Vec<OwnedEventId>, SpaceError> {
    let member = writer.state("m.room.member", user.as_str())?;
    let joined = member.as_ref().is_some_and(|member| member.membership() == Some(MembershipState::Join));
    let Some(member) = member.filter(|_| joined) else {
        return Err(SpaceError::Forbidden("You are not in this room"));
    };
    let rules = writer.rules().clone();
    if !writer.power()?.may_send(&rules.rules, user, ITEM_TYPE, true) {
        return Err(SpaceError::Forbidden("You don't have the power to write items in this room"));
    }
    let create = writer.state("m.room.create", "")?;
    let levels = writer.state("m.room.power_levels", "")?;
    let shown = [create, Some(member), levels].into_iter().flatten();
    Ok(shown.map(|event| event.event_id().to_owned()).collect())
}

/// What a verified entry counts for. [`Standing::Unproven`]: an event that it
/// names is not held here yet.
pub fn standing(writer: &RoomWriter<'_>, header: &Header) -> Result<Standing, SpaceError> {
    let author = header.author();
    if header.adopts().is_none() && author.server_name() != header.server() {
        return Ok(Standing::Void(VoidReason::ForeignAuthor));
    }
    let (mut create, mut member, mut levels) = (None, None, None);
    for event_id in header.authorized_by() {
        let Some(held) = writer.event(event_id)? else { return Ok(Standing::Unproven) };
        let event = held.pdu;
        let place = match event.kind_text() {
            "m.room.create" => &mut create,
            "m.room.power_levels" => &mut levels,
            "m.room.member" if event.state_key() == Some(author.as_str()) => &mut member,
            _ => return Ok(Standing::Void(VoidReason::BadAuthorization)),
        };
        if held.meta.rejected.is_some() || place.is_some() {
            return Ok(Standing::Void(VoidReason::BadAuthorization));
        }
        *place = Some(event);
    }
    if member.and_then(|member| member.membership()) != Some(MembershipState::Join) {
        return Ok(Standing::Void(VoidReason::NotJoined));
    }
    let Some(create) = create else { return Ok(Standing::Void(VoidReason::BadAuthorization)) };
    // Leaving out the power levels must not help: without them only a creator writes.
    let unshown = levels.is_none();
    let power = Power::new(Some(create), levels);
    if unshown && power.of(&writer.rules().rules, author) < UserPowerLevel::from(int!(100)) {
        return Ok(Standing::Void(VoidReason::NotAllowed));
    }
    if power.may_send(&writer.rules().rules, author, ITEM_TYPE, true) {
        Ok(Standing::Effective)
    } else {
        Ok(Standing::Void(VoidReason::NotAllowed))
    }
}
