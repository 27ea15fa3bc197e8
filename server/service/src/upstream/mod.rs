//! Rooms that another homeserver keeps, the *upstream*: what a sidecar knows of them, and how
//! it acts in them.
//!
//! - [`request`]: what is asked of it; no HTTP here: that goes through a bounded channel which
//!   the application service door serves;
//! - [`facts`]: what it said, for a while ([`freshness`]);
//! - [`intake`]: what happened there, until it was followed; [`bearing`]: what of it matters;
//! - [`outbox`]: what is to be sent there;
//! - [`rooms`]: the rooms as shared spaces need them, over all of this; `room`: one of them, as
//!   far as it is at hand; `wanted`: what others' changes name of them; `ours`: which of
//!   them have shared spaces; `strangers`: of which others speak that are none of ours yet.

pub mod bearing;
pub mod facts;
pub mod freshness;
pub mod intake;
mod memory;
mod ours;
pub mod outbox;
pub mod request;
mod room;
pub mod rooms;
mod strangers;
mod wanted;

#[cfg(test)]
mod intake_tests;
#[cfg(test)]
mod outbox_tests;
#[cfg(test)]
mod rooms_tests;
