//! Opening a data folder: lock, schema, RocksDB and its options.
//!
//! Layout: `lock` (held while open), `schema` (the version of the last program
//! that opened it for writing, as text), `db/` (RocksDB). Other modules add
//! `media/` and the like. Everything that can be refused is refused before
//! anything is changed.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::Path,
};

use rocksdb::{Cache, ColumnFamilyDescriptor, DBRecoveryMode, DBWithThreadMode, LogLevel, SingleThreaded};

use crate::{Cf, OpenError, SCHEMA_VERSION};

/// Column families are only created while opening, so handles need no lock.
pub(crate) type Rocks = DBWithThreadMode<SingleThreaded>;

const LOCK_FILE: &str = "lock";
/// In a data folder that is being written by a restore: it is not whole.
pub const RESTORING_FILE: &str = "restoring";
const SCHEMA_FILE: &str = "schema";
pub(crate) const ROCKS_FOLDER: &str = "db";

/// A schema file is a few digits.
const SCHEMA_FILE_BYTES_MAX: u64 = 32;

/// How much memory and how many files the database may use.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cache of blocks, indexes and filters, in bytes.
    pub cache_bytes: usize,
    /// Writes that are held in memory before they are written to tables, all
    /// column families together, in bytes.
    pub write_buffer_bytes: usize,
    /// The size that makes the log start anew, in bytes: bounds the time that
    /// opening takes after a crash.
    pub log_bytes_max: u64,
    /// Open files.
    pub open_files_max: i32,
    /// Threads that flush and compact.
    pub background_threads: i32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 128 << 20,
            write_buffer_bytes: 96 << 20,
            log_bytes_max: 256 << 20,
            open_files_max: 512,
            background_threads: 2,
        }
    }
}

pub(crate) struct Opened {
    pub(crate) rocks: Rocks,
    pub(crate) lock: File,
}

pub(crate) fn open(path: &Path, options: &Options) -> Result<Opened, OpenError> {
    let unreadable = |reason: String| OpenError::Unreadable { path: path.to_owned(), reason };
    fs::create_dir_all(path).map_err(|error| unreadable(error.to_string()))?;
    let lock = lock(path)?;
    let found = refuse(path)?;
    let database = path.join(ROCKS_FOLDER);
    let exists = database.join("CURRENT").exists();
    let rocks_options = database_options(options);
    if exists {
        refuse_unknown_families(path, &database, &rocks_options)?;
    }
    if found != Some(SCHEMA_VERSION) {
        // Before the first change, so that an older program refuses a folder
        // whose migration was interrupted.
        write_schema(path).map_err(|error| unreadable(format!("schema file: {error}")))?;
    }
    let cache = Cache::new_lru_cache(options.cache_bytes);
    let family =
        |cf: &Cf| ColumnFamilyDescriptor::new(cf.name(), Cf::options(&cache, options.write_buffer_bytes));
    let rocks = Rocks::open_cf_descriptors(&rocks_options, &database, Cf::ALL.iter().map(family))
        .map_err(|error| unreadable(error.into_string()))?;
    Ok(Opened { rocks, lock })
}

/// Opens a folder of the present schema to be read only; its lock is taken all the same.
pub(crate) fn open_read_only(path: &Path, options: &Options) -> Result<Opened, OpenError> {
    let unreadable = |reason: String| OpenError::Unreadable { path: path.to_owned(), reason };
    let Held { _lock: lock } = hold(path)?;
    let database = path.join(ROCKS_FOLDER);
    let rocks_options = database_options(options);
    let found = read_schema(path).map_err(|error| unreadable(format!("schema file: {error}")))?;
    refuse_unknown_families(path, &database, &rocks_options)?;
    let names = Rocks::list_cf(&rocks_options, &database).map_err(|error| unreadable(error.into_string()))?;
    if found != Some(SCHEMA_VERSION) || Cf::ALL.iter().any(|cf| names.iter().all(|name| name != cf.name())) {
        let reason = "an earlier program wrote it: start the server on it once, or use that program";
        return Err(unreadable(reason.to_owned()));
    }
    let cache = Cache::new_lru_cache(options.cache_bytes);
    let family =
        |cf: &Cf| ColumnFamilyDescriptor::new(cf.name(), Cf::options(&cache, options.write_buffer_bytes));
    let families = Cf::ALL.iter().map(family);
    let rocks = Rocks::open_cf_descriptors_read_only(&rocks_options, &database, families, false)
        .map_err(|error| unreadable(error.into_string()))?;
    Ok(Opened { rocks, lock })
}

