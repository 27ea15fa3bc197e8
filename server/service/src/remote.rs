//! What a client's request needs from another server while the client waits.
//!
//! A service never calls a door. It puts a [`RemoteRequest`] into a bounded
//! channel; the federation door serves it and answers through the oneshot that
//! came with it. A server without federation drops the receiver, and every
//! request answers "unavailable".

use std::time::Duration;

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedMxcUri, OwnedRoomAliasId, OwnedRoomId, OwnedServerName,
    OwnedUserId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};

use crate::{
    error::MatrixError,
    keys::remote::{Asked, Wanted},
    summary::SpaceForServer,
    upload::Upload,
};

/// Requests that may wait for the federation door at once.
pub const REMOTE_REQUESTS_MAX: usize = 256;

/// Where the answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, MatrixError>>;

/// One thing to be done on another server.
#[derive(Debug)]
#[expect(missing_docs, reason = "each variant says what its fields are for")]
pub enum RemoteRequest {
    /// `make_join` and `send_join` through one of `via`, and the import of the
    /// room; answers when the user is joined here.
    Join {
        room_id: OwnedRoomId,
        user_id: OwnedUserId,
        via: Vec<OwnedServerName>,
        content: Value,
        reply: Reply<()>,
    },
    /// `make_leave` and `send_leave`: reject an invite or leave a room that this server is not in.
    Leave {
        room_id: OwnedRoomId,
        user_id: OwnedUserId,
        via: Vec<OwnedServerName>,
        content: Value,
        reply: Reply<()>,
    },
    /// `make_knock` and `send_knock` through one of `via`; answers when the knock is kept here.
    Knock {
        room_id: OwnedRoomId,
        user_id: OwnedUserId,
        via: Vec<OwnedServerName>,
        content: Value,
        reply: Reply<()>,
    },
    /// `publicRooms`: a page of what another server lists.
    PublicRooms { server: OwnedServerName, query: PublicRoomsQuery, reply: Reply<Value> },
    /// `PUT …/invite`: has the invited user's server sign the invite; answers the event as signed by both.
    Invite {
        room_id: OwnedRoomId,
        event_id: OwnedEventId,
        event: Box<RawValue>,
        room_state: Vec<Box<RawValue>>,
        user_id: OwnedUserId,
        reply: Reply<Box<RawValue>>,
    },
    /// An identity server's `lookup`, and `store-invite` if it knows nobody by that address.
    Addressee { sender: OwnedUserId, invite: Box<AddressInvite>, reply: Reply<Addressee> },
    /// `exchange_third_party_invite`: has the server of who invited `target` by an address
    /// invite him by name; `signed` is the identity server's word that he is the one.
    AddressProof {
        room_id: OwnedRoomId,
        sender: OwnedUserId,
        target: OwnedUserId,
        signed: CanonicalJsonObject,
        reply: Reply<()>,
    },
    /// A media file from its origin, which is right about it, or, when that does
    /// not give it, from any of `holders`, if it is one of what is `expected`.
    Media {
        mxc: OwnedMxcUri,
        holders: Vec<OwnedServerName>,
        expected: Vec<ExpectedContent>,
        bytes_max: u64,
        reply: Reply<RemoteMedia>,
    },
    /// `query/profile`.
    Profile { user_id: OwnedUserId, reply: Reply<Value> },
    /// `query/directory`.
    Alias { alias: OwnedRoomAliasId, reply: Reply<(OwnedRoomId, Vec<OwnedServerName>)> },
    /// `hierarchy`: a space and what is in it, from the first of `via` that says it.
    Space {
        room_id: OwnedRoomId,
        via: Vec<OwnedServerName>,
        suggested_only: bool,
        reply: Reply<SpaceForServer>,
    },
    /// `timestamp_to_event`: the event closest to a time as another server in the room knows it.
    ClosestEvent { room_id: OwnedRoomId, ts: u64, forward: bool, reply: Reply<OwnedEventId> },
    /// `user/keys/query`, of users of one server; `asker` is who wants to know.
    UserKeys {
        asker: OwnedUserId,
        server: OwnedServerName,
        asked: Asked,
        timeout: Duration,
        reply: Reply<Value>,
    },
    /// `user/keys/claim`, of devices of users of one server, for `asker`.
    ClaimKeys {
        asker: OwnedUserId,
        server: OwnedServerName,
        wanted: Wanted,
        timeout: Duration,
        reply: Reply<Value>,
    },
    /// History before what this server holds; answers when it is stored.
    Backfill { room_id: OwnedRoomId, limit: usize, reply: Reply<()> },
    /// `/_matrix/policy/v1/sign`: has a room's policy server sign an event; answers its signatures.
    PolicySignature { server: OwnedServerName, event: Box<RawValue>, reply: Reply<Value> },
    /// A server that could not be reached is tried again now, not after its pause.
    Retry { server: OwnedServerName, reply: Reply<()> },
}

