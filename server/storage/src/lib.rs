//! Everything durable, in RocksDB.
