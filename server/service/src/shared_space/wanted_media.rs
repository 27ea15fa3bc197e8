//! Files that items refer to: which of them are still to be fetched.
//!
//! A held value `{"file": {"url": "mxc://…"}}` of another server's file puts a
//! row into a queue, in the batch that makes the value held. The row goes when
//! the file is here, or when nobody had it for long.
//!
//! Not here: the fetching ([`crate::prefetch`]).

use causeway_storage::shared_space::queues::{self, Queue, QueueRow};
use ruma::{OwnedMxcUri, OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde::Deserialize;

use super::{SharedSpace, error::SpaceError};

/// Bytes of the longest address that is followed.
const ADDRESS_BYTES_MAX: usize = 512;
/// Rows looked at for those that are due.
const SCAN_MAX: usize = 10_000;
/// Pauses after a fetch that failed: they double.
const PAUSE_FIRST_MS: u64 = 5_000;
const PAUSE_LAST_MS: u64 = 6 * 3_600_000;
/// Fetches of one file before it is given up: about a week.
const ATTEMPTS_MAX: u32 = 40;

/// A file to fetch.
#[derive(Clone, Debug)]
pub struct WantedFile {
    /// Its address.
    pub file: OwnedMxcUri,
    /// The room in which it is wanted.
    pub room: OwnedRoomId,
    /// Other servers in the room: each that takes part fetches it, too.
    pub holders: Vec<OwnedServerName>,
    row: QueueRow,
}

/// The file that a value refers to, if it is one of another server than `own`.
pub(super) fn file_of(value: &str, own: &ServerName) -> Option<OwnedMxcUri> {
    #[derive(Deserialize)]
    struct File {
        url: OwnedMxcUri,
    }
    #[derive(Deserialize)]
    struct WithFile {
        file: File,
    }
    // Most values are no files; don't parse them.
    if !value.contains("mxc://") {
        return None;
    }
    let url = serde_json::from_str::<WithFile>(value).ok()?.file.url;
    let (server, _) = url.parts().ok().filter(|_| url.as_str().len() <= ADDRESS_BYTES_MAX)?;
    (server != own).then_some(url)
}

impl SharedSpace {
    /// Up to `limit` files that are to be fetched now, and when the next one
    /// after them is due (ms since the epoch).
    pub fn wanted_files(&self, limit: usize) -> Result<(Vec<WantedFile>, Option<u64>), SpaceError> {
        let now_ms = self.clock.now_ms();
        let (mut wanted, mut next) = (Vec::new(), None::<u64>);
        for (room, file, row) in queues::all(&self.db, Queue::Media, SCAN_MAX)? {
            if row.due > now_ms || wanted.len() == limit {
                next = Some(next.map_or(row.due, |next| next.min(row.due)));
                continue;
            }
            let Ok(room) = RoomId::parse(room) else { continue };
            let holders = self.other_servers(&room)?;
            wanted.push(WantedFile { file: file.into(), room, holders, row });
        }
        Ok((wanted, next))
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
        let found = |value: &str| file_of(value, own);
        let wanted = r#"{"file":{"size":1,"url":"mxc://b.example/x"}}"#;
        assert_eq!(found(wanted).as_deref(), Some(mxc_uri!("mxc://b.example/x")));
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
        let long = format!(r#"{{"file":{{"url":"mxc://b.example/{}"}}}}"#, "x".repeat(ADDRESS_BYTES_MAX));
        assert_eq!(found(&long), None);
    }
}
