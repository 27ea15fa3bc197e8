//! Backups of room keys.
//!
//! Invariant: no whole backup is held in memory: its keys are told as they are read.

use std::collections::BTreeMap;

use axum::{Router, body::Body, response::Response};
use bytes::Bytes;
use causeway_service::{
    backups::{Held, Info, RoomKey, RoomKeys, Which},
    error::MatrixError,
};
use futures_util::{StreamExt, stream};
use http::{HeaderValue, header};
use ruma::{
    OwnedRoomId, OwnedUserId, UInt,
    api::client::backup::{
        BackupAlgorithm, KeyBackupData, RoomKeyBackup, add_backup_keys, add_backup_keys_for_room,
        add_backup_keys_for_session, create_backup_version, delete_backup_keys, delete_backup_keys_for_room,
        delete_backup_keys_for_session, delete_backup_version, get_backup_info, get_backup_keys,
        get_backup_keys_for_room, get_backup_keys_for_session, get_latest_backup_info, update_backup_version,
    },
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{ClientState, Endpoints, Ruma, blocking, request::json_error};

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .endpoint(create)
        .endpoint(latest)
        .endpoint(info)
        .endpoint(update)
        .endpoint(delete)
        .endpoint(add)
        .endpoint(add_for_room)
        .endpoint(add_for_session)
        .endpoint_raw(keys)
        .endpoint_raw(keys_of_room)
        .endpoint(key_of_session)
        .endpoint(remove)
        .endpoint(remove_of_room)
        .endpoint(remove_of_session)
}

/// The public part of a backup, as it is sent and answered.
#[derive(Serialize, Deserialize)]
struct Public {
    algorithm: String,
    auth_data: Box<RawValue>,
    #[serde(skip_serializing)]
    version: Option<String>,
}

impl Public {
    fn parse(raw: &Raw<BackupAlgorithm>) -> Result<Self, MatrixError> {
        serde_json::from_str(raw.json().get()).map_err(|error| json_error(&error))
    }

    fn of(info: &Info) -> Result<Raw<BackupAlgorithm>, MatrixError> {
        let (algorithm, auth_data) = (info.algorithm.clone(), info.auth_data.clone());
        raw(&Self { algorithm, auth_data, version: None })
    }
}

fn raw<T>(value: &impl Serialize) -> Result<Raw<T>, MatrixError> {
    let raw = to_raw_value(value).map_err(|error| MatrixError::internal(&error))?;
    Ok(Raw::from_json(raw))
}

fn parse_key(raw: &Raw<KeyBackupData>) -> Result<RoomKey, MatrixError> {
    serde_json::from_str(raw.json().get()).map_err(|error| json_error(&error))
}

fn parse_keys(backup: RoomKeyBackup) -> Result<BTreeMap<String, RoomKey>, MatrixError> {
    backup.sessions.into_iter().map(|(session_id, key)| Ok((session_id, parse_key(&key)?))).collect()
}

fn count(held: &Held) -> UInt {
    UInt::new_saturating(held.count)
}

fn create(
    state: &ClientState,
    request: Ruma<create_backup_version::v3::Request>,
) -> Result<create_backup_version::v3::Response, MatrixError> {
    let public = Public::parse(&request.body.algorithm)?;
    let version = state.backups.create(&request.auth.user_id, public.algorithm, public.auth_data)?;
    Ok(create_backup_version::v3::Response::new(version))
}

fn latest(
    state: &ClientState,
    request: Ruma<get_latest_backup_info::v3::Request>,
) -> Result<get_latest_backup_info::v3::Response, MatrixError> {
    let info = state.backups.latest(&request.auth.user_id)?;
    let (public, count) = (Public::of(&info)?, count(&info.held));
    Ok(get_latest_backup_info::v3::Response::new(public, count, info.held.etag, info.version))
}