/// A data folder that nobody uses while this lives, and that is not opened either.
#[derive(Debug)]
pub struct Held {
    _lock: File,
}

/// Keeps everybody else out of a data folder, to read its files as they are.
///
/// # Errors
/// It is in use, is none, or of a later program.
pub fn hold(path: &Path) -> Result<Held, OpenError> {
    let unreadable = |reason: String| OpenError::Unreadable { path: path.to_owned(), reason };
    if !path.join(ROCKS_FOLDER).join("CURRENT").exists() {
        return Err(unreadable("there is no database in it".to_owned()));
    }
    let lock = lock(path)?;
    refuse(path)?;
    Ok(Held { _lock: lock })
}

/// Refuses a folder that is not whole, or that a later program wrote; its schema.
fn refuse(path: &Path) -> Result<Option<u32>, OpenError> {
    let unreadable = |reason: String| OpenError::Unreadable { path: path.to_owned(), reason };
    if path.join(RESTORING_FILE).exists() {
        return Err(unreadable("a restore into it was not finished: empty it and restore again".to_owned()));
    }
    let found = read_schema(path).map_err(|error| unreadable(format!("schema file: {error}")))?;
    match found {
        Some(found) if found > SCHEMA_VERSION => Err(OpenError::NewerSchema {
            path: path.to_owned(),
            found: found.to_string(),
            supported: SCHEMA_VERSION,
        }),
        None if path.join(ROCKS_FOLDER).join("CURRENT").exists() => {
            Err(unreadable("there is a database, but no schema file".to_owned()))
        }
        found => Ok(found),
    }
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let unreadable = |error: io::Error| OpenError::Unreadable {
        path: path.to_owned(),
        reason: format!("lock file: {error}"),
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(LOCK_FILE))
        .map_err(unreadable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(unreadable(error)),
    }
}

fn read_schema(path: &Path) -> io::Result<Option<u32>> {
    let file = path.join(SCHEMA_FILE);
    match fs::metadata(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(meta) if meta.len() > SCHEMA_FILE_BYTES_MAX => return Err(io::Error::other("too long")),
        Ok(_) => {}
    }
    let text = fs::read_to_string(&file)?;
    text.trim().parse().map(Some).map_err(|_| io::Error::other("not a number"))
}

pub(crate) fn write_schema(path: &Path) -> io::Result<()> {
    let temporary = path.join("schema.new");
    let mut file = File::create(&temporary)?;
    writeln!(file, "{SCHEMA_VERSION}")?;
    file.sync_all()?;
    fs::rename(&temporary, path.join(SCHEMA_FILE))?;
    File::open(path)?.sync_all()
}

/// A column family that this program doesn't know was made by a later one.
fn refuse_unknown_families(
    path: &Path,
    database: &Path,
    options: &rocksdb::Options,
) -> Result<(), OpenError> {
    let names = Rocks::list_cf(options, database)
        .map_err(|error| OpenError::Unreadable { path: path.to_owned(), reason: error.into_string() })?;
    let known = |name: &String| name == "default" || Cf::ALL.iter().any(|cf| cf.name() == name);
    match names.into_iter().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => Err(OpenError::NewerSchema {
            path: path.to_owned(),
            found: format!("with column family {name:?}"),
            supported: SCHEMA_VERSION,
        }),
    }
}

fn database_options(options: &Options) -> rocksdb::Options {
    let mut rocks = rocksdb::Options::default();
    rocks.create_if_missing(true);
    rocks.create_missing_column_families(true);
    // Replay stops at the first record that is torn or corrupt, so what
    // survives is a prefix. "Absolute consistency" would refuse to open after
    // every power loss; "tolerate corrupted tail" and "skip any" may replay
    // records behind a hole.
    rocks.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    rocks.set_db_write_buffer_size(options.write_buffer_bytes);
    rocks.set_max_total_wal_size(options.log_bytes_max);
    rocks.set_max_open_files(options.open_files_max);
    rocks.set_max_background_jobs(options.background_threads.max(2));
    rocks.set_bytes_per_sync(1 << 20);
    rocks.set_paranoid_checks(true);
    // RocksDB's own text log, not the write-ahead log.
    rocks.set_log_level(LogLevel::Warn);
    rocks.set_max_log_file_size(4 << 20);
    rocks.set_keep_log_file_num(4);
    rocks.set_stats_dump_period_sec(0);
    rocks
}
