//! `[federation]`: how other servers are reached.

use std::{net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// Networks that are nobody's on the open internet: loopback, private, link
/// local, documentation, multicast.
const PRIVATE_NETWORKS: [&str; 23] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "192.0.0.0/24",
    "169.254.0.0/16",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "::1/128",
    "fe80::/10",
    "fc00::/7",
    "2001:db8::/32",
    "ff00::/8",
    "fec0::/10",
    "0.0.0.0/8",
    "240.0.0.0/4",
    "::/128",
    "64:ff9b::/96",
];

/// `[federation]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Federation {
    /// Whether to talk to other servers at all.
    pub enabled: bool,
    /// Trusted beside the system's.
    pub extra_ca_files: Vec<PathBuf>,
    /// Never connected to.
    pub ip_deny_list: Vec<IpNet>,
    /// First wait after a failure.
    pub backoff_min_ms: u64,
    /// Longest wait after failures.
    pub backoff_max_ms: u64,
    /// Longest wait for an answer.
    pub request_timeout_ms: u64,
    /// Asked for the keys of servers that don't answer.
    pub notaries: Vec<OwnedServerName>,
    /// Servers for which nothing is looked up.
    pub servers: Vec<KnownServer>,
}

/// Where a server of a closed network is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownServer {
    /// Its server name; its certificate must still be for it.
    pub name: OwnedServerName,
    /// Its federation listener.
    pub address: SocketAddr,
}

impl Default for Federation {
    fn default() -> Self {
        Self {
            enabled: true,
            extra_ca_files: Vec::new(),
            ip_deny_list: PRIVATE_NETWORKS
                .iter()
                .map(|network| network.parse().expect("a test parses the literals"))
                .collect(),
            backoff_min_ms: 500,
            backoff_max_ms: 3_600_000,
            request_timeout_ms: 60_000,
            notaries: Vec::new(),
            servers: Vec::new(),
        }
    }
}

impl Federation {
    pub(in crate::config) fn check(&self) -> Result<(), ConfigError> {
        if self.backoff_min_ms == 0 || self.backoff_min_ms > self.backoff_max_ms {
            return Err(ConfigError::invalid("federation.backoff_min_ms", "from 1 to backoff_max_ms"));
        }
        if self.request_timeout_ms == 0 {
            return Err(ConfigError::invalid("federation.request_timeout_ms", "must not be 0"));
        }
        Ok(())
    }
}
