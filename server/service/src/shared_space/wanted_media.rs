//! Files that items refer to: which of them are still to be fetched.
//!
//! A held value `{"file": {"url": "mxc://…"}}` of another server's file puts a
//! row into a queue, in the batch that makes the value held. The row goes when
//! the file is here, or when nobody had it for long.
//!
//! The row says what content the items expect under that address, by SHA-256, as
//! far as authors on the file's own server say it: a file that is another one is
//! taken from that server only.
//!
//! The rows are looked at in turn ([`super::agenda`]): those of a server that is gone
//! hide no others. Not here: the fetching ([`crate::prefetch`]).

use std::collections::BTreeSet;

use causeway_storage::shared_space::{
    entries,
    queues::{self, Queue, QueueRow},
};
use ruma::{OwnedMxcUri, OwnedRoomId, OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{SharedSpace, agenda::Task, error::SpaceError};
use crate::remote::ExpectedContent;

/// Bytes of the longest address that is followed.
const ADDRESS_BYTES_MAX: usize = 512;
/// Pauses after a fetch that failed: they double.
const PAUSE_FIRST_MS: u64 = 5_000;
const PAUSE_LAST_MS: u64 = 6 * 3_600_000;
/// Fetches of one file before it is given up: about a week.
const ATTEMPTS_MAX: u32 = 40;

/// Values read in one step.
const VALUES_PAGE: usize = 1_000;

/// Different contents that items expect under one address, those named last.
const EXPECTED_MAX: usize = 4;

/// A file to fetch.
#[derive(Clone, Debug)]
pub struct WantedFile {
    /// Its address.
    pub file: OwnedMxcUri,
    /// The room in which it is wanted.
    pub room: OwnedRoomId,
    row: QueueRow,
}

impl WantedFile {
    /// What items say of its content; empty if none says anything.
    pub fn expected(&self) -> Vec<ExpectedContent> {
        expected(&self.row)
    }
}

fn expected(row: &QueueRow) -> Vec<ExpectedContent> {
    serde_json::from_value(row.detail.clone()).unwrap_or_default()
}

/// A file that a value refers to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Referred {
    /// Its address.
    pub url: OwnedMxcUri,
    /// What the value says of its content.
    pub content: Option<ExpectedContent>,
}

