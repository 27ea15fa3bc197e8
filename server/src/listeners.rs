//! The sockets: taken first, opened last.
//!
//! [`bind`] takes every address before anything else is touched, so that a port
//! in use costs nothing; a bound socket still refuses connections, and nobody else
//! gets its address, also no server that starts at the same moment. [`open`] lets
//! them in once everything behind is ready, and `listeners.json` in the data
//! folder then says where, for scripts that asked for port 0.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::Router;
use axum_server::{
    Handle,
    accept::NoDelayAcceptor,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::TcpSocket;

use crate::{config::Listener, handles::Places, tls};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// A client has this long to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests in progress may go on after the server was told to stop.
pub const GRACE: Duration = Duration::from_secs(2);
/// The file in the data folder that tells where the server listens.
const ADDRESSES_FILE: &str = "listeners.json";

/// Why a listener can't be used.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The address is taken, or not this machine's, or not permitted.
    #[error("can't listen on {address}")]
    Address {
        /// As configured.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its certificate can't be used.
    #[error("listener {address}")]
    Tls {
        /// As configured.
        address: SocketAddr,
        /// Why.
        #[source]
        source: tls::TlsError,
    },
}

/// A socket that has its address and refuses connections.
#[derive(Debug)]
pub struct Bound {
    socket: TcpSocket,
    address: SocketAddr,
    tls: Option<RustlsConfig>,
    metrics: bool,
}

/// A socket that lets connections in.
#[derive(Debug)]
pub struct Open {
    listener: std::net::TcpListener,
    tls: Option<RustlsConfig>,
    /// Where it really listens.
    pub address: SocketAddr,
    /// Whether `/metrics` belongs here.
    pub metrics: bool,
}

/// Takes every configured address and reads its certificate.
pub fn bind(listeners: &[Listener]) -> Result<Vec<Bound>, ListenError> {
    listeners.iter().map(bind_one).collect()
}

fn bind_one(listener: &Listener) -> Result<Bound, ListenError> {
    let address = listener.address;
    let tls = listener
        .tls()
        .map(|(certificate, key)| tls::server_config(certificate, key))
        .transpose()
        .map_err(|source| ListenError::Tls { address, source })?;
    let take = |beside_old| {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(beside_old)?;
        socket.bind(address)?;
        let real = socket.local_addr()?;
        io::Result::Ok((socket, real))
    };
    // Two that share an address (SO_REUSEADDR) can both bind it, as long as neither
    // listens. So it is shared only where connections of the last server linger.
    let taken = match take(false) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => take(true),
        taken => taken,
    };
    let (socket, real) = taken.map_err(|source| ListenError::Address { address, source })?;
    Ok(Bound { socket, address: real, tls, metrics: listener.metrics })
}

/// Lets connections in on all of `bound`. Needs a runtime.
pub fn open(bound: Vec<Bound>) -> Result<Vec<Open>, ListenError> {
    bound.into_iter().map(open_one).collect()
}

fn open_one(bound: Bound) -> Result<Open, ListenError> {
    let Bound { socket, address, tls, metrics } = bound;
    // Connections inherit it: those that linger must not keep the next server out.
    let listener = socket
        .set_reuseaddr(true)
        .and_then(|()| socket.listen(BACKLOG))
        .and_then(tokio::net::TcpListener::into_std)
        .map_err(|source| ListenError::Address { address, source })?;
    Ok(Open { listener, tls, address, metrics })
}

impl Bound {
    /// What it shows, if it speaks TLS; it can be exchanged.
    pub fn certificate(&self) -> Option<RustlsConfig> {
        self.tls.clone()
    }
}

impl Open {
    /// Serves `router` until `handle` is told to stop, each connection in a place of its own.
    pub async fn serve(self, router: Router, places: Places, handle: Handle<SocketAddr>) -> io::Result<()> {
        let accepting = places.limit(NoDelayAcceptor);
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        match self.tls {
            None => {
                let mut server = axum_server::from_tcp(self.listener)?.acceptor(accepting).handle(handle);
                server.http_builder().http1().header_read_timeout(HEADER_TIMEOUT);
                server.serve(service).await
            }
            Some(tls) => {
                let acceptor = RustlsAcceptor::new(tls).acceptor(accepting);
                let mut server = axum_server::from_tcp(self.listener)?.acceptor(acceptor).handle(handle);
                server.http_builder().http1().header_read_timeout(HEADER_TIMEOUT);
                server.serve(service).await
            }
        }
    }

    /// `http://…` or `https://…`, as a client on this machine reaches it.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

/// Tells where the server listens, in one step: a reader sees all or nothing.
pub fn write_addresses(data_folder: &Path, open: &[Open]) -> io::Result<()> {
    let listeners: Vec<_> = open
        .iter()
        .map(|one| json!({ "address": one.address, "tls": one.tls.is_some(), "url": one.url() }))
        .collect();
    let text = json!({ "pid": std::process::id(), "listeners": listeners }).to_string();
    let unfinished = data_folder.join(format!("{ADDRESSES_FILE}.new"));
    std::fs::write(&unfinished, text)?;
    std::fs::rename(unfinished, addresses_file(data_folder))
}

/// What [`write_addresses`] told last.
pub fn read_addresses(data_folder: &Path) -> io::Result<Value> {
    let text = std::fs::read_to_string(addresses_file(data_folder))?;
    serde_json::from_str(&text).map_err(io::Error::other)
}

/// Takes back what [`write_addresses`] told; that there is nothing is no error.
pub fn remove_addresses(data_folder: &Path) -> io::Result<()> {
    match std::fs::remove_file(addresses_file(data_folder)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn addresses_file(data_folder: &Path) -> PathBuf {
    data_folder.join(ADDRESSES_FILE)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn bind_at(address: SocketAddr) -> Result<Vec<Bound>, ListenError> {
        bind(&[Listener { address, certificate: None, private_key: None, metrics: false }])
    }

    fn any() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn of_two_that_start_at_once_one_gets_the_address() {
        let first = bind_at(any()).expect("a port");
        let second = bind_at(first[0].address);
        assert!(matches!(second, Err(ListenError::Address { .. })), "{second:?}");
    }

    #[tokio::test]
    async fn nobody_gets_in_before_it_is_opened() {
        let bound = bind_at(any()).expect("a port");
        let address = bound[0].address;
        let refused = std::net::TcpStream::connect(address).expect_err("refused");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let _open = open(bound).expect("listens");
        std::net::TcpStream::connect(address).expect("connects");
    }

    #[tokio::test]
    async fn connections_that_linger_keep_nobody_out() {
        let open = open(bind_at(any()).expect("a port")).expect("listens");
        let address = open[0].address;
        let mut client = std::net::TcpStream::connect(address).expect("connects");
        open[0].listener.set_nonblocking(false).expect("blocks");
        // Whoever closes first keeps the address for a while.
        drop(open[0].listener.accept().expect("accepts"));
        assert_eq!(client.read(&mut [0]).expect("the end"), 0);
        drop((client, open));
        bind_at(address).expect("free again");
    }
}
