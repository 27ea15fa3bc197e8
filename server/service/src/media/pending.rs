//! Addresses that are given out first and filled later (client-server API, "Content
//! repository": `create`), and the waiting of those who ask for a file meanwhile.
//!
//! Invariants: an address is filled once, by the user who asked for it, before it expires;
//! a user has at most [`PENDING_MAX`] that are neither filled nor expired.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use causeway_storage::pending_media::{self as rows, Pending};
use ruma::{OwnedMxcUri, OwnedUserId, UserId};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use super::{Label, MEDIA_ID_CHARS, Media, MediaStore, Upload};
use crate::{error::MatrixError, secrets};

/// Addresses of one user that wait for their content.
pub const PENDING_MAX: usize = 50;
/// How long an address waits for its content.
pub const LIFETIME_MS: u64 = 24 * 60 * 60 * 1000;
/// The code of an error that says that a content is still to come.
pub const NOT_YET: &str = "M_NOT_YET_UPLOADED";
/// How long somebody waits for a content who doesn't say how long.
const PATIENCE_MS: u64 = 20_000;
/// How long anybody waits for a content.
const PATIENCE_MS_MAX: u64 = 60_000;
/// Requests that wait for a content; more are told at once that it is not there yet.
const WAITING_MAX: usize = 128;
/// Rows looked at in one step.
const PAGE: usize = 1_000;

/// How long whoever asks with this query waits for a content that is not there yet
/// (`timeout_ms`), in milliseconds.
///
/// # Errors
/// 400 `M_INVALID_PARAM`.
pub fn patience_ms(query: &str) -> Result<Option<u64>, MatrixError> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let wish = pairs.find(|(name, _)| name == "timeout_ms").map(|(_, value)| value.parse());
    wish.transpose().map_err(|_| MatrixError::invalid_param("timeout_ms is not a number of milliseconds"))
}

/// What the store keeps of these in memory.
pub(super) struct Filling {
    /// Media ids whose content is complete and being kept.
    claimed: Mutex<HashSet<String>>,
    /// Counting a user's addresses and adding one is one step.
    creating: Mutex<()>,
    filled: Notify,
    waiting: Semaphore,
}

impl Default for Filling {
    fn default() -> Self {
        Self {
            claimed: Mutex::default(),
            creating: Mutex::default(),
            filled: Notify::new(),
            waiting: Semaphore::new(WAITING_MAX),
        }
    }
}

/// The right to fill an address now.
struct Claim<'a> {
    filling: &'a Filling,
    media_id: &'a str,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claimed = self.filling.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        claimed.remove(self.media_id);
    }
}

impl MediaStore {
    /// A new address without a content, and when it expires if it gets none, in
    /// milliseconds since the epoch.
    ///
    /// # Errors
    /// 429 `M_LIMIT_EXCEEDED` when the user has [`PENDING_MAX`] already.
    pub fn create(&self, user_id: &UserId) -> Result<(OwnedMxcUri, u64), MatrixError> {
        let _turn = self.filling.creating.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = self.clock.now_ms();
        let mut batch = self.database.batch();
        let mut live = 0;
        let mut next_ms = None;
        for (media_id, pending) in rows::of_user(&self.database, user_id, PENDING_MAX)? {
            if pending.expires_ts <= now_ms {
                rows::delete(&mut batch, &media_id, &pending);
            } else {
                live += 1;
                next_ms = next_ms.or(Some(pending.expires_ts));
            }
        }
        if live >= PENDING_MAX {
            let wait_ms = next_ms.unwrap_or(now_ms).saturating_sub(now_ms);
            let error =
                MatrixError::new(429, "M_LIMIT_EXCEEDED", "Too many addresses wait for their content");
            return Err(error.with("retry_after_ms", wait_ms));
        }
        let media_id = secrets::alphanumeric(MEDIA_ID_CHARS);
        let expires_ts = now_ms + LIFETIME_MS;
        rows::put(&mut batch, &media_id, &Pending { user_id: user_id.to_owned(), expires_ts });
        self.database.commit_durable(batch)?;
        let mxc = OwnedMxcUri::from(format!("mxc://{}/{media_id}", self.settings.server_name));
        Ok((mxc, expires_ts))
    }

    /// Whether a user may fill an address of this server.
    ///
    /// # Errors
    /// 409 `M_CANNOT_OVERWRITE_MEDIA` when it has a content, 404 when nobody was given it or
    /// it has expired, 403 for another user.
    pub fn may_fill(&self, media_id: &str, user_id: &UserId) -> Result<(), MatrixError> {
        self.fillable(media_id, user_id).map(drop)
    }

