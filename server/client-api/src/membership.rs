//! Joining, leaving, inviting, knocking, kicking, banning.
//!
//! The rules are in `causeway_service::rooms`; this asks other servers where
//! this one can't do it alone.

use axum::Router;
use causeway_service::{
    error::MatrixError,
    remote::{AddressInvite, RemoteRequest},
    rooms::{Invite, Outcome, RoomError},
    succession::carry_settings,
};
use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomOrAliasId, UserId,
    api::client::{
        knock::knock_room,
        membership::{
            ban_user, forget_room, invite_user as invite_endpoint, join_room_by_id, join_room_by_id_or_alias,
            joined_rooms, kick_user, leave_room, unban_user,
        },
    },
    events::room::member::MembershipState,
};
use serde_json::{Map, Value};

use crate::{ClientState, Endpoints, Ruma, appservice, blocking, endpoint::in_turn, third_party_invite};

/// Servers that are tried for one join.
const VIA_MAX: usize = 10;

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .endpoint_async(join_by_id)
        .endpoint_async(join_by_id_or_alias)
        .endpoint_async(knock)
        .endpoint_async(leave)
        .endpoint_async(invite)
        .endpoint(kick)
        .endpoint(ban)
        .endpoint(unban)
        .endpoint(forget)
        .endpoint(joined)
}

async fn join_by_id(
    state: ClientState,
    request: Ruma<join_room_by_id::v3::Request>,
) -> Result<join_room_by_id::v3::Response, MatrixError> {
    let (room_id, reason) = (request.body.room_id, request.body.reason);
    third_party_invite::prove(&state, &room_id, &request.auth.user_id, &request.raw).await?;
    join(&state, &room_id, &request.auth.user_id, Vec::new(), reason).await?;
    Ok(join_room_by_id::v3::Response::new(room_id))
}

async fn join_by_id_or_alias(
    state: ClientState,
    request: Ruma<join_room_by_id_or_alias::v3::Request>,
) -> Result<join_room_by_id_or_alias::v3::Response, MatrixError> {
    let (room_id, mut via) = resolve(&state, &request.body.room_id_or_alias).await?;
    via.splice(0..0, request.body.via);
    third_party_invite::prove(&state, &room_id, &request.auth.user_id, &request.raw).await?;
    join(&state, &room_id, &request.auth.user_id, via, request.body.reason).await?;
    Ok(join_room_by_id_or_alias::v3::Response::new(room_id))
}

/// The room that an id or alias names, and servers that may know it.
pub(crate) async fn resolve(
    state: &ClientState,
    named: &RoomOrAliasId,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), MatrixError> {
    match <&RoomId>::try_from(named) {
        Ok(room_id) => Ok((room_id.to_owned(), Vec::new())),
        Err(alias) => {
            let alias = alias.to_owned();
            if alias.server_name() != state.settings.server_name {
                return state.remote.request(|reply| RemoteRequest::Alias { alias, reply }).await;
            }
            appservice::alias_is_wanted(state, &alias).await?;
            let state = state.clone();
            blocking(move || {
                let room_id = state.directory.room_of(&alias)?;
                let servers = state.rooms.joined_servers(&room_id)?;
                Ok((room_id, servers))
            })
            .await
        }
    }
}

async fn join(
    state: &ClientState,
    room_id: &RoomId,
    user_id: &UserId,
    via: Vec<OwnedServerName>,
    reason: Option<String>,
) -> Result<(), MatrixError> {
    let (joining, room, user) = (state.clone(), room_id.to_owned(), user_id.to_owned());
    let (outcome, content) = in_turn(state.clone(), Some(room.clone()), move || {
        joining.accounts.check_not_suspended(&user)?;
        let content = own_content(&joining, &user, reason)?;
        let outcome = joining.rooms.join(&room, &user, content.clone())?;
        // What other servers say of such a room can't be relied on.
        if matches!(outcome, Outcome::Remote { .. }) && joining.rooms.is_guest(&user)? {
            return Err(RoomError::NoGuests.into());
        }
        Ok((outcome, content))
    })
    .await?;
    if let Outcome::Remote { via: known } = outcome {
        let via = servers_to_ask(state, room_id, via, known)?;
        let (room_id, user_id, content) = (room_id.to_owned(), user_id.to_owned(), Value::Object(content));
        let request = |reply| RemoteRequest::Join { room_id, user_id, via, content, reply };
        state.remote.request(request).await?;
    }
    let (joined, room, user) = (state.clone(), room_id.to_owned(), user_id.to_owned());
    blocking(move || {
        carry_settings(&joined.rooms, &joined.account_data, &user, &room);
        Ok(())
    })
    .await
}

