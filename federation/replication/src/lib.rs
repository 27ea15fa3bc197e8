//! Anti-entropy between the servers of one room, pure and sans-IO
//! (`federation/PROTOCOL.md` §5).
//!
//! A [`Replicator`] decides whom to tell what this server holds, whom to ask for
//! what it lacks, and when. It is fed [`Input`]s with the time and a
//! [`Snapshot`], and returns [`Effect`]s; it has no clock, no randomness of its
//! own, no task, no lock, no IO.
//!
//! Not here: what a change means ([`causeway_shared_space`]), whether its
//! signature is valid and how it is stored (the shell, on [`Effect::Apply`]), who
//! may take part (the shell, before [`Input::Received`] and [`Input::PeerUp`]).

mod answer;
mod digest;
mod effect;
pub mod limits;
mod list;
mod message;
mod peer;
mod pulling;
mod replicator;
mod schedule;
mod session;
mod snapshot;

pub use answer::answer;
pub use digest::Digest;
pub use effect::{Down, Effect, Input, Outcome, ServerName};
pub use message::{Advertise, DecodeError, Delta, Message, Pull};
pub use replicator::Replicator;
pub use snapshot::Snapshot;
