//! How everything is read: the present state, or a consistent view of it.

use rocksdb::{DBAccess, DBRawIteratorWithThreadMode, ReadOptions, SnapshotWithThreadMode};

use crate::{Cf, Database, StorageError, codec, open::Rocks};

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Backward,
}

/// Reads committed data, synced or not: call [`Database::barrier`] before
/// telling anybody of it.
pub trait Read {
    /// One value.
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;

    /// Several values, in the order of `keys`.
    fn multi_get(&self, cf: Cf, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StorageError>;

    /// Rows whose key begins with `prefix`, beginning at `from` (inclusive; it
    /// need not exist) or at the first (forward) or last (backward) of them;
    /// at most `limit`.
    fn scan(
        &self,
        cf: Cf,
        prefix: &[u8],
        from: Option<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Row>, StorageError>;

    /// Whether the rows whose key begins with `prefix` are as many, or their
    /// values as large together, as `full` says. Nothing is copied.
    fn is_full(&self, cf: Cf, prefix: &[u8], full: Full) -> Result<bool, StorageError>;

    /// How many rows have a key that begins with `prefix` and is not below `from`,
    /// counted up to `limit`. Nothing is copied.
    fn count(&self, cf: Cf, prefix: &[u8], from: &[u8], limit: usize) -> Result<usize, StorageError>;
}

/// How much of something is too much; either is enough.
#[derive(Clone, Copy, Debug)]
pub struct Full {
    /// Rows.
    pub rows: usize,
    /// Their values together, in bytes.
    pub bytes: usize,
}

/// Rows that a scan makes room for before it has seen any.
const SCAN_RESERVE_MAX: usize = 256;

/// A consistent view: what is committed later can't be seen in it. It holds
/// back compaction, so keep it for one request, not for a connection.
pub struct Snapshot<'a> {
    pub(crate) database: &'a Database,
    pub(crate) inner: SnapshotWithThreadMode<'a, Rocks>,
}

impl Read for Database {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.rocks().get_cf(self.handle(cf), key).map_err(failed(cf))
    }

    fn multi_get(&self, cf: Cf, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        let handle = self.handle(cf);
        let values = self.rocks().multi_get_cf(keys.iter().map(|key| (handle, key)));
        values.into_iter().map(|value| value.map_err(failed(cf))).collect()
    }

    fn scan(
        &self,
        cf: Cf,
        prefix: &[u8],
        from: Option<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Row>, StorageError> {
        let rows = self.rocks().raw_iterator_cf_opt(self.handle(cf), bounds(prefix));
        collect(cf, rows, from, direction, limit)
    }

    fn is_full(&self, cf: Cf, prefix: &[u8], full: Full) -> Result<bool, StorageError> {
        reaches(cf, self.rocks().raw_iterator_cf_opt(self.handle(cf), bounds(prefix)), full)
    }

    fn count(&self, cf: Cf, prefix: &[u8], from: &[u8], limit: usize) -> Result<usize, StorageError> {
        counted(cf, self.rocks().raw_iterator_cf_opt(self.handle(cf), bounds(prefix)), from, limit)
    }
}

impl Read for Snapshot<'_> {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.inner.get_cf(self.database.handle(cf), key).map_err(failed(cf))
    }

    fn multi_get(&self, cf: Cf, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        let handle = self.database.handle(cf);
        let values = self.inner.multi_get_cf(keys.iter().map(|key| (handle, key)));
        values.into_iter().map(|value| value.map_err(failed(cf))).collect()
    }

    fn scan(
        &self,
        cf: Cf,
        prefix: &[u8],
        from: Option<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Row>, StorageError> {
        let rows = self.inner.raw_iterator_cf_opt(self.database.handle(cf), bounds(prefix));
        collect(cf, rows, from, direction, limit)
    }

    fn is_full(&self, cf: Cf, prefix: &[u8], full: Full) -> Result<bool, StorageError> {
        reaches(cf, self.inner.raw_iterator_cf_opt(self.database.handle(cf), bounds(prefix)), full)
    }

    fn count(&self, cf: Cf, prefix: &[u8], from: &[u8], limit: usize) -> Result<usize, StorageError> {
        let rows = self.inner.raw_iterator_cf_opt(self.database.handle(cf), bounds(prefix));
        counted(cf, rows, from, limit)
    }
}

/// Keeps an iterator inside `prefix`, so that it never walks over the
/// tombstones of its neighbours.
fn bounds(prefix: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(prefix);
    if let Some(end) = codec::prefix_end(prefix) {
        options.set_iterate_upper_bound(end);
    }
    options
}

fn collect<D: DBAccess>(
    cf: Cf,
    mut rows: DBRawIteratorWithThreadMode<'_, D>,
    from: Option<&[u8]>,
    direction: Direction,
    limit: usize,
) -> Result<Vec<Row>, StorageError> {
    match (direction, from) {
        (Direction::Forward, Some(from)) => rows.seek(from),
        (Direction::Forward, None) => rows.seek_to_first(),
        (Direction::Backward, Some(from)) => rows.seek_for_prev(from),
        (Direction::Backward, None) => rows.seek_to_last(),
    }
    let mut found = Vec::with_capacity(limit.min(SCAN_RESERVE_MAX));
    while found.len() < limit {
        let Some((key, value)) = rows.item() else { break };
        found.push((key.to_vec(), value.to_vec()));
        match direction {
            Direction::Forward => rows.next(),
            Direction::Backward => rows.prev(),
        }
    }
    rows.status().map_err(failed(cf))?;
    Ok(found)
}

fn reaches<D: DBAccess>(
    cf: Cf,
    mut rows: DBRawIteratorWithThreadMode<'_, D>,
    full: Full,
) -> Result<bool, StorageError> {
    let (mut count, mut bytes) = (0_usize, 0_usize);
    rows.seek_to_first();
    while count < full.rows && bytes < full.bytes {
        let Some(value) = rows.value() else {
            rows.status().map_err(failed(cf))?;
            return Ok(false);
        };
        count += 1;
        bytes = bytes.saturating_add(value.len());
        rows.next();
    }
    Ok(true)
}

fn counted<D: DBAccess>(
    cf: Cf,
    mut rows: DBRawIteratorWithThreadMode<'_, D>,
    from: &[u8],
    limit: usize,
) -> Result<usize, StorageError> {
    let mut count = 0;
    rows.seek(from);
    while count < limit && rows.valid() {
        count += 1;
        rows.next();
    }
    rows.status().map_err(failed(cf))?;
    Ok(count)
}

fn failed(cf: Cf) -> impl Fn(rocksdb::Error) -> StorageError {
    move |source| StorageError::Read { cf: cf.name(), source }
}
