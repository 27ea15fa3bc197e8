//! A signing key as a line of the key file of another homeserver: `ed25519 VERSION SEED`, the
//! seed in unpadded base64. A sidecar's key is one such line, which its homeserver publishes
//! besides its own.
//!
//! Not the file: where it lies, and who may read it, is the caller's business.

use std::fmt;

use causeway_storage::{
    Database,
    server_keys::{self as rows, OwnKey},
};
use ruma::{
    serde::{Base64, base64::Standard},
    signatures::Ed25519KeyPair,
};

use super::{ServerKeys, ServerKeysError, public_key};
use crate::{clock::Clock, secrets};

/// Bytes of a line.
const LINE_BYTES_MAX: usize = 256;
/// How the version of a sidecar's key begins.
pub const SIDECAR_VERSION: &str = "cw_";
/// What stands before the seed in PKCS#8 (RFC 5958, RFC 8410).
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The text is no line of a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a signing key; it should be `ed25519`, a version and 43 characters, with blanks between them")]
pub struct NotALine;

/// See the module.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningLine {
    version: String,
    seed: [u8; 32],
}

impl SigningLine {
    /// A new key; its version is drawn from its public half.
    pub fn make() -> Self {
        Self::of(secrets::seed())
    }

    /// The key of this seed.
    pub fn of(seed: [u8; 32]) -> Self {
        let public = pair(&seed, String::new()).public_key()[..4].to_vec();
        Self { version: format!("{SIDECAR_VERSION}{}", hex::encode(public)), seed }
    }

    /// Reads a line, or a file of one line.
    ///
    /// # Errors
    /// It is none, or there are several.
    pub fn read(text: &str) -> Result<Self, NotALine> {
        if text.len() > LINE_BYTES_MAX {
            return Err(NotALine);
        }
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        let ["ed25519", version, seed] = parts[..] else { return Err(NotALine) };
        let is_version = version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let seed = Base64::<Standard>::parse(seed).map_err(|_| NotALine)?.into_inner();
        let seed = seed.try_into().ok().filter(|_| is_version).ok_or(NotALine)?;
        Ok(Self { version: version.to_owned(), seed })
    }

    /// The line, without a line's end. It is a secret.
    pub fn text(&self) -> String {
        let seed = Base64::<Standard, _>::new(&self.seed[..]).encode();
        format!("ed25519 {} {seed}", self.version)
    }

    /// Its id, `ed25519:…`.
    pub fn key_id(&self) -> String {
        format!("ed25519:{}", self.version)
    }

    /// Its public half, in unpadded base64.
    pub fn public(&self) -> String {
        public_key(&pair(&self.seed, String::new()))
    }
}

impl fmt::Debug for SigningLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningLine").field(&self.version).finish()
    }
}

impl ServerKeys {
    /// Makes the key of this line the one that signs from the next [`Self::open`] on. The ones
    /// before stay known, for what they signed until now.
    ///
    /// # Errors
    /// The database failed.
    pub fn take(database: &Database, clock: &Clock, line: &SigningLine) -> Result<(), ServerKeysError> {
        let now_ms = clock.now_ms();
        let document = document(&line.seed);
        let known = rows::own(database)?;
        let is_it = |key: &OwnKey| key.version == line.version && key.document == document;
        if known.iter().all(|key| is_it(key) == key.expired_ms.is_none()) && known.iter().any(is_it) {
            return Ok(());
        }
        let mut batch = database.batch();
        for key in known.into_iter().filter(|key| key.expired_ms.is_none()) {
            rows::put_own(&mut batch, &OwnKey { expired_ms: Some(now_ms), ..key });
        }
        let version = line.version.clone();
        rows::put_own(&mut batch, &OwnKey { version, document, created_ms: now_ms, expired_ms: None });
        let _synced = database.commit_durable(batch)?;
        Ok(())
    }
}

fn pkcs8(seed: &[u8; 32]) -> Vec<u8> {
    [&PKCS8_HEAD[..], seed].concat()
}

/// As keys are stored.
fn document(seed: &[u8; 32]) -> String {
    Base64::<Standard, _>::new(pkcs8(seed)).encode()
}

fn pair(seed: &[u8; 32], version: String) -> Ed25519KeyPair {
    Ed25519KeyPair::from_der(&pkcs8(seed), version).expect("every seed of 32 bytes is a key")
}

#[cfg(test)]
mod tests {
    use ruma::{CanonicalJsonObject, server_name, signatures::verify_json};

    use super::*;

    /// RFC 8032, section 7.1, test 1.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn known() -> SigningLine {
        SigningLine::of(hex::decode_to_array(SEED).expect("32 bytes"))
    }

    #[test]
    fn a_line_is_what_a_key_file_holds() {
        let line = known();
        let public: [u8; 32] = hex::decode_to_array(PUBLIC).expect("32 bytes");
        assert_eq!(line.public(), Base64::<Standard, _>::new(&public[..]).encode());
        assert_eq!(line.text(), "ed25519 cw_d75a9801 nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A");
        assert_eq!(SigningLine::read(&format!("{}\n", line.text())), Ok(line));
        assert_ne!(SigningLine::make(), SigningLine::make());
    }

    #[test]
    fn anything_else_is_refused() {
        let good = known().text();
        let long = format!("{good}{}", " ".repeat(LINE_BYTES_MAX));
        for text in [
            "",
            "ed25519 a",
            "rsa a b",
            &good[..good.len() - 2],
            &format!("{good}\n{good}"),
            &long,
            "ed25519 a/b nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        ] {
            assert_eq!(SigningLine::read(text), Err(NotALine), "{text}");
        }
        assert!(!format!("{:?}", known()).contains("nWGx"), "is not logged");
    }

    #[test]
    fn it_signs_in_the_servers_name_and_what_was_signed_before_still_holds() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = server_name!("a.example");
        let open = || {
            let options = causeway_storage::Options::default();
            Database::open(folder.path(), &options).expect("opens")
        };
        let keys = |database| ServerKeys::open(database, name.to_owned(), &Clock::manual(5)).expect("opens");
        let mut before = CanonicalJsonObject::new();
        keys(open()).sign(&mut before).expect("signs");
        for _ in 0..2 {
            ServerKeys::take(&open(), &Clock::manual(7), &known()).expect("takes it");
        }
        let keys = keys(open());
        assert_eq!(keys.key_id(), known().key_id());
        let mut after = CanonicalJsonObject::new();
        keys.sign(&mut after).expect("signs");
        let all = keys.own_public_keys();
        assert_eq!(all.len(), 2);
        let map = std::collections::BTreeMap::from([("a.example".to_owned(), all)]);
        for said in [&before, &after] {
            verify_json(&map, said).expect("is signed by a key that is known");
        }
    }
}