/// The file that a value refers to, if it is one of another server than `own`.
///
/// What a value says of the content is heeded only if its author is on the
/// file's server: for any other he could name content of his own, which a server
/// in the room would then give in the file's name.
pub(super) fn file_of(value: &str, author: &ServerName, own: &ServerName) -> Option<Referred> {
    #[derive(Deserialize)]
    struct File {
        url: OwnedMxcUri,
        sha256: Option<Json>,
        size: Option<Json>,
    }
    #[derive(Deserialize)]
    struct WithFile {
        file: File,
    }
    // Most values are no files; don't parse them.
    if !value.contains("mxc://") {
        return None;
    }
    let File { url, sha256, size } = serde_json::from_str::<WithFile>(value).ok()?.file;
    let (server, _) = url.parts().ok().filter(|_| url.as_str().len() <= ADDRESS_BYTES_MAX)?;
    if server == own {
        return None;
    }
    let sha256 =
        sha256.as_ref().filter(|_| author == server).and_then(Json::as_str).map(str::to_ascii_lowercase);
    let sha256 = sha256.filter(|text| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let size = size.as_ref().and_then(Json::as_u64);
    Some(Referred { url, content: sha256.map(|sha256| ExpectedContent { sha256, size }) })
}

/// The row that wants a file, `before` being the one that does so already.
pub(super) fn row_for(file: &Referred, before: Option<&QueueRow>) -> QueueRow {
    let mut contents = before.map(expected).unwrap_or_default();
    if let Some(content) = &file.content {
        contents.retain(|known| known != content);
        contents.push(content.clone());
        let surplus = contents.len().saturating_sub(EXPECTED_MAX);
        contents.drain(..surplus);
    }
    let detail = if contents.is_empty() { Json::Null } else { json!(contents) };
    QueueRow { detail, ..QueueRow::due(0) }
}

impl SharedSpace {
    /// Of the files of other servers that are `asked` for, those that a held value names, of today
    /// or of old, by server and id. Reads every value of every room.
    ///
    /// # Errors
    /// Storage.
    pub fn files_named(
        &self,
        asked: impl Fn(&ServerName, &str) -> bool,
    ) -> Result<BTreeSet<(OwnedServerName, String)>, SpaceError> {
        let (own, mut named, mut after) = (self.server_name(), BTreeSet::new(), None::<Vec<u8>>);
        loop {
            let page = entries::values_after(&self.db, after.as_deref(), VALUES_PAGE)?;
            for value in page.iter().filter_map(|(_, value)| str::from_utf8(value).ok()) {
                let Some(file) = file_of(value, own, own) else { continue };
                if let Ok((server, media_id)) = file.url.parts()
                    && asked(server, media_id)
                {
                    named.insert((server.to_owned(), media_id.to_owned()));
                }
            }
            match page.into_iter().next_back() {
                Some((last, _)) => after = Some(last),
                None => return Ok(named),
            }
        }
    }

    /// Some of the files that are to be fetched now; none when none is due. What is
    /// returned may be returned again until it is done or failed.
    pub fn wanted_files(&self) -> Result<Vec<WantedFile>, SpaceError> {
        let tasks = self.agenda.take(&self.db, Queue::Media, self.clock.now_ms())?;
        let wanted = tasks.into_iter().map(|Task { room, subject, row }| WantedFile {
            file: subject.into(),
            room,
            row,
        });
        Ok(wanted.collect())
    }

    /// When to ask for wanted files again (ms since the epoch); `None`: when there are new ones.
    pub fn files_due(&self) -> Option<u64> {
        Some(self.agenda.due(Queue::Media)).filter(|due| *due < u64::MAX)
    }

    /// Which ones were being fetched was forgotten: all are looked for again.
    pub fn look_for_files(&self) {
        self.agenda.note(Queue::Media, 0);
    }

    /// The servers that may hold a file, `None` if it is not to be fetched now any
    /// more: it was meanwhile, or could not be.
    pub fn holders_of(&self, wanted: &WantedFile) -> Result<Option<Vec<OwnedServerName>>, SpaceError> {
        let queued = queues::queued(&self.db, Queue::Media, &wanted.room, wanted.file.as_str())?;
        if queued.is_none_or(|row| row.attempts != wanted.row.attempts) {
            return Ok(None);
        }
        Ok(Some(self.other_servers(&wanted.room)?))
    }

    /// The file is here, or will never be.
    pub fn file_done(&self, wanted: &WantedFile) -> Result<(), SpaceError> {
        let mut batch = self.db.batch();
        queues::delete(&mut batch, Queue::Media, &wanted.room, wanted.file.as_str());
        // Losing this in a crash costs a look at a file that is here.
        let _unsynced = self.db.commit(batch)?;
        Ok(())
    }

    /// Nobody gave it. True if it is tried again.
    pub fn file_failed(&self, wanted: &WantedFile) -> Result<bool, SpaceError> {
        let attempts = wanted.row.attempts + 1;
        if attempts >= ATTEMPTS_MAX {
            self.file_done(wanted)?;
            return Ok(false);
        }
        let pause = PAUSE_FIRST_MS.saturating_mul(1 << attempts.min(20)).min(PAUSE_LAST_MS);
        let row = QueueRow { due: self.clock.now_ms() + pause, attempts, ..wanted.row.clone() };
        let mut batch = self.db.batch();
        queues::put(&mut batch, Queue::Media, &wanted.room, wanted.file.as_str(), &row);
        let _unsynced = self.db.commit(batch)?;
        self.agenda.note(Queue::Media, row.due);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use ruma::{mxc_uri, server_name};

    use super::*;

    #[test]
    fn only_files_of_other_servers_are_wanted() {
        let own = server_name!("a.example");
        let found = |value: &str| file_of(value, server_name!("b.example"), own);
        let wanted = r#"{"file":{"size":1,"url":"mxc://b.example/x"}}"#;
        let url = mxc_uri!("mxc://b.example/x").to_owned();
        assert_eq!(found(wanted), Some(Referred { url: url.clone(), content: None }));
        let sha256 = "Ab".repeat(32);
        let said = format!(r#"{{"file":{{"sha256":"{sha256}","size":7,"url":"{url}"}}}}"#);
        let content = ExpectedContent { sha256: "ab".repeat(32), size: Some(7) };
        assert_eq!(found(&said), Some(Referred { url, content: Some(content) }));
        for value in [
            r#"{"file":{"url":"mxc://a.example/x"}}"#,
            r#"{"file":{"url":"https://b.example/x"},"text":"mxc://b.example/x"}"#,
            r#"{"file":"mxc://b.example/x"}"#,
            r#"{"url":"mxc://b.example/x"}"#,
            r#"{"file":{"url":"mxc://b.example"}}"#,
            r#"{"n":1}"#,
        ] {
            assert_eq!(found(value), None, "{value}");
        }
        // Only somebody on the file's server can say what is in it.
        let elsewhere = file_of(&said, server_name!("c.example"), own).expect("a file");
        assert_eq!(elsewhere.content, None);
        let broken = r#"{"file":{"sha256":"ab","size":"big","url":"mxc://b.example/x"}}"#;
        assert_eq!(found(broken).expect("a file").content, None);
        let long = format!(r#"{{"file":{{"url":"mxc://b.example/{}"}}}}"#, "x".repeat(ADDRESS_BYTES_MAX));
        assert_eq!(found(&long), None);
    }

    #[test]
    fn what_items_expect_is_gathered_and_bounded() {
        let file = |n: usize| {
            let sha256 = format!("{n:064}");
            let value = format!(r#"{{"file":{{"sha256":"{sha256}","url":"mxc://b.example/x"}}}}"#);
            file_of(&value, server_name!("b.example"), server_name!("a.example")).expect("a file")
        };
        let mut row = None;
        for n in [0, 1, 2, 1, 3, 4] {
            row = Some(row_for(&file(n), row.as_ref()));
        }
        let kept: Vec<_> = expected(&row.expect("a row")).into_iter().map(|one| one.sha256).collect();
        assert_eq!(kept, [2, 1, 3, 4].map(|n| format!("{n:064}")));
        let content = ExpectedContent::of(b"x");
        let (same, other) = (content.sha256.clone(), ExpectedContent::of(b"y").sha256);
        assert!(content.is_of(&same, 1) && !content.is_of(&other, 1) && !content.is_of(&same, 2));
    }
}
