//! Serves what clients' requests need from other servers
//! ([`causeway_service::remote`]): one task for each, so many at once of each
//! kind ([`lanes`]); so many more wait, and beyond that they are answered
//! "unavailable".

pub(crate) mod address_proof;
mod addressee;
mod alias;
mod backfill;
mod candidates;
mod closest_event;
pub(crate) mod invite;
mod join;
mod knock;
mod lanes;
mod leave;
mod media;
mod public_rooms;
mod space;
pub(crate) mod undo;
mod user_keys;

use causeway_service::remote::RemoteRequest;
use ruma::{OwnedRoomId, UserId};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::{
    address_proof::Proof,
    lanes::{Lanes, Place},
};
use crate::{
    passed_on::answer,
    peers::PeerEvent,
    state::{FederationState, ReplicationMessage},
};

/// Serves until `stop`, or until nobody can ask any more.
pub async fn run(
    state: FederationState,
    mut requests: mpsc::Receiver<RemoteRequest>,
    stop: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    let lanes = Lanes::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = tasks.join_next() => log_panic(ended),
            request = requests.recv() => {
                let Some(request) = request else { break };
                // Who has no place is answered "unavailable" by the dropped reply.
                if let Some(place) = lanes.place(&request) {
                    tasks.spawn(serve(state.clone(), place, request));
                }
            }
        }
    }
    // Who still waits is answered "unavailable" by the dropped replies.
    tasks.shutdown().await;
    stop.cancelled().await;
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a request to another server failed");
    }
}

/// Does one thing. That the client has gone away meanwhile is no error; what
/// only tells it something then ends, what changes something does not.
async fn serve(state: FederationState, place: Place, request: RemoteRequest) {
    match request {
        RemoteRequest::Join { room_id, user_id, via, content, reply } => {
            let Some(_turn) = place.turn().await else { return };
            let joined = join::join(&state, &room_id, &user_id, via, content).await;
            joined_or_not(&state, (room_id, &user_id), joined.is_ok()).await;
            let _gone = reply.send(joined);
        }
        RemoteRequest::Knock { room_id, user_id, via, content, reply } => {
            let Some(_turn) = place.turn().await else { return };
            let _gone = reply.send(knock::knock(&state, &room_id, &user_id, via, content).await);
        }
        RemoteRequest::Leave { room_id, user_id, via, content, reply } => {
            let Some(_turn) = place.turn().await else { return };
            let _gone = reply.send(leave::leave(&state, &room_id, &user_id, via, content).await);
        }
        RemoteRequest::Invite { room_id, event_id, event, room_state, user_id, reply } => {
            let Some(_turn) = place.turn().await else { return };
            let invite = invite::Invite { room_id, event_id, event, room_state, user_id };
            let _gone = reply.send(invite::invite(&state, invite).await);
        }
        RemoteRequest::Addressee { invite, reply, sender: _ } => {
            let Some(_turn) = place.turn().await else { return };
            let _gone = reply.send(addressee::addressee(&state, &invite).await);
        }
        RemoteRequest::AddressProof { room_id, sender, target, signed, reply } => {
            let Some(_turn) = place.turn().await else { return };
            let proof = Proof { room_id, sender, target, signed };
            let _gone = reply.send(proof.exchange(&state).await);
        }
        RemoteRequest::PublicRooms { server, query, reply } => {
            place.tell(reply, public_rooms::public_rooms(&state, &server, query)).await;
        }
        RemoteRequest::Media { mxc, holders, expected, bytes_max, reply } => {
            place.tell(reply, media::media(&state, &mxc, holders, &expected, bytes_max)).await;
        }
        RemoteRequest::Profile { user_id, reply } => {
            place.tell(reply, alias::profile(&state, &user_id)).await;
        }
        RemoteRequest::Alias { alias, reply } => {
            place.tell(reply, alias::alias(&state, &alias)).await;
        }
        RemoteRequest::Space { room_id, via, suggested_only, reply } => {
            place.tell(reply, space::space(&state, &room_id, via, suggested_only)).await;
        }
        RemoteRequest::ClosestEvent { room_id, ts, forward, reply } => {
            place.tell(reply, closest_event::closest(&state, &room_id, ts, forward)).await;
        }
        RemoteRequest::UserKeys { server, asked, timeout, reply, asker: _ } => {
            place.tell(reply, user_keys::query(&state, &server, &asked, timeout)).await;
        }
        RemoteRequest::ClaimKeys { server, wanted, timeout, reply, asker: _ } => {
            place.tell(reply, user_keys::claim(&state, &server, &wanted, timeout)).await;
        }
        RemoteRequest::PolicySignature { server, event, reply } => {
            place.tell(reply, crate::policy::sign(&state, &server, &event)).await;
        }
        RemoteRequest::Retry { server, reply } => {
            state.sender().heard_from(&server);
            state.peers().tell(PeerEvent::Up(server));
            let _gone = reply.send(Ok(()));
        }
        RemoteRequest::Backfill { room_id, limit, reply } => {
            place.tell(reply, backfill::backfill(&state, &room_id, limit)).await;
        }
    }
}

/// What follows from a join, whether or not it succeeded.
async fn joined_or_not(
    state: &FederationState,
    (room_id, user_id): (OwnedRoomId, &UserId),
    has_joined: bool,
) {
    if has_joined {
        // What its servers said of its changes before this one could listen is lost.
        state.replicate(ReplicationMessage::Joined { room: room_id });
    } else {
        undo::failed(state, &room_id, user_id).await;
    }
}
