//! What the project's tests, its demonstration and its benchmark share: real
//! server processes, a local authority, a link that can be cut, and a small
//! client. Nothing of the server's own code is linked in here: what is tested
//! is the binary, through its public interfaces. The exceptions are
//! [`simulation`], which puts two pure crates through simulated worlds, and
//! [`forks`], which holds the third against another implementation.

pub mod authority;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod dice;
pub mod faults;
pub mod forks;
pub mod front;
pub mod link;
pub mod model;
pub mod namespaces;
pub mod network;
pub mod process;
pub mod program;
pub mod prometheus;
pub mod proxy;
pub mod result;
pub mod server;
pub mod sidecar;
pub mod simulation;
pub mod space;
pub mod synapse;
pub mod user;
pub mod wait;
pub mod weather;

mod owner;
