//! `causeway admin tokens …`

use clap::Subcommand;
use reqwest::Method;
use serde_json::json;

use crate::admin::call::Call;

const PATH: [&str; 4] = ["_synapse", "admin", "v1", "registration_tokens"];
const SHOWN: &[&str] = &["token", "uses_allowed", "completed", "expiry_time"];

/// Tokens that let one register (`registration.mode = "token"`). Those in the
/// configuration are not among them.
#[derive(Debug, Subcommand)]
pub enum Tokens {
    /// List them.
    List,
    /// Make one, and print it.
    Create {
        /// The token; made up if none is given.
        #[arg(long)]
        token: Option<String>,
        /// How often it may be used; as often as you like if not given.
        #[arg(long)]
        uses: Option<u64>,
        /// When it ends, in milliseconds since 1970 (`date +%s000 -d '7 days'`); never if not given.
        #[arg(long)]
        expires: Option<u64>,
    },
    /// Delete one.
    Delete {
        /// The token.
        token: String,
    },
}

impl Tokens {
    /// What they ask of the server.
    pub fn call(&self) -> Call {
        match self {
            Self::List => Call::new(Method::GET, PATH).table("registration_tokens", SHOWN),
            Self::Create { token, uses, expires } => {
                let mut body = json!({ "uses_allowed": uses, "expiry_time": expires });
                if let Some(token) = token {
                    body["token"] = token.as_str().into();
                }
                Call::new(Method::POST, PATH.into_iter().chain(["new"])).body(body)
            }
            Self::Delete { token } => Call::new(Method::DELETE, PATH.into_iter().chain([token.as_str()])),
        }
    }
}
