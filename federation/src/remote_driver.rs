//! Serves what clients' requests need from other servers
//! ([`causeway_service::remote`]): one task for each, as many at once as
//! [`AT_ONCE_MAX`]; more wait in the bounded channel, and beyond that are
//! answered "unavailable".
//!
//! Files have places of their own, because they take long and wait for each
//! other: however many are wanted, joins and invites go on.

mod alias;
mod backfill;
mod candidates;
mod closest_event;
mod invite;
mod join;
mod knock;
mod leave;
mod media;
mod public_rooms;
mod space;
mod user_keys;

use std::sync::Arc;

use causeway_service::{
    error::{Chain, MatrixError},
    remote::RemoteRequest,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::ClientError,
    peers::PeerEvent,
    state::{FederationState, ReplicationMessage},
};

/// Requests that are served at once.
pub const AT_ONCE_MAX: usize = 64;
/// Files that are fetched at once; the others wait.
const FILES_AT_ONCE_MAX: usize = 6;
/// Files that are fetched or wait for it; more are answered "unavailable".
const FILES_MAX: usize = 256;

/// Serves until `stop`, or until nobody can ask any more.
pub async fn run(
    state: FederationState,
    mut requests: mpsc::Receiver<RemoteRequest>,
    stop: CancellationToken,
) {
    let (mut tasks, mut files) = (JoinSet::new(), JoinSet::new());
    let turns = Arc::new(Semaphore::new(FILES_AT_ONCE_MAX));
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = tasks.join_next() => log_panic(ended),
            Some(ended) = files.join_next() => log_panic(ended),
            request = requests.recv(), if tasks.len() < AT_ONCE_MAX => {
                let Some(request) = request else { break };
                let is_file = matches!(request, RemoteRequest::Media { .. });
                if is_file && files.len() >= FILES_MAX {
                    // Dropped, and its reply with it.
                    continue;
                }
                let served = serve(state.clone(), Arc::clone(&turns), request);
                if is_file { files.spawn(served) } else { tasks.spawn(served) };
            }
        }
    }
    // Who still waits is answered "unavailable" by the dropped replies.
    tasks.shutdown().await;
    files.shutdown().await;
    stop.cancelled().await;
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a request to another server failed");
    }
}

/// Does one thing. That the client has gone away meanwhile is no error.
async fn serve(state: FederationState, files: Arc<Semaphore>, request: RemoteRequest) {
    match request {
        RemoteRequest::Join { room_id, user_id, via, content, reply } => {
            let joined = join::join(&state, &room_id, &user_id, via, content).await;
            if joined.is_ok() {
                // What its servers said of its changes before this one could listen is lost.
                state.replicate(ReplicationMessage::Joined { room: room_id });
            }
            let _gone = reply.send(joined);
        }
        RemoteRequest::Knock { room_id, user_id, via, content, reply } => {
            let _gone = reply.send(knock::knock(&state, &room_id, &user_id, via, content).await);
        }
        RemoteRequest::PublicRooms { server, query, reply } => {
            let _gone = reply.send(public_rooms::public_rooms(&state, &server, query).await);
        }
        RemoteRequest::Leave { room_id, user_id, via, content, reply } => {
            let _gone = reply.send(leave::leave(&state, &room_id, &user_id, via, content).await);
        }
        RemoteRequest::Invite { room_id, event_id, event, room_state, user_id, reply } => {
            let invite = invite::Invite { room_id, event_id, event, room_state, user_id };
            let _gone = reply.send(invite::invite(&state, invite).await);
        }
        RemoteRequest::Media { mxc, holders, expected, bytes_max, reply } => {
            // Never closed.
            let Ok(_turn) = files.acquire().await else { return };
            let _gone = reply.send(media::media(&state, &mxc, holders, &expected, bytes_max).await);
        }
        RemoteRequest::Profile { user_id, reply } => {
            let _gone = reply.send(alias::profile(&state, &user_id).await);
        }
        RemoteRequest::Alias { alias, reply } => {
            let _gone = reply.send(alias::alias(&state, &alias).await);
        }
        RemoteRequest::Space { room_id, via, suggested_only, reply } => {
            let _gone = reply.send(space::space(&state, &room_id, via, suggested_only).await);
        }
        RemoteRequest::ClosestEvent { room_id, ts, forward, reply } => {
            let _gone = reply.send(closest_event::closest(&state, &room_id, ts, forward).await);
        }
        RemoteRequest::UserKeys { server, asked, timeout, reply } => {
            let _gone = reply.send(user_keys::query(&state, &server, &asked, timeout).await);
        }
        RemoteRequest::ClaimKeys { server, wanted, timeout, reply } => {
            let _gone = reply.send(user_keys::claim(&state, &server, &wanted, timeout).await);
        }
        RemoteRequest::Retry { server, reply } => {
            state.sender().heard_from(&server);
            state.peers().tell(PeerEvent::Up(server));
            let _gone = reply.send(Ok(()));
        }
        RemoteRequest::Backfill { room_id, limit, reply } => {
            let _gone = reply.send(backfill::backfill(&state, &room_id, limit).await);
        }
    }
}

/// What a client is told of another server's failure: its refusal as it is,
/// anything else as a bad gateway.
fn answer(error: &ClientError) -> MatrixError {
    tracing::debug!(error = %Chain(error), "another server did not do as asked");
    match error {
        ClientError::Status { status, errcode, message, .. } if status.is_client_error() => {
            let errcode = known_errcode(errcode);
            MatrixError::new(status.as_u16(), errcode, message.clone())
        }
        ClientError::TooLarge(_) => MatrixError::too_large("The other server's answer is too large"),
        _ => MatrixError::new(
            502,
            "M_UNKNOWN",
            "The other server could not be reached or did not answer properly",
        ),
    }
}

/// Codes that are passed on to a client as they are.
fn known_errcode(errcode: &str) -> &'static str {
    const PASSED_ON: [&str; 10] = [
        "M_FORBIDDEN",
        "M_NOT_FOUND",
        "M_INCOMPATIBLE_ROOM_VERSION",
        "M_UNABLE_TO_AUTHORISE_JOIN",
        "M_UNABLE_TO_GRANT_JOIN",
        "M_LIMIT_EXCEEDED",
        "M_INVALID_PARAM",
        "M_BAD_JSON",
        "M_TOO_LARGE",
        "M_UNRECOGNIZED",
    ];
    PASSED_ON.into_iter().find(|known| *known == errcode).unwrap_or("M_UNKNOWN")
}
