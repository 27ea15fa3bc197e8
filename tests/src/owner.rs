//! Whose connection is it, and where does a process listen? The kernel knows: a
//! local port leads to a socket, and the socket to the process that holds it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// The one of `pids` that holds the client end of the connection from `peer`
/// to `listener` (IPv4, both on this machine); none when it can't be told.
pub fn of_connection(peer: SocketAddr, listener: SocketAddr, pids: impl Iterator<Item = u32>) -> Option<u32> {
    let table = fs::read_to_string("/proc/self/net/tcp").ok()?;
    let inode = table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let here = port_of(fields.get(1)?)?;
        let there = port_of(fields.get(2)?)?;
        (here == peer.port() && there == listener.port()).then(|| fields.get(9).map(ToString::to_string))?
    })?;
    let link = PathBuf::from(format!("socket:[{inode}]"));
    pids.into_iter().find(|pid| holds(*pid, &link))
}

/// Where a process listens (IPv4), in whatever network it is.
pub fn listeners(pid: u32) -> Vec<SocketAddr> {
    const LISTENING: &str = "0A";
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let own = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let link = PathBuf::from(format!("socket:[{}]", fields.get(9)?));
        let listens = *fields.get(3)? == LISTENING && holds(pid, &link);
        listens.then(|| address_of(fields.get(1)?))?
    });
    own.collect()
}

/// `127.0.0.1:8080` of `0100007F:1F90`: the address has the machine's byte order.
fn address_of(field: &str) -> Option<SocketAddr> {
    let address = u32::from_str_radix(field.split_once(':')?.0, 16).ok()?;
    Some((Ipv4Addr::from(address.to_ne_bytes()), port_of(field)?).into())
}

/// The port of `0100007F:1F90`.
fn port_of(field: &str) -> Option<u16> {
    u16::from_str_radix(field.split_once(':')?.1, 16).ok()
}

fn holds(pid: u32, link: &PathBuf) -> bool {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == *link))
}
