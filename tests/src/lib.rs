//! What the project's tests, its demonstration and its benchmark share: real
//! server processes, a local authority, a link that can be cut, and a small
//! client. Nothing of the server's own code is linked in here: what is tested
//! is the binary, through its public interfaces. The exception is
//! [`simulation`], which puts the two pure crates through simulated worlds.

pub mod authority;
pub mod client;
pub mod cluster;
pub mod dice;
pub mod link;
pub mod model;
pub mod namespaces;
pub mod network;
pub mod process;
pub mod program;
pub mod result;
pub mod server;
pub mod simulation;
pub mod space;
pub mod synapse;
pub mod user;
pub mod wait;

mod owner;
