//! /sync: telling each device what is new to it.

pub mod filter;
pub mod progress;
pub mod response;
pub mod token;
pub mod unread;
