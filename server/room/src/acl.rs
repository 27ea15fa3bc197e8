//! Server access control lists: which servers may take part in a room
//! (client-server API, "Server Access Control Lists (ACLs) for rooms").

use ruma::ServerName;
use serde::Deserialize;

/// Entries of a list that are looked at; an event can't hold many more.
const ENTRIES_MAX: usize = 8_192;

/// The content of an `m.room.server_acl` event, leniently read.
#[derive(Clone, Debug, Deserialize)]
pub struct ServerAcl {
    #[serde(default)]
    allow: Vec<serde_json::Value>,
    #[serde(default)]
    deny: Vec<serde_json::Value>,
    #[serde(default = "allowed")]
    allow_ip_literals: serde_json::Value,
}

fn allowed() -> serde_json::Value {
    true.into()
}

impl ServerAcl {
    /// Whether a server may take part. The port does not count.
    pub fn allows(&self, server: &ServerName) -> bool {
        let host = server.host();
        if self.allow_ip_literals == false && server.is_ip_literal() {
            return false;
        }
        let matches = |list: &[serde_json::Value]| {
            list.iter()
                .take(ENTRIES_MAX)
                .filter_map(serde_json::Value::as_str)
                .any(|glob| glob_matches(glob, host))
        };
        !matches(&self.deny) && matches(&self.allow)
    }
}

/// `*` is any run of characters and `?` any one; case counts for nothing.
///
/// Linear in the product of the lengths at worst: no recursion to blow up.
pub fn glob_matches(glob: &str, text: &str) -> bool {
    let glob: Vec<char> = glob.to_lowercase().chars().collect();
    let text: Vec<char> = text.to_lowercase().chars().collect();
    let (mut g, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if g < glob.len() && glob[g] == '*' {
            retry = Some((g, t));
            g += 1;
        } else if g < glob.len() && (glob[g] == '?' || glob[g] == text[t]) {
            g += 1;
            t += 1;
        } else if let Some((star, from)) = retry {
            g = star + 1;
            t = from + 1;
            retry = Some((star, from + 1));
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use serde_json::json;

    use super::*;

    #[test]
    fn globs() {
        for (glob, text, expected) in [
            ("*", "a.example", true),
            ("*.example", "a.EXAMPLE", true),
            ("a?.example", "ab.example", true),
            ("a?.example", "a.example", false),
            ("*.evil.*", "x.evil.example", true),
            ("", "a", false),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(glob_matches(glob, text), expected, "{glob} {text}");
        }
    }

    #[test]
    fn deny_wins_and_an_empty_list_denies_all() {
        let acl: ServerAcl = serde_json::from_value(
            json!({"allow": ["*", 5], "deny": ["*.evil"], "allow_ip_literals": false}),
        )
        .unwrap();
        assert!(acl.allows(server_name!("good.example:8448")));
        assert!(!acl.allows(server_name!("very.evil:1")));
        assert!(!acl.allows(server_name!("1.2.3.4:8448")));
        let none: ServerAcl = serde_json::from_value(json!({})).unwrap();
        assert!(!none.allows(server_name!("good.example")));
    }
}
