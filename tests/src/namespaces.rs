//! Network namespaces (Linux, root): one for each server and one in the middle
//! that forwards between them. A cut is a routing rule in the middle, so packets
//! vanish and open connections stall, as on a real network.
//!
//! Names and addresses are this process's own; all is removed in the end. The
//! addresses are of the network that is set aside for measuring (RFC 2544).

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
};

use crate::{
    link::Cut,
    result::{Doing, Failure, Result, ensure},
};

/// Where servers listen in their own network.
const PLAIN_PORT: u16 = 8008;
const SECURE_PORT: u16 = 8448;
/// Servers of one cluster: each takes four addresses of 256, the last four lead here.
const SERVERS_MAX: usize = 63;

/// The namespaces of one cluster.
#[derive(Debug)]
pub struct Namespaces {
    prefix: String,
    third: u8,
    count: usize,
}

/// Where one server is.
#[derive(Clone, Debug)]
pub struct Spot {
    /// The namespace's name.
    pub namespace: String,
    /// Where it answers clients.
    pub plain: SocketAddr,
    /// Where it answers servers.
    pub secure: SocketAddr,
}

impl Namespaces {
    /// Why this process may not make namespaces, if the system refuses; any other
    /// trouble, like a missing `ip`, is an error.
    pub fn refused() -> Result<Option<String>> {
        let probe = format!("cwp{:x}", std::process::id());
        match ip(&["netns", "add", &probe]) {
            Ok(()) => ip(&["netns", "del", &probe]).map(|()| None),
            Err(error) if is_refusal(&error.to_string()) => Ok(Some(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Makes namespaces for `count` servers. `number` tells clusters of one process apart.
    pub fn create(count: usize, number: u8) -> Result<Self> {
        ensure(count <= SERVERS_MAX, || format!("at most {SERVERS_MAX} servers"))?;
        let third = u8::try_from((std::process::id() + u32::from(number)) % 256)?;
        let prefix = format!("cw{:x}{number:x}", std::process::id() & 0xffff);
        let created = Self { prefix, third, count };
        let hub = created.hub();
        ip(&["netns", "add", &hub])?;
        for index in 0..count {
            created.add(index)?;
        }
        let (outside, inside) = (created.address(SERVERS_MAX, 1), created.address(SERVERS_MAX, 2));
        let own = format!("{}o", created.prefix);
        ip(&["link", "add", &own, "type", "veth", "peer", "name", "out", "netns", &hub])?;
        ip(&["addr", "add", &format!("{outside}/30"), "dev", &own])?;
        ip(&["link", "set", &own, "up"])?;
        ip(&["-n", &hub, "addr", "add", &format!("{inside}/30"), "dev", "out"])?;
        ip(&["-n", &hub, "link", "set", "out", "up"])?;
        ip(&["route", "add", &format!("198.18.{third}.0/24"), "via", &inside.to_string()])?;
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        ip(&["netns", "exec", &hub, "sh", "-c", forward])?;
        Ok(created)
    }

    fn add(&self, index: usize) -> Result<()> {
        let (hub, Spot { namespace, .. }) = (self.hub(), self.spot(index));
        let (gateway, address) = (self.address(index, 1), self.address(index, 2));
        let link = Self::link(index);
        ip(&["netns", "add", &namespace])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&[
            "link", "add", &link, "netns", &hub, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
        ])?;
        ip(&["-n", &hub, "addr", "add", &format!("{gateway}/30"), "dev", &link])?;
        ip(&["-n", &hub, "link", "set", &link, "up"])?;
        ip(&["-n", &namespace, "addr", "add", &format!("{address}/30"), "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        let network = format!("198.18.{}.0/24", self.third);
        ip(&["-n", &namespace, "route", "add", &network, "via", &gateway.to_string()])
    }

    /// Where server `index` is.
    pub fn spot(&self, index: usize) -> Spot {
        let address = self.address(index, 2);
        Spot {
            namespace: format!("{}s{index}", self.prefix),
            plain: SocketAddr::from((address, PLAIN_PORT)),
            secure: SocketAddr::from((address, SECURE_PORT)),
        }
    }

    /// Cuts the link between two servers, both ways.
    pub fn cut(&self, a: usize, b: usize, how: Cut) -> Result<()> {
        self.rule("add", a, b, how)?;
        self.rule("add", b, a, how)
    }

    /// Restores it; that it was not cut is no error.
    pub fn heal(&self, a: usize, b: usize) -> Result<()> {
        for (from, to) in [(a, b), (b, a)] {
            for how in [Cut::Silent, Cut::Refused] {
                // Fails when there is no such rule.
                let _ = self.rule("del", from, to, how);
            }
        }
        Ok(())
    }

    fn rule(&self, what: &str, from: usize, to: usize, how: Cut) -> Result<()> {
        let action = match how {
            Cut::Silent => "blackhole",
            Cut::Refused => "prohibit",
        };
        let (from, to) = (self.address(from, 2).to_string(), self.address(to, 2).to_string());
        ip(&["-n", &self.hub(), "rule", what, "from", &from, "to", &to, action])
    }

    /// The namespace in the middle.
    pub(crate) fn hub(&self) -> String {
        format!("{}h", self.prefix)
    }

    /// The interface in the middle that leads to server `index`.
    pub(crate) fn link(index: usize) -> String {
        format!("server{index}")
    }

    /// The `host`th address of the four that belong to a server.
    fn address(&self, server: usize, host: u8) -> Ipv4Addr {
        let last = u8::try_from(server * 4).unwrap_or(u8::MAX - 3) + host;
        Ipv4Addr::new(198, 18, self.third, last)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // Links and routes go with the namespaces that they lead to.
        for index in 0..self.count {
            let _ = ip(&["netns", "del", &self.spot(index).namespace]);
        }
        let _ = ip(&["netns", "del", &self.hub()]);
    }
}

/// As the system says it (EPERM, EACCES).
fn is_refusal(said: &str) -> bool {
    ["Operation not permitted", "Permission denied"].iter().any(|refusal| said.contains(refusal))
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().doing("ip (package iproute2)")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Failure::new(format!("ip {}: {}", arguments.join(" "), said.trim())))
}
