//! The key of an item: what a room calls it.
//!
//! Invariant: 1 to 255 bytes of UTF-8, no control character, and not beginning
//! with `@` (Matrix reserves such state keys to the user they name). `/` is a
//! convention between people, without meaning here.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, de};

/// Longest key in bytes.
pub const MAX_KEY_BYTES: usize = 255;

/// The key of an item. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ItemKey(#[serde(serialize_with = "as_text")] Arc<str>);

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It has no bytes.
    #[error("the key is empty")]
    Empty,
    /// It has more than [`MAX_KEY_BYTES`].
    #[error("the key is longer than 255 bytes")]
    TooLong,
    /// It begins with `@`.
    #[error("the key begins with @")]
    AtSign,
    /// It holds a control character.
    #[error("the key contains a control character")]
    Control,
}

impl ItemKey {
    /// Checks `text` and keeps a copy.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        match text {
            "" => Err(KeyError::Empty),
            _ if text.len() > MAX_KEY_BYTES => Err(KeyError::TooLong),
            _ if text.starts_with('@') => Err(KeyError::AtSign),
            _ if text.chars().any(char::is_control) => Err(KeyError::Control),
            _ => Ok(Self(text.into())),
        }
    }
    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn as_text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl fmt::Display for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}
impl<'de> Deserialize<'de> for ItemKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = ItemKey;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an item key")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ItemKey, E> {
                ItemKey::new(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert!(ItemKey::new("plans/2026 – ä.md").is_ok());
        assert!(ItemKey::new(&"x".repeat(255)).is_ok());
        assert_eq!(ItemKey::new(""), Err(KeyError::Empty));
        assert_eq!(ItemKey::new(&"x".repeat(256)), Err(KeyError::TooLong));
        assert_eq!(ItemKey::new("@alice"), Err(KeyError::AtSign));
        for control in ["a\nb", "a\u{0}", "\u{7f}", "\u{85}"] {
            assert_eq!(ItemKey::new(control), Err(KeyError::Control));
        }
    }
}
