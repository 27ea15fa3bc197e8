//! The database handle: atomic commits, group fsync, stream positions.
//!
//! Committing and syncing are two steps so that a room's lock can be released
//! between them: commits are ordered by the log, and one fsync serves all who wait.

use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rocksdb::{ColumnFamily, WriteOptions};

use crate::{
    Batch, Cf, Commit, OpenError, Options, Snapshot, StorageError, StreamPosition,
    disk::{Disk, Growth},
    flow::Flow,
    migration,
    open::{self, Rocks},
    outbox,
    restored::{self, CEILING},
};

/// By how much the ceiling rises at once; so many positions a restart may skip.
const CEILING_STEP: u64 = 1 << 16;

/// An open data folder; clones share it. Closed, and unlocked, when the last
/// clone, batch and snapshot is gone.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

// Fields are dropped in order: RocksDB closes before the lock goes.
struct Inner {
    rocks: Rocks,
    flow: Flow,
    /// The ceiling as written. Lock order: `raising`, then the flow's state.
    ceiling: AtomicU64,
    raising: Mutex<()>,
    waiting: outbox::Waiting,
    disk: Disk,
    folder: PathBuf,
    _lock: File,
}

impl Database {
    /// Opens the data folder at `path`, creating it if it is missing, and
    /// migrates it if an earlier program wrote it.
    ///
    /// # Errors
    /// One line that names the folder and what is wrong; see [`OpenError`].
    pub fn open(path: &Path, options: &Options) -> Result<Self, OpenError> {
        let opened = open::open(path, options)?;
        let unreadable = |reason: String| OpenError::Unreadable { path: path.to_owned(), reason };
        let is_restored = restored::is_restored(path);
        let mut ceiling = restored::ceiling(&opened.rocks).map_err(unreadable)?;
        if is_restored {
            ceiling = restored::skip_positions(&opened.rocks, ceiling).map_err(unreadable)?;
        }
        let database = Self::new(opened, ceiling, path);
        migration::run(&database).map_err(|failure| failure.at(path))?;
        if is_restored {
            restored::settle(&database).map_err(|error| unreadable(error.to_string()))?;
        }
        Ok(database)
    }

    /// Opens a data folder of this program's schema to be looked at: nothing is written.
    ///
    /// # Errors
    /// As [`Self::open`], and for a folder that would have to be migrated.
    pub fn open_read_only(path: &Path, options: &Options) -> Result<Self, OpenError> {
        let opened = open::open_read_only(path, options)?;
        let ceiling = restored::ceiling(&opened.rocks)
            .map_err(|reason| OpenError::Unreadable { path: path.to_owned(), reason })?;
        Ok(Self::new(opened, ceiling, path))
    }

    fn new(opened: open::Opened, ceiling: u64, path: &Path) -> Self {
        Self(Arc::new(Inner {
            flow: Flow::new(ceiling, opened.rocks.latest_sequence_number()),
            rocks: opened.rocks,
            ceiling: AtomicU64::new(ceiling),
            raising: Mutex::new(()),
            waiting: outbox::Waiting::default(),
            disk: Disk::default(),
            folder: path.to_owned(),
            _lock: opened.lock,
        }))
    }

    /// The data folder. What lies in it beside the database (media, keys) is
    /// named by relative paths only.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// From now on so many bytes of the disk are kept free: what would need them is refused.
    /// Not from opening on, so that a server on a full disk starts.
    pub fn keep_free(&self, bytes: u64) {
        self.0.disk.keep_free(bytes);
    }

    /// Whether there is room for what grows; to be asked before files are written.
    ///
    /// # Errors
    /// [`StorageError::Full`].
    pub fn check_room(&self) -> Result<(), StorageError> {
        Ok(self.0.disk.check(Growth::Grows, &self.0.folder)?)
    }

