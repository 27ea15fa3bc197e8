//! `causeway admin media …`

use std::io;

use clap::Subcommand;
use reqwest::Method;
use ruma::ServerName;
use serde_json::json;

use super::{DAY_MS, Part, user_id};
use crate::admin::call::Call;

const PATH: [&str; 4] = ["_synapse", "admin", "v1", "media"];
const SHOWN: &[&str] =
    &["media_id", "media_type", "media_length", "created_ts", "quarantined_by", "upload_name"];

/// Files. FILE is an `mxc://server/id`.
#[derive(Debug, Subcommand)]
pub enum Media {
    /// List what a user uploaded, latest first.
    List {
        /// `alice` or `@alice:example.org`.
        user: String,
        #[command(flatten)]
        part: Part,
    },
    /// Show what is known of a file.
    Show {
        /// Its address.
        file: String,
    },
    /// Give a file's content to nobody any more, under whatever address.
    Quarantine {
        /// Its address.
        file: String,
    },
    /// Undo that.
    Unquarantine {
        /// Its address.
        file: String,
    },
    /// Quarantine all that a user uploaded.
    QuarantineUser {
        /// `alice` or `@alice:example.org`.
        user: String,
    },
    /// Delete a file from this server.
    Delete {
        /// Its address.
        file: String,
    },
    /// Delete copies of other servers' files that are older than so many days.
    /// They are fetched again when somebody asks for them.
    PurgeRemote {
        /// How many days.
        #[arg(long)]
        older_than_days: u64,
    },
}

impl Media {
    /// What they ask of the server, where it is `now_ms`.
    pub fn call(&self, server_name: &ServerName, now_ms: u64) -> io::Result<Call> {
        let one = |method, verb: Option<&str>, file: &str| -> io::Result<Call> {
            let parts = file.strip_prefix("mxc://").and_then(|address| address.split_once('/'));
            let (server, id) =
                parts.ok_or_else(|| io::Error::other("a file is named like mxc://server/id"))?;
            Ok(Call::new(method, PATH.into_iter().chain(verb).chain([server, id])))
        };
        Ok(match self {
            Self::List { user, part } => {
                let id = user_id(user, server_name);
                Call::new(Method::GET, ["_synapse", "admin", "v1", "users", &id, "media"])
                    .query(part.query())
                    .table("media", SHOWN)
            }
            Self::Show { file } => one(Method::GET, None, file)?,
            Self::Quarantine { file } => one(Method::POST, Some("quarantine"), file)?.body(json!({})),
            Self::Unquarantine { file } => one(Method::POST, Some("unquarantine"), file)?.body(json!({})),
            Self::QuarantineUser { user } => {
                let id = user_id(user, server_name);
                Call::new(Method::POST, ["_synapse", "admin", "v1", "user", &id, "media", "quarantine"])
            }
            Self::Delete { file } => one(Method::DELETE, None, file)?,
            Self::PurgeRemote { older_than_days } => {
                let before = now_ms.saturating_sub(older_than_days.saturating_mul(DAY_MS));
                Call::new(Method::POST, ["_synapse", "admin", "v1", "purge_media_cache"])
                    .query([("before_ts", Some(before.to_string()))])
            }
        })
    }
}
