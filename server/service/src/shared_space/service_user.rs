//! In whose name this server speaks in a room, and what a declaration does.
//!
//! The service user `@causeway:server` speaks. Where it is not in the room yet
//! it is brought in: through an open door, or by an invite of the local user on
//! whose behalf it is to speak. Only where it can't be in the room does that
//! user speak himself.

use causeway_room::{NewEvent, Pdu};
use ruma::{
    OwnedUserId, RoomId, UserId, events::room::member::MembershipState,
    state_res::events::RoomPowerLevelsIntField,
};
use serde_json::{Value as Json, json};

use super::{ITEM_TYPE, SharedSpace, error::SpaceError};
use crate::rooms::{RoomError, RoomWriter};

/// What the service user is called.
pub const SERVICE_DISPLAY_NAME: &str = "Causeway";

impl SharedSpace {
    /// Who speaks; `None` when nobody can. `fallback` is the user on whose behalf.
    pub(super) fn speaker(
        &self,
        writer: &mut RoomWriter<'_>,
        fallback: &UserId,
    ) -> Result<Option<OwnedUserId>, SpaceError> {
        let service = self.service_user();
        if self.bring_in(writer, &service, fallback)? {
            return Ok(Some(service));
        }
        let local = fallback.server_name() == self.server_name();
        let joined = local && writer.membership(fallback)? == MembershipState::Join;
        Ok(joined.then(|| fallback.to_owned()))
    }

    /// Whether the service user is in the room, after trying to bring it in.
    fn bring_in(
        &self,
        writer: &mut RoomWriter<'_>,
        service: &UserId,
        host: &UserId,
    ) -> Result<bool, SpaceError> {
        let membership = writer.membership(service)?;
        match membership {
            MembershipState::Join => return Ok(true),
            // It was shown the door: it does not come back by itself.
            MembershipState::Ban => return Ok(false),
            _ => {}
        }
        let rules = writer.state("m.room.join_rules", "")?.map(|event| event.content_object());
        let open = rules.is_some_and(|rules| rules.get("join_rule").and_then(Json::as_str) == Some("public"));
        if !open && membership != MembershipState::Invite {
            let local = host.server_name() == self.server_name();
            let version = writer.rules().clone();
            let may = local
                && writer.membership(host)? == MembershipState::Join
                && writer.power()?.may(&version.rules, host, RoomPowerLevelsIntField::Invite);
            if !may || !append_member(writer, host, service, "invite")? {
                return Ok(false);
            }
        }
        append_member(writer, service, service, "join")
    }

    /// A room was declared to have a shared space. The home server of the one
    /// who declared it sees to it that members may write items, and that the
    /// service user can speak.
    pub(super) fn follow_declaration(&self, room: &RoomId, event: &Pdu) -> Result<(), SpaceError> {
        let user = event.sender();
        if user.server_name() != self.server_name() {
            return Ok(());
        }
        self.rooms.write_patiently(room, |writer| {
            Self::let_members_write(writer, user)?;
            let service = self.service_user();
            self.bring_in(writer, &service, user)?;
            Ok(())
        })
    }

    /// Unless the power levels speak of items already.
    fn let_members_write(writer: &mut RoomWriter<'_>, user: &UserId) -> Result<(), SpaceError> {
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
        match writer.append(event) {
            Ok(_) => Ok(()),
            Err(why @ (RoomError::Forbidden(_) | RoomError::Policy(_) | RoomError::Unsigned)) => {
                tracing::info!(%why, "whoever declared the shared space may not let members write");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// False when the room's rules forbid it.
fn append_member(
    writer: &mut RoomWriter<'_>,
    sender: &UserId,
    user: &UserId,
    membership: &str,
) -> Result<bool, SpaceError> {
    let content = json!({ "membership": membership, "displayname": SERVICE_DISPLAY_NAME });
    let event = NewEvent::new("m.room.member", sender.to_owned(), Some(user.to_string()), content);
    match writer.append(event.map_err(RoomError::from)?) {
        Ok(_) => Ok(true),
        Err(why @ (RoomError::Forbidden(_) | RoomError::Policy(_) | RoomError::Unsigned)) => {
            tracing::debug!(%why, membership, "the service user stays outside");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}
