//! Which servers take part in replication and can be reached.
//!
//! A server takes part if it answers `versions`; that it knows no such endpoint is
//! remembered for hours. One that can't be reached is probed again after a pause that
//! grows, so that a quiet room heals without anybody writing; so is one that refused,
//! which may have failed to fetch this server's key, and says nothing of itself.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use http::{Method, StatusCode};
use ruma::{OwnedRoomId, OwnedServerName};
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::{
    client::{ClientError, Request},
    state::FederationState,
};

/// Where a server says that it takes part.
pub const VERSIONS_PATH: &str = "/_matrix/federation/unstable/org.causeway/versions";
/// The version spoken here.
const VERSION: &str = "1";
/// How long "does not take part" is believed.
const INCAPABLE_FOR: Duration = Duration::from_hours(6);
/// Pauses between probes of a server that can't be reached: they double.
const PROBE_FIRST: Duration = Duration::from_secs(1);
const PROBE_LAST: Duration = Duration::from_secs(15);
/// The longest pause when it answers, but refuses.
const REFUSED_LAST: Duration = Duration::from_mins(10);
/// The longest wait for an answer to a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer to a probe.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Servers of which something is known.
const SERVERS_MAX: usize = 50_000;

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// It takes part.
    Capable,
    /// It knows no such endpoint, or no version that is spoken here.
    Incapable,
    /// It refused, for another reason.
    Refused,
    /// No answer.
    Unreachable,
}

#[derive(Default)]
struct Server {
    status: Status,
    probing: bool,
    failures: u32,
    rooms: BTreeSet<OwnedRoomId>,
}

#[derive(Default, PartialEq, Eq)]
enum Status {
    #[default]
    Unknown,
    Capable,
    /// Until this time (ms since the epoch).
    Incapable(u64),
    Unreachable,
}

/// What is known of servers, and the probes under way.
pub struct Servers {
    state: FederationState,
    known: HashMap<OwnedServerName, Server>,
    probes: JoinSet<(OwnedServerName, Probed)>,
}

#[derive(Deserialize)]
struct Versions {
    versions: Vec<String>,
}

impl Servers {
    pub fn new(state: FederationState) -> Self {
        Self { state, known: HashMap::new(), probes: JoinSet::new() }
    }

    /// A room has this server in it. True if it is known to take part and to be there.
    pub fn interested(&mut self, room: &OwnedRoomId, server: &OwnedServerName) -> bool {
        if self.is_full_for(server) {
            return false;
        }
        let now_ms = self.state.clock().now_ms();
        let known = self.known.entry(server.clone()).or_default();
        let new = known.rooms.insert(room.clone());
        match known.status {
            Status::Capable => return new,
            Status::Incapable(until) if now_ms < until => {}
            Status::Unknown | Status::Incapable(_) => self.probe(server, Duration::ZERO),
            Status::Unreachable => {}
        }
        false
    }

    /// It takes part and can be reached, as far as is known.
    pub fn is_capable(&self, server: &OwnedServerName) -> bool {
        self.known.get(server).is_some_and(|known| known.status == Status::Capable)
    }

    /// It spoke the protocol. True if that is news.
    pub fn heard(&mut self, server: &OwnedServerName) -> bool {
        if self.is_full_for(server) {
            return false;
        }
        let known = self.known.entry(server.clone()).or_default();
        known.failures = 0;
        std::mem::replace(&mut known.status, Status::Capable) != Status::Capable
    }

    /// Another part of this door reached it, or heard from it, after an outage.
    pub fn came_up(&mut self, server: &OwnedServerName) {
        if let Some(known) = self.known.get_mut(server)
            && known.status == Status::Unreachable
        {
            known.probing = false;
            self.probe(server, Duration::ZERO);
        }
    }

    /// It did not answer. True if that is news.
    pub fn went_down(&mut self, server: &OwnedServerName) -> bool {
        let Some(known) = self.known.get_mut(server) else { return false };
        if known.status != Status::Capable {
            return false;
        }
        known.status = Status::Unreachable;
        self.probe(server, PROBE_FIRST);
        true
    }

    /// The next probe that ended; for ever waiting when none is under way.
    pub async fn probed(&mut self) -> Option<(OwnedServerName, Probed)> {
        match self.probes.join_next().await {
            Some(Ok(probed)) => Some(probed),
            Some(Err(_)) => None,
            None => std::future::pending().await,
        }
    }

