//! The canonical form of a JSON text that others signed, as they wrote it.
//!
//! Canonical JSON knows integers within ±(2^53 − 1) only, and what this server
//! signs keeps to that. Others sign more: Synapse puts whatever numbers its
//! users' EDUs hold into a transaction and signs them in their shortest form.
//! So numbers that canonical JSON lacks are taken here as they stand on the
//! wire; the signature tells whether that was what was signed.
//!
//! Pure. Invariant: for a text without such numbers the result is canonical
//! JSON; nesting deeper than [`DEPTH_MAX`] is refused.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use serde::de::Error as _;

/// Nesting that is followed.
pub const DEPTH_MAX: usize = 100;
/// The largest integer of canonical JSON.
const INTEGER_MAX: i64 = (1 << 53) - 1;

/// Numbers that are no integers of canonical JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherNumbers {
    /// Taken as they are written.
    Keep,
    /// An error: this server does not sign them.
    Refuse,
}

/// Writes the canonical form of the JSON text `json` to the end of `out`.
///
/// # Errors
/// It is not JSON, nested too deeply, or has numbers that are refused.
pub fn canonicalise(json: &[u8], numbers: OtherNumbers, out: &mut String) -> Result<(), serde_json::Error> {
    // What follows relies on the text being well-formed.
    serde_json::from_slice::<serde::de::IgnoredAny>(json)?;
    let text = std::str::from_utf8(json).map_err(serde_json::Error::custom)?;
    // Room for what is signed around it besides.
    out.reserve(json.len() + 512);
    Text { rest: text, numbers }.value(out, 0)
}

/// A string, unescaped.
#[derive(serde::Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

/// A well-formed JSON text, from where it was read to.
struct Text<'a> {
    rest: &'a str,
    numbers: OtherNumbers,
}

impl<'a> Text<'a> {
    fn value(&mut self, out: &mut String, depth: usize) -> Result<(), serde_json::Error> {
        if depth > DEPTH_MAX {
            return Err(serde_json::Error::custom("nested too deeply"));
        }
        match self.peek() {
            b'{' => self.object(out, depth),
            b'[' => self.list(out, depth),
            b'"' => {
                let text = self.string()?;
                write_string(&text, out)
            }
            _ => {
                let end = self.rest.find([',', '}', ']', ' ', '\t', '\r', '\n']).unwrap_or(self.rest.len());
                write_scalar(self.take(end), self.numbers, out)
            }
        }
    }

    fn object(&mut self, out: &mut String, depth: usize) -> Result<(), serde_json::Error> {
        // Written as they come, which is their order if the text was canonical.
        let mut members: Vec<(Cow<'a, str>, Range<usize>)> = Vec::new();
        let mut in_order = true;
        self.take(1);
        out.push('{');
        let start = out.len();
        while self.peek() != b'}' {
            let name = self.string()?;
            self.peek();
            self.take(1);
            if let Some((before, _)) = members.last() {
                in_order &= *before < name;
                out.push(',');
            }
            let from = out.len();
            write_string(&name, out)?;
            out.push(':');
            self.value(out, depth + 1)?;
            members.push((name, from..out.len()));
            if self.peek() == b',' {
                self.take(1);
            }
        }
        self.take(1);
        if !in_order {
            sort_members(members, start, out);
        }
        out.push('}');
        Ok(())
    }

    fn list(&mut self, out: &mut String, depth: usize) -> Result<(), serde_json::Error> {
        self.take(1);
        out.push('[');
        while self.peek() != b']' {
            self.value(out, depth + 1)?;
            if self.peek() == b',' {
                self.take(1);
                out.push(',');
            }
        }
        self.take(1);
        out.push(']');
        Ok(())
    }

    fn string(&mut self) -> Result<Cow<'a, str>, serde_json::Error> {
        self.peek();
        let mut escaped = false;
        let end = self.rest.bytes().skip(1).position(|byte| {
            let closes = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            closes
        });
        let token = self.take(end.map_or(self.rest.len(), |end| end + 2));
        serde_json::from_str::<Borrowed<'a>>(token).map(|borrowed| borrowed.0)
    }

