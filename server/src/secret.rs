//! Secrets that are made up for the operator.

use rand::{RngExt, distr::Alphanumeric};

/// `length` characters of base 62.
pub fn of_length(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}
