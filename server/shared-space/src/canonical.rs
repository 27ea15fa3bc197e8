//! Canonical JSON from hostile bytes.
//!
//! Matrix's canonical JSON (spec appendix "Canonical JSON"): UTF-8, object
//! members sorted by code point, no insignificant white space, shortest
//! escapes, integers within ±(2^53 − 1) and no other numbers. Here also: no
//! duplicate member, no lone surrogate, no `-0`, depth at most [`MAX_DEPTH`].
//!
//! Bytes that already are canonical (all that our own kind sends) are
//! recognised in one pass without taking memory and are kept as they came;
//! others are read into a tree and written again. The recogniser may say "not
//! sure" but never says yes to anything that the slow way would write
//! differently; a test holds it to that.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

/// Deepest nesting of objects and arrays.
pub const MAX_DEPTH: usize = 64;
const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Why bytes have no canonical form here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CanonicalError(String);

/// The canonical form of the JSON text `bytes`; borrowed when it is that already.
///
/// The caller bounds the length: a text grows by less than its own length.
pub fn canonicalize(bytes: &[u8]) -> Result<Cow<'_, str>, CanonicalError> {
    let text = std::str::from_utf8(bytes).map_err(|_| CanonicalError("not UTF-8".into()))?;
    if is_certainly_canonical(bytes) {
        return Ok(Cow::Borrowed(text));
    }
    let canonical = parse(text)?.to_string();
    Ok(if canonical == text { Cow::Borrowed(text) } else { Cow::Owned(canonical) })
}

pub(crate) fn parse(text: &str) -> Result<Json, CanonicalError> {
    let json = serde_json::from_str::<Json>(text).map_err(|error| CanonicalError(error.to_string()))?;
    if json.depth() > MAX_DEPTH {
        return Err(CanonicalError("nested too deeply".into()));
    }
    Ok(json)
}

/// A JSON value that has a canonical form. `Display` writes that form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Integer(i64),
    String(String),
    Array(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    // Depth is bounded by serde_json's own recursion limit (128) before this runs.
    fn depth(&self) -> usize {
        match self {
            Self::Array(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(fields) => 1 + fields.values().map(Self::depth).max().unwrap_or(0),
            _ => 0,
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::String(text) => write_string(f, text),
            Self::Array(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "," })?;
                    item.fmt(f)?;
                }
                f.write_str("]")
            }
            Self::Object(fields) => {
                f.write_str("{")?;
                for (index, (name, field)) in fields.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "," })?;
                    write_string(f, name)?;
                    f.write_str(":")?;
                    field.fmt(f)?;
                }
                f.write_str("}")
            }
        }
    }
}

/// Writes `text` as a canonical JSON string.
pub(crate) fn write_string(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    out.write_char('"')?;
    let mut plain = 0;
    for (index, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x09 => "\\t",
            0x0a => "\\n",
            0x0c => "\\f",
            0x0d => "\\r",
            0x00..=0x1f => "",
            _ => continue,
        };
        out.write_str(&text[plain..index])?;
        plain = index + 1;
        if escape.is_empty() {
            write!(out, "\\u{byte:04x}")?;
        } else {
            out.write_str(escape)?;
        }
    }
    out.write_str(&text[plain..])?;
    out.write_char('"')
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without floats")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Json, E> {
        let fits = value.unsigned_abs() <= MAX_INTEGER;
        if fits { Ok(Json::Integer(value)) } else { Err(E::custom("integer out of range")) }
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Json, E> {
        let value = i64::try_from(value).map_err(|_| E::custom("integer out of range"))?;
        self.visit_i64(value)
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Json, E> {
        Err(E::custom("a number that is not an integer within ±(2^53 − 1)"))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::String(text.to_owned()))
    }
    fn visit_string<E: de::Error>(self, text: String) -> Result<Json, E> {
        Ok(Json::String(text))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some((name, field)) = map.next_entry::<String, Json>()? {
            if fields.insert(name, field).is_some() {
                return Err(de::Error::custom("duplicate member"));
            }
        }
        Ok(Json::Object(fields))
    }
}

/// True only if `bytes` (UTF-8) are canonical JSON within the bounds.
fn is_certainly_canonical(bytes: &[u8]) -> bool {
    let mut scanner = Scanner { bytes, at: 0 };
    scanner.value(0).is_some() && scanner.at == bytes.len()
}

