//! The known keys, read from `example.toml`, and the nearest one to a wrong one.

use std::{collections::BTreeSet, path::Path};

use toml::{Table, Value};

use super::ConfigError;

/// The documented example: every key with its default.
pub const EXAMPLE: &str = include_str!("example.toml");

/// Every known key, as `section.key` (lists of sections without their index).
#[derive(Debug)]
pub struct Catalogue {
    keys: BTreeSet<String>,
    /// Those whose value in the example is a string.
    texts: BTreeSet<String>,
}

impl Catalogue {
    /// The keys of the example, including those that are commented out there.
    pub fn of_example() -> Self {
        let table: Table = uncommented(EXAMPLE).parse().expect("a test parses the embedded example");
        let mut all = Self { keys: BTreeSet::new(), texts: BTreeSet::new() };
        collect("", &table, &mut |key, value| {
            if value.is_str() {
                all.texts.insert(key.clone());
            }
            all.keys.insert(key);
        });
        all
    }

    /// Whether the value of `key` is a string.
    pub fn is_text(&self, key: &str) -> bool {
        self.texts.contains(key)
    }

    /// Whether `key` (`section.key`) is a key or a section.
    pub fn contains(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Refuses a table with a key that is not known.
    pub fn check(&self, table: &Table, path: &Path) -> Result<(), ConfigError> {
        let mut written = BTreeSet::new();
        collect("", table, &mut |key, _| {
            written.insert(key);
        });
        match written.iter().find(|key| !self.contains(key)) {
            None => Ok(()),
            Some(key) => Err(ConfigError::UnknownKey {
                place: path.display().to_string(),
                key: key.clone(),
                nearest: self.nearest(key),
            }),
        }
    }

    /// The known key that needs the fewest edits to become `key`, if few enough.
    /// A right key in the wrong section counts as near.
    pub fn nearest(&self, key: &str) -> Option<String> {
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        self.keys
            .iter()
            .map(|known| (distance(known, key).min(distance(&last(known), &last(key)) + 1), known))
            .min()
            .filter(|(edits, _)| *edits <= 2 + key.len() / 4)
            .map(|(_, known)| known.clone())
    }
}

/// The example with its optional keys (`#key = …`, no space) switched on.
pub fn uncommented(example: &str) -> String {
    let mut text = String::with_capacity(example.len());
    for line in example.lines() {
        let optional =
            line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        text.push_str(optional.unwrap_or(line));
        text.push('\n');
    }
    text
}

fn collect(prefix: &str, table: &Table, found: &mut impl FnMut(String, &Value)) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(inner) => collect(&key, inner, found),
            Value::Array(items) => {
                for inner in items.iter().filter_map(Value::as_table) {
                    collect(&key, inner, found);
                }
            }
            _ => {}
        }
        found(key, value);
    }
}

/// Levenshtein distance in characters, over two rows.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }

    #[test]
    fn a_key_in_the_wrong_section_is_near() {
        let catalogue = Catalogue::of_example();
        assert_eq!(catalogue.nearest("server.mode").as_deref(), Some("registration.mode"));
        assert_eq!(catalogue.nearest("servername").as_deref(), Some("server_name"));
        assert_eq!(catalogue.nearest("completely_unrelated_thing"), None);
    }
}