    /// An empty batch.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    /// A consistent view of what is committed now.
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot { database: self, inner: self.0.rocks.snapshot() }
    }

    /// Writes the batch as one record of the log. Others see it from now on,
    /// but it is durable only after [`Self::wait_durable`].
    ///
    /// # Errors
    /// Nothing was written.
    pub fn commit(&self, mut batch: Batch) -> Result<Commit, StorageError> {
        self.0.flow.check()?;
        self.0.disk.check(batch.growth, &self.0.folder)?;
        let position = batch.positions.iter().copied().max().unwrap_or(0);
        if position > self.0.ceiling.load(Ordering::Acquire) {
            self.write_raising_ceiling(&mut batch, position)?;
        } else {
            self.write(&mut batch)?;
        }
        self.0.waiting.add(std::mem::take(&mut batch.destinations));
        let sequence = self.0.rocks.latest_sequence_number();
        self.0.flow.written(sequence, std::mem::take(&mut batch.positions));
        Ok(Commit { sequence, position })
    }

    /// Waits until the commit survives power loss, and its positions are
    /// visible. One waiter syncs for all.
    ///
    /// # Errors
    /// What was committed may or may not survive; the process should stop.
    pub fn wait_durable(&self, commit: Commit) -> Result<(), StorageError> {
        self.sync(commit.sequence)?;
        if let Some(sequence) = self.0.flow.unsynced_below(commit.position) {
            self.sync(sequence)?;
        }
        self.0.flow.wait_visible(commit.position);
        Ok(())
    }

    /// [`Self::commit`] and [`Self::wait_durable`]; the batch's highest position.
    pub fn commit_durable(&self, batch: Batch) -> Result<StreamPosition, StorageError> {
        let commit = self.commit(batch)?;
        self.wait_durable(commit)?;
        Ok(commit.position())
    }

    /// Returns when everything that can be read now is durable. Call it before
    /// answering a peer or a client from data that may not be synced; cheap
    /// when nothing is pending.
    pub fn barrier(&self) -> Result<(), StorageError> {
        self.sync(self.0.rocks.latest_sequence_number())
    }

    /// Everything up to this position is durable; readers of streams read no further.
    pub fn visible(&self) -> StreamPosition {
        StreamPosition(self.0.flow.visible())
    }

    fn sync(&self, sequence: u64) -> Result<(), StorageError> {
        let latest = || self.0.rocks.latest_sequence_number();
        let sync = || self.0.rocks.flush_wal(true).map_err(rocksdb::Error::into_string);
        self.0.flow.sync(sequence, latest, sync)
    }

    /// Adds the new ceiling to the batch, so that whichever prefix of the log
    /// survives, no position in it is above the ceiling in it.
    fn write_raising_ceiling(&self, batch: &mut Batch, position: u64) -> Result<(), StorageError> {
        let _raising = self.0.raising.lock().unwrap_or_else(PoisonError::into_inner);
        if position <= self.0.ceiling.load(Ordering::Acquire) {
            return self.write(batch);
        }
        let ceiling = position + CEILING_STEP;
        batch.put(Cf::Meta, CEILING, ceiling.to_be_bytes());
        self.write(batch)?;
        self.0.ceiling.store(ceiling, Ordering::Release);
        Ok(())
    }

    fn write(&self, batch: &mut Batch) -> Result<(), StorageError> {
        let writes = std::mem::take(&mut batch.writes);
        self.0.rocks.write_opt(writes, &WriteOptions::default()).map_err(StorageError::Write)
    }

    pub(crate) fn rocks(&self) -> &Rocks {
        &self.0.rocks
    }

    pub(crate) fn waiting(&self) -> &outbox::Waiting {
        &self.0.waiting
    }

    pub(crate) fn flow(&self) -> &Flow {
        &self.0.flow
    }

    pub(crate) fn handle(&self, cf: Cf) -> &ColumnFamily {
        self.0.rocks.cf_handle(cf.name()).expect("opening created every column family of the catalogue")
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("folder", &self.0.folder).finish_non_exhaustive()
    }
}