    fn fillable(&self, media_id: &str, user_id: &UserId) -> Result<Pending, MatrixError> {
        let pending = self.pending(media_id)?;
        match pending {
            None if self.find(&self.settings.server_name, media_id)?.is_some() => Err(taken()),
            None => Err(MatrixError::not_found("Unknown media address, or it has expired")),
            Some(pending) if pending.user_id != user_id => {
                Err(MatrixError::forbidden("The address was given to somebody else"))
            }
            Some(pending) => Ok(pending),
        }
    }

    /// Who may fill an address that has neither a content nor expired.
    fn pending(&self, media_id: &str) -> Result<Option<Pending>, MatrixError> {
        let pending = rows::pending(&self.database, media_id)?;
        Ok(pending.filter(|pending| pending.expires_ts > self.clock.now_ms()))
    }

    /// Keeps an upload under an address that its user was given before.
    ///
    /// # Errors
    /// As of [`Self::may_fill`].
    pub fn fill(
        &self,
        media_id: &str,
        upload: Upload,
        uploader: OwnedUserId,
        label: Label,
    ) -> Result<(), MatrixError> {
        let _claim = self.claim(media_id)?;
        let pending = self.fillable(media_id, &uploader)?;
        let server = self.settings.server_name.clone();
        self.keep(upload, (&server, media_id), Some(uploader), label, |batch| {
            rows::delete(batch, media_id, &pending);
        })?;
        self.filling.filled.notify_waiters();
        Ok(())
    }

    /// Of two contents for one address, the one that is complete first is kept.
    fn claim<'a>(&'a self, media_id: &'a str) -> Result<Claim<'a>, MatrixError> {
        let mut claimed = self.filling.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        if !claimed.insert(media_id.to_owned()) {
            return Err(taken());
        }
        Ok(Claim { filling: &self.filling, media_id })
    }

    /// A file of this server; waits so many milliseconds for one that is still to come.
    ///
    /// # Errors
    /// 404 when there is none, 504 `M_NOT_YET_UPLOADED` when it did not come.
    pub async fn await_own(
        self: &Arc<Self>,
        media_id: &str,
        patience_ms: Option<u64>,
    ) -> Result<Media, MatrixError> {
        let patience = Duration::from_millis(patience_ms.unwrap_or(PATIENCE_MS).min(PATIENCE_MS_MAX));
        let deadline = Instant::from_std(self.clock.instant()) + patience;
        let mut place = None;
        loop {
            let mut filled = std::pin::pin!(self.filling.filled.notified());
            // From now on, so that nothing is missed between looking and waiting.
            filled.as_mut().enable();
            let (store, id) = (Arc::clone(self), media_id.to_owned());
            // In this order: it is filled in between at most.
            let look = move || Ok((store.pending(&id)?, store.find(&store.settings.server_name, &id)?));
            match super::run(look).await? {
                (_, Some(media)) => return Ok(media),
                (None, None) => return Err(MatrixError::not_found("Media not found")),
                (Some(_), None) => {}
            }
            if place.is_none() {
                place = Some(self.filling.waiting.try_acquire().map_err(|_| not_yet())?);
            }
            tokio::time::timeout_at(deadline, filled).await.map_err(|_| not_yet())?;
        }
    }

    /// Forgets addresses that have expired; how many.
    pub(crate) fn forget_expired(&self) -> Result<usize, MatrixError> {
        let (mut forgotten, mut after) = (0, None);
        loop {
            let page = rows::page(&self.database, after.as_deref(), PAGE)?;
            let mut batch = self.database.batch();
            let now_ms = self.clock.now_ms();
            for (media_id, pending) in page.iter().filter(|(_, pending)| pending.expires_ts <= now_ms) {
                rows::delete(&mut batch, media_id, pending);
                forgotten += 1;
            }
            self.database.commit_durable(batch)?;
            if page.len() < PAGE {
                return Ok(forgotten);
            }
            after = page.into_iter().last().map(|(media_id, _)| media_id);
        }
    }
}

fn taken() -> MatrixError {
    MatrixError::new(409, "M_CANNOT_OVERWRITE_MEDIA", "The address has its content already")
}

fn not_yet() -> MatrixError {
    MatrixError::new(504, NOT_YET, "The content has not been uploaded yet")
}
