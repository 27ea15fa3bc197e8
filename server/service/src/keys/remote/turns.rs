//! Whose list is fetched next: a few at once of each server, one server after the
//! other, and one user's not too often, so that neither a slow server nor one
//! that always has news keeps others from theirs.
//!
//! In memory only, and pure: time is an argument. What is to be fetched is in
//! storage, with the pauses of each list. Invariant: what was begun is ended.

use std::collections::HashMap;

use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

/// Lists of one server that are fetched at once; one while it fails.
pub const FETCHES_OF_SERVER: usize = 2;

/// Fetches of one list in [`WINDOW_MS`]; further ones wait until it is over.
const FETCHES_IN_WINDOW: u32 = 4;

/// See [`FETCHES_IN_WINDOW`], in milliseconds.
const WINDOW_MS: u64 = 60_000;

/// Servers and users that are remembered before those with nothing to remember are forgotten.
const REMEMBERED_MAX: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Turns {
    /// The server that had the last turn.
    pub(super) last: Option<OwnedServerName>,
    servers: HashMap<OwnedServerName, OfServer>,
    users: HashMap<OwnedUserId, OfUser>,
}

#[derive(Debug, Default)]
struct OfServer {
    busy: usize,
    failures: u32,
    retry_at_ms: u64,
}

#[derive(Clone, Debug, Default)]
struct OfUser {
    busy: bool,
    since_ms: u64,
    fetches: u32,
}

impl OfUser {
    /// When the list may be fetched again.
    fn free_at_ms(&self) -> u64 {
        if self.fetches < FETCHES_IN_WINDOW { 0 } else { self.since_ms.saturating_add(WINDOW_MS) }
    }
}

/// Whether something may be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// So many.
    Now(usize),
    /// Not before this time, milliseconds since the Unix epoch.
    At(u64),
    /// When something of it has ended.
    Busy,
}

impl Turns {
    /// Lists that are being fetched.
    pub fn busy(&self) -> usize {
        self.servers.values().map(|server| server.busy).sum()
    }

    /// Fetches from a server that failed in a row.
    pub fn failures(&self, server: &ServerName) -> u32 {
        self.servers.get(server).map_or(0, |server| server.failures)
    }

    /// How many lists may be fetched from a server.
    pub(super) fn of_server(&self, server: &ServerName, now_ms: u64) -> Turn {
        let Some(of) = self.servers.get(server) else { return Turn::Now(FETCHES_OF_SERVER) };
        if of.retry_at_ms > now_ms {
            return Turn::At(of.retry_at_ms);
        }
        let most = if of.failures > 0 { 1 } else { FETCHES_OF_SERVER };
        if of.busy < most { Turn::Now(most - of.busy) } else { Turn::Busy }
    }

    /// Whether a user's list may be fetched.
    pub(super) fn of_user(&self, user_id: &UserId, now_ms: u64) -> Turn {
        match self.users.get(user_id) {
            Some(of) if of.busy => Turn::Busy,
            Some(of) if of.free_at_ms() > now_ms => Turn::At(of.free_at_ms()),
            _ => Turn::Now(1),
        }
    }

    pub(super) fn begin(&mut self, user_id: &UserId, now_ms: u64) {
        let is_over = |of: &OfUser| of.since_ms.saturating_add(WINDOW_MS) <= now_ms;
        if self.users.len() >= REMEMBERED_MAX {
            self.users.retain(|_, of| of.busy || !is_over(of));
        }
        if self.servers.len() >= REMEMBERED_MAX {
            self.servers.retain(|_, of| of.busy > 0 || of.failures > 0);
        }
        let fresh = OfUser { since_ms: now_ms, ..OfUser::default() };
        let of = self.users.entry(user_id.to_owned()).or_insert_with(|| fresh.clone());
        if is_over(of) {
            *of = fresh;
        }
        of.busy = true;
        of.fetches = of.fetches.saturating_add(1);
        self.servers.entry(user_id.server_name().to_owned()).or_default().busy += 1;
    }

    /// A fetch has ended; one that failed has its server left alone until the
    /// given time, milliseconds since the Unix epoch.
    pub fn ended(&mut self, user_id: &UserId, retry_at_ms: Option<u64>) {
        if let Some(of) = self.users.get_mut(user_id) {
            of.busy = false;
        }
        let Some(of) = self.servers.get_mut(user_id.server_name()) else { return };
        of.busy = of.busy.saturating_sub(1);
        of.failures = retry_at_ms.map_or(0, |_| of.failures.saturating_add(1));
        of.retry_at_ms = retry_at_ms.unwrap_or(0);
        if of.busy == 0 && of.failures == 0 {
            self.servers.remove(user_id.server_name());
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;

    #[test]
    fn a_server_has_two_at_once_and_none_in_its_pause() {
        let mut turns = Turns::default();
        let (server, one, two) =
            (server_name!("b.example"), user_id!("@one:b.example"), user_id!("@two:b.example"));
        assert_eq!(turns.of_server(server, 1_000), Turn::Now(2));
        turns.begin(one, 1_000);
        turns.begin(two, 1_000);
        assert_eq!(turns.of_server(server, 1_000), Turn::Busy);
        assert_eq!(turns.of_user(one, 1_000), Turn::Busy);
        turns.ended(one, Some(5_000));
        assert_eq!(turns.of_server(server, 1_000), Turn::At(5_000));
        assert_eq!((turns.of_server(server, 5_000), turns.busy()), (Turn::Busy, 1), "one while it fails");
        turns.ended(two, None);
        assert_eq!(turns.of_server(server, 1_000), Turn::Now(2));
    }

    #[test]
    fn one_list_is_not_fetched_without_end() {
        let mut turns = Turns::default();
        let user_id = user_id!("@one:b.example");
        for _ in 0..FETCHES_IN_WINDOW {
            assert_eq!(turns.of_user(user_id, 1_000), Turn::Now(1));
            turns.begin(user_id, 1_000);
            turns.ended(user_id, None);
        }
        assert_eq!(turns.of_user(user_id, 2_000), Turn::At(1_000 + WINDOW_MS));
        assert_eq!(turns.of_user(user_id, 1_000 + WINDOW_MS), Turn::Now(1));
    }
}
