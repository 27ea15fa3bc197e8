//! Joins that another server may have taken and that failed here: the answer was lost, or is
//! no room that can be taken in. Others would see a user in the room for ever who is not, and
//! send to this server what it refuses. So that server is asked to take his leave.
//!
//! Invariants: only a join that the other server names as what the user's leave stands on is
//! undone: not an invite or a later join; tries, and how many are tried at once, are bounded; a
//! restart forgets none.

use std::time::Duration;

use causeway_service::{
    error::{Chain, MatrixError},
    outbox::again::pause_ms,
    rooms::AskedJoin,
};
use ruma::{RoomId, UserId};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    join::{complete, template},
    leave::send_leave,
};
use crate::{error::blocking, handshake::Wanted, state::FederationState, undoing::REMEMBERED_MAX};

/// At once.
const TASKS_MAX: usize = 4;
/// The longest time without a look.
const PAUSE_MAX: Duration = Duration::from_mins(10);

/// Undoes what failed until `stop`, and what had failed before.
pub async fn run(state: FederationState, stop: CancellationToken) {
    if let Err(error) = restore(&state, None).await {
        tracing::error!(error = %Chain(&error), "the joins that failed can't be read");
    }
    let mut tasks = JoinSet::new();
    loop {
        let mut pause = None;
        while tasks.len() < TASKS_MAX {
            match state.undoing().next(state.clock().instant()) {
                Ok((asked, tries)) => {
                    tasks.spawn(undo(state.clone(), asked, tries));
                }
                Err(wait) => {
                    pause = wait;
                    break;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = state.undoing().news() => {}
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "undoing a join failed");
                }
            }
            () = tokio::time::sleep(pause.unwrap_or(PAUSE_MAX)) => {}
        }
    }
}

/// A user's join failed, at whichever servers it was tried.
pub(super) async fn failed(state: &FederationState, room_id: &RoomId, user_id: &UserId) {
    if let Err(error) = restore(state, Some((room_id, user_id))).await {
        tracing::error!(error = %Chain(&error), "a join that failed can't be undone before the next start");
    }
}

async fn restore(state: &FederationState, of: Option<(&RoomId, &UserId)>) -> Result<(), MatrixError> {
    let (services, of) =
        (state.services().clone(), of.map(|(room, user)| (room.to_owned(), user.to_owned())));
    let all = blocking(move || {
        let of = of.as_ref().map(|(room_id, user_id)| (&**room_id, &**user_id));
        Ok(services.rooms.asked_joins(of, REMEMBERED_MAX)?)
    });
    for asked in all.await? {
        state.undoing().put(asked, 0, state.clock().instant());
    }
    Ok(())
}

async fn undo(state: FederationState, asked: AskedJoin, tries: u32) {
    match try_undo(&state, &asked).await {
        Ok(()) => {}
        Err(error) if error.status < 500 && error.status != 429 => {
            tracing::info!(room_id = %asked.room_id, server = %asked.server, %error, "there is no join to undo");
        }
        Err(error) => {
            tracing::info!(room_id = %asked.room_id, server = %asked.server, %error, "a join is undone later");
            let at = state.clock().instant() + Duration::from_millis(pause_ms(tries));
            return state.undoing().put(asked, tries + 1, at);
        }
    }
    let services = state.services().clone();
    let forgotten = blocking(move || {
        let AskedJoin { room_id, user_id, server, .. } = &asked;
        Ok(services.rooms.forget_asked_joins(room_id, user_id, Some(server))?)
    });
    if let Err(error) = forgotten.await {
        tracing::error!(error = %Chain(&error), "a join that was undone can't be forgotten");
    }
}

async fn try_undo(state: &FederationState, asked: &AskedJoin) -> Result<(), MatrixError> {
    let AskedJoin { room_id, user_id, server, event_id } = asked;
    // A join that is under way may succeed.
    let _turn = state.joins().turn(room_id, user_id).await;
    let (services, room, user) = (state.services().clone(), room_id.clone(), user_id.clone());
    if blocking(move || Ok(services.rooms.is_joined(&room, &user)?)).await? {
        return Ok(());
    }
    let wanted = Wanted { room_id, user_id, membership: "leave", content: &json!({}) };
    let template = template(state, server, "make_leave", wanted).await?;
    let leave = complete(state, template, wanted)?;
    if leave.auth_events().contains(event_id) {
        send_leave(state, server, room_id, &leave).await?;
        tracing::info!(%room_id, %user_id, %server, "a join that failed here was undone");
    }
    Ok(())
}
