//! Trying events again whose past, or whose signer's key, could not be had (see
//! [`crate::later`]): some at once, each for no longer than a gap may take.
//!
//! Invariant: there is a row of each that waits, and of no other; so a restart forgets none.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use causeway_room::Pdu;
use causeway_service::{
    error::{Chain, MatrixError},
    rooms::VersionRules,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::receive_room;
use crate::{
    error::blocking,
    later::{Key, WAITING_MAX, Waiting},
    state::FederationState,
};

/// Tried at once.
const TASKS_MAX: usize = 4;
/// The longest time without a look.
const PAUSE_MAX: Duration = Duration::from_mins(10);

/// Tries until `stop`.
pub async fn run(state: FederationState, stop: CancellationToken) {
    if let Err(error) = restore(&state).await {
        tracing::error!(error = %Chain(&error), "the events that are to be tried again can't be read");
    }
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
    if state.later().tried(&key)
        && let Err(error) = write(&state, key).await
    {
        tracing::error!(error = %Chain(&error), "it can't be noted that an event was tried again");
    }
}

/// Keeps an event that the server of `key` sent, to be tried again later.
pub(super) async fn keep(
    state: &FederationState,
    key: Key,
    version: &Arc<VersionRules>,
    pdu: Pdu,
) -> Result<(), MatrixError> {
    state.later().put(key.clone(), version, pdu, state.clock().instant());
    write(state, key).await
}

/// Makes the row what is kept in memory.
async fn write(state: &FederationState, key: Key) -> Result<(), MatrixError> {
    let state = state.clone();
    blocking(move || {
        let _writing = state.later().writing.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = state.later().of(&key);
        let kept = kept.as_ref().map(|kept| (&kept.pdu, kept.tries));
        Ok(state.services().rooms.keep_unanswered(&key.0, &key.1, kept)?)
    })
    .await
}

async fn restore(state: &FederationState) -> Result<(), MatrixError> {
    let (services, now) = (state.services().clone(), state.clock().instant());
    let kept = blocking(move || Ok(services.rooms.unanswered(WAITING_MAX)?)).await?;
    for kept in kept {
        state.later().restore(kept, now);
    }
    Ok(())
}
