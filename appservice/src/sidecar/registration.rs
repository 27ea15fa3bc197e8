//! The registration file by which the upstream knows its sidecar (application service API,
//! "Registration"): its text, and the tokens in it.
//!
//! The sidecar follows every local user, without taking any for itself but its service user:
//! a namespace that is exclusive would keep others from their own names, and from push. Its
//! sender is not the service user, because the homeserver may refuse the sender what it lets users do.

use std::fmt::{self, Write as _};

use causeway_service::shared_space::SERVICE_LOCALPART;
use ruma::ServerName;
use serde::Deserialize;
use url::Url;

/// The registration's id.
pub const ID: &str = "causeway-sidecar";
/// Who the service is when it names no user.
const SENDER_LOCALPART: &str = "_causeway_sidecar";
/// Bytes of a token.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=1_024;
/// Bytes of a file.
pub const FILE_BYTES_MAX: usize = 64 * 1024;

/// What sidecar and upstream show each other. Both are secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
    /// What the sidecar shows to the upstream.
    pub service: String,
    /// What the upstream shows to the sidecar.
    pub server: String,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

/// Why a file is no registration of this sidecar.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// It is longer than [`FILE_BYTES_MAX`].
    #[error("it is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// It is no YAML, or lacks something.
    #[error("it can't be read: {0}")]
    Unreadable(String),
    /// It is another service's.
    #[error("`id` is `{0}`, not `{ID}`")]
    Other(String),
    /// A token that is too short to be one, or no text for a header.
    #[error("`{0}` is not a token")]
    Token(&'static str),
}

/// The text of the file. `url` is where the upstream reaches the sidecar.
pub fn text(server_name: &ServerName, url: &Url, tokens: &Tokens) -> String {
    let server = escaped(server_name.as_str());
    let url = url.as_str().trim_end_matches('/');
    format!(
        "# Keep this file secret: who knows as_token can act as every user of this homeserver.\n\
         id: {ID}\n\
         url: {url}\n\
         as_token: {service}\n\
         hs_token: {shown}\n\
         sender_localpart: {SENDER_LOCALPART}\n\
         rate_limited: false\n\
         receive_ephemeral: false\n\
         namespaces:\n  \
           users:\n    \
             - exclusive: true\n      \
               regex: '^@{SERVICE_LOCALPART}:{server}$'\n    \
             - exclusive: false\n      \
               regex: '^@.*:{server}$'\n  \
           aliases: []\n  \
           rooms: []\n",
        service = tokens.service,
        shown = tokens.server,
    )
}

/// The tokens in a file.
///
/// # Errors
/// It is no registration of a sidecar.
pub fn read(text: &str) -> Result<Tokens, RegistrationError> {
    #[derive(Deserialize)]
    struct File {
        id: String,
        as_token: String,
        hs_token: String,
    }
    if text.len() > FILE_BYTES_MAX {
        return Err(RegistrationError::TooLarge);
    }
    let file: File = serde_saphyr::from_str(text).map_err(|error| {
        // Nothing of the text, which holds secrets.
        let error = error.to_string();
        RegistrationError::Unreadable(error.lines().next().unwrap_or_default().to_owned())
    })?;
    if file.id != ID {
        return Err(RegistrationError::Other(file.id));
    }
    let is_token =
        |token: &str| TOKEN_BYTES.contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    for (name, token) in [("as_token", &file.as_token), ("hs_token", &file.hs_token)] {
        if !is_token(token) {
            return Err(RegistrationError::Token(name));
        }
    }
    Ok(Tokens { service: file.as_token, server: file.hs_token })
}

/// A server's name as a pattern that matches nothing else. Names are letters, digits, `.`, `-`,
/// `:`, and brackets around addresses.
fn escaped(name: &str) -> String {
    name.chars().fold(String::new(), |mut pattern, one| {
        let meant = if ".[]".contains(one) { "\\" } else { "" };
        let _infallible = write!(pattern, "{meant}{one}");
        pattern
    })
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;
    use crate::host::registrations;

    fn tokens() -> Tokens {
        Tokens { service: "as-0123456789abcdef".to_owned(), server: "hs-0123456789abcdef".to_owned() }
    }

    fn example() -> String {
        let url = Url::parse("http://127.0.0.1:8010").expect("an address");
        text(server_name!("example.org"), &url, &tokens())
    }

    #[test]
    fn the_file_is_as_it_was() {
        assert_eq!(example(), include_str!("../../tests/data/sidecar/registration.yaml"));
        assert_eq!(read(&example()).expect("reads"), tokens());
    }

    #[test]
    fn a_homeserver_takes_it_and_it_is_about_local_users() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("registration.yaml");
        std::fs::write(&file, example()).expect("writes");
        let taken = registrations::read(&[file], server_name!("example.org")).expect("is good");
        let [taken] = &taken[..] else { panic!("one is registered") };
        assert!(taken.owns_user(user_id!("@anybody:example.org")));
        assert!(!taken.owns_user(user_id!("@anybody:exampleXorg")));
        assert!(!taken.has_user_alone(user_id!("@anybody:example.org")));
    }

    #[test]
    fn a_name_is_a_pattern_of_itself_alone() {
        assert_eq!(escaped("[::1]:8448"), r"\[::1\]:8448");
        assert_eq!(escaped("a-b.example"), r"a-b\.example");
    }

    #[test]
    fn what_is_no_registration_of_a_sidecar_is_refused_without_telling_its_tokens() {
        let long = "x".repeat(FILE_BYTES_MAX + 1);
        for (text, expected) in [
            (long, "larger"),
            ("[]".to_owned(), "can't be read"),
            (example().replace(ID, "irc"), "`irc`"),
            (example().replace("as-0123456789abcdef", "short"), "`as_token`"),
            (example().replace("hs-0123456789abcdef", "'a b 0123456789abcdef'"), "`hs_token`"),
        ] {
            let said = read(&text).expect_err(expected).to_string();
            assert!(said.contains(expected) && !said.contains("0123456789abcdef"), "{said}");
        }
    }
}
