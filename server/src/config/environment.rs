//! Overrides by the environment: `CAUSEWAY_SECTION__KEY=value`.
//!
//! A value is read as TOML where it is TOML (`true`, `8`, `["a"]`, `[{…}]`),
//! else as a string, so that names and paths need no quotes. Where the key's value
//! is a string, what looks like something else (`11`, `true`) is one, too.
//!
//! Invariant: what is wrong with a variable is told under its name, and never
//! blamed on the file.

use toml::{Table, Value};

use super::{
    Config, ConfigError,
    catalogue::{Catalogue, EXAMPLE},
};

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
        let value = value_of(&text, catalogue.is_text(&key));
        fits(&name, &key, &value)?;
        set(table, &key, value).map_err(|()| inside_a_list(&name, &key))?;
    }
    Ok(())
}

/// Whether the example would still be a configuration with this value in it.
fn fits(name: &str, key: &str, value: &Value) -> Result<(), ConfigError> {
    let mut example: Table = EXAMPLE.parse().expect("a test parses the embedded example");
    set(&mut example, key, value.clone()).map_err(|()| inside_a_list(name, key))?;
    let fitting: Result<Config, _> = example.try_into();
    fitting.map(drop).map_err(|error| ConfigError::Variable {
        name: name.to_owned(),
        what: error.message().replace('\n', " "),
    })
}

fn inside_a_list(name: &str, key: &str) -> ConfigError {
    ConfigError::UnknownKey {
        place: "environment".to_owned(),
        key: name.to_owned(),
        nearest: key.split('.').next().map(variable_of),
    }
}

fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

fn value_of(text: &str, is_text: bool) -> Value {
    format!("value = {text}")
        .parse::<Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .filter(|value| value.is_str() || !is_text)
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
