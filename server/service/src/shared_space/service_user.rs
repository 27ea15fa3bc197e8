//! In whose name this server speaks in a room, and what a declaration does.
//!
//! The service user `@causeway:server` speaks. Where it is not in the room yet
//! it is brought in: through an open door, or by an invite of the local user on
//! whose behalf it is to speak. Only where it can't be in the room does that
//! user speak himself.

use causeway_room::NewEvent;
use causeway_storage::shared_space::queues;
use ruma::{
    OwnedEventId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState,
    state_res::events::RoomPowerLevelsIntField,
};
use serde_json::{Value as Json, json};

use super::{
    DECLARATION_TYPE, ITEM_TYPE, SharedSpace,
    backend::{Appended, RoomAccess, Subject},
    error::SpaceError,
};
use crate::{room_event::RoomEvent, rooms::RoomError};

/// What the service user is called.
pub const SERVICE_DISPLAY_NAME: &str = "Causeway";

/// Who speaks.
pub(super) enum Speaker {
    /// This user.
    User(OwnedUserId),
    /// The service user, once it is in the room.
    Coming,
    /// Nobody can.
    Nobody,
}

/// Where the service user is.
enum Place {
    Inside,
    /// On its way in, if it is let in.
    Before,
    Outside,
}

impl SharedSpace {
    /// Who speaks. `fallback` is the user on whose behalf.
    pub(super) fn speaker(
        &self,
        writer: &mut dyn RoomAccess,
        fallback: &UserId,
    ) -> Result<Speaker, SpaceError> {
        let service = self.service_user();
        match self.bring_in(writer, &service, fallback)? {
            Place::Inside => return Ok(Speaker::User(service)),
            Place::Before => return Ok(Speaker::Coming),
            Place::Outside => {}
        }
        let local = fallback.server_name() == self.server_name();
        let joined = local && Self::is_joined(writer, fallback)?;
        Ok(if joined { Speaker::User(fallback.to_owned()) } else { Speaker::Nobody })
    }

    /// Whether a user is in the room now.
    pub(super) fn is_joined(writer: &mut dyn RoomAccess, user: &UserId) -> Result<bool, SpaceError> {
        Ok(writer.membership(user)? == MembershipState::Join)
    }

    /// Where the service user is after trying to bring it in.
    fn bring_in(
        &self,
        writer: &mut dyn RoomAccess,
        service: &UserId,
        host: &UserId,
    ) -> Result<Place, SpaceError> {
        let membership = writer.membership(service)?;
        match membership {
            MembershipState::Join => return Ok(Place::Inside),
            // It was shown the door: it does not come back by itself.
            MembershipState::Ban => return Ok(Place::Outside),
            _ => {}
        }
        let rules = writer.state("m.room.join_rules", "")?.map(|event| event.content_object());
        let open = rules.is_some_and(|rules| rules.get("join_rule").and_then(Json::as_str) == Some("public"));
        if !open && membership != MembershipState::Invite {
            let local = host.server_name() == self.server_name();
            let version = writer.rules()?;
            let may = local
                && writer.membership(host)? == MembershipState::Join
                && writer.power()?.may(&version.rules, host, RoomPowerLevelsIntField::Invite);
            if !may || append_member(writer, host, service, "invite")?.is_none() {
                return Ok(Place::Outside);
            }
        }
        Ok(match append_member(writer, service, service, "join")? {
            Some(Appended::Sent(_)) => Place::Inside,
            Some(Appended::Queued) => Place::Before,
            None => Place::Outside,
        })
    }

    /// A room was declared to have a shared space. The home server of the one
    /// who declared it sees to it that members may write items, and that the
    /// service user can speak.
    pub(super) fn follow_declaration(&self, room: &RoomId, event: &RoomEvent) -> Result<(), SpaceError> {
        let user = event.sender();
        if user.server_name() != self.server_name() {
            return Ok(());
        }
        let may_come_again = !self.rooms.has_all();
        let name = ["declaration", room.as_str()];
        if may_come_again
            && queues::meta::<OwnedEventId>(&self.db, &name)?.as_deref() == Some(event.event_id())
        {
            return Ok(());
        }
        self.rooms.write_patiently(room, |writer| {
            if may_come_again {
                // What has been replaced since then asks for nothing.
                let current = writer.state(DECLARATION_TYPE, "")?;
                if current.is_none_or(|current| current.event_id() != event.event_id()) {
                    return Ok(());
                }
                queues::put_meta(writer.batch(), &name, &event.event_id());
            }
            Self::let_members_write(writer, user)?;
            let service = self.service_user();
            self.bring_in(writer, &service, user)?;
            Ok(())
        })
    }

    /// Unless the power levels speak of items already.
    fn let_members_write(writer: &mut dyn RoomAccess, user: &UserId) -> Result<(), SpaceError> {
        let Some(levels) = writer.state("m.room.power_levels", "")? else { return Ok(()) };
        let mut content = levels.content_object();
        if content.get("events").is_some_and(|events| events.get(ITEM_TYPE).is_some()) {
            return Ok(());
        }
        let member_level = content.get("users_default").cloned().unwrap_or_else(|| json!(0));
        let events = content.entry("events").or_insert_with(|| json!({}));
        let Json::Object(events) = events else { return Ok(()) };
        events.insert(ITEM_TYPE.to_owned(), member_level);
        let event =
            NewEvent::new("m.room.power_levels", user.to_owned(), Some(String::new()), Json::Object(content))
                .map_err(RoomError::from)?;
        match writer.append(event, Subject::Levels) {
            Ok(_) => Ok(()),
            Err(why @ (RoomError::Forbidden(_) | RoomError::Policy(_) | RoomError::Unsigned)) => {
                tracing::info!(%why, "whoever declared the shared space may not let members write");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// `None` when the room's rules forbid it.
fn append_member(
    writer: &mut dyn RoomAccess,
    sender: &UserId,
    user: &UserId,
    membership: &'static str,
) -> Result<Option<Appended>, SpaceError> {
    let content = json!({ "membership": membership, "displayname": SERVICE_DISPLAY_NAME });
    let event = NewEvent::new("m.room.member", sender.to_owned(), Some(user.to_string()), content);
    match writer.append(event.map_err(RoomError::from)?, Subject::Member(membership)) {
        Ok(appended) => Ok(Some(appended)),
        Err(why @ (RoomError::Forbidden(_) | RoomError::Policy(_) | RoomError::Unsigned)) => {
            tracing::debug!(%why, membership, "the service user stays outside");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
