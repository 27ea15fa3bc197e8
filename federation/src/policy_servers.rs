//! Policy servers that did not answer lately: nobody waits for them for a while.
//!
//! Not here: asking them ([`crate::policy`]).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};

/// How long a policy server that did not answer is left alone.
const PAUSE: Duration = Duration::from_secs(20);
/// Policy servers that are remembered for not answering.
const DOWN_MAX: usize = 1_000;

/// Policy servers that did not answer, and until when they are left alone (ms).
#[derive(Debug, Default)]
pub struct PolicyServers(Mutex<HashMap<OwnedServerName, u64>>);

impl PolicyServers {
    /// Whether it is left alone now.
    pub fn is_left_alone(&self, server: &ServerName, now_ms: u64) -> bool {
        let down = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        down.get(server).is_some_and(|until| *until > now_ms)
    }

    /// It did not answer.
    pub fn leave_alone(&self, server: &ServerName, now_ms: u64) {
        let mut down = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if down.len() >= DOWN_MAX {
            down.retain(|_, until| *until > now_ms);
        }
        if down.len() < DOWN_MAX {
            let pause_ms = u64::try_from(PAUSE.as_millis()).unwrap_or(u64::MAX);
            down.insert(server.to_owned(), now_ms.saturating_add(pause_ms));
        }
    }
}
