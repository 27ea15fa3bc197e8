//! Copies of other servers' files that are old go: when an operator says so, and by
//! themselves if `media.keep_remote_days` is set.
//!
//! Whoever asks for such a file has it fetched again. Invariant: a file that an item of a
//! shared space names stays, since it is kept for the day when its origin is gone
//! ([`crate::prefetch`]); one that an item begins to name at this very moment may go once.

use ruma::{OwnedServerName, ServerName};

use crate::{Services, error::MatrixError};

const DAY_MS: u64 = 24 * 3_600_000;

/// What became of the old copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Files that were deleted.
    pub deleted: usize,
    /// Files that items name.
    pub kept: usize,
}

/// Deletes the copies of other servers' files that were fetched before a time.
///
/// # Errors
/// Storage, and files that can't be deleted.
pub fn purge_remote(services: &Services, before_ms: u64) -> Result<Purged, MatrixError> {
    let own = &services.settings.server_name;
    let mut old = services.media.list(|held| held.server != *own && held.media.created_ts < before_ms)?;
    if old.is_empty() {
        return Ok(Purged::default());
    }
    // Rows are in another order: that of their bytes, in which `a:1` is before `a`.
    old.sort_by(|a, b| (&*a.server, &*a.media_id).cmp(&(&*b.server, &*b.media_id)));
    let found = old.len();
    let asked = |server: &ServerName, media_id: &str| {
        let place = (server, media_id);
        old.binary_search_by(|held| (&*held.server, held.media_id.as_str()).cmp(&place)).is_ok()
    };
    let named = services.shared_space.files_named(asked)?;
    let address = |server: &OwnedServerName, media_id: &str| (server.clone(), media_id.to_owned());
    old.retain(|held| !named.contains(&address(&held.server, &held.media_id)));
    services.media.delete(&old)?;
    Ok(Purged { deleted: old.len(), kept: found - old.len() })
}

/// The same for those that are older than the operator keeps them, once a day.
///
/// # Errors
/// As there.
pub fn round(services: &Services) -> Result<Purged, MatrixError> {
    let Some(days) = services.settings.media.keep_remote_days else { return Ok(Purged::default()) };
    let now_ms = services.clock.now_ms();
    if !services.media.is_due(now_ms, DAY_MS) {
        return Ok(Purged::default());
    }
    purge_remote(services, now_ms.saturating_sub(u64::from(days.get()) * DAY_MS))
}
