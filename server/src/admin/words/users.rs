//! `causeway admin users …`

use std::io::{self, BufRead as _};

use clap::{Args, Subcommand};
use reqwest::Method;
use ruma::ServerName;
use serde_json::json;

use super::{Part, user_id};
use crate::{admin::call::Call, secret};

/// Characters of a password that is made up.
const PASSWORD_LENGTH: usize = 20;
const SHOWN: &[&str] =
    &["name", "displayname", "admin", "deactivated", "locked", "suspended", "last_seen_ts"];

/// Accounts of this server. NAME is `alice` or `@alice:example.org`.
#[derive(Debug, Subcommand)]
pub enum Users {
    /// List them.
    List {
        /// Only names that contain this.
        #[arg(long)]
        search: Option<String>,
        /// Closed ones, too.
        #[arg(long)]
        deactivated: bool,
        #[command(flatten)]
        part: Part,
    },
    /// Show one.
    Show(Named),
    /// Show a user's devices.
    Devices(Named),
    /// Make an account, with a password that is made up and printed.
    Create {
        #[command(flatten)]
        user: Named,
        /// Read the password from the standard input instead.
        #[arg(long)]
        password_stdin: bool,
        /// Make an administrator.
        #[arg(long)]
        admin: bool,
    },
    /// Give a user a new password, which is made up and printed, and end all sessions.
    ResetPassword {
        #[command(flatten)]
        user: Named,
        /// Read the password from the standard input instead.
        #[arg(long)]
        password_stdin: bool,
        /// Leave the user's devices logged in.
        #[arg(long)]
        keep_devices: bool,
    },
    /// Close an account for good: ends sessions, leaves rooms.
    Deactivate {
        #[command(flatten)]
        user: Named,
        /// Forget the profile, too.
        #[arg(long)]
        erase: bool,
    },
    /// Let nothing be done with an account until it is unlocked; sessions stay.
    Lock(Named),
    /// Undo that.
    Unlock(Named),
    /// Let a user read and leave only.
    Suspend(Named),
    /// Undo that.
    Unsuspend(Named),
    /// Tell a user something, in the room of the server's notices.
    Notify {
        #[command(flatten)]
        user: Named,
        /// The message, in plain text.
        text: String,
    },
    /// Make a user an administrator.
    GrantAdmin(Named),
    /// Undo that.
    RevokeAdmin(Named),
}

/// A user.
#[derive(Debug, Args)]
pub struct Named {
    /// `alice` or `@alice:example.org`.
    name: String,
}

impl Users {
    /// What they ask of the server.
    pub fn call(&self, server_name: &ServerName) -> io::Result<Call> {
        let put = |user: &Named, path: &[&str], body| {
            let id = user_id(&user.name, server_name);
            Call::new(Method::PUT, path.iter().map(|part| if part.is_empty() { &*id } else { part }))
                .body(body)
        };
        let lock = |user, locked| {
            put(user, &["_matrix", "client", "v1", "admin", "lock", ""], json!({ "locked": locked }))
        };
        let suspend = |user, suspended| {
            let path = ["_matrix", "client", "v1", "admin", "suspend", ""];
            put(user, &path, json!({ "suspended": suspended }))
        };
        let grant = |user, admin| {
            put(user, &["_synapse", "admin", "v1", "users", "", "admin"], json!({ "admin": admin }))
        };
        Ok(match self {
            Self::List { search, deactivated, part } => {
                Call::new(Method::GET, ["_synapse", "admin", "v2", "users"])
                    .query([
                        ("name", search.clone()),
                        ("deactivated", Some(deactivated.to_string())),
                        ("locked", Some("true".to_owned())),
                    ])
                    .query(part.query())
                    .table("users", SHOWN)
            }
            Self::Show(user) => user.get(server_name, None),
            Self::Devices(user) => user
                .get(server_name, Some("devices"))
                .table("devices", &["device_id", "display_name", "last_seen_ts", "last_seen_ip"]),
            Self::Create { user, password_stdin, admin } => {
                let (password, secret) = password(*password_stdin)?;
                let body = json!({ "password": password, "admin": admin });
                Call { secret, ..put(user, &["_synapse", "admin", "v2", "users", ""], body) }
            }
            Self::ResetPassword { user, password_stdin, keep_devices } => {
                let (password, secret) = password(*password_stdin)?;
                let body = json!({ "new_password": password, "logout_devices": !keep_devices });
                Call { secret, ..user.post(server_name, "reset_password").body(body) }
            }
            Self::Deactivate { user, erase } => {
                user.post(server_name, "deactivate").body(json!({ "erase": erase }))
            }
            Self::Notify { user, text } => {
                let content = json!({ "msgtype": "m.text", "body": text });
                let body = json!({ "user_id": user_id(&user.name, server_name), "content": content });
                Call::new(Method::POST, ["_synapse", "admin", "v1", "send_server_notice"]).body(body)
            }
            Self::Lock(user) => lock(user, true),
            Self::Unlock(user) => lock(user, false),
            Self::Suspend(user) => suspend(user, true),
            Self::Unsuspend(user) => suspend(user, false),
            Self::GrantAdmin(user) => grant(user, true),
            Self::RevokeAdmin(user) => grant(user, false),
        })
    }
}

impl Named {
    fn get(&self, server_name: &ServerName, what: Option<&str>) -> Call {
        let id = user_id(&self.name, server_name);
        let path = ["_synapse", "admin", "v2", "users", &id];
        Call::new(Method::GET, path.into_iter().chain(what))
    }

    fn post(&self, server_name: &ServerName, what: &str) -> Call {
        let id = user_id(&self.name, server_name);
        Call::new(Method::POST, ["_synapse", "admin", "v1", what, &id])
    }
}

/// A password, and the same if it was made up. Never an argument: those can be
/// read by everybody on the machine.
fn password(from_stdin: bool) -> io::Result<(String, Option<String>)> {
    if !from_stdin {
        let made_up = secret::of_length(PASSWORD_LENGTH);
        return Ok((made_up.clone(), Some(made_up)));
    }
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok((line.trim_end_matches(['\r', '\n']).to_owned(), None))
}
