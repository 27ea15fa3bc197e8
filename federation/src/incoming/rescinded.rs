//! Invites that are taken back and knocks that are refused, of rooms that this server
//! is not in: all that it takes of such a room's events.
//!
//! Invariant: without the room's state only the inviting server is believed, or who
//! names the knock, and only after the signature was checked ([`Rooms::end_outside`]).
//!
//! [`Rooms::end_outside`]: causeway_service::rooms::Rooms::end_outside

use std::sync::Arc;

use causeway_room::Pdu;
use causeway_service::{Services, error::MatrixError, rooms::VersionRules};
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{error::blocking, state::FederationState, verification::verify};

/// The end of an invite or a knock, not checked yet.
pub struct Rescinded {
    version: Arc<VersionRules>,
    pub pdu: Pdu,
}

impl Rescinded {
    /// If an event is one: of a local user who was invited to a room that this
    /// server is not in, or knocked on it.
    pub fn read(services: &Services, raw: &RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct Peek {
            room_id: OwnedRoomId,
            r#type: String,
            state_key: OwnedUserId,
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            membership: String,
        }
        let peek: Peek = serde_json::from_str(raw.get()).ok()?;
        let ends = peek.r#type == "m.room.member" && matches!(&*peek.content.membership, "leave" | "ban");
        let rooms = &services.rooms;
        let is_own = peek.state_key.server_name() == rooms.server_name();
        if !ends || !is_own || rooms.is_joined_here(&peek.room_id).ok()? {
            return None;
        }
        let version = rooms.version_of_invite(&peek.room_id, &peek.state_key).ok()??;
        let pdu = Pdu::parse(&version.rules, raw.get()).ok()?;
        Some(Self { version, pdu })
    }

    /// Checks it and has it take effect.
    pub async fn take(self, state: &FederationState) -> Result<(), MatrixError> {
        let Self { version, pdu } = self;
        let mut checked = verify(state.keys(), &version.rules, vec![pdu], None).await;
        let pdu = checked.pop().ok_or_else(|| MatrixError::bad_json("nothing was checked"))?;
        let pdu = pdu.map_err(|error| MatrixError::forbidden(error.to_string()))?;
        let services = state.services().clone();
        blocking(move || Ok(services.rooms.end_outside(&pdu)?)).await
    }
}
