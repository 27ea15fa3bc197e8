//! /sync: telling each device what is new to it.

pub mod filter;
mod given;
pub mod progress;
pub mod response;
pub mod token;
pub mod unread;

pub use given::given;
pub use progress::Given;
