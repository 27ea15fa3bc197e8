//! Which of the tree's files the two people edit.

use causeway_tests::space::Sibling;
use serde_json::{Value, json};

use crate::tree::{File, Tree};

/// Items that both edit while the link is cut.
pub const SAME: usize = 3;
/// Texts of such a length are pleasant to watch, in bytes.
const PLEASANT: std::ops::RangeInclusive<usize> = 1..=12_000;

/// A text of the tree; the edits put a line on top of it.
#[derive(Debug)]
pub struct Text {
    /// The item.
    pub key: String,
    body: String,
}

/// The texts that are edited.
#[derive(Debug)]
pub struct Choice {
    /// By both, while the link is cut.
    pub same: Vec<Text>,
    /// By Alice.
    pub alices: Text,
    /// By Bob.
    pub bobs: Text,
}

impl Choice {
    /// Documents first, then other texts, then notes that the folder does not
    /// have yet.
    pub fn of(tree: &Tree) -> Self {
        let is_text = |file: &&File| file.text.as_ref().is_some_and(|text| PLEASANT.contains(&text.len()));
        let mut files: Vec<&File> = tree.files.iter().filter(is_text).collect();
        let is_document = |file: &File| {
            let kind = std::path::Path::new(&file.key).extension();
            kind.is_some_and(|kind| kind == "md" || kind == "txt")
        };
        files.sort_by_key(|file| (!is_document(file), file.key.matches('/').count(), file.key.clone()));
        let is_new = |key: &String| tree.files.iter().all(|file| file.key != *key);
        let missing = (1..).map(|number| format!("notes/{number}.md")).filter(is_new);
        let missing = missing.map(|key| Text { key, body: String::new() });
        let mut texts = files.into_iter().map(Text::of).chain(missing);
        let mut next = || texts.next().expect("there is no end of notes");
        Self { same: (0..SAME).map(|_| next()).collect(), alices: next(), bobs: next() }
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Text> {
        // Notes that nobody has written yet can't be waited for.
        self.same.iter().chain([&self.alices, &self.bobs]).filter(|text| !text.body.is_empty())
    }
}

impl Text {
    fn of(file: &File) -> Self {
        Self { key: file.key.clone(), body: file.text.clone().unwrap_or_default() }
    }

    /// The item's value after `name` put a line on top.
    pub fn edited(&self, name: &str, line: &str) -> Value {
        json!({ "text": format!("{name}: {line}\n{}", self.body) })
    }
}

/// The line on top of a value.
pub fn first_line(sibling: &Sibling) -> String {
    let text = sibling.value.as_ref().and_then(|value| value["text"].as_str());
    text.map_or_else(
        || format!("({})", sibling.instead.unwrap_or("no text")),
        |text| format!("\u{201c}{}\u{201d}", text.lines().next().unwrap_or_default()),
    )
}

#[cfg(test)]
mod tests {
    use causeway_tests::space::Item;

    use super::*;

    #[test]
    fn a_value_that_is_not_there_is_shown_as_what_it_is() {
        let item = Item::of(&json!({ "siblings": [
            { "value": { "text": "first\nsecond" } },
            { "deleted": true },
            { "redacted": true },
            { "missing": true },
        ] }));
        let lines: Vec<String> = item.siblings.iter().map(first_line).collect();
        assert_eq!(lines, ["\u{201c}first\u{201d}", "(deleted)", "(redacted)", "(missing)"]);
    }
}
