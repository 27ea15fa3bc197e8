//! The requests that a sidecar makes to the upstream, with their answers: client-server API,
//! asked with the service's token.
//!
//! Events stay raw. Not here: what is believed of them, and when something is asked again.
//!
//! Invariant: each answer has a bound.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use causeway_service::shared_space::SERVICE_LOCALPART;
use reqwest::{
    Method, StatusCode,
    header::{HeaderName, HeaderValue},
};
use ruma::{DeviceId, EventId, OwnedDeviceId, OwnedEventId, OwnedServerName, OwnedUserId, RoomId, UserId};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{json, value::RawValue};

use super::client::{Call, Speaker, UpstreamClient, UpstreamError, escape};

/// All members of a room, in bytes.
const MEMBERS_BYTES_MAX: usize = 64 << 20;
/// All state of a room, or what came since, in bytes.
const STATE_BYTES_MAX: usize = 128 << 20;
/// A page of a room's events, in bytes: 100 events of 64 KiB.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// Users of each server that are kept of a room's members.
pub const USERS_MAX: usize = 3;
/// How long what may be large is waited for.
const LARGE_PATIENCE: Duration = Duration::from_secs(30);
/// Where the sidecar's own service user writes from: a device makes his transactions' ids durable.
pub const DEVICE: &str = "CAUSEWAY";
/// Who asked the one who asks.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WhoAmI {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device; application services have none.
    #[serde(default)]
    pub device_id: Option<OwnedDeviceId>,
    /// Whether it is a guest.
    #[serde(default)]
    pub is_guest: bool,
}

/// Whom an application service that asks names: itself with its token, and these with its query
/// (application service API, "Identity assertion").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acting {
    /// A user.
    pub user_id: Option<String>,
    /// A device of his.
    pub device_id: Option<String>,
}

impl Acting {
    /// What a request names.
    pub fn of(query: &str) -> Self {
        let mut acting = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "user_id" => acting.user_id.get_or_insert(value.into_owned()),
                "device_id" | "org.matrix.msc3202.device_id" => {
                    acting.device_id.get_or_insert(value.into_owned())
                }
                _ => continue,
            };
        }
        acting
    }

    /// As a query; empty for nobody.
    pub(super) fn query(&self) -> String {
        let both = [("user_id", &self.user_id), ("device_id", &self.device_id)];
        let named = both
            .into_iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={}", escape(value))));
        let named: Vec<String> = named.collect();
        named.join("&")
    }
}

/// What was around an event.
#[derive(Debug, Deserialize)]
pub struct Surroundings {
    /// The event, in the client format.
    pub event: Box<RawValue>,
    /// State after it, as far as it was asked for.
    #[serde(default)]
    pub state: Vec<Box<RawValue>>,
}

/// Where a page lies from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// Before it, the latest first.
    Past,
    /// After it.
    Present,
}

impl Towards {
    fn letter(self) -> char {
        match self {
            Self::Past => 'b',
            Self::Present => 'f',
        }
    }
}

/// A page of a room's events.
#[derive(Debug, Deserialize)]
pub struct Page {
    /// In the direction that was asked for.
    #[serde(default)]
    pub chunk: Vec<Box<RawValue>>,
    /// Where it goes on; none at the end.
    #[serde(default)]
    pub end: Option<String>,
}

/// What the upstream can do.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Versions {
    /// Of the client-server API.
    pub versions: Vec<String>,
}

#[derive(Deserialize)]
struct Written {
    event_id: OwnedEventId,
}

/// A room's path, and what is below it.
fn room_path(room: &RoomId, below: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/{below}", escape(room))
}

fn large<'a>(path: &'a str, speaker: Speaker<'a>, answer_bytes_max: usize) -> Call<'a> {
    Call { patience: LARGE_PATIENCE, answer_bytes_max, ..Call::new(Method::GET, path, speaker) }
}