fn info(
    state: &ClientState,
    request: Ruma<get_backup_info::v3::Request>,
) -> Result<get_backup_info::v3::Response, MatrixError> {
    let info = state.backups.info(&request.auth.user_id, &request.body.version)?;
    let (public, count) = (Public::of(&info)?, count(&info.held));
    Ok(get_backup_info::v3::Response::new(public, count, info.held.etag, info.version))
}

fn update(
    state: &ClientState,
    request: Ruma<update_backup_version::v3::Request>,
) -> Result<update_backup_version::v3::Response, MatrixError> {
    let Public { algorithm, auth_data, version } = Public::parse(&request.body.algorithm)?;
    let (user_id, of) = (&request.auth.user_id, &request.body.version);
    state.backups.update(user_id, of, version.as_deref(), &algorithm, auth_data)?;
    Ok(update_backup_version::v3::Response::new())
}

fn delete(
    state: &ClientState,
    request: Ruma<delete_backup_version::v3::Request>,
) -> Result<delete_backup_version::v3::Response, MatrixError> {
    state.backups.delete(&request.auth.user_id, &request.body.version)?;
    Ok(delete_backup_version::v3::Response::new())
}

fn add(
    state: &ClientState,
    request: Ruma<add_backup_keys::v3::Request>,
) -> Result<add_backup_keys::v3::Response, MatrixError> {
    let rooms = request.body.rooms.into_iter().map(|(room_id, keys)| Ok((room_id, parse_keys(keys)?)));
    let rooms = rooms.collect::<Result<RoomKeys, MatrixError>>()?;
    let held = state.backups.add(&request.auth.user_id, &request.body.version, &rooms)?;
    let count = count(&held);
    Ok(add_backup_keys::v3::Response::new(held.etag, count))
}

fn add_for_room(
    state: &ClientState,
    request: Ruma<add_backup_keys_for_room::v3::Request>,
) -> Result<add_backup_keys_for_room::v3::Response, MatrixError> {
    let keys = parse_keys(RoomKeyBackup::new(request.body.sessions))?;
    let rooms = RoomKeys::from([(request.body.room_id, keys)]);
    let held = state.backups.add(&request.auth.user_id, &request.body.version, &rooms)?;
    let count = count(&held);
    Ok(add_backup_keys_for_room::v3::Response::new(held.etag, count))
}

fn add_for_session(
    state: &ClientState,
    request: Ruma<add_backup_keys_for_session::v3::Request>,
) -> Result<add_backup_keys_for_session::v3::Response, MatrixError> {
    let body = request.body;
    let keys = BTreeMap::from([(body.session_id, parse_key(&body.session_data)?)]);
    let rooms = RoomKeys::from([(body.room_id, keys)]);
    let held = state.backups.add(&request.auth.user_id, &body.version, &rooms)?;
    let count = count(&held);
    Ok(add_backup_keys_for_session::v3::Response::new(held.etag, count))
}

fn keys(state: &ClientState, request: Ruma<get_backup_keys::v3::Request>) -> Result<Response, MatrixError> {
    told(state, Reading::new(request.auth.user_id, request.body.version, None))
}

fn keys_of_room(
    state: &ClientState,
    request: Ruma<get_backup_keys_for_room::v3::Request>,
) -> Result<Response, MatrixError> {
    let get_backup_keys_for_room::v3::Request { version, room_id, .. } = request.body;
    told(state, Reading::new(request.auth.user_id, version, Some(room_id)))
}

