//! Trying events again whose past, or whose signer's key, could not be had (see
//! [`crate::later`]): some at once, each for no longer than a gap may take.
//!
//! Invariant: there is a row of each that waits, and of no other; so a restart forgets none.
//! It is read when it is tried.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use causeway_room::Pdu;
use causeway_service::{
    error::{Chain, MatrixError},
    rooms::KeptEvent,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::receive_room;
use crate::{
    error::blocking,
    later::{About, Kept, Key},
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
                Ok(key) => {
                    tasks.spawn(again(state.clone(), key));
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

async fn again(state: FederationState, key: Key) {
    let (room_id, origin) = &key;
    match read(&state, key.clone()).await {
        Ok(Some(kept)) => {
            let event_id = kept.pdu.event_id().to_owned();
            match receive_room(&state, origin, room_id, &kept.version, vec![kept.pdu]).await {
                Ok(outcomes) => tracing::info!(%origin, %event_id, ?outcomes, "tried again"),
                Err(error) => tracing::warn!(%event_id, error = %Chain(&error), "it can't be tried again"),
            }
        }
        Ok(None) => {}
        Err(error) => {
            tracing::error!(error = %Chain(&error), "an event that is to be tried again can't be read");
            // Its row stays, for the next start.
            state.later().tried(&key);
        }
    }
    if let Err(error) = over(&state, key).await {
        tracing::error!(error = %Chain(&error), "it can't be noted that an event was tried again");
    }
}

/// Keeps an event that the server of `key` sent, to be tried again later.
pub(super) async fn keep(state: &FederationState, key: Key, pdu: Pdu) -> Result<(), MatrixError> {
    let state = state.clone();
    blocking(move || {
        let _writing = writing(&state);
        let (room_id, origin) = &key;
        let about = about(&pdu);
        let rooms = &state.services().rooms;
        match state.later().put(key.clone(), about, state.clock().instant()) {
            Kept::New(tries) => rooms.keep_unanswered(room_id, origin, Some((&pdu, tries)))?,
            Kept::Old(tries) => rooms.count_unanswered(room_id, origin, tries)?,
            Kept::Nothing => rooms.keep_unanswered(room_id, origin, None)?,
        }
        Ok(())
    })
    .await
}

/// Deletes the row of an event that was tried, unless it is to be tried again.
async fn over(state: &FederationState, key: Key) -> Result<(), MatrixError> {
    let state = state.clone();
    blocking(move || {
        let _writing = writing(&state);
        if state.later().tried(&key) {
            state.services().rooms.keep_unanswered(&key.0, &key.1, None)?;
        }
        Ok(())
    })
    .await
}

async fn read(state: &FederationState, key: Key) -> Result<Option<KeptEvent>, MatrixError> {
    let services = state.services().clone();
    blocking(move || Ok(services.rooms.unanswered(&key.0, &key.1)?)).await
}

async fn restore(state: &FederationState) -> Result<(), MatrixError> {
    let (state, now) = (state.clone(), state.clock().instant());
    blocking(move || {
        Ok(state.services().rooms.each_unanswered(|kept| {
            let about = about(&kept.pdu);
            state.later().restore((kept.room_id, kept.origin), about, kept.tries, now)
        })?)
    })
    .await
}

fn about(pdu: &Pdu) -> About {
    About { depth: pdu.depth(), bytes: pdu.raw().get().len() }
}

fn writing(state: &FederationState) -> MutexGuard<'_, ()> {
    state.later().writing.lock().unwrap_or_else(PoisonError::into_inner)
}
