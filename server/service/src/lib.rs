//! Use-cases: what the server does, whichever door asks for it.
//!
//! Everything here is synchronous and runs on blocking threads; doors call it
//! through `spawn_blocking`. A service never calls a door: it commits facts and
//! outbox rows in one batch, then notifies, and drivers read from where they
//! stopped.

pub mod clock;
pub mod error;
pub mod notify;
pub mod outbox;
pub mod remote;
pub mod server_keys;
