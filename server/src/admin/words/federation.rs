//! `causeway admin federation …`

use clap::Subcommand;
use reqwest::Method;

use super::Part;
use crate::admin::call::Call;

const PATH: [&str; 4] = ["_causeway", "admin", "v1", "federation"];
const SHOWN: &[&str] =
    &["server", "shared_rooms", "queued", "lag_ms", "failures", "down_since_ms", "retry_at_ms"];

/// Other servers.
#[derive(Debug, Subcommand)]
pub enum Federation {
    /// List them with what waits for each and when it is tried again.
    List {
        #[command(flatten)]
        part: Part,
    },
    /// Show one.
    Show {
        /// Its name.
        server: String,
    },
    /// Try one again now instead of waiting.
    Retry {
        /// Its name.
        server: String,
    },
}

impl Federation {
    /// What they ask of the server.
    pub fn call(&self) -> Call {
        match self {
            Self::List { part } => Call::new(Method::GET, PATH).query(part.query()).table("servers", SHOWN),
            Self::Show { server } => Call::new(Method::GET, PATH.into_iter().chain([server.as_str()])),
            Self::Retry { server } => {
                Call::new(Method::POST, PATH.into_iter().chain([server.as_str(), "retry"]))
            }
        }
    }
}
