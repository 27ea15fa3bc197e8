//! What a room's task must not miss, however far it is behind: that something
//! was written, and how each server stands. Kept as the latest of each instead
//! of in a queue, so there is nothing to drop; bounded by the servers known.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use ruma::OwnedServerName;
use tokio::sync::Notify;

use crate::settings::Mode;

/// How a server in the room stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It takes part and can be reached.
    Up(Mode),
    /// It can't be reached.
    Down,
    /// It does not take part.
    Incapable,
}

/// What one room's task was told and has not taken yet.
#[derive(Debug, Default)]
pub struct Signals {
    /// Something was written here.
    pub written: Notify,
    told: Notify,
    standings: Mutex<BTreeMap<OwnedServerName, Standing>>,
}

impl Signals {
    /// A server stands like this now.
    pub fn tell(&self, server: &OwnedServerName, standing: Standing) {
        let mut standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        standings.insert(server.clone(), standing);
        drop(standings);
        self.told.notify_one();
    }

    /// Waits until servers' standings were told, and takes them.
    pub async fn standings(&self) -> BTreeMap<OwnedServerName, Standing> {
        loop {
            let standings =
                std::mem::take(&mut *self.standings.lock().unwrap_or_else(PoisonError::into_inner));
            if !standings.is_empty() {
                return standings;
            }
            self.told.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_latest_standing_of_each_server_is_kept_however_many_are_told() {
        let signals = Signals::default();
        let server = |name: String| OwnedServerName::try_from(name).expect("a name");
        for number in 0..1_000 {
            signals.tell(&server(format!("s{number}.example")), Standing::Down);
            signals.tell(&server(format!("s{number}.example")), Standing::Up(Mode::Sidecar));
        }
        let taken = signals.standings().await;
        assert_eq!(taken.len(), 1_000);
        assert!(taken.values().all(|standing| *standing == Standing::Up(Mode::Sidecar)));
        let again = tokio::time::timeout(std::time::Duration::ZERO, signals.standings()).await;
        assert!(again.is_err(), "they are taken once");
    }
}
