//! The three 32-byte hashes that name things: changes, values, conflicts.
//!
//! Written as 64 lower-case hexadecimal digits wherever they appear in JSON.
//! They are not secrets and carry no order beyond that of their bytes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

/// Length of every id in bytes.
pub const ID_BYTES: usize = 32;

/// The text is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id of 64 lower-case hexadecimal digits")]
pub struct IdError;

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; ID_BYTES]);

        impl $name {
            /// The SHA-256 of `bytes`, as an id.
            pub fn of(bytes: &[u8]) -> Self {
                Self(Sha256::digest(bytes).into())
            }
            /// The id with exactly these bytes.
            pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
                Self(bytes)
            }
            /// The id from a slice of a stored row; `None` unless it has 32 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; ID_BYTES] {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0; ID_BYTES * 2];
                hex::encode_to_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
                f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex(text).map(Self)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("64 lower-case hexadecimal digits")
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

hash_id!(
    /// The id of a change: the SHA-256 of its header's canonical JSON; for an
    /// adopted change in the role of an item's sibling, the SHA-256 of the
    /// event id that it adopts (see [`crate::Header::item_id`]).
    ChangeId
);
hash_id!(
    /// The SHA-256 of a value's canonical JSON.
    ValueHash
);
hash_id!(
    /// The SHA-256 of the sorted ids of an item's siblings.
    ConflictId
);

fn parse_hex(text: &str) -> Result<[u8; ID_BYTES], IdError> {
    let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut bytes = [0; ID_BYTES];
    if !lower || hex::decode_to_slice(text, &mut bytes).is_err() {
        return Err(IdError);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_both_ways_and_nothing_else() {
        let id = ChangeId::of(b"x");
        assert_eq!(id.to_string().parse::<ChangeId>(), Ok(id));
        assert_eq!(serde_json::to_string(&id).expect("ids serialise"), format!("\"{id}\""));
        for bad in ["", "00", &"A".repeat(64), &"g".repeat(64), &"0".repeat(66)] {
            assert!(bad.parse::<ChangeId>().is_err(), "{bad}");
        }
    }
}
