//! Writing a new configuration: the documented example with a few values filled in.

use super::catalogue::EXAMPLE;

/// What `generate-config` fills in; everything else keeps its default.
#[derive(Debug)]
pub struct Template<'a> {
    /// `server_name`.
    pub server_name: &'a str,
    /// `data_folder`.
    pub data_folder: &'a str,
    /// `listeners.address` of the one listener.
    pub address: &'a str,
    /// The one registration token; none leaves registration closed.
    pub registration_token: Option<&'a str>,
    /// `registration.shared_secret`.
    pub shared_secret: &'a str,
}

/// The text of a configuration file with every key documented.
pub fn generate(template: &Template<'_>) -> String {
    let mut text = String::with_capacity(EXAMPLE.len() + 256);
    for line in EXAMPLE.lines() {
        let filled = match line {
            r#"server_name = "example.org""# => Some(assign("server_name", template.server_name)),
            r#"data_folder = "data""# => Some(assign("data_folder", template.data_folder)),
            r#"address = "127.0.0.1:8008""# => Some(assign("address", template.address)),
            r#"shared_secret = """# => Some(assign("shared_secret", template.shared_secret)),
            r#"mode = "closed""# => template.registration_token.map(|_| assign("mode", "token")),
            "tokens = []" => template.registration_token.map(|token| format!("tokens = [{}]", quoted(token))),
            _ => None,
        };
        text.push_str(filled.as_deref().unwrap_or(line));
        text.push('\n');
    }
    text
}

fn assign(key: &str, value: &str) -> String {
    format!("{key} = {}", quoted(value))
}

fn quoted(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}
