//! A content that is being written: to a temporary file, which goes when the
//! content is not kept. Its size is bounded while it grows.
//!
//! Not here: where contents are kept ([`crate::media`]).

use std::{
    io::{self, Write as _},
    path::Path,
};

use sha2::{Digest, Sha256};

use crate::{error::MatrixError, new_file::Temporary};

/// A content that is being written.
#[derive(Debug)]
pub struct Upload {
    file: Temporary,
    hash: Sha256,
    bytes: u64,
    bytes_max: u64,
}

impl Upload {
    /// In this folder, of at most so many bytes.
    pub(crate) fn begin(folder: &Path, bytes_max: u64) -> io::Result<Self> {
        Ok(Self { file: Temporary::create(folder)?, hash: Sha256::new(), bytes: 0, bytes_max })
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// 413 `M_TOO_LARGE` when it is more than allowed.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), MatrixError> {
        self.bytes += piece.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(MatrixError::too_large(format!("A file may have {} bytes", self.bytes_max)));
        }
        self.hash.update(piece);
        self.file.write_all(piece).map_err(|error| MatrixError::internal(&error))
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its SHA-256, 64 lower-case hexadecimal digits.
    pub fn sha256(&self) -> String {
        hex::encode(self.hash.clone().finalize())
    }

    /// Moves it to its place.
    pub(crate) fn persist(self, target: &Path) -> io::Result<()> {
        self.file.persist(target)
    }
}