/// An invite of somebody who is known by an address only.
#[derive(Clone, Debug)]
pub struct AddressInvite {
    /// The identity server that the inviting user chose.
    pub server: OwnedServerName,
    /// The inviting user's access token there.
    pub token: String,
    /// `email`, for instance.
    pub medium: String,
    /// As the user wrote it.
    pub address: String,
    /// What is to be told to who is invited: the room and who invites, as `store-invite` names it.
    pub told: Map<String, Value>,
}

/// Whom an address belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressee {
    /// This user.
    User(OwnedUserId),
    /// Nobody yet; the identity server keeps the invite.
    Unknown {
        /// The state key of the room's `m.room.third_party_invite`.
        token: String,
        /// Its content.
        content: Map<String, Value>,
    },
}

/// Which page of another server's public list.
#[derive(Clone, Debug)]
pub struct PublicRoomsQuery {
    /// At most so many rooms.
    pub limit: usize,
    /// Where it begins, in the other server's words.
    pub since: Option<String>,
    /// The specification's `filter`.
    pub filter: Option<Value>,
}

/// What an item says of the content of the file that it refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedContent {
    /// SHA-256, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Bytes, if the item says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

impl ExpectedContent {
    /// What an item says that refers to this content.
    pub fn of(content: &[u8]) -> Self {
        Self { sha256: hex::encode(Sha256::digest(content)), size: Some(content.len() as u64) }
    }

    /// Whether this is what was expected.
    pub fn is(&self, content: &Upload) -> bool {
        self.is_of(&content.sha256(), content.bytes())
    }

    /// Whether a content of this SHA-256 and size is what was expected.
    pub fn is_of(&self, sha256: &str, bytes: u64) -> bool {
        self.size.is_none_or(|size| size == bytes) && self.sha256 == sha256
    }
}

/// A file as another server gave it.
#[derive(Debug)]
pub struct RemoteMedia {
    /// `Content-Type`, if sent.
    pub content_type: Option<String>,
    /// `Content-Disposition`, if sent.
    pub content_disposition: Option<String>,
    /// The file; it lies on disk already.
    pub content: Upload,
}

/// Sends requests to the federation door.
#[derive(Clone, Debug)]
pub struct RemoteHandle(mpsc::Sender<RemoteRequest>);

impl RemoteHandle {
    /// A handle and the end that the federation door serves.
    pub fn channel() -> (Self, mpsc::Receiver<RemoteRequest>) {
        let (sender, receiver) = mpsc::channel(REMOTE_REQUESTS_MAX);
        (Self(sender), receiver)
    }

    /// Sends the request that `build` makes around a reply, and waits for the answer.
    ///
    /// # Errors
    /// What the door answered; 503 when no door serves or too many requests wait.
    pub async fn request<T>(&self, build: impl FnOnce(Reply<T>) -> RemoteRequest) -> Result<T, MatrixError> {
        let unavailable = || MatrixError::new(503, "M_UNKNOWN", "Federation is not available");
        let (reply, answer) = oneshot::channel();
        self.0.try_send(build(reply)).map_err(|_| unavailable())?;
        answer.await.map_err(|_| unavailable())?
    }

    /// Has policy servers sign events; the door sees to it that answers come in time.
    pub fn signer(
        &self,
    ) -> impl Fn(
        OwnedServerName,
        Box<RawValue>,
    ) -> Result<oneshot::Receiver<Result<Value, MatrixError>>, MatrixError>
    + Send
    + Sync
    + 'static {
        let handle = self.clone();
        move |server, event| {
            let (reply, answer) = oneshot::channel();
            let sent = handle.0.try_send(RemoteRequest::PolicySignature { server, event, reply });
            sent.map_err(|_| MatrixError::new(503, "M_UNKNOWN", "Federation is not available"))?;
            Ok(answer)
        }
    }
}
