//! Which servers take part in replication and can be reached.
//!
//! A server takes part if it answers `versions`; that it knows no such endpoint is
//! remembered for hours. One that can't be reached is probed again after a pause that
//! grows, so that a quiet room heals without anybody writing; so is one that refused,
//! which may have failed to fetch this server's key, and says nothing of itself. Of one that
//! takes no part itself it is looked who speaks for it (protocol, §5.5), and that one is asked.
//!
//! Invariant: a room's task is told that a server is up together with what it is, since
//! that says how advertisements get to it; so one that only spoke is probed first.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use http::{Method, StatusCode};
use ruma::{OwnedRoomId, OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::Value;
use tokio::task::{AbortHandle, Id, JoinSet};

use super::signals::Standing;
use crate::{
    claims::Claim,
    client::{ClientError, Request},
    settings::Mode,
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
    Capable(Mode),
    /// It knows no such endpoint, or no version that is spoken here.
    Incapable,
    /// The same, and who speaks for it, if anybody, can't be read now.
    Unsure,
    /// It refused, for another reason.
    Refused,
    /// No answer.
    Unreachable,
}

#[derive(Default)]
struct Server {
    status: Status,
    /// What it said that it is.
    mode: Option<Mode>,
    probing: Option<Probing>,
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

/// The probe of a server that is awaited: no other one's outcome counts.
struct Probing {
    task: AbortHandle,
    /// It began with a pause, which may not be over.
    is_later: bool,
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
    #[serde(default)]
    mode: Value,
}

impl Servers {
    pub fn new(state: FederationState) -> Self {
        Self { state, known: HashMap::new(), probes: JoinSet::new() }
    }

    /// A room has this server in it. What it is, if it is known to take part and that is news.
    pub fn interested(&mut self, room: &OwnedRoomId, server: &OwnedServerName) -> Option<Mode> {
        if self.is_full_for(server) {
            return None;
        }
        let now_ms = self.state.clock().now_ms();
        let known = self.known.entry(server.clone()).or_default();
        let new = known.rooms.insert(room.clone());
        match known.status {
            Status::Capable => return known.mode.filter(|_| new),
            Status::Incapable(until) if now_ms < until => {}
            // Nothing may be planned: it was in none of the rooms when it was probed.
            Status::Unknown | Status::Incapable(_) | Status::Unreachable => {
                self.probe(server, Duration::ZERO);
            }
        }
        None
    }

    /// What it is, if it takes part and can be reached, as far as is known.
    pub fn capable(&self, server: &OwnedServerName) -> Option<Mode> {
        let known = self.known.get(server).filter(|known| known.status == Status::Capable)?;
        known.mode
    }

    /// It spoke the protocol. What it is, if that is known, and that it can be reached is news.
    pub fn heard(&mut self, server: &OwnedServerName) -> Option<Mode> {
        if self.is_full_for(server) {
            return None;
        }
        let known = self.known.entry(server.clone()).or_default();
        known.failures = 0;
        let Some(mode) = known.mode else {
            self.probe_now(server);
            return None;
        };
        let before = std::mem::replace(&mut known.status, Status::Capable);
        (before != Status::Capable).then_some(mode)
    }

    /// Another part of this door reached it, or heard from it, after an outage.
    pub fn came_up(&mut self, server: &OwnedServerName) {
        if self.known.get(server).is_some_and(|known| known.status == Status::Unreachable) {
            self.probe_now(server);
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
    pub async fn probed(&mut self) -> (OwnedServerName, Probed) {
        loop {
            match self.probes.join_next_with_id().await {
                Some(Ok((task, (server, probed)))) => {
                    if self.ended(&server, task) {
                        return (server, probed);
                    }
                }
                // Another one was begun instead.
                Some(Err(error)) if error.is_cancelled() => {}
                Some(Err(error)) => tracing::error!(%error, "a probe failed"),
                None => std::future::pending().await,
            }
        }
    }

    /// Whether it was that one that was awaited, which it is no more.
    fn ended(&mut self, server: &OwnedServerName, task: Id) -> bool {
        let Some(known) = self.known.get_mut(server) else { return false };
        let awaited = known.probing.take_if(|probing| probing.task.id() == task);
        awaited.is_some()
    }

    /// Takes note of a probe: what its rooms are to be told, if anything.
    pub fn note(&mut self, server: &OwnedServerName, probed: Probed) -> Option<Standing> {
        let now_ms = self.state.clock().now_ms();
        let known = self.known.get_mut(server)?;
        match probed {
            Probed::Capable(mode) => {
                known.failures = 0;
                known.status = Status::Capable;
                known.mode = Some(mode);
                Some(Standing::Up(mode))
            }
            Probed::Incapable | Probed::Unsure => {
                let lasts = if probed == Probed::Unsure { REFUSED_LAST } else { INCAPABLE_FOR };
                let for_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
                known.status = Status::Incapable(now_ms + for_ms);
                // Should it speak, it is asked anew, and where it is now.
                known.mode = None;
                Some(Standing::Incapable)
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

    /// Probes without the pause that may be under way.
    fn probe_now(&mut self, server: &OwnedServerName) {
        if let Some(known) = self.known.get_mut(server)
            && let Some(planned) = known.probing.take_if(|probing| probing.is_later)
        {
            planned.task.abort();
        }
        self.probe(server, Duration::ZERO);
    }

    fn probe(&mut self, server: &OwnedServerName, after: Duration) {
        let Some(known) = self.known.get_mut(server) else { return };
        if known.probing.is_some() {
            return;
        }
        let (state, server) = (self.state.clone(), server.clone());
        let task = self.probes.spawn(async move {
            tokio::time::sleep(after).await;
            let probed = probe(&state, &server).await;
            (server, probed)
        });
        known.probing = Some(Probing { task, is_later: !after.is_zero() });
    }
}

/// Asks a server whether it takes part, and, if it does not itself, who speaks for it.
async fn probe(state: &FederationState, server: &OwnedServerName) -> Probed {
    let itself = ask(state, server, server).await;
    if matches!(itself, Probed::Capable(_) | Probed::Refused) {
        state.claims().lead(server, false);
        return itself;
    }
    match state.claims().of(server).await {
        Claim::Stands { speaker, .. } => {
            state.claims().lead(server, true);
            ask(state, server, &speaker).await
        }
        Claim::None => {
            state.claims().lead(server, false);
            itself
        }
        Claim::Unknown if itself == Probed::Incapable => Probed::Unsure,
        Claim::Unknown => itself,
    }
}

async fn ask(state: &FederationState, server: &ServerName, at: &ServerName) -> Probed {
    let mut request = Request::new(server, Method::GET, VERSIONS_PATH);
    request.at = Some(at);
    request.timeout = Some(PROBE_TIMEOUT);
    request.response_bytes_max = ANSWER_BYTES_MAX;
    found(state.client().send_ok(request).await.map(|response| response.body.to_vec()))
}

/// What an answer to a probe says. Only that there is no such endpoint says
/// that a server does not take part.
fn found(answer: Result<Vec<u8>, ClientError>) -> Probed {
    match answer {
        Ok(body) => match serde_json::from_slice::<Versions>(&body) {
            Ok(answer) if answer.versions.iter().any(|version| version == VERSION) => {
                Probed::Capable(Mode::told(answer.mode.as_str().unwrap_or_default()))
            }
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
    use std::sync::Arc;

    use causeway_service::{Services, clock::Clock, remote::RemoteHandle, settings::Settings as OfService};
    use causeway_storage::{Database, Options};
    use ruma::{owned_room_id, owned_server_name, server_name};
    use rustls::RootCertStore;

    use super::*;
    use crate::Settings;

    /// Those of a server that can't reach any.
    fn alone(folder: &tempfile::TempDir) -> Servers {
        let name = owned_server_name!("a.test");
        let database = Database::open(folder.path(), &Options::default()).expect("a database");
        let (settings, remote) = (OfService::for_tests(name.clone()), RemoteHandle::channel().0);
        let services = Services::open(database, settings, Clock::System, remote).expect("services");
        let settings =
            Settings { resolve_names: false, ..Settings::new(name, Arc::new(RootCertStore::empty())) };
        Servers::new(FederationState::new(Arc::new(services), settings).expect("federation").0)
    }

    async fn fails(servers: &mut Servers, server: &OwnedServerName) {
        let (probed, outcome) = servers.probed().await;
        assert_eq!((&probed, outcome), (server, Probed::Unreachable));
        assert!(servers.note(server, outcome).is_none());
    }

    #[tokio::test]
    async fn one_probe_of_a_server_is_under_way_however_often_it_comes_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut servers, server) = (alone(&folder), owned_server_name!("b.test"));
        servers.interested(&owned_room_id!("!r:a.test"), &server);
        for _ in 0..20 {
            fails(&mut servers, &server).await;
            servers.came_up(&server);
        }
        fails(&mut servers, &server).await;
        // The last one, which waits, and at most one that was ended and not noticed yet.
        assert!(servers.probes.len() <= 2, "{}", servers.probes.len());
    }

    #[tokio::test]
    async fn a_server_that_was_in_no_room_when_it_could_not_be_reached_is_probed_for_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut servers, server) = (alone(&folder), owned_server_name!("b.test"));
        assert!(servers.heard(&server).is_none());
        fails(&mut servers, &server).await;
        assert!(servers.probes.is_empty(), "nobody wants to know");
        servers.interested(&owned_room_id!("!r:a.test"), &server);
        fails(&mut servers, &server).await;
    }

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
        assert_eq!(found(Ok(br#"{"versions":["2"],"mode":"sidecar"}"#.to_vec())), Probed::Incapable);
    }

    #[test]
    fn a_server_says_what_it_is() {
        for (mode, expected) in [
            ("", Mode::Homeserver),
            (r#","mode":"homeserver""#, Mode::Homeserver),
            (r#","mode":"sidecar""#, Mode::Sidecar),
            (r#","mode":"something new""#, Mode::Homeserver),
            (r#","mode":7"#, Mode::Homeserver),
        ] {
            let said = format!(r#"{{"versions":["0","1"]{mode}}}"#);
            assert_eq!(found(Ok(said.into_bytes())), Probed::Capable(expected), "{mode}");
        }
    }
}
