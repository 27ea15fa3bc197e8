//! Servers that talk to each other over real TLS on loopback.

mod hostile;
mod rooms;
mod support;
