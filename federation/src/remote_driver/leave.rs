//! Leaving a room that this server is not in: turning an invite down, or taking
//! a knock back, through a server that is. Here the invite or knock is over
//! whether one of them takes note or not.

use causeway_room::Pdu;
use causeway_service::error::MatrixError;
use http::Method;
use ruma::{OwnedServerName, RoomId, ServerName, UserId};
use serde_json::Value;

use super::{
    answer,
    candidates::{candidates, first},
    join::{complete, template},
};
use crate::{
    client::{Request, escape},
    error::blocking,
    handshake::Wanted,
    state::FederationState,
};

pub(super) async fn leave(
    state: &FederationState,
    room_id: &RoomId,
    user_id: &UserId,
    via: Vec<OwnedServerName>,
    content: Value,
) -> Result<(), MatrixError> {
    let (services, room, user) = (state.services().clone(), room_id.to_owned(), user_id.to_owned());
    let ended = blocking(move || Ok(services.rooms.membership_position(&room, &user)?)).await?;
    let named = room_id.server_name().map(ToOwned::to_owned);
    let servers = candidates(state.server_name(), via.into_iter().chain(named));
    let left = first(&servers, |server| {
        let wanted = Wanted { room_id, user_id, membership: "leave", content: &content };
        leave_through(state, server, wanted)
    });
    let leave = match left.await {
        Ok(leave) => Some(leave),
        // Nobody has to keep an invite because its server is gone or has forgotten it.
        Err(error) => {
            tracing::info!(%room_id, %error, "no server took note of the leave");
            None
        }
    };
    let (services, room_id, user_id) = (state.services().clone(), room_id.to_owned(), user_id.to_owned());
    blocking(move || Ok(services.rooms.leave_outside(&room_id, &user_id, leave.as_ref(), ended)?)).await
}

async fn leave_through(
    state: &FederationState,
    server: OwnedServerName,
    wanted: Wanted<'_>,
) -> Result<Pdu, MatrixError> {
    let template = template(state, &server, "make_leave", wanted).await?;
    let leave = complete(state, template, wanted)?;
    send_leave(state, &server, wanted.room_id, &leave).await?;
    Ok(leave)
}

/// Has a server in the room take a leave.
pub(super) async fn send_leave(
    state: &FederationState,
    server: &ServerName,
    room_id: &RoomId,
    leave: &Pdu,
) -> Result<(), MatrixError> {
    let path = format!("/_matrix/federation/v2/send_leave/{}/{}", escape(room_id), escape(leave.event_id()));
    let mut request = Request::new(server, Method::PUT, &path);
    request.body = Some(leave.raw().get().as_bytes().to_vec());
    state.client().send_ok(request).await.map(drop).map_err(|error| answer(&error))
}
