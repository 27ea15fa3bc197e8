//! What the service manager (systemd, or whoever speaks its protocol) is told:
//! that the server answers, and that it stops.
//!
//! One datagram for each to the socket that `NOTIFY_SOCKET` names (`sd_notify(3)`);
//! without that variable nothing is sent. A manager that can't be told is logged:
//! the server serves all the same. It does not say that the server is well:
//! that is asked from outside ([`crate::health`]).

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

/// Names the manager's socket: a path, or an abstract name after `@`.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// How long a manager whose queue is full may hold the server up.
const PATIENCE: Duration = Duration::from_secs(1);

/// Connections are let in.
pub fn ready() {
    tell("READY=1\nSTATUS=Serving");
}

/// The server was told to stop, and begins to.
pub fn stopping() {
    tell("STOPPING=1\nSTATUS=Stopping");
}

fn tell(state: &str) {
    let Some(socket) = env::var_os(VARIABLE) else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let name = socket.as_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let own = UnixDatagram::unbound()?;
    own.set_write_timeout(Some(PATIENCE))?;
    own.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What arrives at `socket` when it is told "X=1".
    fn told(socket: &OsStr, manager: &UnixDatagram) -> Vec<u8> {
        send(socket, "X=1").expect("sent");
        let mut buffer = [0; 16];
        let length = manager.recv(&mut buffer).expect("arrived");
        buffer[..length].to_vec()
    }

    #[test]
    fn a_socket_in_the_file_system_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bound");
        assert_eq!(told(path.as_os_str(), &manager), b"X=1");
    }

    #[test]
    fn an_abstract_socket_is_told() {
        let name = format!("causeway-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = UnixDatagram::bind_addr(&address).expect("bound");
        assert_eq!(told(OsStr::new(&format!("@{name}")), &manager), b"X=1");
    }

    #[test]
    fn nobody_there_is_an_error() {
        send(OsStr::new("/nonexistent/notify"), "X=1").expect_err("nobody");
    }
}