/// Each method consumes what it names and returns `None` on anything doubtful.
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }
    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }
    fn literal(&mut self, text: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(text).then(|| self.at += text.len())
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'{' => self.object(depth + 1),
            b'[' => self.array(depth + 1),
            b'"' => self.string(true).map(|_| ()),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            _ => self.integer(),
        }
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.eat(b'{')?;
        if self.eat(b'}').is_some() {
            return Some(());
        }
        let mut last: Option<&'a [u8]> = None;
        loop {
            // A name with an escape sorts by what it stands for: the slow way decides.
            let name = self.string(false)?;
            if last.is_some_and(|last| last >= name) {
                return None;
            }
            last = Some(name);
            self.eat(b':')?;
            self.value(depth)?;
            if self.eat(b'}').is_some() {
                return Some(());
            }
            self.eat(b',')?;
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.eat(b'[')?;
        if self.eat(b']').is_some() {
            return Some(());
        }
        loop {
            self.value(depth)?;
            if self.eat(b']').is_some() {
                return Some(());
            }
            self.eat(b',')?;
        }
    }

    /// The string's inner bytes as written.
    fn string(&mut self, escapes: bool) -> Option<&'a [u8]> {
        self.eat(b'"')?;
        let start = self.at;
        loop {
            match self.peek()? {
                b'"' => {
                    let inner = &self.bytes[start..self.at];
                    self.at += 1;
                    return Some(inner);
                }
                b'\\' if escapes => {
                    // \u00xx is rare: the slow way decides.
                    let short = matches!(
                        self.bytes.get(self.at + 1)?,
                        b'"' | b'\\' | b'b' | b't' | b'n' | b'f' | b'r'
                    );
                    short.then(|| self.at += 2)?;
                }
                b'\\' | 0x00..=0x1f => return None,
                _ => self.at += 1,
            }
        }
    }

    fn integer(&mut self) -> Option<()> {
        let negative = self.eat(b'-').is_some();
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        let digits = &self.bytes[start..self.at];
        let minimal = digits.first()? != &b'0' || (digits.len() == 1 && !negative);
        let value = std::str::from_utf8(digits).ok()?.parse::<u64>().ok()?;
        (minimal && value <= MAX_INTEGER).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> Option<String> {
        canonicalize(text.as_bytes()).ok().map(Cow::into_owned)
    }

    #[test]
    fn rewrites_to_canonical() {
        for (text, expected) in [
            (r#"{"b":1, "a":[true,false,null]}"#, r#"{"a":[true,false,null],"b":1}"#),
            (r#"{"\u00e4":"\u0041\/\u001F\n"}"#, "{\"ä\":\"A/\\u001f\\n\"}"),
            (r#""\ud83d\ude00""#, "\"😀\""),
            ("{\"\\\"\":1,\"!\":2}", "{\"!\":2,\"\\\"\":1}"),
            ("-9007199254740991", "-9007199254740991"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn refuses_what_has_no_canonical_form() {
        let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        let bottomless = "[".repeat(100_000);
        for text in [
            "",
            "{",
            "1.0",
            "1e3",
            "-0",
            "01",
            "9007199254740992",
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#""\ud800""#,
            "NaN",
            "{} x",
            "\"\u{1}\"",
            &deep,
            &bottomless,
        ] {
            assert_eq!(canonical(text), None, "{}", &text[..text.len().min(30)]);
        }
        assert!(canonicalize(b"\"\xff\"").is_err());
        let deepest = format!("{}{}", "[".repeat(64), "]".repeat(64));
        assert!(canonical(&deepest).is_some());
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            (-(1_i64 << 53) + 1..1 << 53).prop_map(Json::Integer),
            any::<String>().prop_map(Json::String),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
                prop::collection::btree_map(any::<String>(), inner, 0..4).prop_map(Json::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn canonical_text_is_a_fixed_point(json in any_json()) {
            let text = json.to_string();
            prop_assert_eq!(canonical(&text), Some(text.clone()));
            let value: serde_json::Value = serde_json::from_str(&text).expect("canonical JSON is JSON");
            prop_assert_eq!(canonical(&serde_json::to_string_pretty(&value).expect("serialises")), Some(text));
        }

        #[test]
        fn the_recogniser_never_accepts_more(text in r#"[\[\]{}:,"\\ab01u\-.e ]{0,12}"#) {
            if is_certainly_canonical(text.as_bytes()) {
                prop_assert_eq!(parse(&text).map(|json| json.to_string()), Ok(text));
            }
        }
    }
}
