//! Whether others can know that the sidecar's key counts: its homeserver publishes it, or the
//! homeserver's name says in a page that the sidecar, by a name of its own, speaks for it.

use std::time::Duration;

use causeway_appservice::sidecar::client::{UpstreamClient, UpstreamError};
use causeway_federation::{
    claims::{CLAIM_PATH, Claim, Claims},
    keys::KeyRing,
};
use causeway_service::error::Chain;
use ruma::{CanonicalJsonObject, ServerName};
use tokio_util::sync::CancellationToken;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(2);

/// Waits until the homeserver publishes the sidecar's key; false if it is told to stop before. What
/// else it publishes is remembered: the sidecar may have signed with that, in a folder that is lost.
pub async fn by_homeserver(
    client: &UpstreamClient,
    (keys, key): (&KeyRing, &str),
    stop: &CancellationToken,
) -> bool {
    let mut told = false;
    loop {
        match is_listed(client, keys).await {
            Ok(true) => return true,
            Ok(false) if !told => {
                told = true;
                tracing::warn!(
                    key,
                    "the homeserver does not publish the sidecar's key: append its line to \
                    the homeserver's key file and restart that; nothing is replicated until then"
                );
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(error = %Chain(&error), "the homeserver's keys can't be read"),
        }
        if pause(stop).await {
            return false;
        }
    }
}

/// Waits until the homeserver's name claims the sidecar's, or can't be asked from here; false if it
/// is told to stop before.
pub async fn by_claim(
    claims: &Claims,
    (homeserver, name): (&ServerName, &ServerName),
    stop: &CancellationToken,
) -> bool {
    let mut told = false;
    loop {
        match claims.of(homeserver).await {
            Claim::Stands { speaker, .. } if speaker == name => return true,
            Claim::Unknown => {
                tracing::warn!(
                    %homeserver,
                    "https://{homeserver}{CLAIM_PATH} can't be read from here: \
                    that it names {name} is taken for granted"
                );
                return true;
            }
            Claim::Stands { .. } | Claim::None if !told => {
                told = true;
                unclaimed(homeserver, name);
            }
            Claim::Stands { .. } | Claim::None => {}
        }
        if pause(stop).await {
            return false;
        }
    }
}

/// Says so when the claim goes, and when it is there again.
pub async fn watch(
    claims: &Claims,
    (homeserver, name): (&ServerName, &ServerName),
    stop: &CancellationToken,
) {
    let mut is_claimed = true;
    while !pause(stop).await {
        let claims_now = match claims.of(homeserver).await {
            Claim::Stands { speaker, .. } => speaker == name,
            Claim::None => false,
            Claim::Unknown => continue,
        };
        if is_claimed && !claims_now {
            unclaimed(homeserver, name);
        } else if claims_now && !is_claimed {
            tracing::info!(%homeserver, "the homeserver's name says again that this sidecar speaks for it");
        }
        is_claimed = claims_now;
    }
}

fn unclaimed(homeserver: &ServerName, name: &ServerName) {
    tracing::warn!(
        %homeserver,
        "https://{homeserver}{CLAIM_PATH} does not say that {name} speaks for it: \
        other servers refuse what this sidecar asks and signs"
    );
}

/// True if it is told to stop meanwhile.
async fn pause(stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = tokio::time::sleep(LOOK) => false,
    }
}

async fn is_listed(client: &UpstreamClient, keys: &KeyRing) -> Result<bool, UpstreamError> {
    let document = match client.key_document().await {
        Err(UpstreamError::Refused(refusal)) if refusal.status.as_u16() == 404 => {
            tracing::warn!(
                "the homeserver does not show its keys where clients reach it: \
                that it publishes the sidecar's is taken for granted"
            );
            return Ok(true);
        }
        document => document?,
    };
    let document: CanonicalJsonObject =
        serde_json::from_str(document.get()).map_err(UpstreamError::Unreadable)?;
    let taken = keys.take_own(&document).await;
    Ok(taken
        .inspect_err(|error| tracing::debug!(%error, "what the homeserver publishes of keys is refused"))
        .unwrap_or(false))
}
