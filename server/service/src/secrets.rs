//! Random strings that nobody can guess, their hashes, and how they are compared. The
//! only place that draws randomness for credentials.

use rand::{RngExt, distr::Alphanumeric};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Characters of a token: 62^43 is more than 2^255.
const TOKEN_CHARS: usize = 43;

/// Characters of a device id.
const DEVICE_ID_CHARS: usize = 10;

/// Characters of what a user types: no vowels, so no words, and none that looks like
/// another (RFC 8628, section 6.1).
const TYPED: &[u8] = b"BCDFGHJKLMNPQRSTVWXZ";

/// Groups of four of them: 20^8 is more than 2^34.
const TYPED_GROUPS: usize = 2;

/// Letters between its dashes.
pub(crate) const USER_CODE_GROUP_CHARS: usize = 4;

/// An unguessable token.
pub fn token() -> String {
    alphanumeric(TOKEN_CHARS)
}

/// What a signing key is made from.
pub fn seed() -> [u8; 32] {
    rand::random()
}

/// A device id in the usual form: capital letters.
pub fn device_id() -> String {
    let mut rng = rand::rng();
    (0..DEVICE_ID_CHARS).map(|_| char::from(rng.random_range(b'A'..=b'Z'))).collect()
}

/// A code that a user reads on one device and types on another.
pub fn user_code() -> String {
    let mut rng = rand::rng();
    let mut group = || -> String {
        (0..USER_CODE_GROUP_CHARS).map(|_| char::from(TYPED[rng.random_range(0..TYPED.len())])).collect()
    };
    let groups: Vec<String> = (0..TYPED_GROUPS).map(|_| group()).collect();
    groups.join("-")
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
