//! Overrides by the environment: `CAUSEWAY_SECTION__KEY=value`.
//!
//! A value is read as TOML where it is TOML (`true`, `8`, `["a"]`, `[{…}]`),
//! else as a string, so that names and paths need no quotes.

use toml::{Table, Value};

use super::{ConfigError, catalogue::Catalogue};

const PREFIX: &str = "CAUSEWAY_";
/// Names the file itself; read by the command line.
const CONFIG_FILE: &str = "CAUSEWAY_CONFIG";

/// Writes every `CAUSEWAY_…` variable into `table`; an unknown one is refused.
pub fn apply(
    table: &mut Table,
    catalogue: &Catalogue,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    for (name, text) in variables {
        let Some(rest) = name.strip_prefix(PREFIX).filter(|_| name != CONFIG_FILE) else { continue };
        let key = rest.to_ascii_lowercase().replace("__", ".");
        if !catalogue.contains(&key) {
            let nearest = catalogue.nearest(&key).map(|key| variable_of(&key));
            return Err(ConfigError::UnknownKey { place: "environment".to_owned(), key: name, nearest });
        }
        set(table, &key, value_of(&text)).map_err(|()| ConfigError::UnknownKey {
            place: "environment".to_owned(),
            key: name.clone(),
            nearest: key.split('.').next().map(variable_of),
        })?;
    }
    Ok(())
}

fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

fn value_of(text: &str) -> Value {
    format!("value = {text}")
        .parse::<Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Fails where the key is inside a list of sections: such a list is set whole.
fn set(table: &mut Table, key: &str, value: Value) -> Result<(), ()> {
    let Some((section, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return Ok(());
    };
    match table.entry(section).or_insert_with(|| Value::Table(Table::new())) {
        Value::Table(inner) => set(inner, rest, value),
        _ => Err(()),
    }
}
