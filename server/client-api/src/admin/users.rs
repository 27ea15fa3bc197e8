//! Users: listing, creating, changing, closing.

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

use super::{Page, Paging, existing_user, local_user, ok};
use crate::{ClientState, Custom, Endpoints, account::close, auth::Admin, json_response};

/// Users that are put in order together.
const SORTED_AT_ONCE: usize = 1_000;

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

    fn is_called(&self, part: &str) -> bool {
        self.user_id.localpart().contains(part) || self.text("displayname").to_lowercase().contains(part)
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
            "is_guest": self.account.guest,
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
    let part = filter.name.as_ref().map(|part| part.to_lowercase());
    let order = paging.order_by();
    let looks_inside = part.is_some() || ["displayname", "avatar_url", "last_seen_ts"].contains(&order);
    let mut first = First::new(&paging, paging.is_backward(false)?);
    state.accounts.each(|user_id, account| {
        if !is_wanted(&user_id, &account) {
            return Ok(());
        }
        let user = if looks_inside {
            Listed::of(state, user_id, account)?
        } else {
            Listed { user_id, account, profile: Map::new(), last_seen_ts: None }
        };
        if part.as_ref().is_none_or(|part| user.is_called(part)) {
            first.offer(Key::of(order, &user), user.user_id);
        }
        Ok(())
    })?;
    let page = first.page(&paging);
    let mut users = Vec::with_capacity(page.entries.len());
    for user_id in page.entries {
        if let Some(account) = state.accounts.account(&user_id)? {
            users.push(Listed::of(state, user_id, account)?);
        }
    }
    answer(&users, page.next, page.total)
}
/// What a list is ordered by; equal ones stay in the order of their names.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Name,
    Flag(bool),
    Time(Option<u64>),
    Text(String),
}

impl Key {
    fn of(order: &str, user: &Listed) -> Self {
        match order {
            "admin" => Self::Flag(user.account.admin),
            "deactivated" => Self::Flag(user.account.deactivated),
            "creation_ts" => Self::Time(Some(user.account.created_ts)),
            "last_seen_ts" => Self::Time(user.last_seen_ts),
            "displayname" | "avatar_url" => Self::Text(user.text(order).to_owned()),
            _ => Self::Name,
        }
    }
}

/// The first users in an order, as many as a page and what is before it.
struct First {
    is_backward: bool,
    wanted: usize,
    total: usize,
    held: Vec<(Key, OwnedUserId)>,
}

impl First {
    fn new(paging: &Paging, is_backward: bool) -> Self {
        Self { is_backward, wanted: paging.end(), total: 0, held: Vec::new() }
    }

    fn offer(&mut self, key: Key, user_id: OwnedUserId) {
        self.total += 1;
        self.held.push((key, user_id));
        if self.held.len() >= self.wanted.saturating_mul(2).saturating_add(SORTED_AT_ONCE) {
            self.sort();
            self.held.truncate(self.wanted);
        }
    }

    fn sort(&mut self) {
        let is_backward = self.is_backward;
        self.held.sort_unstable_by(|a, b| if is_backward { b.cmp(a) } else { a.cmp(b) });
    }

    fn page(mut self, paging: &Paging) -> Page<OwnedUserId> {
        self.sort();
        paging.cut_of(self.held.into_iter().map(|(_, user_id)| user_id), self.total)
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
