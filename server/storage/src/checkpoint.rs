//! A frozen copy of the database beside the running one, for backups.
//!
//! It costs no copying: RocksDB links the tables, which never change once written,
//! and writes anew only what names them. Not here: where backups go, and what
//! else belongs into one.
//!
//! Invariants:
//! - the copy holds everything that anybody was told before it was begun;
//! - it opens like a data folder that was closed cleanly: it needs no log.

use std::{fs, path::Path};

use rocksdb::checkpoint::Checkpoint;

use crate::{Database, StorageError, open};

impl Database {
    /// Freezes what is committed into `folder`, a new data folder on the same file system.
    ///
    /// # Errors
    /// What is in `folder` then is of no use.
    pub fn checkpoint(&self, folder: &Path) -> Result<(), StorageError> {
        self.barrier()?;
        let unwritten = |error: std::io::Error| StorageError::Checkpoint(error.to_string());
        fs::create_dir_all(folder).map_err(unwritten)?;
        let made = Checkpoint::new(self.rocks())
            .and_then(|checkpoint| checkpoint.create_checkpoint(folder.join(open::ROCKS_FOLDER)));
        made.map_err(|error| StorageError::Checkpoint(error.into_string()))?;
        open::write_schema(folder).map_err(unwritten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cf, Direction, Options, Read as _};

    #[test]
    fn a_checkpoint_is_a_data_folder_of_its_moment() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(&folder.path().join("data"), &Options::default()).expect("open");
        let put = |key: &[u8]| {
            let mut batch = database.batch();
            batch.put(Cf::Filters, key, b"x");
            database.commit_durable(batch).expect("commit");
        };
        put(b"before");
        let frozen = folder.path().join("data/frozen");
        database.checkpoint(&frozen).expect("freezes");
        put(b"after");
        let copy = Database::open(&frozen, &Options::default()).expect("opens");
        let rows = copy.scan(Cf::Filters, b"", None, Direction::Forward, 9).expect("reads");
        assert_eq!(rows, [(b"before".to_vec(), b"x".to_vec())]);
        // The copy lives on its own: what is written to it is not in the other.
        let mut batch = copy.batch();
        batch.put(Cf::Filters, b"there", b"y");
        copy.commit_durable(batch).expect("commit");
        assert_eq!(database.get(Cf::Filters, b"there").expect("reads"), None);
        assert!(database.checkpoint(&frozen).is_err(), "never over what is there");
    }
}