    /// Takes note of a probe. `Some(true)`: its rooms are to be told that it is
    /// up; `Some(false)`: that it does not take part.
    pub fn note(&mut self, server: &OwnedServerName, probed: Probed) -> Option<bool> {
        let now_ms = self.state.clock().now_ms();
        let known = self.known.get_mut(server)?;
        known.probing = false;
        match probed {
            Probed::Capable => {
                known.failures = 0;
                known.status = Status::Capable;
                Some(true)
            }
            Probed::Incapable => {
                let for_ms = u64::try_from(INCAPABLE_FOR.as_millis()).unwrap_or(u64::MAX);
                known.status = Status::Incapable(now_ms + for_ms);
                Some(false)
            }
            Probed::Refused | Probed::Unreachable => {
                if known.status != Status::Capable {
                    known.status = Status::Unreachable;
                    known.failures = known.failures.saturating_add(1);
                    let last = if probed == Probed::Refused { REFUSED_LAST } else { PROBE_LAST };
                    let pause = PROBE_FIRST.saturating_mul(1 << known.failures.min(10)).min(last);
                    if !known.rooms.is_empty() {
                        self.probe(server, pause);
                    }
                }
                None
            }
        }
    }

    /// The rooms that this server is in.
    pub fn rooms_of(&self, server: &OwnedServerName) -> Vec<OwnedRoomId> {
        self.known.get(server).map(|known| known.rooms.iter().cloned().collect()).unwrap_or_default()
    }

    /// A room is not replicated any more.
    pub fn forget_room(&mut self, room: &OwnedRoomId) {
        for known in self.known.values_mut() {
            known.rooms.remove(room);
        }
    }

    fn is_full_for(&self, server: &OwnedServerName) -> bool {
        self.known.len() >= SERVERS_MAX && !self.known.contains_key(server)
    }

    fn probe(&mut self, server: &OwnedServerName, after: Duration) {
        let Some(known) = self.known.get_mut(server) else { return };
        if std::mem::replace(&mut known.probing, true) {
            return;
        }
        let (state, server) = (self.state.clone(), server.clone());
        self.probes.spawn(async move {
            tokio::time::sleep(after).await;
            let probed = probe(&state, &server).await;
            (server, probed)
        });
    }
}

async fn probe(state: &FederationState, server: &OwnedServerName) -> Probed {
    let mut request = Request::new(server, Method::GET, VERSIONS_PATH);
    request.timeout = Some(PROBE_TIMEOUT);
    request.response_bytes_max = ANSWER_BYTES_MAX;
    found(state.client().send_ok(request).await.map(|response| response.body.to_vec()))
}

/// What an answer to a probe says. Only that there is no such endpoint says
/// that a server does not take part.
fn found(answer: Result<Vec<u8>, ClientError>) -> Probed {
    match answer {
        Ok(body) => match serde_json::from_slice::<Versions>(&body) {
            Ok(answer) if answer.versions.iter().any(|version| version == VERSION) => Probed::Capable,
            _ => Probed::Incapable,
        },
        Err(error) if error.is_outage() => Probed::Unreachable,
        Err(ClientError::Status { status, errcode, .. })
            if errcode == "M_UNRECOGNIZED"
                || matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) =>
        {
            Probed::Incapable
        }
        Err(ClientError::Status { .. }) => Probed::Refused,
        Err(_) => Probed::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    fn status(status: u16, errcode: &str) -> Probed {
        found(Err(ClientError::Status {
            server: server_name!("b.example").to_owned(),
            status: StatusCode::from_u16(status).expect("a status"),
            errcode: errcode.to_owned(),
            message: String::new(),
            retry_after_ms: None,
        }))
    }

    #[test]
    fn only_a_server_without_the_endpoint_does_not_take_part() {
        for (code, errcode, expected) in [
            (404, "M_UNRECOGNIZED", Probed::Incapable),
            (404, "", Probed::Incapable),
            (405, "M_UNRECOGNIZED", Probed::Incapable),
            // Of old, with another status.
            (400, "M_UNRECOGNIZED", Probed::Incapable),
            (400, "M_UNKNOWN", Probed::Refused),
            (401, "M_UNAUTHORIZED", Probed::Refused),
            (403, "M_FORBIDDEN", Probed::Refused),
            (429, "M_LIMIT_EXCEEDED", Probed::Unreachable),
            (502, "", Probed::Unreachable),
        ] {
            assert_eq!(status(code, errcode), expected, "{code} {errcode}");
        }
        assert_eq!(found(Ok(br#"{"versions":["0","1"]}"#.to_vec())), Probed::Capable);
        assert_eq!(found(Ok(br#"{"versions":["2"]}"#.to_vec())), Probed::Incapable);
    }
}
