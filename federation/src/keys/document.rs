//! A server's published keys (server-server API, "Publishing keys"): parsed and
//! checked against the signatures that it carries. Pure.
//!
//! Invariant: a key is taken from `verify_keys` only if it signed the document.

use std::collections::{BTreeMap, BTreeSet};

use causeway_service::server_keys::{RemoteKey, RemoteKeys};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName, SigningKeyAlgorithm,
    serde::{Base64, base64::Standard},
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};

/// Largest document that is read, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 128 * 1024;
/// Most keys that one document may hold, current and old.
pub const DOCUMENT_KEYS_MAX: usize = 200;
/// Most keys that are kept of one server over its life.
pub const KEPT_KEYS_MAX: usize = 1_000;
/// Earlier documents of a server that are kept to answer others with, together no
/// larger than one may be.
pub const FORMER_MAX: usize = 8;
/// Nothing that a server says of its keys holds longer (seven days).
pub const VALIDITY_MAX_MS: u64 = 7 * 24 * 3600 * 1000;

/// Why a document is not believed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DocumentError {
    /// A field is missing or of the wrong type.
    #[error("`{0}` is missing or malformed")]
    Malformed(&'static str),
    /// Another server's.
    #[error("the document is another server's")]
    OtherServer,
    /// More keys than [`DOCUMENT_KEYS_MAX`].
    #[error("the document has too many keys")]
    TooMany,
    /// A signature by one of its keys does not fit, or none of its keys signed.
    #[error("the document is not signed by its keys")]
    Signature,
}

/// What a document says, after its signatures were checked.
#[derive(Debug)]
pub struct Document {
    /// Whose keys.
    pub server: OwnedServerName,
    /// Keys by id.
    pub keys: BTreeMap<String, RemoteKey>,
    /// The document as text.
    pub raw: String,
}

impl Document {
    /// Reads `object`, as of `now_ms`.
    pub fn parse(object: &CanonicalJsonObject, now_ms: u64) -> Result<Self, DocumentError> {
        let malformed = DocumentError::Malformed;
        let server = object.get("server_name").and_then(CanonicalJsonValue::as_str);
        let server = server.and_then(|name| OwnedServerName::try_from(name).ok());
        let server = server.ok_or(malformed("server_name"))?;
        let valid_until_ms = time(object, "valid_until_ts")?.min(now_ms.saturating_add(VALIDITY_MAX_MS));
        let current = keys(object, "verify_keys")?;
        let old = match object.get("old_verify_keys") {
            Some(_) => keys(object, "old_verify_keys")?,
            None => Vec::new(),
        };
        if current.len() + old.len() > DOCUMENT_KEYS_MAX {
            return Err(DocumentError::TooMany);
        }
        let mut taken = BTreeMap::new();
        for (id, key, fields) in old {
            let valid_until_ms = time(fields, "expired_ts")?;
            taken.insert(id.to_owned(), RemoteKey { key: key.encode(), valid_until_ms, retired: true });
        }
        for (id, key) in signers(object, &server, &current)? {
            taken.insert(id.to_owned(), RemoteKey { key: key.encode(), valid_until_ms, retired: false });
        }
        let raw = serde_json::to_string(object).map_err(|_| malformed("document"))?;
        Ok(Self { server, keys: taken, raw })
    }

    /// The same, refusing a document of another server than `server`.
    pub fn parse_of(
        server: &ServerName,
        object: &CanonicalJsonObject,
        now_ms: u64,
    ) -> Result<Self, DocumentError> {
        let document = Self::parse(object, now_ms)?;
        if document.server == server { Ok(document) } else { Err(DocumentError::OtherServer) }
    }

    /// Adds this to what is known. From the server itself it counts over what is
    /// known already; from a notary it only fills gaps.
    pub fn merge_into(self, known: &mut RemoteKeys, from_itself: bool, now_ms: u64) {
        if from_itself && let Some(before) = known.document.take() {
            keep_former(known, before, &self.raw);
        }
        for (id, key) in self.keys {
            if known.keys.len() >= KEPT_KEYS_MAX && !known.keys.contains_key(&id) {
                continue;
            }
            match known.keys.get_mut(&id) {
                // A notary's word extends the life of a key, but never replaces one.
                Some(held) if !from_itself => {
                    if held.key == key.key && !held.retired {
                        held.valid_until_ms = held.valid_until_ms.max(key.valid_until_ms);
                    }
                }
                Some(held) => *held = key,
                None => {
                    known.keys.insert(id, key);
                }
            }
        }
        if from_itself || known.document.is_none() {
            known.document = Some(self.raw);
            known.fetched_ms = now_ms;
        }
    }
}

