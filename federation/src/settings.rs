//! What the composition root decides about federation. Not read from any file
//! here: the configuration section of the same name is turned into this.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use ruma::OwnedServerName;
use rustls::RootCertStore;

use crate::backoff::BackoffPolicy;

/// What a server that takes part in replication is (protocol, §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It serves all of its name: advertisements go by ordinary transactions.
    Homeserver,
    /// It is beside a homeserver that would swallow them.
    Sidecar,
}

impl Mode {
    /// As it is told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Homeserver => "homeserver",
            Self::Sidecar => "sidecar",
        }
    }

    /// What a server told; another one than is known here is taken for a homeserver.
    pub fn told(name: &str) -> Self {
        if name == Self::Sidecar.name() { Self::Sidecar } else { Self::Homeserver }
    }
}

/// How this server takes part in federation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What this server is to others.
    pub mode: Mode,
    /// The name that this server signs with.
    pub server_name: OwnedServerName,
    /// The name under which a sidecar publishes its key, if its homeserver does not; that one's
    /// name claims it (protocol, §5.5).
    pub own_name: Option<OwnedServerName>,
    /// Certificate authorities that other servers' certificates must lead to.
    pub tls_roots: Arc<RootCertStore>,
    /// Addresses that are never connected to, whatever a name resolves to.
    pub denied_addresses: Vec<IpNet>,
    /// Answers that are taken before DNS and well-known are asked.
    pub overrides: Overrides,
    /// Whether names outside [`Settings::overrides`] are looked up at all.
    pub resolve_names: bool,
    /// Longest wait for a connection to stand.
    pub connect_timeout: Duration,
    /// Longest wait for an answer, unless a request states its own.
    pub request_timeout: Duration,
    /// Pauses between attempts to reach a server that does not answer.
    pub backoff: BackoffPolicy,
    /// Requests of one other server that are served at once; more wait.
    pub requests_per_origin: usize,
    /// First and longest interval of the timer that heals quiet rooms.
    pub advertise: (Duration, Duration),
    /// Servers asked for the keys of servers that can't be asked themselves.
    pub notaries: Vec<OwnedServerName>,
    /// Whether anybody reads the metrics: what takes work to measure is not otherwise.
    pub is_measured: bool,
    /// What filling one gap in a room's history may cost.
    pub gap: GapLimits,
}

impl Settings {
    /// Settings of a server called `server_name` that trusts `tls_roots`.
    pub fn new(server_name: OwnedServerName, tls_roots: Arc<RootCertStore>) -> Self {
        Self {
            mode: Mode::Homeserver,
            server_name,
            own_name: None,
            tls_roots,
            denied_addresses: Vec::new(),
            overrides: Overrides::default(),
            resolve_names: true,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_mins(1),
            backoff: BackoffPolicy::default(),
            requests_per_origin: 64,
            advertise: (Duration::from_mins(1), Duration::from_hours(1)),
            notaries: Vec::new(),
            is_measured: false,
            gap: GapLimits::default(),
        }
    }
}

/// What one fill of a gap in a room's history may cost. What it had to leave,
/// the next one takes up.
#[derive(Clone, Copy, Debug)]
pub struct GapLimits {
    /// Longest time, waiting for a turn included. Below a minute, which is what
    /// other servers wait for the answer to a transaction.
    pub time: Duration,
    /// Events that are stored beyond those that were sent.
    pub events: usize,
    /// Their bytes.
    pub bytes: usize,
}

impl Default for GapLimits {
    fn default() -> Self {
        Self { time: Duration::from_secs(50), events: 20_000, bytes: 16 * 1024 * 1024 }
    }
}

/// Fixed answers, for networks whose DNS does not know the servers' names.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Addresses of host names.
    pub hosts: HashMap<String, Vec<IpAddr>>,
    /// Targets of service records by full name (`_matrix-fed._tcp.example.org`).
    pub services: HashMap<String, Vec<(String, u16)>>,
    /// `m.server` of `/.well-known/matrix/server` by host name.
    pub well_known: HashMap<String, String>,
    /// Where a server is, by its server name: no discovery is done for it.
    pub servers: HashMap<OwnedServerName, SocketAddr>,
}
