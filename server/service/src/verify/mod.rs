//! Whether what is stored is whole: every row, event, state, change log and file.
//!
//! It reads and changes nothing, and goes on after what is wrong, so that one walk
//! tells all of it. Not here: whether what others wrote was right; only whether it is
//! still what was taken then.
//!
//! - [`rows`]: that every row of every column family can be read and decoded;
//! - [`events`]: ids, hashes and signatures of events, and where they stand;
//! - [`states`]: the trees of room states, and the indexes over the current ones;
//! - [`spaces`]: entries of shared spaces, their logs, and the items that follow;
//! - [`files`]: contents of media.

mod events;
mod files;
mod rows;
mod spaces;
mod states;

use std::collections::BTreeMap;

use causeway_storage::{Cf, Database, Direction, Read as _, Row, StorageError};
use ruma::ServerName;

use crate::error::Chain;

/// Rows that are read at once.
const PAGE: usize = 2_000;
/// Lines that tell what is wrong; there may be more, which are counted.
const TOLD_MAX: usize = 1_000;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// How much of each kind was looked at.
    pub checked: BTreeMap<&'static str, u64>,
    /// What is wrong, a line each; at most a thousand.
    pub damages: Vec<String>,
    /// How much is wrong.
    pub damaged: u64,
}

impl Report {
    fn count(&mut self, what: &'static str) {
        *self.checked.entry(what).or_default() += 1;
    }

    fn wrong(&mut self, line: impl Into<String>) {
        self.damaged += 1;
        if self.damages.len() < TOLD_MAX {
            self.damages.push(line.into().replace('\n', " "));
        }
    }

    /// Notes what could not even be read, and goes on without it.
    fn read<T>(&mut self, what: &str, read: Result<T, StorageError>) -> Option<T> {
        read.map_err(|error| self.wrong(format!("{what}: {}", Chain(&error)))).ok()
    }
}

/// Looks at everything in an open database and at the files beside it.
pub fn verify(database: &Database, server_name: &ServerName) -> Report {
    let mut report = Report::default();
    rows::verify(database, &mut report);
    events::verify(database, server_name, &mut report);
    states::verify(database, &mut report);
    spaces::verify(database, server_name, &mut report);
    files::verify(database, &mut report);
    report
}

/// Shows every row whose key begins with `prefix`; whether all could be read.
fn each(
    database: &Database,
    cf: Cf,
    prefix: &[u8],
    report: &mut Report,
    mut show: impl FnMut(&mut Report, &[u8], &[u8]),
) {
    let mut from: Option<Vec<u8>> = None;
    loop {
        let read = database.scan(cf, prefix, from.as_deref(), Direction::Forward, PAGE);
        let Some(rows): Option<Vec<Row>> = report.read("the database", read) else { return };
        for (key, value) in &rows {
            show(report, key, value);
        }
        match rows.last() {
            Some((last, _)) if rows.len() == PAGE => from = Some([last.as_slice(), &[0]].concat()),
            _ => return,
        }
    }
}

/// A key for people: its strings, and in hex what is none.
fn shown(key: &[u8]) -> String {
    let parts = key.split(|byte| *byte == causeway_storage::codec::SEPARATOR);
    let parts = parts.filter(|part| !part.is_empty()).map(|part| match std::str::from_utf8(part) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => hex::encode(part),
    });
    parts.collect::<Vec<_>>().join(" | ")
}
