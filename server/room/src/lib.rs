//! Room events and their rules, pure: PDUs, authorisation, state resolution.
//!
//! Nothing here reads a clock, draws a random number, locks or does IO: events
//! and states come in through small traits ([`state_tree::NodeStore`],
//! [`resolve::EventSource`]) that storage and tests implement, and values go
//! out. What ruma gives (canonical JSON, signatures, the authorisation rules) is
//! used; what it leaves to the caller (PDUs, state snapshots) is done here, and so
//! is the resolution of states, which has to be Synapse's to the last event.
//!
//! Invariants:
//! - a [`Pdu`] has passed the event format checks, and its id is its reference hash;
//! - equal [`state_tree::Root`]s mean equal states, whatever way led to them;
//! - resolving the same states in any order gives the same state.

pub mod acl;
pub mod auth;
pub mod build;
pub mod format;
pub mod pdu;
pub mod policy;
pub mod resolve;
pub mod state_tree;
pub mod version;
pub mod visibility;

pub use build::{NewEvent, Placement};
pub use pdu::{Pdu, PduError};
pub use state_tree::{Root, StateKey};
