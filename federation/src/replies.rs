//! What was answered to recent transactions, so that a repetition is not worked
//! on twice. In memory: after a restart repeating is harmless, because events
//! are recognised by their ids.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use ruma::{OwnedServerName, ServerName};
use serde_json::Value;
use tokio::sync::OnceCell;

/// Answers kept for each origin; a proper one has a single transaction in flight.
const KEPT_PER_ORIGIN: usize = 4;
/// Origins whose answers are kept.
const ORIGINS_MAX: usize = 10_000;

type Reply = Arc<OnceCell<Value>>;

/// Answers by origin and transaction id.
#[derive(Debug, Default)]
pub(crate) struct Replies(Mutex<HashMap<OwnedServerName, VecDeque<(String, Reply)>>>);

impl Replies {
    /// The answer to a transaction: empty if it is new, being worked out if it is
    /// in progress.
    pub(crate) fn of(&self, origin: &ServerName, transaction_id: &str) -> Reply {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= ORIGINS_MAX && !all.contains_key(origin) {
            all.clear();
        }
        let kept = all.entry(origin.to_owned()).or_default();
        if let Some((_, reply)) = kept.iter().find(|(id, _)| id == transaction_id) {
            return Arc::clone(reply);
        }
        if kept.len() >= KEPT_PER_ORIGIN {
            kept.pop_front();
        }
        let reply = Reply::default();
        kept.push_back((transaction_id.to_owned(), Arc::clone(&reply)));
        reply
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn answers_are_kept_by_origin_and_id_within_bounds() {
        let replies = Replies::default();
        let (a, b) = (server_name!("a.example"), server_name!("b.example"));
        replies.of(a, "1").set(Value::Bool(true)).expect("fresh");
        assert_eq!(replies.of(a, "1").get(), Some(&Value::Bool(true)));
        assert_eq!(replies.of(b, "1").get(), None);
        for n in 2..=5 {
            replies.of(a, &n.to_string());
        }
        assert_eq!(replies.of(a, "1").get(), None);
    }
}
