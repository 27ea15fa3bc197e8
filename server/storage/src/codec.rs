//! How keys and values are built.
//!
//! A key is a sequence of parts. Strings end in 0xFF, a byte that UTF-8 never
//! contains, so no string's key is a prefix of another's by accident and rows
//! sort by part. Integers are big-endian, so they sort as numbers. Bytes of
//! fixed length (hashes) are written as they are.
//!
//! A value is one version byte and JSON, unless the catalogue says otherwise.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Batch, Cf, Read, StorageError};

/// Ends a string in a key.
pub const SEPARATOR: u8 = 0xFF;

/// The version byte that [`encode`] writes.
pub const VALUE_VERSION: u8 = 1;

/// Begins a key.
pub fn key() -> Key {
    Key(Vec::with_capacity(64))
}

/// A key, or the prefix of one, under construction.
#[derive(Clone, Debug, Default)]
pub struct Key(Vec<u8>);

impl Key {
    /// Adds a string and its terminator.
    #[must_use]
    pub fn str(mut self, part: impl AsRef<str>) -> Self {
        self.0.extend_from_slice(part.as_ref().as_bytes());
        self.0.push(SEPARATOR);
        self
    }

    /// Adds the beginning of a string, without a terminator: for prefix scans.
    #[must_use]
    pub fn str_prefix(mut self, part: impl AsRef<str>) -> Self {
        self.0.extend_from_slice(part.as_ref().as_bytes());
        self
    }

    /// Adds bytes whose length is fixed by the catalogue.
    #[must_use]
    pub fn bytes(mut self, part: &[u8]) -> Self {
        self.0.extend_from_slice(part);
        self
    }

    /// Adds a number that sorts as a number.
    #[must_use]
    pub fn u64(mut self, part: u64) -> Self {
        self.0.extend_from_slice(&part.to_be_bytes());
        self
    }

    /// Adds a signed number that sorts as a number.
    #[must_use]
    pub fn i64(mut self, part: i64) -> Self {
        self.0.extend_from_slice(&order_preserving(part).to_be_bytes());
        self
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Maps signed numbers to unsigned ones in the same order.
const fn order_preserving(value: i64) -> u64 {
    value.cast_unsigned() ^ (1 << 63)
}

/// Takes a key apart again; each call consumes one part.
#[derive(Clone, Debug)]
pub struct KeyParts<'a> {
    cf: Cf,
    rest: &'a [u8],
}

impl<'a> KeyParts<'a> {
    /// Reads `key`, a key of `cf`.
    pub fn new(cf: Cf, key: &'a [u8]) -> Self {
        Self { cf, rest: key }
    }

    /// A string part.
    pub fn str(&mut self) -> Result<&'a str, StorageError> {
        let end = self.rest.iter().position(|&b| b == SEPARATOR).ok_or_else(|| self.broken())?;
        let part = std::str::from_utf8(&self.rest[..end]).map_err(|_| self.broken())?;
        self.rest = &self.rest[end + 1..];
        Ok(part)
    }

    /// A part of `N` bytes.
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], StorageError> {
        let (part, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.broken())?;
        self.rest = rest;
        Ok(*part)
    }

    /// An unsigned number.
    pub fn u64(&mut self) -> Result<u64, StorageError> {
        self.bytes().map(u64::from_be_bytes)
    }

    /// A signed number.
    pub fn i64(&mut self) -> Result<i64, StorageError> {
        self.u64().map(|value| (value ^ (1 << 63)).cast_signed())
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn broken(&self) -> StorageError {
        StorageError::BrokenKey { cf: self.cf.name() }
    }
}

/// The version byte and JSON.
///
/// # Panics
/// Never for types whose map keys are strings, which all of ours are.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VALUE_VERSION];
    serde_json::to_writer(&mut bytes, value)
        .expect("a stored type has string keys only, and a Vec takes all writes");
    bytes
}

/// Undoes [`encode`]. `cf` is for the error's sake.
pub fn decode<T: DeserializeOwned>(cf: Cf, bytes: &[u8]) -> Result<T, StorageError> {
    match bytes.split_first() {
        Some((&VALUE_VERSION, json)) => {
            serde_json::from_slice(json).map_err(|source| StorageError::BrokenValue { cf: cf.name(), source })
        }
        first => {
            Err(StorageError::ValueVersion { cf: cf.name(), version: first.map(|(version, _)| *version) })
        }
    }
}

/// Reads a number that was stored as eight big-endian bytes.
pub fn decode_u64(cf: Cf, bytes: &[u8]) -> Result<u64, StorageError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| StorageError::BrokenKey { cf: cf.name() })
}

/// Reads and decodes one value.
pub fn get<T: DeserializeOwned>(
    read: &(impl Read + ?Sized),
    cf: Cf,
    key: &[u8],
) -> Result<Option<T>, StorageError> {
    read.get(cf, key)?.map(|bytes| decode(cf, &bytes)).transpose()
}

/// Encodes and puts one value.
pub fn put<T: Serialize + ?Sized>(batch: &mut Batch, cf: Cf, key: impl AsRef<[u8]>, value: &T) {
    batch.put(cf, key, encode(value));
}

/// The first key after all those that begin with `prefix`; `None` when there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xFF)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_apart_as_they_were_built() {
        let built = key().str("!room").i64(-7).u64(9).bytes(&[1, 2]).str("").finish();
        let mut parts = KeyParts::new(Cf::Meta, &built);
        assert_eq!(parts.str().expect("string"), "!room");
        assert_eq!(parts.i64().expect("number"), -7);
        assert_eq!(parts.u64().expect("number"), 9);
        assert_eq!(parts.bytes::<2>().expect("bytes"), [1, 2]);
        assert_eq!(parts.str().expect("string"), "");
        assert!(parts.rest().is_empty());
        assert!(parts.u64().is_err() && parts.str().is_err());
    }

    #[test]
    fn keys_sort_by_part() {
        let ordered = [
            key().str("a").i64(i64::MIN).finish(),
            key().str("a").i64(-1).finish(),
            key().str("a").i64(0).finish(),
            key().str("a").i64(i64::MAX).finish(),
        ];
        assert!(ordered.is_sorted());
        // No string's key is the prefix of another's.
        assert!(!key().str("ab").finish().starts_with(key().str("a").as_ref()));
    }

    #[test]
    fn the_end_of_a_prefix_excludes_exactly_what_follows_it() {
        assert_eq!(prefix_end(b"a"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(&[1, 0xFF]), Some(vec![2]));
        assert_eq!(prefix_end(&[0xFF]), None);
        assert_eq!(prefix_end(b""), None);
    }

    #[test]
    fn a_value_of_another_version_is_refused() {
        let bytes = encode(&vec![1, 2]);
        assert_eq!(bytes, b"\x01[1,2]");
        assert_eq!(decode::<Vec<u8>>(Cf::Meta, &bytes).expect("same version"), [1, 2]);
        assert!(matches!(
            decode::<Vec<u8>>(Cf::Meta, b"\x02[1,2]"),
            Err(StorageError::ValueVersion { version: Some(2), .. })
        ));
        assert!(decode::<Vec<u8>>(Cf::Meta, b"").is_err());
    }
}