async fn knock(
    state: ClientState,
    request: Ruma<knock_room::v3::Request>,
) -> Result<knock_room::v3::Response, MatrixError> {
    let (room_id, mut via) = resolve(&state, &request.body.room_id_or_alias).await?;
    via.splice(0..0, request.body.via);
    let user_id = request.auth.user_id;
    let (knocking, room, user, reason) =
        (state.clone(), room_id.clone(), user_id.clone(), request.body.reason);
    let (outcome, content) = in_turn(state.clone(), Some(room.clone()), move || {
        knocking.accounts.check_not_suspended(&user)?;
        let content = own_content(&knocking, &user, reason)?;
        Ok((knocking.rooms.knock(&room, &user, content.clone())?, content))
    })
    .await?;
    if let Outcome::Remote { via: known } = outcome {
        let via = servers_to_ask(&state, &room_id, via, known)?;
        let (room_id, content) = (room_id.clone(), Value::Object(content));
        let request = |reply| RemoteRequest::Knock { room_id, user_id, via, content, reply };
        state.remote.request(request).await?;
    }
    Ok(knock_room::v3::Response::new(room_id))
}

async fn leave(
    state: ClientState,
    request: Ruma<leave_room::v3::Request>,
) -> Result<leave_room::v3::Response, MatrixError> {
    let (room_id, user_id, reason) = (request.body.room_id, request.auth.user_id, request.body.reason);
    let (leaving, room, user, because) = (state.clone(), room_id.clone(), user_id.clone(), reason.clone());
    let outcome = in_turn(state.clone(), Some(room.clone()), move || {
        leaving.server_notices.check_may_leave(&room, &user)?;
        let outcome = leaving.rooms.leave(&room, &user, because.as_deref())?;
        leaving.typing.set(&room, &user, None);
        Ok(outcome)
    })
    .await?;
    if let Outcome::Remote { via } = outcome {
        let via = servers_to_ask(&state, &room_id, Vec::new(), via)?;
        let content = Value::Object(with_reason(Map::new(), reason));
        state.remote.request(|reply| RemoteRequest::Leave { room_id, user_id, via, content, reply }).await?;
    }
    Ok(leave_room::v3::Response::new())
}

async fn invite(
    state: ClientState,
    request: Ruma<invite_endpoint::v3::Request>,
) -> Result<invite_endpoint::v3::Response, MatrixError> {
    use invite_endpoint::v3::InvitationRecipient;
    let (room_id, sender) = (request.body.room_id, request.auth.user_id);
    match request.body.recipient {
        InvitationRecipient::UserId(recipient) => {
            let content = with_reason(Map::new(), recipient.reason);
            invite_user(&state, &room_id, &sender, &recipient.user_id, content).await?;
        }
        InvitationRecipient::ThirdPartyId(invite) => {
            let invite = third_party_invite::checked(invite)?;
            invite_address(&state, &room_id, &sender, invite, Map::new()).await?;
        }
        _ => return Err(MatrixError::bad_json("Who is invited?")),
    }
    Ok(invite_endpoint::v3::Response::new())
}

/// Invites a user, of whichever server.
pub(crate) async fn invite_user(
    state: &ClientState,
    room_id: &RoomId,
    sender: &UserId,
    target: &UserId,
    content: Map<String, Value>,
) -> Result<(), MatrixError> {
    appservice::user_is_wanted(state, target).await?;
    let (inviting, room, from, to) =
        (state.clone(), room_id.to_owned(), sender.to_owned(), target.to_owned());
    let prepared = in_turn(state.clone(), Some(room.clone()), move || {
        inviting.accounts.check_not_suspended(&from)?;
        let is_local = to.server_name() == inviting.settings.server_name;
        if is_local && !inviting.accounts.is_active(&to)? {
            return Err(MatrixError::not_found("No such user"));
        }
        let mut content = content;
        if is_local {
            content.extend(inviting.profiles.profile(&to)?);
        }
        Ok(inviting.rooms.invite(&room, &from, &to, content)?)
    })
    .await?;
    let Invite::Remote(prepared) = prepared else { return Ok(()) };
    let (room_id, user_id) = (room_id.to_owned(), target.to_owned());
    let room = room_id.clone();
    let signed = state
        .remote
        .request(|reply| RemoteRequest::Invite {
            room_id,
            event_id: prepared.event.event_id().to_owned(),
            event: prepared.event.raw().to_owned(),
            room_state: prepared.room_state,
            user_id,
            reply,
        })
        .await?;
    let state = state.clone();
    in_turn(state.clone(), Some(room.clone()), move || {
        state.rooms.commit_invite(&room, &signed)?;
        Ok(())
    })
    .await
}

