//! What administrators do with files: quarantine and deleting. Retention is in
//! [`crate::retention`].
//!
//! Invariant: a content goes only when no row names it. A new row for it can't
//! come in between: whoever keeps a file holds `contents` shared, whoever
//! deletes contents holds it alone.

use std::{
    collections::HashSet,
    fs,
    path::Path,
    sync::{PoisonError, atomic::Ordering},
};

use causeway_storage::{
    media as rows,
    moderation::{self, Decision},
};
use ruma::{OwnedServerName, ServerName, UserId};

use super::{Media, MediaStore};
use crate::error::MatrixError;

/// Rows looked at in one step.
const PAGE: usize = 5_000;

/// A file and its address.
#[derive(Clone, Debug)]
pub struct Held {
    /// Of which server.
    pub server: OwnedServerName,
    /// Its id there.
    pub media_id: String,
    /// What is known of it.
    pub media: Media,
}

impl MediaStore {
    /// Who quarantined a file, if it is; nobody is given a quarantined one.
    pub fn quarantined(&self, media: &Media) -> Result<Option<Decision>, MatrixError> {
        Ok(moderation::quarantined(&self.database, &media.sha256)?)
    }

    /// What is stored here under an address, also when it is quarantined.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`.
    pub fn held(&self, server: &ServerName, media_id: &str) -> Result<Media, MatrixError> {
        let found = if media_id.len() > super::MEDIA_ID_BYTES_MAX {
            None
        } else {
            rows::media(&self.database, server, media_id)?
        };
        found.ok_or_else(|| MatrixError::not_found("Unknown media"))
    }

    /// Quarantines contents, under whatever address they are or will be known,
    /// or lifts that; how many.
    pub fn set_quarantined(
        &self,
        media: &[Media],
        by: Option<&UserId>,
        quarantined: bool,
    ) -> Result<usize, MatrixError> {
        let decision = Decision { by: by.map(ToOwned::to_owned), ts: self.clock.now_ms() };
        let mut batch = self.database.batch();
        for one in media {
            moderation::set_quarantined(&mut batch, &one.sha256, quarantined.then_some(&decision));
        }
        self.database.commit_durable(batch)?;
        Ok(media.len())
    }

    /// Every file that `is_wanted`, in the order of servers and ids.
    pub fn list(&self, is_wanted: impl Fn(&Held) -> bool) -> Result<Vec<Held>, MatrixError> {
        let mut found = Vec::new();
        let mut after: Option<(OwnedServerName, String)> = None;
        loop {
            let last = after.as_ref().map(|(server, media_id)| (&**server, media_id.as_str()));
            let page = rows::page(&self.database, last, PAGE)?;
            let Some((server, media_id, _)) = page.last() else { return Ok(found) };
            after = Some((server.clone(), media_id.clone()));
            let held = page.into_iter().map(|(server, media_id, media)| Held { server, media_id, media });
            found.extend(held.filter(&is_wanted));
        }
    }

    /// Whether it is time to look for old files again, which it is every `pause_ms` and after a
    /// start: each look reads every row.
    pub fn is_due(&self, now_ms: u64, pause_ms: u64) -> bool {
        let next = |due_ms: u64| (due_ms <= now_ms).then_some(now_ms + pause_ms);
        self.next_look_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Deletes files, and those of their contents that nothing else names.
    pub fn delete(&self, doomed: &[Held]) -> Result<(), MatrixError> {
        if doomed.is_empty() {
            return Ok(());
        }
        let _alone = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        let mut batch = self.database.batch();
        for held in doomed {
            rows::delete(&mut batch, &held.server, &held.media_id);
        }
        self.database.commit_durable(batch)?;
        let mut unnamed: HashSet<&str> = doomed.iter().map(|held| held.media.sha256.as_str()).collect();
        for held in self.list(|held| unnamed.contains(held.media.sha256.as_str()))? {
            unnamed.remove(held.media.sha256.as_str());
        }
        for held in doomed {
            if unnamed.contains(held.media.sha256.as_str()) {
                remove(&self.path(&held.media))?;
                let thumbnails = self.thumbnails_of(&held.media.sha256);
                if thumbnails.exists() {
                    fs::remove_dir_all(&thumbnails).map_err(|error| MatrixError::internal(&error))?;
                }
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), MatrixError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(MatrixError::internal(&error)),
        _ => Ok(()),
    }
}
