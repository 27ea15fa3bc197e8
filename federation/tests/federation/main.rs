//! Servers that talk to each other over real TLS on loopback.

mod rooms;
mod support;
