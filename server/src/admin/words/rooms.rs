//! `causeway admin rooms …`

use clap::Subcommand;
use reqwest::Method;
use serde_json::json;

use super::{DAY_MS, Part};
use crate::admin::call::Call;

const PATH: [&str; 4] = ["_synapse", "admin", "v1", "rooms"];
const SHOWN: &[&str] = &[
    "room_id",
    "name",
    "canonical_alias",
    "joined_members",
    "joined_local_members",
    "version",
    "public",
    "encryption",
];

/// Rooms that this server knows. ROOM is a room id.
#[derive(Debug, Subcommand)]
pub enum Rooms {
    /// List them.
    List {
        /// Only rooms whose name, alias or id contains this.
        #[arg(long)]
        search: Option<String>,
        /// `name`, `joined_members`, `joined_local_members`, `state_events` …
        #[arg(long)]
        order_by: Option<String>,
        #[command(flatten)]
        part: Part,
    },
    /// Show one.
    Show {
        /// Its id.
        room: String,
    },
    /// List who is in it.
    Members {
        /// Its id.
        room: String,
    },
    /// Let nobody here join it any more.
    Block {
        /// Its id.
        room: String,
    },
    /// Undo that.
    Unblock {
        /// Its id.
        room: String,
    },
    /// Take every user of this server out of it, and let nobody here join it again.
    Shutdown {
        /// Its id.
        room: String,
        /// Told to the members, as the reason for which they left.
        #[arg(long)]
        message: Option<String>,
        /// Let users join it again.
        #[arg(long)]
        no_block: bool,
    },
    /// The same, and delete it from this server when that is started the next time.
    Purge {
        /// Its id.
        room: String,
        /// Told to the members, as the reason for which they left.
        #[arg(long)]
        message: Option<String>,
        /// Let users join it again afterwards.
        #[arg(long)]
        no_block: bool,
    },
    /// Delete for good what messages of its past said; state stays.
    PurgeHistory {
        /// Its id.
        room: String,
        /// Messages that were sent so many days ago, or longer.
        #[arg(long, required_unless_present = "before_event")]
        older_than_days: Option<u64>,
        /// Messages before this event.
        #[arg(long)]
        before_event: Option<String>,
        /// Those of this server's users, too, of which others may have no copy.
        #[arg(long)]
        local: bool,
    },
}

impl Rooms {
    /// What they ask of the server, where it is `now_ms`.
    pub fn call(&self, now_ms: u64) -> Call {
        let one = |method, room: &str, more: &[&str]| {
            Call::new(method, PATH.into_iter().chain([room]).chain(more.iter().copied()))
        };
        let block = |room, block| one(Method::PUT, room, &["block"]).body(json!({ "block": block }));
        let end = |room, message: &Option<String>, no_block: bool, purge| {
            let body = json!({ "message": message, "block": !no_block, "purge": purge });
            one(Method::DELETE, room, &[]).body(body)
        };
        match self {
            Self::List { search, order_by, part } => Call::new(Method::GET, PATH)
                .query([("search_term", search.clone()), ("order_by", order_by.clone())])
                .query(part.query())
                .table("rooms", SHOWN),
            Self::Show { room } => one(Method::GET, room, &[]),
            Self::Members { room } => one(Method::GET, room, &["members"]),
            Self::Block { room } => block(room, true),
            Self::Unblock { room } => block(room, false),
            Self::Shutdown { room, message, no_block } => end(room, message, *no_block, false),
            Self::Purge { room, message, no_block } => end(room, message, *no_block, true),
            Self::PurgeHistory { room, older_than_days, before_event, local } => {
                let before_ts =
                    older_than_days.map(|days| now_ms.saturating_sub(days.saturating_mul(DAY_MS)));
                let body = json!({ "before_event": before_event, "before_ts": before_ts,
                    "delete_local_events": local });
                Call::new(Method::POST, ["_causeway", "admin", "v1", "rooms", room, "purge_history"])
                    .body(body)
            }
        }
    }
}
