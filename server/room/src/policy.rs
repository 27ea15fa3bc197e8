//! Policy servers: who signs what is recommended for a room (server-server API,
//! "Policy Servers"; MSC4284).
//!
//! Pure: whether the room has one now, and asking it, is others' business.
//!
//! Invariant: only the key in the room's state counts, whatever keys the server publishes.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName,
    canonical_json::redact,
    room_version_rules::RoomVersionRules,
    serde::{
        Base64,
        base64::{Standard, UrlSafe},
    },
    signatures::{PublicKeyMap, PublicKeySet, verify_json},
};
use serde::Deserialize;
use serde_json::Value;

use crate::pdu::{Pdu, PduError};

/// The state event, with an empty state key, that names a room's policy server.
pub const POLICY_TYPE: &str = "m.room.policy";
/// The name of every policy server's key.
const KEY_ID: &str = "ed25519:policy_server";
/// Bytes of an Ed25519 key.
const KEY_BYTES: usize = 32;

/// A policy server, as the room names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The server. It counts while it has a joined user in the room.
    pub via: OwnedServerName,
    key: Vec<u8>,
}

impl Policy {
    /// What the state event says; `None` if that makes no sense: then the room has none.
    pub fn of(event: &Pdu) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            via: OwnedServerName,
            public_keys: Keys,
        }
        #[derive(Deserialize)]
        struct Keys {
            ed25519: String,
        }
        let Content { via, public_keys } = event.content().ok()?;
        let text = public_keys.ed25519;
        // The specification says the one, and shows the other.
        let key = Base64::<Standard>::parse(&text).map(Base64::into_inner).ok();
        let key = key.or_else(|| Base64::<UrlSafe>::parse(&text).map(Base64::into_inner).ok())?;
        (key.len() == KEY_BYTES).then_some(Self { via, key })
    }

    /// Whether the policy server has signed an event.
    pub fn has_signed(&self, rules: &RoomVersionRules, pdu: &Pdu) -> bool {
        let object = pdu.object();
        let by = object.get("signatures").and_then(CanonicalJsonValue::as_object);
        let by = by.and_then(|all| all.get(self.via.as_str())).and_then(CanonicalJsonValue::as_object);
        let Some(signature) = by.and_then(|by| by.get(KEY_ID)).cloned() else { return false };
        let Ok(mut redacted) = redact(object, &rules.redaction, None) else { return false };
        let by = CanonicalJsonObject::from([(KEY_ID.to_owned(), signature)]);
        let only = CanonicalJsonObject::from([(self.via.to_string(), CanonicalJsonValue::Object(by))]);
        redacted.insert("signatures".to_owned(), CanonicalJsonValue::Object(only));
        let set = PublicKeySet::from([(KEY_ID.to_owned(), Base64::new(self.key.clone()))]);
        verify_json(&PublicKeyMap::from([(self.via.to_string(), set)]), &redacted).is_ok()
    }

    /// The event with the signature that the policy server answered; `None` if it is
    /// none. The other signatures stay.
    ///
    /// # Errors
    /// The event is too large with it.
    pub fn signed(
        &self,
        rules: &RoomVersionRules,
        pdu: &Pdu,
        answer: &Value,
    ) -> Result<Option<Pdu>, PduError> {
        let Some(signature) = answer[self.via.as_str()][KEY_ID].as_str() else { return Ok(None) };
        let mut object = pdu.object();
        let all = object.entry("signatures".to_owned()).or_insert_with(empty);
        let CanonicalJsonValue::Object(all) = all else { return Ok(None) };
        let by = all.entry(self.via.to_string()).or_insert_with(empty);
        let CanonicalJsonValue::Object(by) = by else { return Ok(None) };
        by.insert(KEY_ID.to_owned(), CanonicalJsonValue::String(signature.to_owned()));
        let signed = Pdu::from_object(rules, object)?;
        Ok(Some(signed).filter(|signed| self.has_signed(rules, signed)))
    }
}

