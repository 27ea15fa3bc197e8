//! The units of a transaction that are no events: short-lived ones, messages to
//! devices, changes of encryption keys. Unknown ones, and ones that make no
//! sense or are not the sender's to send, are skipped.

use std::collections::BTreeMap;

use causeway_service::{
    Services,
    error::{Chain, MatrixError},
    keys::remote::{CrossSigningUpdate, DeviceUpdate},
    presence::State,
    receipts::READ,
    typing::TYPING_TIMEOUT_MAX_MS,
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    access,
    bounded::BoundedList,
    error::blocking,
    state::{FederationState, ReplicationMessage, VERSION_VECTOR},
};

/// Receipts of one unit that are looked at.
const RECEIPTS_MAX: usize = 1_000;
/// Users of one unit of presence.
const PRESENCES_MAX: usize = 500;
/// How long somebody on another server is taken to type, in milliseconds, when
/// nothing more is heard.
const TYPING_MS: u64 = 30_000;

#[derive(Deserialize)]
struct Edu {
    edu_type: String,
    content: Box<RawValue>,
}

/// Whether a unit is about replication. Such a unit is looked at after the
/// transaction's events: what those bring need not be pulled.
pub(crate) fn is_advertisement(edu: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(borrow)]
        edu_type: &'a str,
    }
    serde_json::from_str::<Kind<'_>>(edu.get()).is_ok_and(|edu| edu.edu_type == VERSION_VECTOR)
}

/// Does what `edu` asks for, if anything.
pub(crate) async fn receive(state: &FederationState, origin: &ServerName, edu: &RawValue) {
    let Ok(Edu { edu_type, content }) = serde_json::from_str(edu.get()) else {
        return tracing::debug!(%origin, "an ephemeral unit without type or content is skipped");
    };
    let work: fn(&Services, &ServerName, &str) -> Result<(), MatrixError> = match edu_type.as_str() {
        VERSION_VECTOR => {
            return state.replicate(ReplicationMessage::Advertised { origin: origin.to_owned(), content });
        }
        "m.typing" => typing,
        "m.presence" => presence,
        "m.receipt" => receipts,
        "m.direct_to_device" => direct_to_device,
        "m.device_list_update" => device_list_update,
        "m.signing_key_update" => signing_key_update,
        _ => return tracing::trace!(%origin, edu_type, "an unknown ephemeral unit is skipped"),
    };
    let (services, from) = (state.services().clone(), origin.to_owned());
    if let Err(error) = blocking(move || work(&services, &from, content.get())).await {
        tracing::debug!(%origin, edu_type, error = %Chain(&error), "an ephemeral unit is skipped");
    }
}

fn parse<'a, T: Deserialize<'a>>(content: &'a str) -> Result<T, MatrixError> {
    serde_json::from_str(content).map_err(|_| MatrixError::bad_json("malformed"))
}

/// Whether `user_id` is a user of `origin` who is in the room, and `origin` is
/// not shut out of it.
fn speaks_for(
    services: &Services,
    origin: &ServerName,
    room_id: &RoomId,
    user_id: &UserId,
) -> Result<(), MatrixError> {
    access::of_room(&services.rooms, room_id, origin)?;
    if user_id.server_name() != origin || !services.rooms.is_joined(room_id, user_id)? {
        return Err(MatrixError::forbidden("not a member of that server"));
    }
    Ok(())
}

fn typing(services: &Services, origin: &ServerName, content: &str) -> Result<(), MatrixError> {
    #[derive(Deserialize)]
    struct Typing {
        room_id: OwnedRoomId,
        user_id: OwnedUserId,
        #[serde(rename = "typing")]
        now: bool,
    }
    let Typing { room_id, user_id, now } = parse(content)?;
    speaks_for(services, origin, &room_id, &user_id)?;
    services.typing.set(&room_id, &user_id, now.then_some(TYPING_MS.min(TYPING_TIMEOUT_MAX_MS)));
    Ok(())
}

fn presence(services: &Services, origin: &ServerName, content: &str) -> Result<(), MatrixError> {
    #[derive(Deserialize)]
    struct Presence {
        push: BoundedList<Value, PRESENCES_MAX>,
    }
    #[derive(Deserialize)]
    struct Pushed {
        user_id: OwnedUserId,
        presence: String,
        #[serde(default)]
        status_msg: Option<String>,
        #[serde(default)]
        last_active_ago: u64,
    }
    let Presence { push } = parse(content)?;
    for pushed in push.0 {
        let Ok(pushed) = serde_json::from_value::<Pushed>(pushed) else { continue };
        if pushed.user_id.server_name() == origin {
            let state = State::of(&pushed.presence);
            services.presence.heard(&pushed.user_id, state, pushed.status_msg, pushed.last_active_ago);
        }
    }
    Ok(())
}

fn receipts(services: &Services, origin: &ServerName, content: &str) -> Result<(), MatrixError> {
    #[derive(Deserialize)]
    struct OfRoom {
        #[serde(rename = "m.read", default)]
        read: BTreeMap<OwnedUserId, Receipt>,
    }
    #[derive(Deserialize)]
    struct Receipt {
        event_ids: Vec<OwnedEventId>,
        #[serde(default)]
        data: Data,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Data {
        thread_id: String,
    }
    let rooms: BTreeMap<OwnedRoomId, OfRoom> = parse(content)?;
    let all =
        rooms.iter().flat_map(|(room_id, of)| of.read.iter().map(move |(user, at)| (room_id, user, at)));
    for (room_id, user_id, receipt) in all.take(RECEIPTS_MAX) {
        let Some(event_id) = receipt.event_ids.last() else { continue };
        let set = speaks_for(services, origin, room_id, user_id)
            .and_then(|()| services.receipts.set(room_id, user_id, READ, &receipt.data.thread_id, event_id));
        if let Err(error) = set {
            tracing::debug!(%origin, %room_id, error = %Chain(&error), "a receipt is skipped");
        }
    }
    Ok(())
}

fn direct_to_device(services: &Services, origin: &ServerName, content: &str) -> Result<(), MatrixError> {
    services.to_device.receive(origin, &parse(content)?)
}

fn device_list_update(services: &Services, origin: &ServerName, content: &str) -> Result<(), MatrixError> {
    let update: DeviceUpdate = parse(content)?;
    is_of(origin, &update.user_id)?;
    services.keys.device_changed(&update)
}

fn signing_key_update(services: &Services, origin: &ServerName, content: &str) -> Result<(), MatrixError> {
    let update: CrossSigningUpdate = parse(content)?;
    is_of(origin, &update.user_id)?;
    services.keys.cross_signing_changed(&update)
}

fn is_of(origin: &ServerName, user_id: &UserId) -> Result<(), MatrixError> {
    if user_id.server_name() == origin {
        Ok(())
    } else {
        Err(MatrixError::forbidden("That is not a user of that server"))
    }
}
