//! Users: listing, creating, changing, closing.

use std::cmp::Ordering;

use axum::{Router, response::Response};
use causeway_service::{
    accounts::{Account, Change},
    devices::Session,
    error::MatrixError,
    profiles::Profiles,
};
use http::{Method, StatusCode};
use ruma::{OwnedDeviceId, OwnedUserId, UserId, events::room::member::MembershipState};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Paging, existing_user, local_user, ok};
use crate::{ClientState, Custom, Endpoints, account::close, auth::Admin, json_response};

/// Devices that one request may delete.
const DELETED_AT_ONCE_MAX: usize = 1_000;

const WHOIS: &[&str] = &["/_matrix/client/r0/admin/whois/{user}", "/_matrix/client/v3/admin/whois/{user}"];
const LIST: &[&str] = &["/_synapse/admin/v2/users"];
const LIST_V3: &[&str] = &["/_synapse/admin/v3/users"];
const USER: &[&str] = &["/_synapse/admin/v2/users/{user}"];
const DEVICES: &[&str] = &["/_synapse/admin/v2/users/{user}/devices"];
const DEVICE: &[&str] = &["/_synapse/admin/v2/users/{user}/devices/{device}"];
const DELETE_DEVICES: &[&str] = &["/_synapse/admin/v2/users/{user}/delete_devices"];
const ADMIN: &[&str] = &["/_synapse/admin/v1/users/{user}/admin"];

pub(super) fn routes() -> Router<ClientState> {
    Router::new()
        .admin(Method::GET, LIST, list)
        .admin(Method::GET, LIST_V3, list_v3)
        .admin(Method::GET, USER, show)
        .admin(Method::PUT, USER, put)
        .admin(Method::GET, DEVICES, devices)
        .admin(Method::DELETE, DEVICE, delete_device)
        .admin(Method::POST, DELETE_DEVICES, delete_devices)
        .admin(Method::GET, ADMIN, is_admin)
        .admin(Method::PUT, ADMIN, set_admin)
        .admin(Method::GET, &["/_synapse/admin/v1/users/{user}/joined_rooms"], joined_rooms)
        .admin(Method::POST, &["/_synapse/admin/v1/deactivate/{user}"], deactivate)
        .admin(Method::POST, &["/_synapse/admin/v1/reset_password/{user}"], reset_password)
        .admin(Method::GET, &["/_synapse/admin/v1/username_available"], name_available)
        .admin(Method::GET, &["/_synapse/admin/v1/whois/{user}"], whois)
        .custom_unlimited(Method::GET, WHOIS, whois_or_who_am_i)
}

#[derive(Deserialize)]
struct Filter {
    user_id: Option<String>,
    name: Option<String>,
    admins: Option<bool>,
    deactivated: Option<bool>,
    locked: Option<bool>,
}

/// A user as he is listed.
struct Listed {
    user_id: OwnedUserId,
    account: Account,
    profile: Map<String, Value>,
    last_seen_ts: Option<u64>,
}

impl Listed {
    fn of(state: &ClientState, user_id: OwnedUserId, account: Account) -> Result<Self, MatrixError> {
        let profile = state.profiles.profile(&user_id)?;
        let devices = state.devices.list(&user_id)?;
        let last_seen_ts = devices.iter().map(|(_, device)| device.last_seen_ts).max();
        Ok(Self { user_id, account, profile, last_seen_ts })
    }

