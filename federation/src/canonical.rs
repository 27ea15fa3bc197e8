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

use std::{borrow::Cow, collections::BTreeMap};

use serde::de::Error as _;

/// Nesting that is followed.
pub const DEPTH_MAX: usize = 100;
/// The largest integer of canonical JSON.
const INTEGER_MAX: i64 = (1 << 53) - 1;

/// Writes the canonical form of the JSON text `json` to the end of `out`.
///
/// # Errors
/// It is not JSON, or nested too deeply.
pub fn canonicalise(json: &[u8], out: &mut String) -> Result<(), serde_json::Error> {
    // What follows relies on the text being well-formed.
    serde_json::from_slice::<serde::de::IgnoredAny>(json)?;
    let text = std::str::from_utf8(json).map_err(serde_json::Error::custom)?;
    Text { rest: text }.value(out, 0)
}

/// A string, unescaped.
#[derive(serde::Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

/// A well-formed JSON text, from where it was read to.
struct Text<'a> {
    rest: &'a str,
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
                write_scalar(self.take(end), out);
                Ok(())
            }
        }
    }

    fn object(&mut self, out: &mut String, depth: usize) -> Result<(), serde_json::Error> {
        let mut members: BTreeMap<Cow<'a, str>, String> = BTreeMap::new();
        self.take(1);
        while self.peek() != b'}' {
            let name = self.string()?;
            self.peek();
            self.take(1);
            let mut value = String::new();
            self.value(&mut value, depth + 1)?;
            // Of members of one name the last counts, as everywhere.
            members.insert(name, value);
            if self.peek() == b',' {
                self.take(1);
            }
        }
        self.take(1);
        out.push('{');
        for (at, (name, value)) in members.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            write_string(name, out)?;
            out.push(':');
            out.push_str(value);
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

/// A number, `true`, `false` or `null`.
fn write_scalar(token: &str, out: &mut String) {
    match token.parse::<i64>() {
        // `-0` is the one integer with two spellings.
        Ok(integer) if (-INTEGER_MAX..=INTEGER_MAX).contains(&integer) => out.push_str(&integer.to_string()),
        _ => out.push_str(token),
    }
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
        canonicalise(json.as_bytes(), &mut out).unwrap_or_else(|error| panic!("{json}: {error}"));
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
        ] {
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
    }

    #[test]
    fn what_is_not_json_or_too_deep_is_refused() {
        let mut out = String::new();
        let deep = format!("{}{}", "[".repeat(DEPTH_MAX + 2), "]".repeat(DEPTH_MAX + 2));
        for json in ["", "{", "[1,]", r#"{"a":1,}"#, "\"\u{1}\"", "01", "nul", "{} {}", r#""\ud800""#, &deep]
        {
            assert!(canonicalise(json.as_bytes(), &mut out).is_err(), "{json}");
        }
        assert!(canonicalise(b"\"\xff\"", &mut out).is_err());
        canonical(&format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX)));
    }
}
