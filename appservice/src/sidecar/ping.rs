//! Reaching the upstream: its service user is made, and it is asked to tell what it has to tell,
//! at the start and whenever it is silent, until it answers.
//!
//! A homeserver that could not tell its services something waits up to some minutes before it
//! tries again; a ping ends that.

use std::{sync::Arc, time::Duration};

use rand::RngExt as _;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::{client::UpstreamError, shared::Shared};

/// Pauses between attempts: the first; they double.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// No pause is longer.
const PAUSE_LAST: Duration = Duration::from_secs(30);
/// Of a ping's id.
const PING_BYTES: usize = 8;

/// Reaches it until `stop`.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut pause = PAUSE_FIRST;
    let mut is_first = true;
    loop {
        let reached = tokio::select! {
            () = stop.cancelled() => break,
            reached = reach(&shared, is_first) => reached,
        };
        match reached {
            Ok(()) => {
                (is_first, pause) = (false, PAUSE_FIRST);
                shared.gate.hear_now.notify_one();
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = shared.gate.silent.notified() => {}
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the homeserver can't be reached as its application service");
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_LAST),
        }
    }
}

async fn reach(shared: &Arc<Shared>, is_first: bool) -> Result<(), UpstreamError> {
    if is_first {
        shared.client.make_user(&shared.service_user).await?;
        if shared.client.tells_replaced().await? {
            let intake = Arc::clone(&shared.intake);
            let noted = spawn_blocking(move || intake.tells_replaced()).await;
            noted.map_err(|error| UpstreamError::Broken(error.to_string()))?.unwrap_or_else(|error| {
                tracing::error!(%error, "what the homeserver can do can't be noted");
            });
        }
    }
    let id: [u8; PING_BYTES] = rand::rng().random();
    let id = id.map(|byte| format!("{byte:02x}")).concat();
    match shared.client.ping(&shared.id, &id).await {
        // It can't reach this process now, and tries again by itself.
        Err(UpstreamError::Refused(refusal)) => {
            tracing::warn!(%refusal, "the homeserver does not reach this process");
            if is_first { Err(UpstreamError::Refused(refusal)) } else { Ok(()) }
        }
        pinged => pinged,
    }
}
