//! From registration files to registrations (application service API, "Registration").
//!
//! Every fault of every file is found and told in a line of its own; with any fault
//! nothing is taken. Keys with a dot in their name are extensions of others, and passed over.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use causeway_service::{
    appservices::{Namespace, Registration, ServerToken, ServiceToken},
    shared_space::SERVICE_LOCALPART,
};
use ruma::{ServerName, UserId};
use serde_json::{Map, Value};
use url::Url;

/// Bytes of a file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Registrations.
pub const REGISTRATIONS_MAX: usize = 1_000;
/// Patterns of one kind in one registration.
const PATTERNS_MAX: usize = 1_000;
/// Bytes of an id or a token.
const TEXT_BYTES_MAX: usize = 1_024;

const KEYS: [&str; 9] = [
    "id",
    "url",
    "as_token",
    "hs_token",
    "sender_localpart",
    "namespaces",
    "rate_limited",
    "protocols",
    "receive_ephemeral",
];
/// As some bridges call [`KEYS`]' last one from before it was in the specification.
const OLD_EPHEMERAL: [&str; 2] = ["de.sorunome.msc2409.push_ephemeral", "push_ephemeral"];
const MSC3202: &str = "org.matrix.msc3202";
const KINDS: [(&str, char); 3] = [("users", '@'), ("aliases", '#'), ("rooms", '!')];

/// What is wrong, each with its file.
#[derive(Debug, thiserror::Error)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Reads the files.
///
/// # Errors
/// All that is wrong with them.
pub fn read(files: &[PathBuf], server_name: &ServerName) -> Result<Vec<Registration>, Faults> {
    let mut faults = Vec::new();
    let mut registrations = Vec::new();
    let mut seen = Seen::default();
    if files.len() > REGISTRATIONS_MAX {
        return Err(Faults(vec![format!("more than {REGISTRATIONS_MAX} registrations")]));
    }
    for file in files {
        let mut own = Vec::new();
        if let Some(table) = table(file, &mut own) {
            let fields = Fields { table: &table, server_name };
            seen.check(file, &table, &mut own);
            registrations.extend(fields.registration(&mut own));
        }
        faults.extend(own.into_iter().map(|fault| format!("{}: {fault}", file.display())));
    }
    if faults.is_empty() { Ok(registrations) } else { Err(Faults(faults)) }
}