/// All keys, or those of a room, as they are read: a backup is too large to be
/// held. It is begun here, so that what is unknown has an error for an answer.
fn told(state: &ClientState, mut reading: Reading) -> Result<Response, MatrixError> {
    let first = reading.next(state)?;
    let state = state.clone();
    let rest = stream::try_unfold(reading, move |mut reading| {
        let state = state.clone();
        async move {
            if reading.is_done {
                return Ok(None);
            }
            blocking(move || Ok(Some((reading.next(&state)?, reading)))).await
        }
    });
    let first = stream::once(std::future::ready(Ok::<_, MatrixError>(first)));
    let mut response = Response::new(Body::from_stream(first.chain(rest)));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

/// How far the text of an answer has come.
struct Reading {
    user_id: OwnedUserId,
    version: String,
    /// Only this room's.
    room_id: Option<OwnedRoomId>,
    /// The room whose keys are being told.
    open: Option<OwnedRoomId>,
    from: Option<Vec<u8>>,
    has_begun: bool,
    is_done: bool,
}

impl Reading {
    fn new(user_id: OwnedUserId, version: String, room_id: Option<OwnedRoomId>) -> Self {
        let (open, from) = (room_id.clone(), None);
        Self { user_id, version, room_id, open, from, has_begun: false, is_done: false }
    }

    /// The next piece of the text.
    fn next(&mut self, state: &ClientState) -> Result<Bytes, MatrixError> {
        let which = self.room_id.as_deref().map_or(Which::All, Which::Room);
        let page = state.backups.keys(&self.user_id, &self.version, which, self.from.as_deref())?;
        let mut text = String::new();
        // A comma comes before everything but the first of its object.
        let mut is_first = !std::mem::replace(&mut self.has_begun, true);
        if is_first {
            text.push_str(if self.room_id.is_some() { r#"{"sessions":{"# } else { r#"{"rooms":{"# });
        }
        for (room_id, session_id, key) in page.keys {
            if self.open.as_ref() != Some(&room_id) {
                text.push_str(if self.open.is_some() { "}}," } else { "" });
                write(&mut text, &room_id)?;
                text.push_str(r#":{"sessions":{"#);
                (self.open, is_first) = (Some(room_id), true);
            }
            text.push_str(if is_first { "" } else { "," });
            is_first = false;
            write(&mut text, &session_id)?;
            text.push(':');
            write(&mut text, &key)?;
        }
        self.from = page.next;
        self.is_done = self.from.is_none();
        if self.is_done {
            text.push_str(if self.room_id.is_none() && self.open.is_some() { "}}}}" } else { "}}" });
        }
        Ok(text.into())
    }
}

fn write(text: &mut String, value: &impl Serialize) -> Result<(), MatrixError> {
    text.push_str(&serde_json::to_string(value).map_err(|error| MatrixError::internal(&error))?);
    Ok(())
}

fn key_of_session(
    state: &ClientState,
    request: Ruma<get_backup_keys_for_session::v3::Request>,
) -> Result<get_backup_keys_for_session::v3::Response, MatrixError> {
    let get_backup_keys_for_session::v3::Request { version, room_id, session_id, .. } = request.body;
    let key = state.backups.session_key(&request.auth.user_id, &version, &room_id, &session_id)?;
    Ok(get_backup_keys_for_session::v3::Response::new(raw(&key)?))
}

fn remove(
    state: &ClientState,
    request: Ruma<delete_backup_keys::v3::Request>,
) -> Result<delete_backup_keys::v3::Response, MatrixError> {
    let held = state.backups.remove(&request.auth.user_id, &request.body.version, Which::All)?;
    let count = count(&held);
    Ok(delete_backup_keys::v3::Response::new(held.etag, count))
}

fn remove_of_room(
    state: &ClientState,
    request: Ruma<delete_backup_keys_for_room::v3::Request>,
) -> Result<delete_backup_keys_for_room::v3::Response, MatrixError> {
    let which = Which::Room(&request.body.room_id);
    let held = state.backups.remove(&request.auth.user_id, &request.body.version, which)?;
    let count = count(&held);
    Ok(delete_backup_keys_for_room::v3::Response::new(held.etag, count))
}

fn remove_of_session(
    state: &ClientState,
    request: Ruma<delete_backup_keys_for_session::v3::Request>,
) -> Result<delete_backup_keys_for_session::v3::Response, MatrixError> {
    let which = Which::Session(&request.body.room_id, &request.body.session_id);
    let held = state.backups.remove(&request.auth.user_id, &request.body.version, which)?;
    let count = count(&held);
    Ok(delete_backup_keys_for_session::v3::Response::new(held.etag, count))
}
