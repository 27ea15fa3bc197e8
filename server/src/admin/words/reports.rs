//! `causeway admin reports …`

use clap::Subcommand;
use reqwest::Method;

use super::Part;
use crate::admin::call::Call;

const PATH: [&str; 4] = ["_causeway", "admin", "v1", "reports"];
const SHOWN: &[&str] =
    &["id", "received_ts", "user_id", "kind", "about_user_id", "room_id", "event_id", "reason"];

/// What users reported.
#[derive(Debug, Subcommand)]
pub enum Reports {
    /// List reports of events, rooms and users, latest first.
    List {
        #[command(flatten)]
        part: Part,
    },
    /// Show one with the event that it is about.
    Show {
        /// Its number.
        id: u64,
    },
    /// Delete one.
    Delete {
        /// Its number.
        id: u64,
    },
}

impl Reports {
    /// What they ask of the server.
    pub fn call(&self) -> Call {
        let one = |method, id: &u64| {
            let id = id.to_string();
            Call::new(method, PATH.into_iter().chain([id.as_str()]))
        };
        match self {
            Self::List { part } => Call::new(Method::GET, PATH).query(part.query()).table("reports", SHOWN),
            Self::Show { id } => one(Method::GET, id),
            Self::Delete { id } => one(Method::DELETE, id),
        }
    }
}