fn table(file: &Path, faults: &mut Vec<String>) -> Option<Map<String, Value>> {
    let mut text = String::new();
    let read = fs::File::open(file).and_then(|open| open.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    if let Err(error) = read {
        faults.push(format!("can't be read: {error}"));
        return None;
    }
    if text.len() as u64 > FILE_BYTES_MAX {
        faults.push(format!("larger than {FILE_BYTES_MAX} bytes"));
        return None;
    }
    match serde_saphyr::from_str::<Value>(&text) {
        Ok(Value::Object(table)) => Some(table),
        Ok(_) => {
            faults.push("not a table of keys and values".to_owned());
            None
        }
        Err(error) => {
            let error = error.to_string();
            faults.push(format!("not YAML: {}", error.lines().next().unwrap_or_default()));
            None
        }
    }
}

/// What no two services share: key, value, and whose it was.
#[derive(Default)]
struct Seen(BTreeMap<(&'static str, String), PathBuf>);

impl Seen {
    fn check(&mut self, file: &Path, table: &Map<String, Value>, faults: &mut Vec<String>) {
        for key in ["id", "as_token", "hs_token", "sender_localpart"] {
            let Some(value) = table.get(key).and_then(Value::as_str) else { continue };
            if let Some(other) = self.0.insert((key, value.to_owned()), file.to_owned()) {
                faults.push(format!("`{key}` is the same as in {}", other.display()));
            }
        }
        if let (Some(own), Some(server)) = (table.get("as_token"), table.get("hs_token"))
            && own == server
        {
            faults.push("`as_token` and `hs_token` are the same".to_owned());
        }
    }
}

struct Fields<'a> {
    table: &'a Map<String, Value>,
    server_name: &'a ServerName,
}

impl Fields<'_> {
    fn registration(&self, faults: &mut Vec<String>) -> Option<Registration> {
        let before = faults.len();
        for key in self.table.keys().filter(|key| !key.contains('.')) {
            if !KEYS.contains(&&**key) && !OLD_EPHEMERAL.contains(&&**key) {
                faults.push(format!("unknown key `{key}`"));
            }
        }
        let texts = ["id", "as_token", "hs_token", "sender_localpart"].map(|key| self.text(key, faults));
        let url = self.url(faults);
        let sender = texts[3].as_deref().and_then(|name| self.sender(name, faults));
        let [users, aliases, rooms] = self.namespaces(faults);
        let flags = [
            (KEYS[6], true),
            (KEYS[8], false),
            (OLD_EPHEMERAL[0], false),
            (OLD_EPHEMERAL[1], false),
            (MSC3202, false),
        ];
        let [rate_limited, ephemeral, old, older, follows_devices] =
            flags.map(|(key, default)| self.flag(key, default, faults));
        let protocols = self.protocols(faults);
        let [Some(id), Some(token), Some(server_token), _] = texts else { return None };
        let sender = sender.filter(|_| faults.len() == before)?;
        Some(Registration {
            id: id.into(),
            url,
            token: ServiceToken::of(&token),
            server_token: ServerToken(server_token),
            sender,
            users,
            aliases,
            rooms,
            rate_limited,
            protocols,
            // Some name both flags, and read either.
            ephemeral: if ephemeral {
                Some("ephemeral")
            } else {
                (old || older).then_some("de.sorunome.msc2409.ephemeral")
            },
            follows_devices,
        })
    }

    fn text(&self, key: &str, faults: &mut Vec<String>) -> Option<String> {
        match self.table.get(key) {
            Some(Value::String(text)) if (1..=TEXT_BYTES_MAX).contains(&text.len()) => {
                if key.ends_with("_token") && !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                    faults.push(format!("`{key}` has characters that can't be in a header"));
                }
                Some(text.clone())
            }
            Some(Value::String(_)) => {
                faults.push(format!("`{key}` must have 1 to {TEXT_BYTES_MAX} bytes"));
                None
            }
            Some(_) => {
                faults.push(format!("`{key}` is not a text"));
                None
            }
            None => {
                faults.push(format!("`{key}` is missing"));
                None
            }
        }
    }

    fn url(&self, faults: &mut Vec<String>) -> Option<Url> {
        let text = match self.table.get("url") {
            None => {
                faults.push("`url` is missing; `null` for a service that is told nothing".to_owned());
                return None;
            }
            Some(Value::Null) => return None,
            // As some bridges write it.
            Some(Value::String(text)) if text.is_empty() => return None,
            Some(Value::String(text)) => text,
            Some(_) => {
                faults.push("`url` is neither a text nor null".to_owned());
                return None;
            }
        };
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        });
        if url.is_none() {
            faults.push("`url` is not an http: or https: address without query and login".to_owned());
        }
        url
    }

    fn sender(&self, name: &str, faults: &mut Vec<String>) -> Option<ruma::OwnedUserId> {
        let is_localpart = name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._=-/+".contains(&byte));
        let sender = UserId::parse(format!("@{name}:{}", self.server_name)).ok().filter(|_| is_localpart);
        if sender.is_none() {
            faults.push("`sender_localpart` is not the first part of a user id".to_owned());
        }
        if name == SERVICE_LOCALPART {
            faults.push("`sender_localpart` is the name under which the server itself speaks".to_owned());
        }
        sender
    }

    fn namespaces(&self, faults: &mut Vec<String>) -> [Vec<Namespace>; 3] {
        let Some(Value::Object(kinds)) = self.table.get("namespaces") else {
            faults.push("`namespaces` is missing, or not a table".to_owned());
            return [const { Vec::new() }; 3];
        };
        for key in kinds.keys().filter(|key| !KINDS.iter().any(|(kind, _)| kind == key)) {
            faults.push(format!("unknown key `namespaces.{key}`"));
        }
        KINDS.map(|(kind, _)| match kinds.get(kind) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) if list.len() <= PATTERNS_MAX => {
                let named = list.iter().enumerate();
                named.filter_map(|(at, entry)| namespace(&format!("{kind}[{at}]"), entry, faults)).collect()
            }
            Some(Value::Array(_)) => {
                faults.push(format!("`namespaces.{kind}` has more than {PATTERNS_MAX} entries"));
                Vec::new()
            }
            Some(_) => {
                faults.push(format!("`namespaces.{kind}` is not a list"));
                Vec::new()
            }
        })
    }

    fn flag(&self, key: &str, default: bool, faults: &mut Vec<String>) -> bool {
        match self.table.get(key) {
            None | Some(Value::Null) => default,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => {
                faults.push(format!("`{key}` is neither true nor false"));
                default
            }
        }
    }

    fn protocols(&self, faults: &mut Vec<String>) -> Vec<String> {
        let list = match self.table.get("protocols") {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(list)) => list,
            Some(_) => {
                faults.push("`protocols` is not a list".to_owned());
                return Vec::new();
            }
        };
        let names: Vec<String> = list.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect();
        if names.len() != list.len() || names.len() > PATTERNS_MAX {
            faults.push("`protocols` has something else than names, or too many".to_owned());
        }
        names
    }
}

