//! The host beside a service that listens on a port of this machine.

mod fake;
mod questions;
mod transactions;
