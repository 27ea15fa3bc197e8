//! Real server processes, real TLS between them, real clients.
//!
//! One binary for all, because each test binary is linked with everything.

mod backup;
mod bridge;
mod client_api;
mod crash;
mod cut;
mod doctor;
mod encrypted;
mod faults;
mod federation;
mod interop;
mod js_sdk;
mod lifecycle;
mod limits;
mod many;
mod oauth;
mod origin_gone;
mod pair;
mod proxied;
mod reload;
mod restore;
mod rust_sdk;
mod scripts;
mod sidecar;
mod synapse;
mod telemetry;
mod two;
