//! The application service door, both ways: this server tells application services what is
//! theirs ([`host`]), and is itself one of another homeserver ([`sidecar`]).
//!
//! What clients and services ask of this server comes in through the client-server API;
//! whose is what is decided in `causeway_service::appservices`.

pub mod host;
mod http;
pub mod sidecar;
