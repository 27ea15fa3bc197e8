//! The causality token: what an API read tells its caller to give back, so that
//! a write supersedes exactly what its author was shown.
//!
//! Opaque and authenticated: a caller can't name ids that this server never
//! handed out for this item. It is bound to room and key, holds no time and does
//! not expire; a token from before a restore still names what was seen.
//!
//! Layout before base64url without padding: version byte, the ids, the first 16
//! bytes of HMAC-SHA256 over version, room id, 0xFF, key, 0xFF and ids.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use causeway_shared_space::ChangeId;
use hmac::{Hmac, KeyInit, Mac};
use ruma::RoomId;
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Ids that a token may hold: a token names siblings, which are bounded, and
/// what they name in turn; the oldest beyond this are left out.
pub const TOKEN_IDS_MAX: usize = 32;

/// Characters of the longest token that is looked at.
const TOKEN_LENGTH_MAX: usize = (1 + TOKEN_IDS_MAX * 32 + TAG_BYTES) * 4 / 3 + 4;
const TAG_BYTES: usize = 16;
const VERSION: u8 = 1;

/// The token is not one that this server made for this item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token was not issued for this item")]
pub struct InvalidToken;

/// Makes and reads tokens; holds this server's secret.
pub struct TokenKey([u8; 32]);

impl TokenKey {
    /// From a secret that lives as long as the data folder.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// The token for having been shown `ids` of an item, oldest first.
    pub fn issue<'a>(&self, room: &RoomId, key: &str, ids: impl IntoIterator<Item = &'a ChangeId>) -> String {
        let mut bytes = vec![VERSION];
        let ids: Vec<_> = ids.into_iter().collect();
        for id in &ids[ids.len().saturating_sub(TOKEN_IDS_MAX)..] {
            bytes.extend_from_slice(id.as_bytes());
        }
        let tag = self.tag(room, key, &bytes);
        bytes.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The ids in a token, in their order.
    pub fn open(&self, room: &RoomId, key: &str, token: &str) -> Result<Vec<ChangeId>, InvalidToken> {
        if token.len() > TOKEN_LENGTH_MAX {
            return Err(InvalidToken);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| InvalidToken)?;
        let (signed, tag) =
            bytes.split_at_checked(bytes.len().saturating_sub(TAG_BYTES)).ok_or(InvalidToken)?;
        if !bool::from(self.tag(room, key, signed).ct_eq(tag)) {
            return Err(InvalidToken);
        }
        let (&VERSION, ids) = signed.split_first().ok_or(InvalidToken)? else { return Err(InvalidToken) };
        let (ids, rest) = ids.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(InvalidToken);
        }
        Ok(ids.iter().copied().map(ChangeId::from_bytes).collect())
    }

    fn tag(&self, room: &RoomId, key: &str, signed: &[u8]) -> [u8; TAG_BYTES] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        let (version, ids) = signed.split_at(signed.len().min(1));
        for part in [version, room.as_bytes(), &[0xFF], key.as_bytes(), &[0xFF], ids] {
            mac.update(part);
        }
        let full = mac.finalize().into_bytes();
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&full[..TAG_BYTES]);
        tag
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;

    #[test]
    fn a_token_is_bound_to_room_key_and_server() {
        let key = TokenKey::new([7; 32]);
        let room = room_id!("!room:a.example");
        let ids = [ChangeId::from_bytes([1; 32]), ChangeId::from_bytes([2; 32])];
        let token = key.issue(room, "plan", &ids);
        assert_eq!(key.open(room, "plan", &token), Ok(ids.into()));
        assert_eq!(key.open(room, "plan2", &token), Err(InvalidToken));
        assert_eq!(key.open(room_id!("!other:a.example"), "plan", &token), Err(InvalidToken));
        assert_eq!(TokenKey::new([8; 32]).open(room, "plan", &token), Err(InvalidToken));
    }

    #[test]
    fn a_broken_token_is_refused() {
        let key = TokenKey::new([7; 32]);
        let room = room_id!("!room:a.example");
        let empty = key.issue(room, "plan", &[]);
        assert_eq!(key.open(room, "plan", &empty), Ok(Vec::new()));
        for token in ["", "AAAA", "%%%", &"A".repeat(1 << 20), &empty[1..]] {
            assert_eq!(key.open(room, "plan", token), Err(InvalidToken));
        }
    }
}
