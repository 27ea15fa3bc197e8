//! What an application service is registered with (application service API, "Registration").
//!
//! Not reading the file: that is the host door's work, which also sees to it that no
//! two services share an id, a token or a sender.
//!
//! Invariants: a service's own token is held as its hash only; every pattern is
//! compiled with bounds on its length and size, and matches from the beginning of an id.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use ruma::{OwnedUserId, RoomAliasId, RoomId, UserId};
use subtle::ConstantTimeEq;
use url::Url;

use crate::secrets;

/// Bytes of a pattern.
pub const PATTERN_BYTES_MAX: usize = 2_000;

/// Bytes that a compiled pattern may take.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// A pattern of ids.
#[derive(Clone, Debug)]
pub struct Namespace {
    pattern: Regex,
    /// Whether nobody else may make what it matches.
    pub exclusive: bool,
}

impl Namespace {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn new(pattern: &str, exclusive: bool) -> Result<Self, String> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(format!("longer than {PATTERN_BYTES_MAX} bytes"));
        }
        // Other servers anchor the beginning only, and registrations rely on it.
        let anchored = format!("^(?:{pattern})");
        let mut limited = RegexBuilder::new(&anchored);
        let limited = limited.size_limit(COMPILED_BYTES_MAX).dfa_size_limit(COMPILED_BYTES_MAX);
        let pattern = limited.build().map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "it takes too much memory".to_owned(),
            // The parser draws; its last line says what it is.
            error => error.to_string().lines().last().unwrap_or_default().trim().to_owned(),
        })?;
        Ok(Self { pattern, exclusive })
    }

    fn matches(&self, id: &str) -> bool {
        self.pattern.is_match(id)
    }
}

/// An application service's token, of which only the hash is held.
#[derive(Clone)]
pub struct ServiceToken([u8; 32]);

impl ServiceToken {
    /// The hash of a token.
    pub fn of(token: &str) -> Self {
        Self(secrets::hash(token))
    }

    /// Whether they are of the same token; takes as long whatever they are.
    pub fn is(&self, shown: &Self) -> bool {
        self.0.ct_eq(&shown.0).into()
    }
}

impl std::fmt::Debug for ServiceToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServiceToken")
    }
}

/// What this server shows to a service; it has to be held as it is.
#[derive(Clone)]
pub struct ServerToken(pub String);

impl std::fmt::Debug for ServerToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerToken")
    }
}

/// An application service.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Its name among the services; never changes.
    pub id: Arc<str>,
    /// Where it listens; none for a service that wants to be told nothing.
    pub url: Option<Url>,
    /// What it shows.
    pub token: ServiceToken,
    /// What it is shown.
    pub server_token: ServerToken,
    /// Who it is when it names no other user.
    pub sender: OwnedUserId,
    /// Local users.
    pub users: Vec<Namespace>,
    /// Aliases.
    pub aliases: Vec<Namespace>,
    /// Rooms.
    pub rooms: Vec<Namespace>,
    /// Whether its users' requests are limited; the sender's never are.
    pub rate_limited: bool,
    /// Networks that it bridges to.
    pub protocols: Vec<String>,
    /// Under which name it wants typing, receipts and presence, if it does; then it gets
    /// messages to its users' devices as well (MSC4203).
    pub ephemeral: Option<&'static str>,
    /// Whether it wants device lists and counts of keys (MSC3202).
    pub follows_devices: bool,
}

impl Registration {
    /// Whether the token is its own.
    pub(crate) fn is_shown(&self, shown: &ServiceToken) -> bool {
        self.token.is(shown)
    }

    /// Whether it acts for this user. A pattern says nothing of other servers' users.
    pub fn owns_user(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.sender.server_name()
            && (*user_id == *self.sender || matches(&self.users, user_id.as_str()))
    }

    /// Whether nobody else may be this user.
    pub fn has_user_alone(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.sender.server_name()
            && (*user_id == *self.sender || matches_alone(&self.users, user_id.as_str()))
    }