    fn text(&self, field: &str) -> &str {
        self.profile.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    fn json(&self) -> Value {
        json!({
            "name": self.user_id,
            "displayname": self.profile.get("displayname"),
            "avatar_url": self.profile.get("avatar_url"),
            "admin": self.account.admin,
            "deactivated": self.account.deactivated,
            "erased": self.account.erased,
            "locked": self.account.locked,
            "suspended": self.account.suspended,
            "creation_ts": self.account.created_ts,
            "last_seen_ts": self.last_seen_ts,
            "is_guest": false,
            "shadow_banned": false,
            "user_type": null,
        })
    }
}

/// Closed accounts are left out unless they are asked for.
fn list(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let filter: Filter = request.query()?;
    let closed = if filter.deactivated == Some(true) { None } else { Some(false) };
    listed(state, &request, &filter, closed)
}

/// Closed accounts are listed unless the request says otherwise.
fn list_v3(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let filter: Filter = request.query()?;
    listed(state, &request, &filter, filter.deactivated)
}

fn listed(
    state: &ClientState,
    request: &Custom<Admin>,
    filter: &Filter,
    closed: Option<bool>,
) -> Result<Response, MatrixError> {
    let paging = Paging::of(request)?;
    let is_wanted = |user_id: &UserId, account: &Account| {
        let by_id = filter.user_id.as_ref().filter(|_| filter.name.is_none());
        by_id.is_none_or(|part| user_id.as_str().contains(part.as_str()))
            && filter.admins.is_none_or(|admins| admins == account.admin)
            && closed.is_none_or(|closed| closed == account.deactivated)
            && (filter.locked == Some(true) || !account.locked)
    };
    let accounts = state.accounts.list()?.into_iter();
    let mut found: Vec<_> = accounts.filter(|(user_id, account)| is_wanted(user_id, account)).collect();
    let order = paging.order_by();
    let looks_inside =
        filter.name.is_some() || ["displayname", "avatar_url", "last_seen_ts"].contains(&order);
    if !looks_inside {
        found.sort_by(|(_, a), (_, b)| by_account(order, a, b));
        if paging.is_backward(false)? {
            found.reverse();
        }
        let page = paging.cut(found);
        let users = page.entries.into_iter().map(|(user_id, account)| Listed::of(state, user_id, account));
        return answer(&users.collect::<Result<Vec<_>, _>>()?, page.next, page.total);
    }
    let users = found.into_iter().map(|(user_id, account)| Listed::of(state, user_id, account));
    let mut users = users.collect::<Result<Vec<_>, _>>()?;
    if let Some(part) = filter.name.as_ref().map(|part| part.to_lowercase()) {
        users.retain(|user| {
            user.user_id.localpart().contains(&part)
                || user.text("displayname").to_lowercase().contains(&part)
        });
    }
    users.sort_by(|a, b| match order {
        "displayname" | "avatar_url" => a.text(order).cmp(b.text(order)),
        "last_seen_ts" => a.last_seen_ts.cmp(&b.last_seen_ts),
        _ => by_account(order, &a.account, &b.account),
    });
    if paging.is_backward(false)? {
        users.reverse();
    }
    let page = paging.cut(users);
    answer(&page.entries, page.next, page.total)
}

/// By name where nothing else is said: that is how they come.
fn by_account(order: &str, a: &Account, b: &Account) -> Ordering {
    match order {
        "admin" => a.admin.cmp(&b.admin),
        "deactivated" => a.deactivated.cmp(&b.deactivated),
        "creation_ts" => a.created_ts.cmp(&b.created_ts),
        _ => Ordering::Equal,
    }
}

fn answer(users: &[Listed], next: Option<usize>, total: usize) -> Result<Response, MatrixError> {
    let mut answer = json!({ "users": users.iter().map(Listed::json).collect::<Vec<_>>(), "total": total });
    if let Some(next) = next {
        answer["next_token"] = next.to_string().into();
    }
    ok(&answer)
}

fn show(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let (user_id, account) = existing_user(state, &request.path[0])?;
    ok(&described(state, user_id, account)?)
}

fn described(state: &ClientState, user_id: OwnedUserId, account: Account) -> Result<Value, MatrixError> {
    let mut described = Listed::of(state, user_id, account)?.json();
    for list in ["threepids", "external_ids"] {
        described[list] = json!([]);
    }
    for field in ["appservice_id", "consent_server_notice_sent", "consent_version", "consent_ts"] {
        described[field] = Value::Null;
    }
    Ok(described)
}

/// What an account is to be; a field that is left out stays as it is.
#[derive(Deserialize)]
struct Wish {
    password: Option<String>,
    #[serde(default = "yes")]
    logout_devices: bool,
    displayname: Option<String>,
    avatar_url: Option<String>,
    admin: Option<bool>,
    deactivated: Option<bool>,
    locked: Option<bool>,
}

const fn yes() -> bool {
    true
}

fn put(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let wish: Wish = request.json()?;
    let mut user_id = local_user(state, &request.path[0])?;
    let is_own = request.auth.user_id() == Some(&*user_id);
    if is_own && (wish.admin == Some(false) || wish.deactivated == Some(true) || wish.locked == Some(true)) {
        return Err(MatrixError::new(400, "M_UNKNOWN", "You may not lock yourself out"));
    }
    // Before anything is done: what is refused has changed nothing.
    wish.password.as_deref().map_or(Ok(()), |password| state.accounts.check_password(password))?;
    let profile = [("displayname", &wish.displayname), ("avatar_url", &wish.avatar_url)];
    for (field, value) in profile {
        value.as_deref().map_or(Ok(()), |value| Profiles::check(field, value))?;
    }
    let status = match state.accounts.account(&user_id)? {
        None => {
            let is_admin = wish.admin.unwrap_or_default();
            // Capitals are lowered.
            user_id =
                state.accounts.register(Some(user_id.localpart()), wish.password.as_deref(), is_admin)?;
            if wish.locked == Some(true) {
                state.accounts.set_locked(&user_id, true)?;
            }
            StatusCode::CREATED
        }
        Some(before) => {
            change(state, &user_id, &before, &wish)?;
            StatusCode::OK
        }
    };
    for (field, value) in profile {
        if let Some(value) = value {
            state.profiles.set(&user_id, field, Some(value.as_str().into()))?;
        }
    }
    if wish.deactivated == Some(true) {
        close(state, &user_id, false)?;
    }
    let (user_id, account) = existing_user(state, user_id.as_str())?;
    Ok(json_response(status, &described(state, user_id, account)?))
}

fn change(state: &ClientState, user_id: &UserId, before: &Account, wish: &Wish) -> Result<(), MatrixError> {
    let reactivate = before.deactivated && wish.deactivated == Some(false);
    if before.deactivated && !reactivate && wish.password.is_some() {
        return Err(MatrixError::invalid_param("The account is deactivated: activate it, too"));
    }
    let password = wish.password.as_deref();
    let wanted = Change { password, admin: wish.admin, locked: wish.locked, reactivate };
    state.accounts.change(user_id, &wanted)?;
    if password.is_some() && wish.logout_devices {
        state.devices.delete_all(user_id, None)?;
    }
    Ok(())
}

fn devices(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let (user_id, _) = existing_user(state, &request.path[0])?;
    let devices: Vec<Value> = state
        .devices
        .list(&user_id)?
        .into_iter()
        .map(|(device_id, device)| {
            json!({
                "device_id": device_id,
                "display_name": device.display_name,
                "last_seen_ip": device.last_seen_ip,
                "last_seen_ts": device.last_seen_ts,
                "last_seen_user_agent": null,
                "user_id": user_id,
            })
        })
        .collect();
    ok(&json!({ "total": devices.len(), "devices": devices }))
}

fn delete_device(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let (user_id, _) = existing_user(state, &request.path[0])?;
    state.devices.delete(&user_id, &[request.path[1].as_str().into()])?;
    ok(&json!({}))
}

fn delete_devices(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Doomed {
        devices: Vec<OwnedDeviceId>,
    }
    let (user_id, _) = existing_user(state, &request.path[0])?;
    let doomed: Doomed = request.json()?;
    if doomed.devices.len() > DELETED_AT_ONCE_MAX {
        return Err(MatrixError::too_large("Too many devices in one request"));
    }
    state.devices.delete(&user_id, &doomed.devices)?;
    ok(&json!({}))
}

fn is_admin(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let (_, account) = existing_user(state, &request.path[0])?;
    ok(&json!({ "admin": account.admin }))
}

fn set_admin(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Wanted {
        admin: bool,
    }
    let (user_id, _) = existing_user(state, &request.path[0])?;
    let wanted: Wanted = request.json()?;
    if request.auth.user_id() == Some(&*user_id) && !wanted.admin {
        return Err(MatrixError::new(400, "M_UNKNOWN", "You may not demote yourself"));
    }
    state.accounts.set_admin(&user_id, wanted.admin)?;
    ok(&json!({}))
}

fn joined_rooms(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let user_id = local_user(state, &request.path[0])?;
    let rooms = state.rooms.memberships_of(&user_id)?.into_iter();
    let joined: Vec<_> = rooms
        .filter(|(_, member)| member.membership == MembershipState::Join)
        .map(|(room_id, _)| room_id)
        .collect();
    ok(&json!({ "total": joined.len(), "joined_rooms": joined }))
}

fn deactivate(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Wanted {
        #[serde(default)]
        erase: bool,
    }
    let (user_id, _) = existing_user(state, &request.path[0])?;
    let wanted: Wanted = request.json()?;
    close(state, &user_id, wanted.erase)?;
    ok(&json!({ "id_server_unbind_result": "success" }))
}

fn reset_password(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Wanted {
        new_password: String,
        #[serde(default = "yes")]
        logout_devices: bool,
    }
    let (user_id, account) = existing_user(state, &request.path[0])?;
    let wanted: Wanted = request.json()?;
    if account.deactivated {
        return Err(MatrixError::invalid_param("The account is deactivated"));
    }
    state.accounts.set_password(&user_id, &wanted.new_password)?;
    if wanted.logout_devices {
        state.devices.delete_all(&user_id, None)?;
    }
    ok(&json!({}))
}

fn name_available(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Wanted {
        username: String,
    }
    let wanted: Wanted = request.query()?;
    state.accounts.check_available(&wanted.username)?;
    ok(&json!({ "available": true }))
}

fn whois(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let (user_id, _) = existing_user(state, &request.path[0])?;
    sessions(state, &user_id)
}

/// Client-server API, "Server Administration": also for oneself.
fn whois_or_who_am_i(state: &ClientState, request: Custom<Session>) -> Result<Response, MatrixError> {
    let own = &request.auth.user_id;
    if own.as_str() != request.path[0] {
        Admin::identify(state, &request.head)?;
    }
    let (user_id, _) = existing_user(state, &request.path[0])?;
    sessions(state, &user_id)
}

fn sessions(state: &ClientState, user_id: &UserId) -> Result<Response, MatrixError> {
    let devices: Map<String, Value> = state
        .devices
        .list(user_id)?
        .into_iter()
        .map(|(device_id, device)| {
            let connection = json!({
                "ip": device.last_seen_ip, "last_seen": device.last_seen_ts, "user_agent": null });
            (device_id.to_string(), json!({ "sessions": [{ "connections": [connection] }] }))
        })
        .collect();
    ok(&json!({ "user_id": user_id, "devices": devices }))
}
