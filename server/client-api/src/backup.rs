//! Backups of room keys.

use std::collections::BTreeMap;

use axum::Router;
use causeway_service::{
    backups::{Held, Info, RoomKey, RoomKeys, Which},
    error::MatrixError,
};
use ruma::{
    OwnedRoomId, UInt,
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

use crate::{ClientState, Endpoints, Ruma, request::json_error};

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
        .endpoint(keys)
        .endpoint(keys_of_room)
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

fn write_keys(keys: &BTreeMap<String, RoomKey>) -> Result<RoomKeyBackup, MatrixError> {
    let sessions = keys.iter().map(|(session_id, key)| Ok((session_id.clone(), raw(key)?)));
    Ok(RoomKeyBackup::new(sessions.collect::<Result<_, MatrixError>>()?))
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

fn keys(
    state: &ClientState,
    request: Ruma<get_backup_keys::v3::Request>,
) -> Result<get_backup_keys::v3::Response, MatrixError> {
    let keys = state.backups.keys(&request.auth.user_id, &request.body.version, Which::All)?;
    let rooms = keys.into_iter().map(|(room_id, keys)| Ok((room_id, write_keys(&keys)?)));
    let rooms = rooms.collect::<Result<BTreeMap<OwnedRoomId, _>, MatrixError>>()?;
    Ok(get_backup_keys::v3::Response::new(rooms))
}

fn keys_of_room(
    state: &ClientState,
    request: Ruma<get_backup_keys_for_room::v3::Request>,
) -> Result<get_backup_keys_for_room::v3::Response, MatrixError> {
    let (room_id, version) = (request.body.room_id, &request.body.version);
    let mut keys = state.backups.keys(&request.auth.user_id, version, Which::Room(&room_id))?;
    let sessions = write_keys(&keys.remove(&room_id).unwrap_or_default())?.sessions;
    Ok(get_backup_keys_for_room::v3::Response::new(sessions))
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