    /// Whether the alias is in its namespace.
    pub fn owns_alias(&self, alias: &RoomAliasId) -> bool {
        matches(&self.aliases, alias.as_str())
    }

    /// Whether nobody else may make this alias.
    pub fn has_alias_alone(&self, alias: &RoomAliasId) -> bool {
        matches_alone(&self.aliases, alias.as_str())
    }

    /// Whether the room is in its namespace.
    pub fn owns_room(&self, room_id: &RoomId) -> bool {
        matches(&self.rooms, room_id.as_str())
    }

    /// Whether a request of it in this user's name counts against the user's limits.
    pub fn limits(&self, user_id: &UserId) -> bool {
        self.rate_limited && *user_id != *self.sender
    }
}

fn matches(namespaces: &[Namespace], id: &str) -> bool {
    namespaces.iter().any(|namespace| namespace.matches(id))
}

fn matches_alone(namespaces: &[Namespace], id: &str) -> bool {
    namespaces.iter().any(|namespace| namespace.exclusive && namespace.matches(id))
}

/// A service of this id that is told of everything.
#[cfg(test)]
pub(crate) fn listening(id: &str) -> Registration {
    Registration {
        id: id.into(),
        url: Url::parse("http://127.0.0.1:1").ok(),
        token: ServiceToken::of("as"),
        server_token: ServerToken("hs".to_owned()),
        sender: ruma::owned_user_id!("@service:a.example"),
        users: Vec::new(),
        aliases: Vec::new(),
        rooms: Vec::new(),
        rate_limited: true,
        protocols: Vec::new(),
        ephemeral: Some("ephemeral"),
        follows_devices: false,
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_user_id, room_alias_id, user_id};

    use super::*;

    fn registration() -> Registration {
        Registration {
            id: "irc".into(),
            url: None,
            token: ServiceToken::of("as"),
            server_token: ServerToken("hs".to_owned()),
            sender: owned_user_id!("@irc:a.example"),
            users: vec![
                Namespace::new("@_irc_.*:a\\.example$", true).expect("a pattern"),
                Namespace::new("@[a-c].*", false).expect("a pattern"),
            ],
            aliases: vec![Namespace::new("#_irc_|#net_", true).expect("a pattern")],
            rooms: Vec::new(),
            rate_limited: true,
            protocols: Vec::new(),
            ephemeral: None,
            follows_devices: false,
        }
    }

    #[test]
    fn a_namespace_begins_where_the_id_begins_and_holds_local_users_only() {
        let service = registration();
        assert!(service.has_user_alone(user_id!("@_irc_x:a.example")));
        assert!(service.has_user_alone(user_id!("@irc:a.example")), "the sender is nobody else's");
        assert!(!service.owns_user(user_id!("@x_irc_x:a.example")), "the pattern begins later");
        assert!(!service.owns_user(user_id!("@_irc_x:a.example.org")));
        assert!(!service.owns_user(user_id!("@bob:b.example")), "of another server");
        assert!(service.owns_user(user_id!("@bob:a.example")));
        assert!(!service.has_user_alone(user_id!("@bob:a.example")));
        assert!(service.owns_alias(room_alias_id!("#net_x:a.example")), "each alternative is anchored");
        assert!(!service.owns_alias(room_alias_id!("#x#net_x:a.example")));
    }

    #[test]
    fn patterns_are_bounded() {
        assert!(Namespace::new(&"a".repeat(PATTERN_BYTES_MAX + 1), true).is_err());
        let error = Namespace::new("@((a{1000}){1000}){1000}", true).expect_err("too large");
        assert_eq!(error, "it takes too much memory");
        let error = Namespace::new("@_irc_(", true).expect_err("not a pattern");
        assert!(!error.contains('\n') && !error.is_empty(), "{error}");
    }

    #[test]
    fn tokens_are_not_told() {
        let told = format!("{:?}", registration());
        assert!(!told.contains("\"hs\"") && !told.contains("\"as\""), "{told}");
        assert!(registration().is_shown(&ServiceToken::of("as")));
        assert!(!registration().is_shown(&ServiceToken::of("hs")));
    }
}
