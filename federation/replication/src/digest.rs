//! The digest of a vector: equal holdings, equal digests.

use causeway_shared_space::VersionVector;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Half of [`VersionVector::digest`]; 32 hex digits on the wire. A hint: what it
/// says about a peer makes us look or not look, never skip or drop an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 16]);

impl Digest {
    /// Of what is held.
    pub fn of(vector: &VersionVector) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(&vector.digest()[..16]);
        Self(half)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", u128::from_be_bytes(self.0)))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u128::from_str_radix(&text, 16) {
            Ok(number) if digits => Ok(Self(number.to_be_bytes())),
            _ => Err(D::Error::custom("a digest is 32 hex digits")),
        }
    }
}
