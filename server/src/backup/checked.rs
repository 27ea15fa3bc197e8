//! Bytes on their way: hashed, counted, and no faster than allowed.

use std::{
    io::{self, Read},
    thread,
    time::{Duration, Instant},
};

use causeway_service::clock::Clock;
use sha2::{Digest, Sha256};

/// SHA-256 in hex.
pub fn sha256_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// SHA-256 of all that a reader has, in hex, and its length.
pub fn digest(content: &mut impl Read) -> io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut bytes = 0;
    loop {
        let read = content.read(&mut piece)?;
        if read == 0 {
            return Ok((hex::encode(hash.finalize()), bytes));
        }
        hash.update(&piece[..read]);
        bytes += read as u64;
    }
}

/// Bytes that are read at once.
pub const PIECE_BYTES: usize = 256 << 10;

/// Passes bytes on, and fails at their end if they are not the expected ones: whoever
/// makes a file of them only when they ended well never has a wrong one.
pub struct Checked<'a, R> {
    inner: R,
    hash: Option<Sha256>,
    left: u64,
    expected: &'a str,
}

impl<'a, R: Read> Checked<'a, R> {
    /// `inner` is to have these bytes, by their SHA-256 in hex.
    pub fn new(inner: R, expected: &'a str, bytes: u64) -> Self {
        Self { inner, hash: Some(Sha256::new()), left: bytes, expected }
    }
}

impl<R: Read> Read for Checked<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the content is not the one it should be");
        let read = self.inner.read(buffer)?;
        if read > 0 {
            self.left = self.left.checked_sub(read as u64).ok_or_else(wrong)?;
            if let Some(hash) = &mut self.hash {
                hash.update(&buffer[..read]);
            }
        } else if let Some(hash) = self.hash.take().filter(|_| !buffer.is_empty())
            && (self.left > 0 || hex::encode(hash.finalize()) != self.expected)
        {
            return Err(wrong());
        }
        Ok(read)
    }
}

/// How fast a backup may go, so that the server beside it has the disk, too.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: Option<u64>,
    /// When all that has passed may have.
    due: Instant,
}

/// Time that was not used and is made up for, at most: more would be a burst.
const ARREARS: Duration = Duration::from_millis(100);

impl Pace {
    /// So many bytes in a second, at any time; `None`: as fast as it goes.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, due: Clock::System.instant() }
    }

    /// Waits until these may have passed.
    fn pass(&mut self, bytes: usize) {
        let Some(rate) = self.bytes_per_second.filter(|rate| *rate > 0) else { return };
        let now = Clock::System.instant();
        let begin = now.checked_sub(ARREARS).map_or(self.due, |least| self.due.max(least));
        self.due = begin + Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / rate);
        loop {
            let wait = self.due.saturating_duration_since(Clock::System.instant());
            if wait.is_zero() {
                return;
            }
            thread::park_timeout(wait);
        }
    }
}

/// Passes bytes on at a pace.
pub struct Paced<'a, R> {
    inner: R,
    pace: &'a mut Pace,
}

impl<'a, R: Read> Paced<'a, R> {
    /// `inner`, no faster than `pace`.
    pub fn new(inner: R, pace: &'a mut Pace) -> Self {
        Self { inner, pace }
    }
}

impl<R: Read> Read for Paced<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.pace.pass(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_expected_bytes_end_well() {
        let expected = sha256_of(b"hello");
        let read = |content: &[u8], bytes| {
            let mut all = Vec::new();
            Checked::new(content, &expected, bytes).read_to_end(&mut all).map(|_| all)
        };
        assert_eq!(read(b"hello", 5).expect("right"), b"hello");
        for (content, bytes) in [(&b"hellp"[..], 5), (b"hell", 5), (b"hello!", 5), (b"hello", 6), (b"", 5)] {
            let error = read(content, bytes).expect_err("wrong");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