/// Keeps a document if the one that follows it has forgotten a key: whoever checks
/// old events still wants it.
fn keep_former(known: &mut RemoteKeys, before: String, after: &str) {
    if listed(&before).is_subset(&listed(after)) {
        return;
    }
    known.former.push(before);
    let bytes = |former: &[String]| former.iter().map(String::len).sum::<usize>();
    while known.former.len() > FORMER_MAX || bytes(&known.former) > DOCUMENT_BYTES_MAX {
        known.former.remove(0);
    }
}

/// The documents of a server that tell of these keys, the newest in any case.
pub fn telling_of(known: &RemoteKeys, wanted: &[String]) -> Vec<String> {
    let mut missing: BTreeSet<&String> = wanted.iter().collect();
    let mut found = Vec::new();
    for document in known.document.iter().chain(known.former.iter().rev()) {
        let told = listed(document);
        let is_newest = found.is_empty() && known.document.as_ref() == Some(document);
        if is_newest || missing.iter().any(|id| told.contains(*id)) {
            missing.retain(|id| !told.contains(*id));
            found.push(document.clone());
        }
    }
    found
}

/// The ids of the keys in a document, current and old.
fn listed(document: &str) -> BTreeSet<String> {
    let object: CanonicalJsonObject = serde_json::from_str(document).unwrap_or_default();
    let lists =
        ["verify_keys", "old_verify_keys"].into_iter().filter_map(|field| object.get(field)?.as_object());
    lists.flat_map(|list| list.keys().filter(|id| id.starts_with("ed25519:")).cloned()).collect()
}

type Listed<'a> = (&'a str, Base64<Standard>, &'a CanonicalJsonObject);

/// The Ed25519 keys under `field`; others are skipped.
fn keys<'a>(object: &'a CanonicalJsonObject, field: &'static str) -> Result<Vec<Listed<'a>>, DocumentError> {
    let malformed = || DocumentError::Malformed(field);
    let list = object.get(field).and_then(CanonicalJsonValue::as_object).ok_or_else(malformed)?;
    if list.len() > DOCUMENT_KEYS_MAX {
        return Err(DocumentError::TooMany);
    }
    let mut found = Vec::new();
    for (id, fields) in list {
        if !id.starts_with("ed25519:") {
            continue;
        }
        let fields = fields.as_object().ok_or_else(malformed)?;
        let key = fields.get("key").and_then(CanonicalJsonValue::as_str).ok_or_else(malformed)?;
        found.push((id.as_str(), Base64::parse(key).map_err(|_| malformed())?, fields));
    }
    Ok(found)
}

/// Those of `current` that signed the document; at least one.
fn signers<'a>(
    object: &CanonicalJsonObject,
    server: &ServerName,
    current: &[Listed<'a>],
) -> Result<Vec<(&'a str, Base64<Standard>)>, DocumentError> {
    let signatures = object.get("signatures").and_then(CanonicalJsonValue::as_object);
    let own = signatures.and_then(|all| all.get(server.as_str())).and_then(CanonicalJsonValue::as_object);
    let own = own.ok_or(DocumentError::Signature)?;
    let signed =
        to_canonical_json_string_for_signing(object).map_err(|_| DocumentError::Malformed("document"))?;
    let mut found = Vec::new();
    for (id, key, _) in current {
        let Some(signature) = own.get(*id) else { continue };
        let signature = signature.as_str().ok_or(DocumentError::Signature)?;
        let signature = Base64::<Standard>::parse(signature).map_err(|_| DocumentError::Signature)?;
        let algorithm = SigningKeyAlgorithm::Ed25519;
        verify_canonical_json_bytes(&algorithm, key.as_bytes(), signature.as_bytes(), signed.as_bytes())
            .map_err(|_| DocumentError::Signature)?;
        found.push((*id, key.clone()));
    }
    if found.is_empty() { Err(DocumentError::Signature) } else { Ok(found) }
}

fn time(object: &CanonicalJsonObject, field: &'static str) -> Result<u64, DocumentError> {
    match object.get(field) {
        Some(CanonicalJsonValue::Integer(ms)) => {
            u64::try_from(i64::from(*ms)).map_err(|_| DocumentError::Malformed(field))
        }
        _ => Err(DocumentError::Malformed(field)),
    }
}

#[cfg(test)]
mod tests {
    use ruma::{
        server_name,
        signatures::{Ed25519KeyPair, sign_json},
    };
    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_000_000;