fn namespace(place: &str, entry: &Value, faults: &mut Vec<String>) -> Option<Namespace> {
    let Value::Object(entry) = entry else {
        faults.push(format!("`namespaces.{place}` is not a table"));
        return None;
    };
    for key in entry.keys().filter(|key| !["regex", "exclusive", "group_id"].contains(&&***key)) {
        faults.push(format!("unknown key `namespaces.{place}.{key}`"));
    }
    let exclusive = entry.get("exclusive").and_then(Value::as_bool);
    if exclusive.is_none() {
        faults.push(format!("`namespaces.{place}.exclusive` is neither true nor false"));
    }
    let Some(pattern) = entry.get("regex").and_then(Value::as_str) else {
        faults.push(format!("`namespaces.{place}.regex` is not a text"));
        return None;
    };
    match Namespace::new(pattern, exclusive.unwrap_or_default()) {
        Ok(namespace) => Some(namespace),
        Err(error) => {
            faults.push(format!("`namespaces.{place}.regex` can't be used: {error}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;

    const GOOD: &str = "id: irc\nurl: http://127.0.0.1:9000\nas_token: a1\nhs_token: h1\n\
        sender_localpart: _irc_bot\nrate_limited: false\nprotocols: [irc]\nreceive_ephemeral: true\n\
        org.matrix.msc3202: true\nio.example.other: {x: 1}\n\
        namespaces:\n  users:\n    - {exclusive: true, regex: '@_irc_.*:a\\.example'}\n  aliases: []\n";

    fn files(texts: &[&str]) -> (tempfile::TempDir, Result<Vec<Registration>, Vec<String>>) {
        let folder = tempfile::tempdir().expect("a folder");
        let files: Vec<PathBuf> =
            (0..texts.len()).map(|at| folder.path().join(format!("{at}.yaml"))).collect();
        for (file, text) in files.iter().zip(texts) {
            fs::write(file, text).expect("writes");
        }
        let result = read(&files, server_name!("a.example")).map_err(|Faults(faults)| {
            let name = format!("{}/", folder.path().display());
            faults.into_iter().map(|fault| fault.replace(&name, "")).collect()
        });
        (folder, result)
    }

    #[test]
    fn a_registration_is_read() {
        let (_folder, read) = files(&[GOOD]);
        let read = read.expect("is good");
        assert_eq!((&*read[0].id, read[0].sender.as_str()), ("irc", "@_irc_bot:a.example"));
        assert!(read[0].has_user_alone(user_id!("@_irc_x:a.example")));
        assert!(read[0].ephemeral == Some("ephemeral") && read[0].follows_devices && !read[0].rate_limited);
        assert_eq!(read[0].protocols, ["irc"]);
    }

    #[test]
    fn each_fault_has_a_line_and_nothing_is_taken() {
        let broken = GOOD.replace("@_irc_.*", "@_irc_(").replace("id: irc", "name: irc");
        let broken = broken.replace("rate_limited: false", "rate_limited: perhaps");
        let (_folder, read) = files(&[GOOD, &broken, "- x", "a: [", &GOOD.replace("url: http", "url: ftp")]);
        let faults = read.expect_err("is not");
        let expected = [
            "1.yaml: `as_token` is the same as in 0.yaml",
            "1.yaml: `hs_token` is the same as in 0.yaml",
            "1.yaml: `sender_localpart` is the same as in 0.yaml",
            "1.yaml: unknown key `name`",
            "1.yaml: `id` is missing",
            "1.yaml: `namespaces.users[0].regex` can't be used",
            "1.yaml: `rate_limited` is neither true nor false",
            "2.yaml: not a table of keys and values",
            "3.yaml: not YAML",
            "4.yaml: `id` is the same as in 0.yaml",
            "4.yaml: `as_token` is the same as in 1.yaml",
            "4.yaml: `hs_token` is the same as in 1.yaml",
            "4.yaml: `sender_localpart` is the same as in 1.yaml",
            "4.yaml: `url` is not an http: or https: address",
        ];
        assert_eq!(faults.len(), expected.len(), "{faults:#?}");
        for (fault, expected) in faults.iter().zip(expected) {
            assert!(fault.starts_with(expected) && !fault.contains('\n'), "{fault} / {expected}");
        }
        let missing = read_missing();
        assert!(missing.contains("can't be read"), "{missing}");
    }

    fn read_missing() -> String {
        read(&[PathBuf::from("/nowhere.yaml")], server_name!("a.example"))
            .expect_err("is not there")
            .to_string()
    }
}
