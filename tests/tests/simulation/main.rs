//! The replication protocol in simulated worlds, its checkers, and the table of
//! the rules that were weighed.

mod checkers;
mod rules;
mod schedules;
mod sizes;
