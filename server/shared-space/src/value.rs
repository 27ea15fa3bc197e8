//! The value of an item: a JSON object that a Matrix event can hold.
//!
//! Invariants: canonical JSON of at most [`MAX_VALUE_BYTES`], a non-empty
//! object, none of [`RESERVED_FIELDS`] at its top level. What larger content
//! there is, is a file that the value refers to.

use std::{fmt, sync::Arc};

use crate::{
    canonical::{self, CanonicalError, Json},
    ids::ValueHash,
};

/// Largest value in bytes of canonical JSON.
pub const MAX_VALUE_BYTES: usize = 48 * 1024;
/// Largest text that is read for a value: each canonical byte can have been written as `\u00xx`.
pub const MAX_VALUE_TEXT_BYTES: usize = 6 * MAX_VALUE_BYTES;
/// Members that an event's content carries beside the value.
pub const RESERVED_FIELDS: [&str; 2] = [STAMP_FIELD, CONFLICT_FIELD];
/// Where an item event's content carries the change's stamp.
pub const STAMP_FIELD: &str = "org.causeway.change";
/// Where an item event's content lists the other siblings of a conflicted item.
pub const CONFLICT_FIELD: &str = "org.causeway.conflict";

/// A checked value. Cheap to clone; equal values have equal text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Value(Arc<str>);

/// Why a text is no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// More than [`MAX_VALUE_BYTES`] canonical (or [`MAX_VALUE_TEXT_BYTES`] as written).
    #[error("the value is larger than 48 KiB")]
    TooLarge,
    /// Not JSON, or nothing that canonical JSON can say.
    #[error("the value has no canonical JSON")]
    NotCanonical(#[source] CanonicalError),
    /// Some other JSON than an object.
    #[error("the value is not an object")]
    NotObject,
    /// `{}`: that is how an ordinary client deletes.
    #[error("the value is an empty object")]
    Empty,
    /// Has one of [`RESERVED_FIELDS`].
    #[error("the value has a reserved member")]
    Reserved,
}

impl Value {
    /// Reads a value from JSON text, canonical or not.
    pub fn parse(text: &[u8]) -> Result<Self, ValueError> {
        if text.len() > MAX_VALUE_TEXT_BYTES {
            return Err(ValueError::TooLarge);
        }
        let canonical = canonical::canonicalize(text).map_err(ValueError::NotCanonical)?;
        if canonical.len() > MAX_VALUE_BYTES {
            return Err(ValueError::TooLarge);
        }
        if !canonical.starts_with('{') {
            return Err(ValueError::NotObject);
        }
        if canonical == "{}" {
            return Err(ValueError::Empty);
        }
        // The name can only stand in canonical text as it is written here, so
        // a tree is built only for the few values that hold it somewhere.
        if RESERVED_FIELDS.iter().any(|field| canonical.contains(field))
            && let Ok(Json::Object(fields)) = canonical::parse(&canonical)
            && RESERVED_FIELDS.iter().any(|field| fields.contains_key(*field))
        {
            return Err(ValueError::Reserved);
        }
        Ok(Self(canonical.into()))
    }

    /// The value of an item event's content without the members that Causeway
    /// adds; `None` if nothing else is there (an ordinary client's delete).
    pub fn from_content(content: &[u8]) -> Result<Option<Self>, ValueError> {
        if content.len() > MAX_VALUE_TEXT_BYTES {
            return Err(ValueError::TooLarge);
        }
        let text = std::str::from_utf8(content).unwrap_or_default();
        let Json::Object(mut fields) = canonical::parse(text).map_err(ValueError::NotCanonical)? else {
            return Err(ValueError::NotObject);
        };
        for field in RESERVED_FIELDS {
            fields.remove(field);
        }
        if fields.is_empty() {
            return Ok(None);
        }
        Self::parse(Json::Object(fields).to_string().as_bytes()).map(Some)
    }

    /// The canonical JSON.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SHA-256 of the canonical JSON.
    pub fn hash(&self) -> ValueHash {
        ValueHash::of(self.0.as_bytes())
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let value = Value::parse(br#"{ "b": 1, "a": {"org.causeway.change": 2} }"#).expect("fits");
        assert_eq!(value.as_str(), r#"{"a":{"org.causeway.change":2},"b":1}"#);
        let largest = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_VALUE_BYTES - 8));
        assert!(Value::parse(largest.as_bytes()).is_ok());
        assert_eq!(Value::parse(largest.replacen('x', "xx", 1).as_bytes()), Err(ValueError::TooLarge));
        assert_eq!(Value::parse(&vec![b' '; MAX_VALUE_TEXT_BYTES + 1]), Err(ValueError::TooLarge));
        assert_eq!(Value::parse(b"[]"), Err(ValueError::NotObject));
        assert_eq!(Value::parse(b"{ }"), Err(ValueError::Empty));
        assert_eq!(Value::parse(br#"{"org.causeway.c\u0068ange":1}"#), Err(ValueError::Reserved));
        assert!(matches!(Value::parse(br#"{"a":0.5}"#), Err(ValueError::NotCanonical(_))));
    }

    #[test]
    fn content_loses_what_was_added() {
        let content = br#"{"org.causeway.change":{"x":[]},"z":1,"org.causeway.conflict":[]}"#;
        let value = Value::from_content(content).expect("well formed").expect("not a delete");
        assert_eq!(value.as_str(), r#"{"z":1}"#);
        assert_eq!(Value::from_content(b"{}"), Ok(None));
        assert_eq!(Value::from_content(br#"{"org.causeway.change":1}"#), Ok(None));
        assert!(Value::from_content(b"7").is_err());
    }
}
