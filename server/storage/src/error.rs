//! What can go wrong with storage.

use std::path::PathBuf;

use crate::disk::DiskFull;

/// A failed read or write.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// RocksDB could not read.
    #[error("can't read from column family {cf}")]
    Read {
        /// The column family.
        cf: &'static str,
        /// RocksDB's error.
        #[source]
        source: rocksdb::Error,
    },
    /// RocksDB could not write; nothing of the batch was written.
    #[error("can't write a batch")]
    Write(#[source] rocksdb::Error),
    /// The log could not be synced, now or earlier. What is durable is unknown,
    /// so this process accepts no further write.
    #[error("the write-ahead log can't be synced: {0}; no write is accepted until a restart")]
    Sync(String),
    /// The disk has too little room: nothing of the batch was written.
    #[error("the disk is full")]
    Full(#[from] DiskFull),
    /// The database could not be frozen for a backup, or be told that it was restored from one.
    #[error("the backup failed: {0}")]
    Checkpoint(String),
    /// A stored value is not what the catalogue says.
    #[error("a value in column family {cf} can't be decoded")]
    BrokenValue {
        /// The column family.
        cf: &'static str,
        /// What the decoder said.
        #[source]
        source: serde_json::Error,
    },
    /// A stored value has a version byte that this program doesn't know.
    #[error("a value in column family {cf} has version {version:?}")]
    ValueVersion {
        /// The column family.
        cf: &'static str,
        /// The byte; `None` for an empty value.
        version: Option<u8>,
    },
    /// A stored key (or a number) is not what the catalogue says.
    #[error("a key in column family {cf} can't be decoded")]
    BrokenKey {
        /// The column family.
        cf: &'static str,
    },
}

/// Why a data folder can't be opened. One line each; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("data folder {} is in use by another process", path.display())]
    InUse {
        /// The data folder.
        path: PathBuf,
    },
    /// It was written by a later program.
    #[error(
        "data folder {} has schema {found}, but this program knows only schema {supported} and below",
        path.display()
    )]
    NewerSchema {
        /// The data folder.
        path: PathBuf,
        /// The folder's schema version, or what else is unknown about it.
        found: String,
        /// The newest schema that this program knows.
        supported: u32,
    },
    /// It is no data folder, is damaged, or permissions forbid it.
    #[error("data folder {} can't be read: {reason}", path.display())]
    Unreadable {
        /// The data folder.
        path: PathBuf,
        /// What is wrong, in a few words.
        reason: String,
    },
    /// A migration failed; it can be tried again.
    #[error("data folder {} can't be migrated to schema {to}", path.display())]
    Migration {
        /// The data folder.
        path: PathBuf,
        /// The schema version that was being migrated to.
        to: u32,
        /// What went wrong.
        #[source]
        source: StorageError,
    },
}