/// What is not there, or not to be seen, is `None`; an upstream that knows no such endpoint refuses.
fn found<T>(asked: Result<T, UpstreamError>) -> Result<Option<T>, UpstreamError> {
    match asked {
        Err(UpstreamError::Refused(refusal))
            if refusal.status == StatusCode::NOT_FOUND && refusal.errcode == "M_NOT_FOUND" =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

impl UpstreamClient {
    async fn get<T: serde::de::DeserializeOwned>(&self, call: Call<'_>) -> Result<T, UpstreamError> {
        self.ask(call).await?.read()
    }

    /// A room's current state event, whole, as far as the upstream gives it so: some give the
    /// content alone.
    ///
    /// # Errors
    /// No answer, or a refusal other than that there is none.
    pub async fn state_event(
        &self,
        room: &RoomId,
        (kind, key): (&str, &str),
        speaker: Speaker<'_>,
    ) -> Result<Option<Box<RawValue>>, UpstreamError> {
        let path = room_path(room, &format!("state/{}/{}?format=event", escape(kind), escape(key)));
        found(self.get(Call::new(Method::GET, &path, speaker)).await)
    }

    /// All of a room's current state.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn all_state(
        &self,
        room: &RoomId,
        speaker: Speaker<'_>,
    ) -> Result<Vec<Box<RawValue>>, UpstreamError> {
        self.get(large(&room_path(room, "state"), speaker, STATE_BYTES_MAX)).await
    }

    /// An event, if there is one that the speaker may see.
    ///
    /// # Errors
    /// No answer, or a refusal other than that there is none.
    pub async fn event(
        &self,
        room: &RoomId,
        event: &EventId,
        speaker: Speaker<'_>,
    ) -> Result<Option<Box<RawValue>>, UpstreamError> {
        let path = room_path(room, &format!("event/{}", escape(event)));
        found(self.get(Call::new(Method::GET, &path, speaker)).await)
    }

    /// An event with the room's state after it, of which `filter` chooses.
    ///
    /// # Errors
    /// No answer, or a refusal other than that there is none.
    pub async fn surroundings(
        &self,
        room: &RoomId,
        event: &EventId,
        filter: &serde_json::Value,
        speaker: Speaker<'_>,
    ) -> Result<Option<Surroundings>, UpstreamError> {
        let filter = escape(filter.to_string());
        let path = room_path(room, &format!("context/{}?limit=0&filter={filter}", escape(event)));
        found(self.get(Call::new(Method::GET, &path, speaker)).await)
    }

    /// The servers with a joined user in the room, and [`USERS_MAX`] of the users of each.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn joined(&self, room: &RoomId, speaker: Speaker<'_>) -> Result<Joined, UpstreamError> {
        #[derive(Deserialize)]
        struct Members {
            joined: Joined,
        }
        let path = room_path(room, "joined_members");
        let members: Members = self.get(large(&path, speaker, MEMBERS_BYTES_MAX)).await?;
        Ok(members.joined)
    }

    /// The servers with a joined user in the room.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn joined_servers(
        &self,
        room: &RoomId,
        speaker: Speaker<'_>,
    ) -> Result<BTreeSet<OwnedServerName>, UpstreamError> {
        Ok(self.joined(room, speaker).await?.0.into_keys().collect())
    }

    /// Where the speaker is joined.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn joined_rooms(&self, speaker: Speaker<'_>) -> Result<Vec<ruma::OwnedRoomId>, UpstreamError> {
        #[derive(Deserialize)]
        struct Rooms {
            joined_rooms: Vec<ruma::OwnedRoomId>,
        }
        let rooms: Rooms =
            self.get(large("/_matrix/client/v3/joined_rooms", speaker, STATE_BYTES_MAX)).await?;
        Ok(rooms.joined_rooms)
    }

    /// What came since: the answer to `/sync` as it is. It does not wait, and tells nobody that
    /// the user is online.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn sync(
        &self,
        since: Option<&str>,
        filter: &serde_json::Value,
        speaker: Speaker<'_>,
    ) -> Result<Bytes, UpstreamError> {
        let since = since.map(|since| format!("&since={}", escape(since))).unwrap_or_default();
        let filter = escape(filter.to_string());
        let path = format!("/_matrix/client/v3/sync?timeout=0&set_presence=offline&filter={filter}{since}");
        let answer = self.ask(large(&path, speaker, STATE_BYTES_MAX)).await?;
        answer.good().cloned()
    }

    /// At most `limit` events of a room from a place on, or from its end.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn messages(
        &self,
        room: &RoomId,
        (direction, from, limit): (Towards, Option<&str>, usize),
        filter: &serde_json::Value,
        speaker: Speaker<'_>,
    ) -> Result<Page, UpstreamError> {
        let from = from.map(|from| format!("&from={}", escape(from))).unwrap_or_default();
        let (filter, direction) = (escape(filter.to_string()), direction.letter());
        let below = format!("messages?dir={direction}&limit={limit}{from}&filter={filter}");
        self.get(large(&room_path(room, &below), speaker, PAGE_BYTES_MAX)).await
    }

    /// Sends a state event. Its id; that of the current one if that is the same.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn put_state(
        &self,
        room: &RoomId,
        (kind, key): (&str, &str),
        content: &RawValue,
        speaker: Speaker<'_>,
    ) -> Result<OwnedEventId, UpstreamError> {
        let path = room_path(room, &format!("state/{}/{}", escape(kind), escape(key)));
        let call = Call::new(Method::PUT, &path, speaker).with(content.get().to_owned());
        self.get::<Written>(call).await.map(|written| written.event_id)
    }

    /// Sends an event. Its id; the same for the same transaction of the same device.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn send(
        &self,
        room: &RoomId,
        (kind, transaction): (&str, &str),
        content: &RawValue,
        speaker: Speaker<'_>,
    ) -> Result<OwnedEventId, UpstreamError> {
        let path = room_path(room, &format!("send/{}/{}", escape(kind), escape(transaction)));
        let call = Call::new(Method::PUT, &path, speaker).with(content.get().to_owned());
        self.get::<Written>(call).await.map(|written| written.event_id)
    }

    /// Invites somebody.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn invite(
        &self,
        room: &RoomId,
        user: &UserId,
        speaker: Speaker<'_>,
    ) -> Result<(), UpstreamError> {
        let path = room_path(room, "invite");
        let call = Call::new(Method::POST, &path, speaker).json(&json!({"user_id": user}))?;
        self.get::<IgnoredAny>(call).await.map(drop)
    }

    /// Joins a room in which local users are.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn join(&self, room: &RoomId, speaker: Speaker<'_>) -> Result<(), UpstreamError> {
        let path = room_path(room, "join");
        self.get::<IgnoredAny>(Call::new(Method::POST, &path, speaker).with("{}")).await.map(drop)
    }

    /// Makes the upstream tell what it has to tell at once (application service API, "Pinging").
    ///
    /// # Errors
    /// No answer, or a refusal: it can't reach the sidecar, say.
    pub async fn ping(&self, service: &str, transaction: &str) -> Result<(), UpstreamError> {
        let path = format!("/_matrix/client/v1/appservice/{}/ping", escape(service));
        let call = Call::new(Method::POST, &path, Speaker::Service);
        let call = call.json(&json!({"transaction_id": transaction}))?;
        let call = Call { patience: LARGE_PATIENCE, ..call };
        self.get::<IgnoredAny>(call).await.map(drop)
    }

    /// Makes the service's own user, and [`DEVICE`] of his; one that is there already stays.
    ///
    /// # Errors
    /// No answer, or a refusal: `M_EXCLUSIVE` for one that is no user of the service.
    pub async fn make_user(&self, user: &UserId) -> Result<(), UpstreamError> {
        let name = "Causeway";
        let body = json!({"type": "m.login.application_service", "username": user.localpart(),
            "device_id": DEVICE, "initial_device_display_name": name});
        let call = Call::new(Method::POST, "/_matrix/client/v3/register", Speaker::Service).json(&body)?;
        let made = self.get::<IgnoredAny>(call).await;
        let Err(UpstreamError::Refused(refusal)) = &made else { return made.map(drop) };
        if refusal.errcode != "M_USER_IN_USE" {
            return made.map(drop);
        }
        if self.has_device(user, DEVICE.into()).await? {
            return Ok(());
        }
        let identifier = json!({"type": "m.id.user", "user": user});
        let body = json!({"type": "m.login.application_service", "identifier": identifier,
            "device_id": DEVICE, "initial_device_display_name": name});
        let call = Call::new(Method::POST, "/_matrix/client/v3/login", Speaker::Service).json(&body)?;
        self.get::<IgnoredAny>(call).await.map(drop)
    }

    async fn has_device(&self, user: &UserId, device: &DeviceId) -> Result<bool, UpstreamError> {
        let path = format!("/_matrix/client/v3/devices/{}", escape(device));
        let asked = self.get::<IgnoredAny>(Call::new(Method::GET, &path, Speaker::User(user))).await;
        found(asked).map(|device| device.is_some())
    }

    /// Whose token it is; `forwarded_for` is from where he came.
    ///
    /// # Errors
    /// No answer, or a refusal, which is the one for him.
    pub async fn whoami(
        &self,
        token: &str,
        acting: &Acting,
        forwarded_for: Option<&HeaderValue>,
    ) -> Result<WhoAmI, UpstreamError> {
        let mut path = "/_matrix/client/v3/account/whoami".to_owned();
        if *acting != Acting::default() {
            path = format!("{path}?{}", acting.query());
        }
        let mut call = Call::new(Method::GET, &path, Speaker::Token(token));
        call.headers.extend(forwarded_for.map(|from| (FORWARDED_FOR, from.clone())));
        self.get(call).await
    }

    /// What the upstream can do.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn versions(&self) -> Result<Versions, UpstreamError> {
        self.get(Call::new(Method::GET, "/_matrix/client/versions", Speaker::Nobody)).await
    }

    /// Whether the upstream is known to say of each state event which one it replaced: it has
    /// version 1.19 of the specification, or is a Synapse, which always has.
    ///
    /// # Errors
    /// No answer.
    pub async fn tells_replaced(&self) -> Result<bool, UpstreamError> {
        #[derive(Deserialize)]
        struct Version {
            #[serde(rename = "server_version")]
            _version: String,
        }
        if self.versions().await?.versions.iter().any(|version| version == "v1.19") {
            return Ok(true);
        }
        let path = "/_synapse/admin/v1/server_version";
        match self.get::<Version>(Call::new(Method::GET, path, Speaker::Nobody)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_outage() => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// The keys that the upstream publishes, as it signed them (server-server API, "Retrieving
    /// server keys"). Not everywhere served at the clients' address.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn key_document(&self) -> Result<Box<RawValue>, UpstreamError> {
        self.get(Call::new(Method::GET, "/_matrix/key/v2/server", Speaker::Nobody)).await
    }
}

/// Who is joined: of each server some users, the least by their ids; service users come first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined(pub BTreeMap<OwnedServerName, Vec<OwnedUserId>>);

impl Joined {
    /// What is no user's name is passed over.
    fn note(&mut self, user: &str) {
        let Ok(user) = UserId::parse(user) else { return };
        let users = self.0.entry(user.server_name().to_owned()).or_default();
        let order = |user: &UserId| (user.localpart() != SERVICE_LOCALPART, user.to_owned());
        let at = users.partition_point(|other| order(other) < order(&user));
        users.insert(at, user);
        users.truncate(USERS_MAX);
    }
}

impl<'de> Deserialize<'de> for Joined {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Users;

        impl<'de> Visitor<'de> for Users {
            type Value = Joined;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("users by their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut users: A) -> Result<Joined, A::Error> {
                let mut joined = Joined::default();
                while let Some((user, IgnoredAny)) = users.next_entry::<String, IgnoredAny>()? {
                    joined.note(&user);
                }
                Ok(joined)
            }
        }

        deserializer.deserialize_map(Users)
    }
}
