//! Who may write items, and what shows it.
//!
//! A local writer is judged by the room's current state. A change of another
//! server is judged by the events that its header names, which are immutable:
//! every server that has them judges alike.

use causeway_shared_space::{Header, Standing, Value, VoidReason};
use ruma::{
    OwnedEventId, UserId,
    events::room::{member::MembershipState, power_levels::UserPowerLevel},
    int,
    state_res::events::RoomPowerLevelsIntField,
};

use super::{ITEM_TYPE, backend::RoomAccess, error::SpaceError};
use crate::rooms::Power;

/// Shows that a user may write, or says why he may not.
///
/// Returns what goes into `authorized_by`.
pub fn local_writer(writer: &mut dyn RoomAccess, user: &UserId) -> Result<Vec<OwnedEventId>, SpaceError> {
    let member = writer.state("m.room.member", user.as_str())?;
    let joined = member.as_ref().is_some_and(|member| member.membership() == Some(MembershipState::Join));
    let Some(member) = member.filter(|_| joined) else {
        return Err(SpaceError::Forbidden("You are not in this room"));
    };
    let rules = writer.rules()?;
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
pub fn standing(writer: &mut dyn RoomAccess, header: &Header) -> Result<Standing, SpaceError> {
    let author = header.author();
    if header.adopts().is_none() && author.server_name() != header.server() {
        return Ok(Standing::Void(VoidReason::ForeignAuthor));
    }
    if let Some(standing) = adoption(writer, header)? {
        return Ok(standing);
    }
    let power = match shown_power(writer, header)? {
        Ok(power) => power,
        Err(standing) => return Ok(standing),
    };
    if power.may_send(&writer.rules()?.rules, author, ITEM_TYPE, true) {
        Ok(Standing::Effective)
    } else {
        Ok(Standing::Void(VoidReason::NotAllowed))
    }
}

/// Whether the events that a header names show the power to redact what others wrote.
pub fn may_redact(writer: &mut dyn RoomAccess, header: &Header) -> Result<bool, SpaceError> {
    let power = shown_power(writer, header)?;
    let field = RoomPowerLevelsIntField::Redact;
    let rules = writer.rules()?;
    Ok(power.is_ok_and(|power| power.may(&rules.rules, header.author(), field)))
}

/// What is wrong with an adoption, if anything: it must say what the event says,
/// or anybody could write in the name of anybody.
fn adoption(writer: &mut dyn RoomAccess, header: &Header) -> Result<Option<Standing>, SpaceError> {
    let Some(event_id) = header.adopts() else { return Ok(None) };
    let Some(held) = writer.event(event_id)? else {
        writer.may_be_current(ITEM_TYPE, header.key().as_str());
        return Ok(Some(Standing::Unproven));
    };
    let event = held.event;
    let value = Value::from_content(event.content_raw().get().as_bytes());
    if value == Ok(None) && header.value_hash().is_some() {
        // Perhaps only a redacted copy of the event is here.
        return Ok(Some(Standing::Unproven));
    }
    let same_value = value.is_ok_and(|value| value.map(|value| value.hash()) == header.value_hash());
    let same = !held.rejected
        && event.is_state(ITEM_TYPE, header.key().as_str())
        && event.sender() == header.author()
        && same_value;
    Ok((!same).then_some(Standing::Void(VoidReason::AdoptionMismatch)))
}

/// The power levels that a header's events show, if they show its author joined.
fn shown_power(writer: &mut dyn RoomAccess, header: &Header) -> Result<Result<Power, Standing>, SpaceError> {
    let author = header.author();
    let (mut create, mut member, mut levels) = (None, None, None);
    for event_id in header.authorized_by() {
        let Some(held) = writer.event(event_id)? else {
            for (kind, key) in
                [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", author.as_str())]
            {
                writer.may_be_current(kind, key);
            }
            return Ok(Err(Standing::Unproven));
        };
        let event = held.event;
        // State events only: a message of the type of power levels needs no power to be sent.
        let place = if event.is_state("m.room.create", "") {
            &mut create
        } else if event.is_state("m.room.power_levels", "") {
            &mut levels
        } else if event.is_state("m.room.member", author.as_str()) {
            &mut member
        } else {
            return Ok(Err(Standing::Void(VoidReason::BadAuthorization)));
        };
        if held.rejected || place.is_some() {
            return Ok(Err(Standing::Void(VoidReason::BadAuthorization)));
        }
        *place = Some(event);
    }
    if member.and_then(|member| member.membership()) != Some(MembershipState::Join) {
        return Ok(Err(Standing::Void(VoidReason::NotJoined)));
    }
    let Some(create) = create else { return Ok(Err(Standing::Void(VoidReason::BadAuthorization))) };
    // Leaving out the power levels must not help: without them only a creator writes.
    let unshown = levels.is_none();
    let power = Power::new(Some(create), levels);
    if unshown && power.of(&writer.rules()?.rules, author) < UserPowerLevel::from(int!(100)) {
        return Ok(Err(Standing::Void(VoidReason::NotAllowed)));
    }
    Ok(Ok(power))
}
