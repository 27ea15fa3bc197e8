//! The socket in the data folder through which the operator administers the
//! server: whoever may open it (the user that the server runs as, and root) is
//! an administrator without token or account. Only the admin routes are served.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use axum::Router;
use tokio::net::{UnixListener, UnixSocket};
use tokio_util::sync::CancellationToken;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 16;
/// Only its owner may connect.
const MODE: u32 = 0o600;

/// Where it lies.
pub fn path(data_folder: &Path) -> PathBuf {
    data_folder.join("admin.sock")
}

/// Opens it. One that a crash left behind is replaced: the data folder is
/// locked, so no other server uses it.
pub fn open(data_folder: &Path) -> io::Result<UnixListener> {
    let path = path(data_folder);
    remove(data_folder)?;
    let socket = UnixSocket::new_stream()?;
    socket.bind(&path)?;
    // Before it listens: until then nobody can connect.
    std::fs::set_permissions(&path, Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)
}

/// Takes it away; that there is none is no error.
pub fn remove(data_folder: &Path) -> io::Result<()> {
    match std::fs::remove_file(path(data_folder)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Serves `router` until `stop`.
pub async fn serve(listener: UnixListener, router: Router, stop: CancellationToken) {
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    // What is under way then, a purge say, must not keep the server from stopping.
    tokio::select! {
        ended = serving => if let Err(error) = ended {
            tracing::error!(%error, "the admin socket failed");
        },
        () = stop.cancelled() => {}
    }
    stop.cancelled().await;
}