/// Invites whom an address belongs to, or keeps him a place.
pub(crate) async fn invite_address(
    state: &ClientState,
    room_id: &RoomId,
    sender: &UserId,
    invite: AddressInvite,
    content: Map<String, Value>,
) -> Result<(), MatrixError> {
    match third_party_invite::addressee(state, room_id, sender, invite).await? {
        Some(user_id) => invite_user(state, room_id, sender, &user_id, content).await,
        None => Ok(()),
    }
}

fn kick(
    state: &ClientState,
    request: Ruma<kick_user::v3::Request>,
) -> Result<kick_user::v3::Response, MatrixError> {
    let body = request.body;
    state.accounts.check_not_suspended(&request.auth.user_id)?;
    state.rooms.kick(&body.room_id, &request.auth.user_id, &body.user_id, body.reason.as_deref())?;
    state.typing.set(&body.room_id, &body.user_id, None);
    Ok(kick_user::v3::Response::new())
}

fn ban(
    state: &ClientState,
    request: Ruma<ban_user::v3::Request>,
) -> Result<ban_user::v3::Response, MatrixError> {
    let body = request.body;
    state.accounts.check_not_suspended(&request.auth.user_id)?;
    state.rooms.ban(&body.room_id, &request.auth.user_id, &body.user_id, body.reason.as_deref())?;
    state.typing.set(&body.room_id, &body.user_id, None);
    Ok(ban_user::v3::Response::new())
}

fn unban(
    state: &ClientState,
    request: Ruma<unban_user::v3::Request>,
) -> Result<unban_user::v3::Response, MatrixError> {
    let body = request.body;
    state.accounts.check_not_suspended(&request.auth.user_id)?;
    state.rooms.unban(&body.room_id, &request.auth.user_id, &body.user_id, body.reason.as_deref())?;
    Ok(unban_user::v3::Response::new())
}

fn forget(
    state: &ClientState,
    request: Ruma<forget_room::v3::Request>,
) -> Result<forget_room::v3::Response, MatrixError> {
    // The specification has another code here than for what makes no sense elsewhere.
    let unfinished = |error| match error {
        RoomError::Invalid(why) => MatrixError::new(400, "M_UNKNOWN", why),
        error => error.into(),
    };
    state.rooms.forget(&request.body.room_id, &request.auth.user_id).map_err(unfinished)?;
    Ok(forget_room::v3::Response::new())
}

fn joined(
    state: &ClientState,
    request: Ruma<joined_rooms::v3::Request>,
) -> Result<joined_rooms::v3::Response, MatrixError> {
    let rooms = state.rooms.memberships_of(&request.auth.user_id)?;
    let joined = rooms.into_iter().filter(|(_, member)| member.membership == MembershipState::Join);
    Ok(joined_rooms::v3::Response::new(joined.map(|(room_id, _)| room_id).collect()))
}

/// The content of a user's own membership event.
pub(crate) fn own_content(
    state: &ClientState,
    user_id: &OwnedUserId,
    reason: Option<String>,
) -> Result<Map<String, Value>, MatrixError> {
    Ok(with_reason(state.profiles.profile(user_id)?, reason))
}

fn with_reason(mut content: Map<String, Value>, reason: Option<String>) -> Map<String, Value> {
    if let Some(reason) = reason {
        content.insert("reason".to_owned(), reason.into());
    }
    content
}

/// The servers to ask, best first: those that were named, those that are known,
/// and the one in the room's id.
fn servers_to_ask(
    state: &ClientState,
    room_id: &RoomId,
    named: Vec<OwnedServerName>,
    known: Vec<OwnedServerName>,
) -> Result<Vec<OwnedServerName>, MatrixError> {
    let mut servers: Vec<OwnedServerName> = Vec::new();
    let of_id = room_id.server_name().map(ToOwned::to_owned);
    for server in named.into_iter().chain(known).chain(of_id) {
        if server != state.settings.server_name && !servers.contains(&server) && servers.len() < VIA_MAX {
            servers.push(server);
        }
    }
    if servers.is_empty() {
        return Err(MatrixError::not_found(
            "The room is not known here, and no server was named that could know it",
        ));
    }
    Ok(servers)
}
