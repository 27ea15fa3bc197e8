//! Random strings that nobody can guess, their hashes, and how they are compared. The
//! only place that draws randomness for credentials.

use rand::{RngExt, distr::Alphanumeric};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Characters of a token: 62^43 is more than 2^255.
const TOKEN_CHARS: usize = 43;

/// Characters of a device id.
const DEVICE_ID_CHARS: usize = 10;

/// An unguessable token.
pub fn token() -> String {
    alphanumeric(TOKEN_CHARS)
}

/// A device id in the usual form: capital letters.
pub fn device_id() -> String {
    let mut rng = rand::rng();
    (0..DEVICE_ID_CHARS).map(|_| char::from(rng.random_range(b'A'..=b'Z'))).collect()
}

/// `chars` random letters and digits.
pub fn alphanumeric(chars: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(chars).map(char::from).collect()
}

/// What is stored of a token. It has full entropy, so a plain hash is enough.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Whether both are the same, found out in a time that says nothing of where they differ.
pub fn are_same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}
