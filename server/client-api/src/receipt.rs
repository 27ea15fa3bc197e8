//! Typing notifications, read receipts and read markers.

use axum::Router;
use causeway_service::{
    devices::Session,
    error::MatrixError,
    receipts::{READ, READ_PRIVATE},
};
use ruma::{
    EventId, RoomId,
    api::client::{
        read_marker::set_read_marker,
        receipt::create_receipt::{self, v3::ReceiptType},
        typing::create_typing_event::{self, v3::Typing},
    },
    events::receipt::ReceiptThread,
};
use serde_json::{json, value::to_raw_value};

use crate::{ClientState, Endpoints, Ruma, config::own};

/// The room account data of the read marker.
const FULLY_READ: &str = "m.fully_read";

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().endpoint(typing).endpoint(receipt).endpoint(markers)
}

fn typing(
    state: &ClientState,
    request: Ruma<create_typing_event::v3::Request>,
) -> Result<create_typing_event::v3::Response, MatrixError> {
    let body = request.body;
    own(&request.auth, body.user_id.as_str())?;
    require_joined(state, &request.auth, &body.room_id)?;
    let timeout_ms = match body.state {
        Typing::Yes(info) => Some(u64::try_from(info.timeout.as_millis()).unwrap_or(u64::MAX)),
        Typing::No => None,
    };
    state.ephemeral.typing(&body.room_id, &body.user_id, timeout_ms)?;
    Ok(create_typing_event::v3::Response::new())
}

fn receipt(
    state: &ClientState,
    request: Ruma<create_receipt::v3::Request>,
) -> Result<create_receipt::v3::Response, MatrixError> {
    let body = request.body;
    require_joined(state, &request.auth, &body.room_id)?;
    let thread = match &body.thread {
        ReceiptThread::Unthreaded => "",
        ReceiptThread::Main => "main",
        thread => thread.as_str().unwrap_or_default(),
    };
    match body.receipt_type {
        ReceiptType::FullyRead => set_fully_read(state, &request.auth, &body.room_id, &body.event_id)?,
        ReceiptType::Read => set(state, &request.auth, &body.room_id, READ, thread, &body.event_id)?,
        ReceiptType::ReadPrivate => {
            set(state, &request.auth, &body.room_id, READ_PRIVATE, thread, &body.event_id)?;
        }
        _ => return Err(MatrixError::invalid_param("Unknown type of receipt")),
    }
    Ok(create_receipt::v3::Response::new())
}

fn markers(
    state: &ClientState,
    request: Ruma<set_read_marker::v3::Request>,
) -> Result<set_read_marker::v3::Response, MatrixError> {
    let (body, session) = (request.body, request.auth);
    require_joined(state, &session, &body.room_id)?;
    if let Some(event_id) = &body.fully_read {
        set_fully_read(state, &session, &body.room_id, event_id)?;
    }
    if let Some(event_id) = &body.read_receipt {
        set(state, &session, &body.room_id, READ, "", event_id)?;
    }
    if let Some(event_id) = &body.private_read_receipt {
        set(state, &session, &body.room_id, READ_PRIVATE, "", event_id)?;
    }
    Ok(set_read_marker::v3::Response::new())
}

fn set(
    state: &ClientState,
    session: &Session,
    room_id: &RoomId,
    kind: &str,
    thread: &str,
    event_id: &EventId,
) -> Result<(), MatrixError> {
    state.ephemeral.receipt(room_id, &session.user_id, kind, thread, event_id)
}

fn set_fully_read(
    state: &ClientState,
    session: &Session,
    room_id: &RoomId,
    event_id: &EventId,
) -> Result<(), MatrixError> {
    let content =
        to_raw_value(&json!({ "event_id": event_id })).map_err(|error| MatrixError::internal(&error))?;
    state.account_data.change(&session.user_id, Some(room_id), FULLY_READ, |_| Ok(((), content)))
}

fn require_joined(state: &ClientState, session: &Session, room_id: &RoomId) -> Result<(), MatrixError> {
    if state.rooms.is_joined(room_id, &session.user_id)? {
        Ok(())
    } else {
        Err(MatrixError::forbidden("You are not in this room"))
    }
}
