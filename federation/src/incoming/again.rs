//! Trying events again whose past could not be had (see [`crate::later`]): some at once,
//! each for no longer than a gap may take.

use std::time::Duration;

use causeway_service::error::Chain;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::receive_room;
use crate::{
    later::{Key, Waiting},
    state::FederationState,
};

/// Tried at once.
const TASKS_MAX: usize = 4;
/// The longest time without a look.
const PAUSE_MAX: Duration = Duration::from_mins(10);

/// Tries until `stop`.
pub async fn run(state: FederationState, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    loop {
        let mut pause = None;
        while tasks.len() < TASKS_MAX {
            match state.later().next(state.clock().instant()) {
                Ok((key, waiting)) => {
                    tasks.spawn(again(state.clone(), key, waiting));
                }
                Err(wait) => {
                    pause = wait;
                    break;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = state.later().news.notified() => {}
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "trying an event again failed");
                }
            }
            () = tokio::time::sleep(pause.unwrap_or(PAUSE_MAX)) => {}
        }
    }
}

async fn again(state: FederationState, key: Key, waiting: Waiting) {
    let ((room_id, origin), Waiting { version, pdu, .. }) = (&key, waiting);
    let event_id = pdu.event_id().to_owned();
    match receive_room(&state, origin, room_id, &version, vec![pdu]).await {
        Ok(outcomes) => tracing::info!(%origin, %event_id, ?outcomes, "tried again"),
        Err(error) => tracing::warn!(%event_id, error = %Chain(&error), "it can't be tried again"),
    }
    state.later().tried(&key);
}
