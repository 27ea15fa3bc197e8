//! Invites of somebody who is known by an address only, such as an e-mail's (client-server
//! API, "Third-party invites"): what is told to the identity server that the client names, and
//! what the room is told then.
//!
//! Not here: asking it, which the federation door does; what the invited user proves.
//!
//! Invariant: an identity server hears of nothing before the room's rules have allowed the
//! invite, since it may send an e-mail.

use causeway_service::{
    error::MatrixError,
    remote::{AddressInvite, Addressee, RemoteRequest},
    rooms::{NewEvent, RoomError},
};
use ruma::{
    CanonicalJsonObject, OwnedServerName, OwnedUserId, RoomId, UserId, api::client::membership::Invite3pid,
};
use serde_json::{Map, Value};

use crate::{ClientState, endpoint::in_turn};

/// Longest address, in bytes; an e-mail's has 254 at most.
const ADDRESS_BYTES_MAX: usize = 320;
/// Longest access token of an identity server, in bytes.
const TOKEN_BYTES_MAX: usize = 4_096;
/// Longest kind of address, in bytes.
const MEDIUM_BYTES_MAX: usize = 64;

/// What of the room's state an identity server is told: as it calls it, the event, the field.
const TOLD: [(&str, &str, &str); 5] = [
    ("room_alias", "m.room.canonical_alias", "alias"),
    ("room_avatar_url", "m.room.avatar", "url"),
    ("room_join_rules", "m.room.join_rules", "join_rule"),
    ("room_name", "m.room.name", "name"),
    ("room_type", "m.room.create", "type"),
];

/// An invite that is worth asking for.
pub(crate) fn checked(invite: Invite3pid) -> Result<AddressInvite, MatrixError> {
    let (medium, address, token) = (invite.medium.to_string(), invite.address, invite.id_access_token);
    let fits = |text: &str, most: usize| (1..=most).contains(&text.len()) && !text.contains(char::is_control);
    if !fits(&medium, MEDIUM_BYTES_MAX)
        || !fits(&address, ADDRESS_BYTES_MAX)
        || !fits(&token, TOKEN_BYTES_MAX)
    {
        return Err(MatrixError::invalid_param("The address, its kind or the token is not one"));
    }
    let server = OwnedServerName::try_from(invite.id_server)
        .map_err(|_| MatrixError::invalid_param("`id_server` is not a host with or without port"))?;
    Ok(AddressInvite { server, token, medium, address, told: Map::new() })
}

/// Asks whom the address belongs to; `None`: nobody yet, and the room keeps him a place.
pub(crate) async fn addressee(
    state: &ClientState,
    room_id: &RoomId,
    sender: &UserId,
    mut invite: AddressInvite,
) -> Result<Option<OwnedUserId>, MatrixError> {
    let (inviting, room, from) = (state.clone(), room_id.to_owned(), sender.to_owned());
    invite.told = in_turn(state.clone(), Some(room.clone()), move || {
        inviting.accounts.check_not_suspended(&from)?;
        inviting.rooms.check_may_invite_address(&room, &from)?;
        told(&inviting, &room, &from)
    })
    .await?;
    let (asker, invite) = (sender.to_owned(), Box::new(invite));
    let asked = |reply| RemoteRequest::Addressee { sender: asker, invite, reply };
    let (token, content) = match state.remote.request(asked).await? {
        Addressee::User(user_id) => return Ok(Some(user_id)),
        Addressee::Unknown { token, content } => (token, content),
    };
    let (state, room, from) = (state.clone(), room_id.to_owned(), sender.to_owned());
    in_turn(state.clone(), Some(room.clone()), move || {
        let event = NewEvent::new("m.room.third_party_invite", from, Some(token), Value::Object(content));
        state.rooms.send(&room, event.map_err(RoomError::from)?, None)?;
        Ok(None)
    })
    .await
}

fn told(state: &ClientState, room_id: &RoomId, sender: &UserId) -> Result<Map<String, Value>, MatrixError> {
    let mut told = Map::from_iter([
        ("room_id".to_owned(), room_id.as_str().into()),
        ("sender".to_owned(), sender.as_str().into()),
    ]);
    for (name, kind, field) in TOLD {
        let event = state.rooms.state_event(room_id, kind, "")?;
        let content: Option<Map<String, Value>> = event.and_then(|event| event.content().ok());
        if let Some(value @ Value::String(_)) = content.and_then(|mut content| content.remove(field)) {
            told.insert(name.to_owned(), value);
        }
    }
    let mut profile = state.profiles.profile(sender)?;
    for (name, field) in [("sender_display_name", "displayname"), ("sender_avatar_url", "avatar_url")] {
        if let Some(value @ Value::String(_)) = profile.remove(field) {
            told.insert(name.to_owned(), value);
        }
    }
    Ok(told)
}

/// Has who invited a user by an address invite him by name, if he says with `raw`, a request
/// to join, that an identity server vouches for him.
pub(crate) async fn prove(
    state: &ClientState,
    room_id: &RoomId,
    user_id: &UserId,
    raw: &[u8],
) -> Result<(), MatrixError> {
    #[derive(serde::Deserialize)]
    struct Body {
        third_party_signed: Option<CanonicalJsonObject>,
    }
    let body: Option<Body> = serde_json::from_slice(raw).ok();
    let Some(signed) = body.and_then(|body| body.third_party_signed) else { return Ok(()) };
    let sender = signed.get("sender").and_then(|sender| sender.as_str()).unwrap_or_default();
    let sender =
        sender.try_into().map_err(|_| MatrixError::invalid_param("`third_party_signed` names no sender"))?;
    let (room_id, target) = (room_id.to_owned(), user_id.to_owned());
    state.remote.request(|reply| RemoteRequest::AddressProof { room_id, sender, target, signed, reply }).await
}
