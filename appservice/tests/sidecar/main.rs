//! The sidecar beside an upstream that listens on a port of this machine.

mod client;
mod clients;
mod drivers;
mod homeserver;
mod stub;
mod whoami;
