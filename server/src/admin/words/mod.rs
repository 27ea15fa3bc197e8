//! The words of `causeway admin`, and what each asks of the server.

mod federation;
mod media;
mod reports;
mod rooms;
mod tokens;
mod users;

use std::io;

use clap::{Args, Subcommand};
use ruma::ServerName;

use super::call::Call;
use causeway_service::clock::Clock;

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What is administered.
#[derive(Debug, Subcommand)]
pub enum Words {
    /// Accounts of this server.
    #[command(subcommand)]
    Users(users::Users),
    /// Rooms that this server knows.
    #[command(subcommand)]
    Rooms(rooms::Rooms),
    /// Files.
    #[command(subcommand)]
    Media(media::Media),
    /// Tokens that let one register.
    #[command(subcommand)]
    Tokens(tokens::Tokens),
    /// Other servers.
    #[command(subcommand)]
    Federation(federation::Federation),
    /// What users reported.
    #[command(subcommand)]
    Reports(reports::Reports),
}

impl Words {
    /// What they ask of the server, whose name is appended to users without one.
    pub fn call(&self, server_name: &ServerName) -> io::Result<Call> {
        match self {
            Self::Users(words) => words.call(server_name),
            Self::Rooms(words) => Ok(words.call(Clock::System.now_ms())),
            Self::Media(words) => words.call(server_name, Clock::System.now_ms()),
            Self::Tokens(words) => Ok(words.call()),
            Self::Federation(words) => Ok(words.call()),
            Self::Reports(words) => Ok(words.call()),
        }
    }
}

/// Which part of a list.
#[derive(Clone, Debug, Default, Args)]
pub struct Part {
    /// Where it begins: what the part before ended with.
    #[arg(long)]
    from: Option<String>,
    /// Entries at most.
    #[arg(long)]
    limit: Option<usize>,
}

impl Part {
    fn query(&self) -> [(&'static str, Option<String>); 2] {
        [("from", self.from.clone()), ("limit", self.limit.map(|limit| limit.to_string()))]
    }
}

/// A whole user id from one, or from a name on this server.
fn user_id(name: &str, server_name: &ServerName) -> String {
    if name.starts_with('@') { name.to_owned() } else { format!("@{name}:{server_name}") }
}
