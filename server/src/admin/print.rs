//! Answers for people: lists as tables, everything else a line for each field.

use std::fmt::Write as _;

use serde_json::Value;

use super::call::Call;

/// The answer as text.
pub fn shown(answer: &Value, asked: &Call) -> String {
    let mut text = match asked.table {
        Some((list, columns)) => table(answer, list, columns),
        None => fields(answer),
    };
    if let Some(secret) = &asked.secret {
        let _infallible = writeln!(text, "password  {secret}");
    }
    if text.is_empty() { "done\n".to_owned() } else { text }
}

/// The answer as JSON. The controls that JSON lets stand are escaped: terminals
/// take U+0080 to U+009F for commands.
pub fn json(answer: &Value) -> String {
    let mut text = String::new();
    for c in format!("{answer:#}").chars() {
        if ('\u{7f}'..='\u{9f}').contains(&c) {
            let _infallible = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text
}

fn table(answer: &Value, list: &str, columns: &[&str]) -> String {
    let entries = answer[list].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rows = vec![columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>()];
    rows.extend(entries.iter().map(|entry| columns.iter().map(|column| cell(&entry[*column])).collect()));
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| rows.iter().map(|row: &Vec<String>| row[at].chars().count()).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    let more = ["next_token", "next_batch"].iter().map(|field| &answer[*field]).find(|next| !next.is_null());
    if let Some(next) = more {
        let _infallible = writeln!(text, "… more: --from {}", cell(next));
    }
    text
}

fn fields(answer: &Value) -> String {
    let Some(object) = answer.as_object() else { return String::new() };
    let width = object.keys().map(String::len).max().unwrap_or_default();
    let lines: Vec<String> =
        object.iter().map(|(field, value)| format!("{field:width$}  {}\n", cell(value))).collect();
    lines.concat()
}

/// On one line, whatever a user wrote into it, and without a terminal's commands.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use reqwest::Method;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_is_a_table_and_an_object_a_line_for_each_field() {
        let asked = Call::new(Method::GET, ["x"]).table("users", &["name", "admin"]);
        let answer = json!({ "users": [{ "name": "@a:x\u{1b}[2J", "admin": true }], "next_token": "1" });
        assert_eq!(shown(&answer, &asked), "name      admin\n@a:x\u{fffd}[2J  true\n… more: --from 1\n");
        let asked = Call::new(Method::GET, ["x"]);
        assert_eq!(shown(&json!({ "a": 1, "bcd": null }), &asked), "a    1\nbcd  -\n");
        assert_eq!(shown(&json!({}), &asked), "done\n");
    }

    #[test]
    fn json_has_no_controls_and_says_the_same() {
        let answer = json!({ "name": "a\u{9b}31m\u{7f}\u{85}é" });
        let shown = super::json(&answer);
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
        assert_eq!(serde_json::from_str::<Value>(&shown).expect("JSON"), answer);
    }
}
