//! Whom an address belongs to, asked of the identity server that the inviting user chose, which
//! keeps the invite if it knows nobody (identity service API, `hash_details`, `lookup`,
//! `store-invite`).
//!
//! Invariants: nothing that an identity server answers is kept without bounds, and a refusal
//! never looks like one of this server's own access tokens being refused.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use causeway_service::{
    error::MatrixError,
    remote::{AddressInvite, Addressee},
};
use ruma::OwnedUserId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{answer, join::nonsense};
use crate::{bounded::BoundedList, client::ClientError, state::FederationState};

/// Longest token, in bytes; so says the specification.
const TOKEN_BYTES_MAX: usize = 255;
/// Longest of anything else that is kept in the room, in bytes.
const TEXT_BYTES_MAX: usize = 1_024;
/// Keys of an identity server, of which there are two.
const KEYS_MAX: usize = 10;

#[derive(Deserialize)]
struct HashDetails {
    lookup_pepper: String,
}

#[derive(Deserialize)]
struct Mappings {
    mappings: Map<String, Value>,
}

#[derive(Deserialize)]
struct Kept {
    token: String,
    public_keys: BoundedList<Key, KEYS_MAX>,
    display_name: String,
}

#[derive(Deserialize, Serialize)]
struct Key {
    public_key: String,
    key_validity_url: String,
}

pub(super) async fn addressee(
    state: &FederationState,
    invite: &AddressInvite,
) -> Result<Addressee, MatrixError> {
    // The specification's form of an e-mail address; numbers have no case.
    let address = invite.address.to_lowercase();
    if let Some(user_id) = lookup(state, invite, &address).await? {
        return Ok(Addressee::User(user_id));
    }
    let mut told = invite.told.clone();
    told.insert("medium".to_owned(), invite.medium.as_str().into());
    told.insert("address".to_owned(), address.into());
    let kept: Kept = ask(state, invite, "store-invite", Some(&Value::Object(told))).await?;
    kept.addressee()
}

/// The user whom the identity server knows by the address. It is told no more than a hash.
async fn lookup(
    state: &FederationState,
    invite: &AddressInvite,
    address: &str,
) -> Result<Option<OwnedUserId>, MatrixError> {
    let HashDetails { lookup_pepper } = ask(state, invite, "hash_details", None).await?;
    let medium = &invite.medium;
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(format!("{address} {medium} {lookup_pepper}")));
    let body = json!({ "algorithm": "sha256", "pepper": lookup_pepper, "addresses": [hash] });
    let Mappings { mut mappings } = ask(state, invite, "lookup", Some(&body)).await?;
    let user_id = mappings.remove(&hash).map(serde_json::from_value).transpose();
    user_id.map_err(|_| nonsense("the identity server knows somebody who is no user"))
}

async fn ask<T: DeserializeOwned>(
    state: &FederationState,
    invite: &AddressInvite,
    endpoint: &str,
    body: Option<&Value>,
) -> Result<T, MatrixError> {
    let asked = state.client().ask_identity_server(&invite.server, &invite.token, endpoint, body).await;
    let told = asked.map_err(|error| match &error {
        // That would tell a client that its session here is over.
        ClientError::Status { status, .. } if status.as_u16() == 401 => {
            MatrixError::forbidden("The identity server does not know this access token")
        }
        _ => answer(&error),
    })?;
    serde_json::from_slice(&told).map_err(|_| nonsense("the identity server's answer is malformed"))
}

impl Kept {
    fn addressee(self) -> Result<Addressee, MatrixError> {
        let Self { token, public_keys: BoundedList(keys), display_name } = self;
        let is_meant = |byte: u8| byte.is_ascii_alphanumeric() || b".=_-".contains(&byte);
        let is_token = (1..=TOKEN_BYTES_MAX).contains(&token.len()) && token.bytes().all(is_meant);
        let texts = keys.iter().flat_map(|key| [&key.public_key, &key.key_validity_url]);
        let is_short = texts.chain([&display_name]).all(|text| text.len() <= TEXT_BYTES_MAX);
        let Some(first) = keys.first().filter(|_| is_token && is_short) else {
            return Err(nonsense("the identity server's answer makes no sense"));
        };
        let content = json!({
            "display_name": display_name,
            // From before there were several.
            "public_key": first.public_key, "key_validity_url": first.key_validity_url,
            "public_keys": keys,
        });
        let Value::Object(content) = content else { return Err(nonsense("no object")) };
        Ok(Addressee::Unknown { token, content })
    }
}
