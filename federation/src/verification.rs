//! Are events really from whom they say? Signatures and content hashes
//! (server-server API, "Checks performed on receipt of a PDU", 2 and 3).
//!
//! Invariant: an event leaves here only if every server that must have signed
//! it did, with a key that was good at the event's time; one whose content was
//! tampered with leaves redacted.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use causeway_room::Pdu;
use causeway_service::{error::MatrixError, server_keys::RemoteKeys};
use futures_util::{StreamExt, stream};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    canonical_json::redact,
    events::room::member::MembershipState,
    room_version_rules::RoomVersionRules,
    serde::{Base64, base64::Standard},
    signatures::{
        PublicKeyMap, Verified, content_hash, required_server_signatures_to_verify_event, verify_event,
        verify_json,
    },
};

use crate::{
    error::blocking,
    keys::{KeyRing, Purpose, good_for},
};

/// Servers whose keys are looked for at once.
const SERVERS_AT_ONCE: usize = 16;
/// Events that one blocking thread verifies in one go.
const EVENTS_PER_THREAD: usize = 256;

/// Why an event is dropped.
#[derive(Debug, thiserror::Error)]
pub enum VerificationError {
    /// A server that must have signed it did not.
    #[error("{0} did not sign the event")]
    Unsigned(OwnedServerName),
    /// The keys of a server can't be had.
    #[error("no key of {0} is known that the event could be checked with")]
    NoKey(OwnedServerName),
    /// A signature does not fit, or the event is not fit to be checked.
    #[error("the event's signatures are wrong")]
    Signature,
    /// The content is not the one that was hashed and signed.
    #[error("the event's content hash is wrong")]
    Hash,
    /// The check itself failed.
    #[error("the event could not be checked")]
    Internal,
}

/// What has to be known before an event can be checked: servers that must have signed, and
/// with which keys they did. The parsed event is not kept: of a large room's state, all at
/// once would be many times what the events are as text.
type Signers = BTreeMap<OwnedServerName, Vec<String>>;

/// Checks `pdus`; the results are in their order. `witness` is believed in what
/// the keys of servers are that don't answer: only where the events are its word
/// anyway, as the state of a room that is joined through it.
pub async fn verify(
    keys: &KeyRing,
    rules: &RoomVersionRules,
    pdus: Vec<Pdu>,
    witness: Option<&ServerName>,
) -> Vec<Result<Pdu, VerificationError>> {
    let (rules, count) = (rules.clone(), pdus.len());
    let for_signers = rules.clone();
    let prepared = blocking(move || {
        Ok(pdus.into_iter().map(|pdu| (signers(&pdu, &for_signers), pdu)).collect::<Vec<_>>())
    });
    let Ok(prepared) = prepared.await else { return failed(count) };
    let known = fetch(keys, &prepared, witness).await;
    let known = std::sync::Arc::new(known);
    let mut results = Vec::with_capacity(count);
    let mut rest = prepared.into_iter();
    let mut chunks = Vec::new();
    loop {
        let chunk: Vec<_> = rest.by_ref().take(EVENTS_PER_THREAD).collect();
        if chunk.is_empty() {
            break;
        }
        let (rules, known, length) = (rules.clone(), std::sync::Arc::clone(&known), chunk.len());
        chunks.push(async move {
            let work = move || {
                let check = |(signers, pdu)| check(&rules, &known, signers, pdu);
                Ok::<_, MatrixError>(chunk.into_iter().map(check).collect::<Vec<_>>())
            };
            blocking(work).await.unwrap_or_else(|_| failed(length))
        });
    }
    let mut checked = stream::iter(chunks).buffered(threads());
    while let Some(chunk) = checked.next().await {
        results.extend(chunk);
    }
    results
}

/// Threads that verify the events of one call: half of what there is, so that a large room's
/// state leaves others their share.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

fn failed(count: usize) -> Vec<Result<Pdu, VerificationError>> {
    (0..count).map(|_| Err(VerificationError::Internal)).collect()
}

fn signers(pdu: &Pdu, rules: &RoomVersionRules) -> Result<Signers, VerificationError> {
    let object = pdu.object();
    let rules = rules_for(pdu, rules);
    let required = required_server_signatures_to_verify_event(&object, &rules.signatures)
        .map_err(|_| VerificationError::Signature)?;
    let signatures = object.get("signatures").and_then(CanonicalJsonValue::as_object);
    let signatures = signatures.ok_or(VerificationError::Signature)?;
    let mut signers = BTreeMap::new();
    for server in required {
        let by = signatures.get(server.as_str()).and_then(CanonicalJsonValue::as_object);
        let by: Vec<String> = by.into_iter().flatten().map(|(key_id, _)| key_id.clone()).collect();
        if by.is_empty() {
            return Err(VerificationError::Unsigned(server));
        }
        signers.insert(server, by);
    }
    Ok(signers)
}

/// The rules for this event: whoever vouches has to have signed a join. ruma asks
/// for that signature wherever a content has the field, Synapse does not; what one
/// of them drops would be a hole in the other's history.
fn rules_for<'a>(pdu: &Pdu, rules: &'a RoomVersionRules) -> Cow<'a, RoomVersionRules> {
    if pdu.membership() == Some(MembershipState::Join) {
        return Cow::Borrowed(rules);
    }
    let mut rules = rules.clone();
    rules.signatures.check_join_authorised_via_users_server = false;
    Cow::Owned(rules)
}

