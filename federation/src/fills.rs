//! How many gaps in rooms' histories are filled at once: each takes memory and requests, and
//! whoever sends an event with an unknown past decides that there is one.
//!
//! Not here: filling ([`crate::incoming`]).

use std::sync::Arc;

use causeway_service::turns::Turns;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// For what one server sent.
const OF_ONE: usize = 4;
/// In all.
const AT_ONCE: usize = 16;

/// The gaps that are filled.
#[derive(Debug)]
pub(crate) struct Fills {
    of_one: Turns<OwnedServerName>,
    all: Arc<Semaphore>,
}

/// The turn of one fill.
#[derive(Debug)]
pub(crate) struct FillTurn {
    _of_one: OwnedSemaphorePermit,
    _all: Option<OwnedSemaphorePermit>,
}

impl Default for Fills {
    fn default() -> Self {
        Self { of_one: Turns::new(OF_ONE), all: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Fills {
    /// Waits until a gap before what `origin` sent may be filled.
    pub(crate) async fn take(&self, origin: &ServerName) -> FillTurn {
        let of_one = self.of_one.take(origin).await;
        // It is never closed.
        let all = Arc::clone(&self.all).acquire_owned().await.ok();
        FillTurn { _of_one: of_one, _all: all }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn few_gaps_are_filled_at_once_and_fewer_for_one_server() {
        let fills = Fills::default();
        let server = |n: usize| OwnedServerName::try_from(format!("s{n}.test")).expect("a name");
        let mut held = Vec::new();
        for n in 0..AT_ONCE {
            held.push(fills.take(&server(n / OF_ONE)).now_or_never().expect("has a turn"));
            if n + 1 == OF_ONE {
                assert!(fills.take(&server(0)).now_or_never().is_none(), "one server has its part");
            }
        }
        assert!(fills.take(&server(AT_ONCE)).now_or_never().is_none(), "that is all");
        held.pop();
        assert!(fills.take(&server(AT_ONCE)).now_or_never().is_some());
    }
}