    /// The next byte that means something; 0 at the end.
    fn peek(&mut self) -> u8 {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        self.rest.bytes().next().unwrap_or_default()
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }
}

/// Puts the members of the object whose text begins at `start` into their order.
fn sort_members(members: Vec<(Cow<'_, str>, Range<usize>)>, start: usize, out: &mut String) {
    let written = out.split_off(start);
    // Of members of one name the last counts, as everywhere.
    let members: BTreeMap<Cow<'_, str>, Range<usize>> = members.into_iter().collect();
    for (at, range) in members.into_values().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(&written[range.start - start..range.end - start]);
    }
}

/// A number, `true`, `false` or `null`.
fn write_scalar(token: &str, numbers: OtherNumbers, out: &mut String) -> Result<(), serde_json::Error> {
    match token.parse::<i64>() {
        // `-0` is the one integer with two spellings.
        Ok(integer) if (-INTEGER_MAX..=INTEGER_MAX).contains(&integer) => out.push_str(&integer.to_string()),
        Err(_) if matches!(token, "true" | "false" | "null") => out.push_str(token),
        _ if numbers == OtherNumbers::Keep => out.push_str(token),
        _ => return Err(serde_json::Error::custom("a number that canonical JSON lacks")),
    }
    Ok(())
}

fn write_string(text: &str, out: &mut String) -> Result<(), serde_json::Error> {
    out.push_str(&serde_json::to_string(text)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::CanonicalJsonValue;

    use super::*;

    fn canonical(json: &str) -> String {
        let mut out = String::new();
        canonicalise(json.as_bytes(), OtherNumbers::Keep, &mut out)
            .unwrap_or_else(|error| panic!("{json}: {error}"));
        out
    }

    #[test]
    fn it_is_canonical_json_where_that_exists() {
        for json in [
            "{}",
            "[ ]",
            " null ",
            "[true ,false,null,0,-9007199254740991, 9007199254740991\n]",
            r#"{"b":1,"a":[{"d":"\u00e9\/\n\u0000\"","c":""}],"\ud83d\ude00":{},"\uffff":"😀"}"#,
            r#"{"same":1,"same":[2, {"x" : "\\" } ]}"#,
            r#"{"c":{"z":1,"y":{"b":[],"a":"é"}},"a":{"a":1,"b":2},"b":[{"q":{},"p":0}]}"#,
        ] {
            let mut strict = String::new();
            canonicalise(json.as_bytes(), OtherNumbers::Refuse, &mut strict).expect(json);
            assert_eq!(strict, canonical(json));
            let value: CanonicalJsonValue = serde_json::from_str(json).expect("canonical");
            assert_eq!(canonical(json), serde_json::to_string(&value).expect("writes"), "{json}");
        }
    }

    #[test]
    fn other_numbers_stay_as_they_are() {
        let json =
            r#"{"z": 1.5, "a": [-0, 1e-05, -0.0,1E400, 123456789012345678901234567890 , 9007199254740993]}"#;
        let expected =
            r#"{"a":[0,1e-05,-0.0,1E400,123456789012345678901234567890,9007199254740993],"z":1.5}"#;
        assert_eq!(canonical(json), expected);
        for number in ["1.5", "1e5", "9007199254740992", "-9007199254740992", "1E400"] {
            let json = format!("{{\"a\":[{number}]}}");
            assert!(
                canonicalise(json.as_bytes(), OtherNumbers::Refuse, &mut String::new()).is_err(),
                "{json}"
            );
        }
    }

    #[test]
    fn what_is_not_json_or_too_deep_is_refused() {
        let mut out = String::new();
        let deep = format!("{}{}", "[".repeat(DEPTH_MAX + 2), "]".repeat(DEPTH_MAX + 2));
        for json in ["", "{", "[1,]", r#"{"a":1,}"#, "\"\u{1}\"", "01", "nul", "{} {}", r#""\ud800""#, &deep]
        {
            assert!(canonicalise(json.as_bytes(), OtherNumbers::Keep, &mut out).is_err(), "{json}");
        }
        assert!(canonicalise(b"\"\xff\"", OtherNumbers::Keep, &mut out).is_err());
        canonical(&format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX)));
    }
}
