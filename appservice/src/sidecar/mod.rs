//! The sidecar: beside a homeserver of another make, the upstream, as an application service of it,
//! so that its rooms have shared spaces.
//!
//! - [`client`]: one request to the upstream;
//! - [`requests`]: the requests that a sidecar makes, with their answers;
//! - [`whoami`]: whose token a client shows;
//! - [`clients`]: what clients ask of it;
//! - [`drivers`]: what runs beside answering clients: `transactions` that the upstream brings,
//!   `reconcile` and `walk`, which make sure of them, `outbox`, which sends, `facts_server`, which
//!   asks, `ping`, and what they share (`shared`);
//! - [`registration`], [`init_text`]: how the operator attaches it.
//!
//! Not here: what is decided by the answers (`causeway_service`).
//!
//! Invariant: the service's token, which may act for every local user of the upstream, goes to
//! the upstream's address only, in a header, and is never told or logged.

pub mod client;
pub mod clients;
pub mod drivers;
mod facts_server;
mod gate;
pub mod init_text;
mod outbox;
mod ping;
mod readers;
mod reconcile;
pub mod registration;
pub mod requests;
mod shared;
mod transactions;
mod walk;
pub mod whoami;
