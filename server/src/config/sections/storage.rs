//! `[storage]`: how much memory and disk the database may take.

use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// Less of either would make the database crawl.
const MEMORY_BYTES_MIN: usize = 1 << 20;

/// `[storage]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_field_names, reason = "each says its unit")]
pub struct Storage {
    /// Memory for what is read.
    pub cache_bytes: usize,
    /// Memory for what was written lately.
    pub write_buffer_bytes: usize,
    /// Kept free on the disk.
    pub keep_free_bytes: u64,
}

impl Default for Storage {
    fn default() -> Self {
        Self { cache_bytes: 128 << 20, write_buffer_bytes: 96 << 20, keep_free_bytes: 512 << 20 }
    }
}

impl Storage {
    pub(in crate::config) fn check(&self) -> Result<(), ConfigError> {
        for (key, bytes) in [
            ("storage.cache_bytes", self.cache_bytes),
            ("storage.write_buffer_bytes", self.write_buffer_bytes),
        ] {
            if bytes < MEMORY_BYTES_MIN {
                return Err(ConfigError::invalid(key, format!("at least {MEMORY_BYTES_MIN}")));
            }
        }
        Ok(())
    }
}
