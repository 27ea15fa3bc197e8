//! Giving a client only the fields of events that it named (`event_fields`;
//! client-server API, "Filtering" and appendix "Dot-separated property paths").
//!
//! More may always be given than was asked for, so whatever can't be applied is not.

use serde_json::{Map, Value};

use super::response::RawEvent;

/// Paths looked at for each event; a filter with more of them gets whole events.
pub const PATHS_MAX: usize = 256;

/// The fields that are wanted.
#[derive(Clone, Debug)]
pub struct Fields(Vec<Vec<String>>);

impl Fields {
    /// `None` if whole events are wanted.
    pub fn new(paths: Option<&[String]>) -> Option<Self> {
        let paths = paths.filter(|paths| paths.len() <= PATHS_MAX)?;
        Some(Self(paths.iter().map(|path| parts(path)).collect()))
    }

    /// Of this event.
    pub fn of(&self, event: RawEvent) -> RawEvent {
        let Ok(whole) = serde_json::from_str::<Map<String, Value>>(event.get()) else { return event };
        let mut wanted = Map::new();
        for path in &self.0 {
            copy(&whole, &mut wanted, path);
        }
        serde_json::value::to_raw_value(&wanted).unwrap_or(event)
    }
}

/// A backslash takes a dot, or a backslash, for what it is.
fn parts(path: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = path.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '.' => parts.push(String::new()),
            '\\' if matches!(characters.peek(), Some('.' | '\\')) => {
                let last = parts.last_mut().expect("there is always a part");
                last.extend(characters.next());
            }
            other => parts.last_mut().expect("there is always a part").push(other),
        }
    }
    parts
}

fn copy(from: &Map<String, Value>, to: &mut Map<String, Value>, path: &[String]) {
    let Some((name, rest)) = path.split_first() else { return };
    let Some(value) = from.get(name) else { return };
    if rest.is_empty() {
        to.insert(name.clone(), value.clone());
        return;
    }
    let Value::Object(inner) = value else { return };
    if !inner.contains_key(&rest[0]) {
        return;
    }
    let inside = to.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inside) = inside {
        copy(inner, inside, rest);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{
        from_str, json,
        value::{RawValue, to_raw_value},
    };

    use super::*;

    fn chosen(event: &Value, paths: &[&str]) -> Value {
        let paths: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
        let fields = Fields::new(Some(&paths)).expect("fields");
        let event: Box<RawValue> = to_raw_value(event).expect("JSON");
        from_str(fields.of(event).get()).expect("JSON")
    }

    #[test]
    fn paths_name_fields_at_any_depth() {
        let event = json!({
            "type": "m.room.message", "sender": "@a:b.c",
            "content": { "body": "x", "a.b": 1, "a\\b": 2, "in": { "deep": [1], "left": 0 } },
        });
        assert_eq!(chosen(&event, &["type"]), json!({ "type": "m.room.message" }));
        assert_eq!(
            chosen(&event, &["content.body", "content.in.deep", "content.in.none.deeper", "sender.body"]),
            json!({ "content": { "body": "x", "in": { "deep": [1] } } })
        );
        assert_eq!(chosen(&event, &[r"content.a\.b"]), json!({ "content": { "a.b": 1 } }));
        assert_eq!(chosen(&event, &[r"content.a\\b"]), json!({ "content": { "a\\b": 2 } }));
        assert_eq!(chosen(&event, &["content", "content.body"])["content"], event["content"]);
        assert_eq!(chosen(&event, &["content.body", "content"])["content"], event["content"]);
        assert_eq!(chosen(&event, &[]), json!({}));
    }

    #[test]
    fn without_paths_or_with_too_many_events_stay_whole() {
        assert!(Fields::new(None).is_none());
        assert!(Fields::new(Some(&vec!["type".to_owned(); PATHS_MAX + 1])).is_none());
    }
}
