//! The schema's version and the way from one to the next.
//!
//! To change what is stored in a way that an older program can't read: raise
//! [`SCHEMA_VERSION`], add a [`Step`] to [`STEPS`] and a data folder of the old
//! version to the upgrade tests. A step writes its changes in batches of its
//! own and must be repeatable: it is run again if it was interrupted. Its
//! version is recorded, durably, when it has returned.

use std::path::Path;

use crate::{Cf, Database, OpenError, Read as _, StorageError, codec};

/// The newest schema that this program reads and the one that it writes.
pub const SCHEMA_VERSION: u32 = 1;

/// Row of `Meta`: the last step that is complete, as a number of eight bytes.
const SCHEMA: &[u8] = b"schema";

/// Brings a database from the version before `to` to `to`.
struct Step {
    to: u32,
    run: fn(&Database) -> Result<(), StorageError>,
}

/// All steps, ascending.
const STEPS: &[Step] = &[];

pub(crate) struct Failure {
    to: u32,
    source: StorageError,
}

impl Failure {
    pub(crate) fn at(self, path: &Path) -> OpenError {
        OpenError::Migration { path: path.to_owned(), to: self.to, source: self.source }
    }
}

/// Runs the steps that are missing; a new database needs none.
pub(crate) fn run(database: &Database) -> Result<(), Failure> {
    run_steps(database, STEPS, SCHEMA_VERSION)
}

fn run_steps(database: &Database, steps: &[Step], newest: u32) -> Result<(), Failure> {
    let failed = |to| move |source| Failure { to, source };
    let recorded = database.get(Cf::Meta, SCHEMA).map_err(failed(newest))?;
    let at = match recorded {
        None => u64::from(newest),
        Some(ref bytes) => codec::decode_u64(Cf::Meta, bytes).map_err(failed(newest))?,
    };
    if recorded.is_none() {
        record(database, newest).map_err(failed(newest))?;
    }
    for step in steps.iter().filter(|step| u64::from(step.to) > at) {
        tracing::info!(to = step.to, "migrating the database");
        (step.run)(database).and_then(|()| record(database, step.to)).map_err(failed(step.to))?;
    }
    Ok(())
}

fn record(database: &Database, version: u32) -> Result<(), StorageError> {
    let mut batch = database.batch();
    batch.put(Cf::Meta, SCHEMA, u64::from(version).to_be_bytes());
    database.commit_durable(batch).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    #[test]
    fn steps_run_once_and_in_order() {
        fn second(database: &Database) -> Result<(), StorageError> {
            let mut batch = database.batch();
            batch.put(Cf::Meta, b"trace", b"2");
            database.commit_durable(batch).map(|_| ())
        }
        fn third(database: &Database) -> Result<(), StorageError> {
            let mut trace = database.get(Cf::Meta, b"trace")?.unwrap_or_default();
            trace.push(b'3');
            let mut batch = database.batch();
            batch.put(Cf::Meta, b"trace", trace);
            database.commit_durable(batch).map(|_| ())
        }
        let steps = [Step { to: 2, run: second }, Step { to: 3, run: third }];
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(folder.path(), &Options::default()).expect("open");
        for _ in 0..2 {
            assert!(run_steps(&database, &steps, 3).is_ok());
            assert_eq!(database.get(Cf::Meta, b"trace").expect("read"), Some(b"23".to_vec()));
        }
    }
}
