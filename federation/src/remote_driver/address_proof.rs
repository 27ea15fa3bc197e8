//! Invites of somebody who is known by an address only (an e-mail, say), once an identity
//! server says who that is (server-server API, "Third-party invites").
//!
//! Not here: whether the room allows the invite, which its rules decide by the identity
//! server's signature; asking an identity server to keep an invite
//! (`addressee`).
//!
//! Invariant: an invite is made in the name of a user of this server only, and only of the
//! user that the identity server has signed for.

use causeway_service::{
    error::{Chain, MatrixError},
    rooms::Invite,
};
use http::Method;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedUserId,
    serde::Base64,
    signatures::{PublicKeySet, verify_json},
    third_party_invite::IdentityServerBase64PublicKey,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::invite::{self, invite};
use crate::{
    client::{Request, escape},
    error::blocking,
    passed_on::answer,
    state::FederationState,
};

/// The type of the event that keeps the place for who was invited.
const INVITE: &str = "m.room.third_party_invite";
/// Keys of one such event that are looked at.
const KEYS_MAX: usize = 10;
/// Signers of one proof.
const SIGNERS_MAX: usize = 5;

/// That somebody is who was invited.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub(crate) room_id: OwnedRoomId,
    /// Who invited.
    pub(crate) sender: OwnedUserId,
    /// Who was invited.
    pub(crate) target: OwnedUserId,
    /// What the identity server signed: the target, and the token of the invite.
    pub(crate) signed: CanonicalJsonObject,
}

/// A key that a proof may be signed with.
#[derive(Debug, Deserialize)]
struct Key {
    public_key: IdentityServerBase64PublicKey,
    key_validity_url: Option<String>,
}

/// What the room says of the invite; whatever is wrong with it counts as absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Kept {
    display_name: Value,
    public_key: Value,
    key_validity_url: Value,
    public_keys: Value,
}

impl Kept {
    /// The keys in it that the proof is signed with.
    fn signing(self, signed: &CanonicalJsonObject) -> Vec<Key> {
        let first = json!({"public_key": self.public_key, "key_validity_url": self.key_validity_url});
        let Value::Array(mut keys) = self.public_keys else { return Vec::new() };
        keys.push(first);
        let keys = keys.into_iter().take(KEYS_MAX).filter_map(|key| serde_json::from_value::<Key>(key).ok());
        keys.filter(|key| is_signed_with(signed, &key.public_key)).collect()
    }
}

fn is_signed_with(signed: &CanonicalJsonObject, key: &IdentityServerBase64PublicKey) -> bool {
    let Ok(key) = key.decode() else { return false };
    let signatures = signed.get("signatures").and_then(CanonicalJsonValue::as_object);
    signatures.into_iter().flatten().take(SIGNERS_MAX).any(|(signer, by)| {
        let key_ids = by.as_object().into_iter().flat_map(|by| by.keys()).take(SIGNERS_MAX);
        key_ids.cloned().any(|key_id| {
            let keys = PublicKeySet::from([(key_id, Base64::new(key.clone()))]);
            verify_json(&[(signer.clone(), keys)].into(), signed).is_ok()
        })
    })
}

impl Proof {
    fn token(&self) -> Result<&str, MatrixError> {
        let names = self.signed.get("mxid").and_then(CanonicalJsonValue::as_str);
        if names != Some(self.target.as_str()) {
            return Err(MatrixError::forbidden("The identity server has signed for another user"));
        }
        let token = self.signed.get("token").and_then(CanonicalJsonValue::as_str);
        token.ok_or_else(|| MatrixError::bad_json("There is no token"))
    }

    /// Makes the invite, if the inviting user is of this server, or has his server make it.
    pub(crate) async fn exchange(self, state: &FederationState) -> Result<(), MatrixError> {
        if self.sender.server_name() == state.server_name() {
            self.invite(state).await
        } else {
            self.pass_on(state).await
        }
    }

    async fn pass_on(self, state: &FederationState) -> Result<(), MatrixError> {
        let Self { room_id, sender, target, signed } = self;
        let path = format!("/_matrix/federation/v1/exchange_third_party_invite/{}", escape(&room_id));
        let event = json!({
            "type": "m.room.member", "room_id": room_id, "sender": sender, "state_key": target,
            "content": {
                "membership": "invite", "third_party_invite": {"display_name": "", "signed": signed},
            },
        });
        let request = Request::new(sender.server_name(), Method::PUT, &path).json(&event);
        let sent = state.client().send_ok(request.map_err(|error| answer(&error))?).await;
        sent.map(drop).map_err(|error| answer(&error))
    }

    /// Invites, as the room's event about the token allows.
    pub(crate) async fn invite(self, state: &FederationState) -> Result<(), MatrixError> {
        let token = self.token()?.to_owned();
        let (services, room_id) = (state.services().clone(), self.room_id.clone());
        let kept = blocking(move || Ok(services.rooms.state_event(&room_id, INVITE, &token)?));
        let kept: Option<Kept> = kept.await?.and_then(|event| event.content().ok());
        let kept = kept.ok_or_else(|| MatrixError::forbidden("There is no such invite"))?;
        let shown = kept.display_name.clone();
        check_validity(state, &kept.signing(&self.signed)).await?;
        let content = json!({"display_name": shown, "signed": self.signed});
        let content = Map::from_iter([("third_party_invite".to_owned(), content)]);
        let Self { room_id, sender, target, .. } = self;
        let services = state.services().clone();
        let (room, invited) = (room_id.clone(), target.clone());
        let turn = services.rooms.turn(&room).await;
        let prepared = blocking(move || {
            let _turn = turn;
            if !services.accounts.is_active(&sender)? {
                return Err(MatrixError::forbidden("Who invited is gone"));
            }
            Ok(services.rooms.invite(&room, &sender, &invited, content)?)
        });
        let Invite::Remote(prepared) = prepared.await? else { return Ok(()) };
        let asked = invite::Invite {
            room_id: room_id.clone(),
            event_id: prepared.event.event_id().to_owned(),
            event: prepared.event.raw().to_owned(),
            room_state: prepared.room_state,
            user_id: target,
        };
        let (services, signed) = (state.services().clone(), invite(state, asked).await?);
        let turn = services.rooms.turn(&room_id).await;
        blocking(move || {
            let _turn = turn;
            services.rooms.commit_invite(&room_id, &signed)?;
            Ok(())
        })
        .await
    }
}

/// Whether the identity server stands by one of these keys. Only who makes the invite asks:
/// all others have to come to one opinion, whatever can be reached from where they are.
async fn check_validity(state: &FederationState, keys: &[Key]) -> Result<(), MatrixError> {
    #[derive(Deserialize)]
    struct Validity {
        valid: bool,
    }
    for Key { public_key, key_validity_url } in keys {
        let Some(url) = key_validity_url else { return Ok(()) };
        match state.client().get_elsewhere(url, &[("public_key", &public_key.0)]).await {
            Ok(told) if told.status.is_success() => {
                if serde_json::from_slice(&told.body).is_ok_and(|Validity { valid }| valid) {
                    return Ok(());
                }
            }
            Ok(told) => tracing::info!(status = %told.status, "an identity server says nothing of its key"),
            Err(error) => tracing::info!(error = %Chain(&error), "an identity server can't be asked"),
        }
    }
    Err(MatrixError::forbidden("No valid key of the identity server has signed that"))
}