    fn pair(version: &str) -> Ed25519KeyPair {
        Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), version.to_owned()).expect("just made")
    }

    fn public(pair: &Ed25519KeyPair) -> String {
        Base64::<Standard>::new(pair.public_key().to_vec()).encode()
    }

    fn object(value: Value) -> CanonicalJsonObject {
        serde_json::from_value(value).expect("canonical")
    }

    fn document(signing: &Ed25519KeyPair, listed: &Ed25519KeyPair) -> CanonicalJsonObject {
        let mut document = object(json!({
            "server_name": "a.example",
            "valid_until_ts": NOW + 10,
            "verify_keys": {"ed25519:1": {"key": public(listed)}, "curve:9": {"key": "x"}},
            "old_verify_keys": {"ed25519:0": {"key": public(listed), "expired_ts": 5}},
        }));
        sign_json("a.example", signing, &mut document).expect("signs");
        document
    }

    #[test]
    fn a_signed_document_gives_current_and_old_keys() {
        let pair = pair("1");
        let parsed =
            Document::parse_of(server_name!("a.example"), &document(&pair, &pair), NOW).expect("good");
        let key = |valid_until_ms, retired| RemoteKey { key: public(&pair), valid_until_ms, retired };
        let expected = [("ed25519:0", key(5, true)), ("ed25519:1", key(NOW + 10, false))];
        assert_eq!(parsed.keys, expected.map(|(id, key)| (id.to_owned(), key)).into());
    }

    #[test]
    fn forged_foreign_and_unsigned_documents_are_refused() {
        let (pair, other) = (pair("1"), pair("1"));
        let parse = |object: &CanonicalJsonObject| {
            Document::parse_of(server_name!("a.example"), object, NOW).map(|_| ()).expect_err("refused")
        };
        assert_eq!(parse(&document(&other, &pair)), DocumentError::Signature);
        let mut changed = document(&pair, &pair);
        changed.insert("valid_until_ts".to_owned(), CanonicalJsonValue::Integer(9.into()));
        assert_eq!(parse(&changed), DocumentError::Signature);
        let mut unsigned = document(&pair, &pair);
        unsigned.remove("signatures");
        assert_eq!(parse(&unsigned), DocumentError::Signature);
        let foreign = Document::parse_of(server_name!("b.example"), &document(&pair, &pair), NOW);
        assert_eq!(foreign.map(|_| ()).expect_err("refused"), DocumentError::OtherServer);
        assert_eq!(parse(&object(json!({}))), DocumentError::Malformed("server_name"));
    }

    #[test]
    fn validity_is_capped_and_a_notary_replaces_nothing() {
        let (first, second) = (pair("1"), pair("1"));
        let mut far = document(&first, &first);
        far.insert("valid_until_ts".to_owned(), CanonicalJsonValue::Integer(ruma::Int::MAX));
        far.remove("signatures");
        sign_json("a.example", &first, &mut far).expect("signs");
        let mut known = RemoteKeys::default();
        Document::parse(&far, NOW).expect("good").merge_into(&mut known, true, NOW);
        assert_eq!(known.keys["ed25519:1"].valid_until_ms, NOW + VALIDITY_MAX_MS);

        let lie = document(&second, &second);
        Document::parse(&lie, NOW).expect("well-formed").merge_into(&mut known, false, NOW + 1);
        assert_eq!(known.keys["ed25519:1"].key, public(&first));
        assert_eq!(known.fetched_ms, NOW);
        Document::parse(&lie, NOW).expect("well-formed").merge_into(&mut known, true, NOW + 1);
        assert_eq!(known.keys["ed25519:1"].key, public(&second));
    }
    #[test]
    fn a_key_that_its_server_forgot_is_still_told_of() {
        let signed = |id: &str| {
            let pair = pair(id);
            let mut document = object(json!({
                "server_name": "a.example", "valid_until_ts": NOW, "old_verify_keys": {},
                "verify_keys": {format!("ed25519:{id}"): {"key": public(&pair)}},
            }));
            sign_json("a.example", &pair, &mut document).expect("signs");
            Document::parse(&document, NOW).expect("good")
        };
        let mut known = RemoteKeys::default();
        let told = |known: &RemoteKeys, wanted: &[&str]| -> Vec<BTreeSet<String>> {
            let wanted: Vec<String> = wanted.iter().map(|id| format!("ed25519:{id}")).collect();
            telling_of(known, &wanted).iter().map(|document| listed(document)).collect()
        };
        assert!(told(&known, &["1"]).is_empty());
        for n in 1..=FORMER_MAX + 3 {
            signed(&n.to_string()).merge_into(&mut known, true, NOW);
        }
        let only = |n: usize| BTreeSet::from([format!("ed25519:{n}")]);
        let newest = FORMER_MAX + 3;
        assert_eq!(told(&known, &[]), [only(newest)]);
        assert_eq!(told(&known, &["5"]), [only(newest), only(5)]);
        assert_eq!(told(&known, &["1"]), [only(newest)], "and not for ever");
        assert_eq!(known.former.len(), FORMER_MAX);
        // What is told again is not kept twice.
        signed(&newest.to_string()).merge_into(&mut known, true, NOW);
        assert_eq!(known.former.len(), FORMER_MAX);
    }
}