/// The keys of all servers that signed anything.
async fn fetch(
    keys: &KeyRing,
    prepared: &[(Result<Signers, VerificationError>, Pdu)],
    witness: Option<&ServerName>,
) -> HashMap<OwnedServerName, RemoteKeys> {
    let mut wanted: HashMap<OwnedServerName, BTreeMap<String, u64>> = HashMap::new();
    for (signers, pdu) in prepared {
        let Ok(signers) = signers else { continue };
        for (server, key_ids) in signers {
            for key_id in key_ids {
                let until = wanted.entry(server.clone()).or_default().entry(key_id.clone()).or_default();
                *until = (*until).max(pdu.origin_server_ts());
            }
        }
    }
    stream::iter(wanted)
        .map(|(server, wanted)| async move {
            let mut known = keys.known(&server, &wanted).await;
            if let Some(witness) = witness
                && wanted.keys().any(|key_id| !known.keys.contains_key(key_id))
            {
                for (key_id, key) in keys.hearsay(&server, witness).await.keys {
                    known.keys.entry(key_id).or_insert(key);
                }
            }
            (server, known)
        })
        .buffer_unordered(SERVERS_AT_ONCE)
        .collect()
        .await
}

fn check(
    rules: &RoomVersionRules,
    known: &HashMap<OwnedServerName, RemoteKeys>,
    signers: Result<Signers, VerificationError>,
    pdu: Pdu,
) -> Result<Pdu, VerificationError> {
    let signers = signers?;
    let purpose = if rules.enforce_key_validity {
        Purpose::Event { origin_server_ts: pdu.origin_server_ts() }
    } else {
        Purpose::Anytime
    };
    let mut map = PublicKeyMap::new();
    for (server, key_ids) in signers {
        let good = known.get(&server).map(|known| good_for(known, purpose, 0)).unwrap_or_default();
        if !key_ids.iter().any(|id| good.contains_key(id)) {
            return Err(VerificationError::NoKey(server));
        }
        map.insert(server.to_string(), good);
    }
    match verify_event(&map, &pdu.object(), &rules_for(&pdu, rules)) {
        Ok(Verified::All) => Ok(pdu),
        Ok(Verified::Signatures) => {
            tracing::warn!(event_id = %pdu.event_id(), "content hash is wrong; the event is redacted");
            pdu.redacted(rules).map_err(|_| VerificationError::Signature)
        }
        Err(_) => Err(VerificationError::Signature),
    }
}

/// Checks that `server` signed `pdu`, whoever else must have.
pub async fn verify_signer(
    keys: &KeyRing,
    rules: &RoomVersionRules,
    pdu: &Pdu,
    server: &ServerName,
) -> Result<(), VerificationError> {
    let unsigned = || VerificationError::Unsigned(server.to_owned());
    let object = pdu.object();
    let signatures = object.get("signatures").and_then(CanonicalJsonValue::as_object);
    let by = signatures.and_then(|all| all.get(server.as_str())).and_then(CanonicalJsonValue::as_object);
    let by = by.ok_or_else(unsigned)?.clone();
    let wanted = by.keys().map(|key_id| (key_id.clone(), pdu.origin_server_ts())).collect();
    let known = keys.known(server, &wanted).await;
    let good = good_for(&known, Purpose::Anytime, 0);
    // Signatures cover the redacted event; only this server's are looked at.
    let mut redacted = redact(object, &rules.redaction, None).map_err(|_| VerificationError::Signature)?;
    let only = CanonicalJsonObject::from([(server.to_string(), CanonicalJsonValue::Object(by))]);
    redacted.insert("signatures".to_owned(), CanonicalJsonValue::Object(only));
    let map = PublicKeyMap::from([(server.to_string(), good)]);
    verify_json(&map, &redacted).map_err(|_| VerificationError::Signature)
}

/// Checks that `server` signed `pdu`, and its content hash: for an event that
/// `server` sends of its own user, before `own`, this server, adds its signature.
/// Any third server that has to sign it must have done so.
pub async fn verify_from(
    keys: &KeyRing,
    rules: &RoomVersionRules,
    pdu: Pdu,
    server: &ServerName,
    own: &ServerName,
) -> Result<Pdu, VerificationError> {
    verify_signer(keys, rules, &pdu, server).await?;
    let required =
        required_server_signatures_to_verify_event(&pdu.object(), &rules_for(&pdu, rules).signatures)
            .map_err(|_| VerificationError::Signature)?;
    for third in required.iter().filter(|third| *third != server && *third != own) {
        verify_signer(keys, rules, &pdu, third).await?;
    }
    let object = pdu.object();
    let stated = object.get("hashes").and_then(CanonicalJsonValue::as_object);
    let stated = stated.and_then(|hashes| hashes.get("sha256")).and_then(CanonicalJsonValue::as_str);
    let stated = stated.and_then(|hash| Base64::<Standard>::parse(hash).ok());
    let real = content_hash(&object).map_err(|_| VerificationError::Signature)?;
    if stated.is_some_and(|stated| stated.as_bytes() == real.as_bytes()) {
        Ok(pdu)
    } else {
        Err(VerificationError::Hash)
    }
}