fn empty() -> CanonicalJsonValue {
    CanonicalJsonValue::Object(CanonicalJsonObject::new())
}

/// Whether a policy server is asked about such events: about all but the one that
/// names it, so that a room can be rid of one that is gone.
pub fn covers(kind: &str, state_key: Option<&str>) -> bool {
    kind != POLICY_TYPE || state_key != Some("")
}

#[cfg(test)]
mod tests {
    use ruma::{
        RoomVersionId,
        signatures::{Ed25519KeyPair, sign_json},
    };
    use serde_json::{from_value, json};

    use super::*;

    fn key_pair(version: &str) -> Ed25519KeyPair {
        let der = Ed25519KeyPair::generate();
        Ed25519KeyPair::from_der(der.as_ref(), version.to_owned()).expect("a key")
    }

    fn event(kind: &str, content: &Value) -> (RoomVersionRules, Pdu) {
        let rules = crate::version::rules(&RoomVersionId::V11).expect("supported");
        let object = json!({
            "type": kind, "state_key": "", "room_id": "!r:a.test", "sender": "@alice:a.test", "content": content,
            "origin_server_ts": 1, "depth": 1, "prev_events": [], "auth_events": [], "hashes": {"sha256": ""},
            "signatures": {"a.test": {"ed25519:1": "AAAA"}},
        });
        let pdu = Pdu::from_object(&rules, from_value(object).expect("an object")).expect("an event");
        (rules, pdu)
    }

    fn policy_of(key: &Ed25519KeyPair) -> Policy {
        let key = Base64::<Standard, _>::new(key.public_key().to_vec()).encode();
        let content = json!({"via": "p.test", "public_keys": {"ed25519": key}});
        Policy::of(&event(POLICY_TYPE, &content).1).expect("makes sense")
    }

    /// What a server answers that signs with this key.
    fn answer(rules: &RoomVersionRules, pdu: &Pdu, key: &Ed25519KeyPair) -> Value {
        let mut redacted = redact(pdu.object(), &rules.redaction, None).expect("redacts");
        redacted.remove("signatures");
        sign_json("p.test", key, &mut redacted).expect("signs");
        json!(redacted["signatures"])
    }

    #[test]
    fn only_the_key_in_the_room_counts() {
        let (own, other) = (key_pair("policy_server"), key_pair("policy_server"));
        let policy = policy_of(&own);
        let (rules, pdu) = event("m.room.topic", &json!({"topic": "t"}));
        assert!(!policy.has_signed(&rules, &pdu));
        let signed =
            policy.signed(&rules, &pdu, &answer(&rules, &pdu, &own)).expect("fits").expect("is signed");
        assert!(policy.has_signed(&rules, &signed) && signed.event_id() == pdu.event_id());
        assert!(signed.raw().get().contains("a.test\":{\"ed25519:1\""), "the sender's signature stays");
        assert!(!policy_of(&other).has_signed(&rules, &signed), "the key was replaced");
        let (_, another) = event("m.room.topic", &json!({"topic": "t"}));
        for wrong in [
            answer(&rules, &pdu, &other),
            answer(&rules, &event("m.room.name", &json!({})).1, &own),
            json!({"p.test": {"ed25519:policy_server": 5}}),
            json!([]),
        ] {
            assert!(policy.signed(&rules, &another, &wrong).expect("fits").is_none(), "{wrong}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_no_policy_server() {
        for content in [
            json!({}),
            json!({"via": "p.test"}),
            json!({"via": "p.test", "public_keys": {}}),
            json!({"via": "p.test", "public_keys": {"ed25519": "AAAA"}}),
            json!({"via": "not a name", "public_keys": {"ed25519": "A".repeat(43)}}),
        ] {
            assert_eq!(Policy::of(&event(POLICY_TYPE, &content).1), None, "{content}");
        }
        assert!(covers("m.room.member", Some("@a:b.c")) && covers(POLICY_TYPE, Some("x")));
        assert!(covers(POLICY_TYPE, None) && !covers(POLICY_TYPE, Some("")));
    }
}
