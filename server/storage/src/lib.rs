//! Everything durable, in one embedded RocksDB.
//!
//! Synchronous: callers run on blocking threads. This crate decides nothing; it
//! says what is stored, under which key, and what "durable" means.
//!
//! - [`Database`]: opening, atomic commits, durability, stream positions.
//! - [`Cf`]: the one catalogue of column families.
//! - [`Read`], [`Snapshot`], [`Batch`]: how everything is read and written.
//! - [`codec`]: how keys and values are built.
//! - one module per aggregate: typed functions over `&impl Read` and `&mut Batch`.
//!
//! # Invariants
//! - A batch is one record of the write-ahead log: after a crash all of it is
//!   there or nothing, and what survives is a prefix of what was committed.
//! - What [`Database::wait_durable`] returned for survives power loss.
//! - A stream position is visible only when it and every lower one are durable
//!   or given up.
//! - No path is stored: a data folder can be moved or copied while nothing runs on it.

pub mod account_data;
pub mod accounts;
pub mod appservices;
pub mod backup;
mod batch;
mod catalogue;
mod checkpoint;
pub mod codec;
mod database;
pub mod dehydrated;
pub mod device_lists;
pub mod devices;
pub mod directory;
mod disk;
mod error;
mod flow;
pub mod key_changes;
pub mod keys;
pub mod media;
mod migration;
pub mod moderation;
pub mod oauth;
mod open;
pub mod outbox;
pub mod pending_media;
pub mod profiles;
pub mod push_queue;
mod read;
pub mod receipts;
pub mod registration_tokens;
pub mod reports;
pub mod restored;
pub mod rooms;
pub mod server_keys;
pub mod shared_space;
pub mod sliding;
pub mod sync_progress;
pub mod to_device;
pub mod transactions;
pub mod upstream;

pub use batch::{Batch, Commit, StreamPosition};
pub use catalogue::Cf;
pub use database::Database;
pub use disk::{DiskFull, free_bytes};
pub use error::{OpenError, StorageError};
pub use migration::SCHEMA_VERSION;
pub use open::{Held, Options, RESTORING_FILE, hold};
pub use read::{Direction, Full, Read, Row, Snapshot};
