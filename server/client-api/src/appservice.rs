//! What clients and application services ask of each other through this server: pings,
//! third-party networks, and users and aliases that a service makes when they are asked for.

use axum::{Router, response::Response};
use causeway_service::{appservices::questions::Question, error::MatrixError};
use http::{Method, StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ruma::{RoomAliasId, UserId, api::client::appservice::request_ping};
use serde_json::{Map, Value, json};

use crate::{ClientState, Custom, Endpoints, Ruma, json_response};

const PROTOCOLS: &[&str] =
    &["/_matrix/client/r0/thirdparty/protocols", "/_matrix/client/v3/thirdparty/protocols"];
const PROTOCOL: &[&str] = &[
    "/_matrix/client/r0/thirdparty/protocol/{protocol}",
    "/_matrix/client/v3/thirdparty/protocol/{protocol}",
];
const LOCATIONS: &[&str] =
    &["/_matrix/client/r0/thirdparty/location", "/_matrix/client/v3/thirdparty/location"];
const LOCATIONS_OF: &[&str] = &[
    "/_matrix/client/r0/thirdparty/location/{protocol}",
    "/_matrix/client/v3/thirdparty/location/{protocol}",
];
const USERS: &[&str] = &["/_matrix/client/r0/thirdparty/user", "/_matrix/client/v3/thirdparty/user"];
const USERS_OF: &[&str] =
    &["/_matrix/client/r0/thirdparty/user/{protocol}", "/_matrix/client/v3/thirdparty/user/{protocol}"];
const RELOAD: &[&str] = &["/_causeway/admin/v1/appservices/reload"];

/// Bytes of a query that is passed on to services.
const QUERY_BYTES_MAX: usize = 4_096;

/// Everything but RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .endpoint_async_raw(ping)
        .custom_async(Method::GET, PROTOCOLS, protocols)
        .custom_async(Method::GET, PROTOCOL, protocol)
        .custom_async(Method::GET, LOCATIONS, |state, request| everywhere(state, request, "location"))
        .custom_async(Method::GET, LOCATIONS_OF, |state, request| of_protocol(state, request, "location"))
        .custom_async(Method::GET, USERS, |state, request| everywhere(state, request, "user"))
        .custom_async(Method::GET, USERS_OF, |state, request| of_protocol(state, request, "user"))
        .admin_async(Method::POST, RELOAD, reload)
}

/// Lets the service that may know this user make him, if he is of this server.
pub(crate) async fn user_is_wanted(state: &ClientState, user_id: &UserId) -> Result<(), MatrixError> {
    if user_id.server_name() != state.settings.server_name {
        return Ok(());
    }
    let (looking, wanted) = (state.clone(), user_id.to_owned());
    let is_made = move || Ok(looking.accounts.account(&wanted)?.is_some());
    state.appservices.user_is_wanted(user_id, is_made).await
}

/// The same for an alias.
pub(crate) async fn alias_is_wanted(state: &ClientState, alias: &RoomAliasId) -> Result<(), MatrixError> {
    let (looking, wanted) = (state.clone(), alias.to_owned());
    let is_made = move || Ok(looking.directory.room_of(&wanted).is_ok());
    state.appservices.alias_is_wanted(alias, is_made).await
}

async fn ping(state: ClientState, request: Ruma<request_ping::v1::Request>) -> Result<Response, MatrixError> {
    if *request.body.appservice_id != *request.auth.id {
        return Err(MatrixError::forbidden("This is another application service's id"));
    }
    let (service, transaction_id) = (request.body.appservice_id, request.body.transaction_id);
    let transaction_id = transaction_id.map(|transaction_id| transaction_id.to_string());
    let ask = |reply| Question::Ping { service, transaction_id, reply };
    let answer = state.appservices.questions.ask(ask).await?;
    Ok(json_response(StatusCode::OK, &answer))
}

/// What the networks of all services are, those of one network merged.
async fn protocols(state: ClientState, _request: Custom) -> Result<Response, MatrixError> {
    let mut names: Vec<String> =
        state.appservices.all().iter().flat_map(|service| service.protocols.clone()).collect();
    names.sort();
    names.dedup();
    let mut known = Map::new();
    for name in names {
        if let Some(found) = described(&state, &name).await? {
            known.insert(name, found);
        }
    }
    Ok(json_response(StatusCode::OK, &Value::Object(known)))
}

async fn protocol(state: ClientState, request: Custom) -> Result<Response, MatrixError> {
    let found = described(&state, &request.path[0]).await?;
    let found = found.ok_or_else(|| MatrixError::not_found("No such protocol"))?;
    Ok(json_response(StatusCode::OK, &found))
}

/// One network, with the instances of all services that serve it.
async fn described(state: &ClientState, name: &str) -> Result<Option<Value>, MatrixError> {
    let path = format!("protocol/{}", escape(name));
    let mut answers = ask(state, Some(name), path).await?.into_iter().filter(Value::is_object);
    let Some(mut first) = answers.next() else { return Ok(None) };
    let mut instances = first["instances"].as_array().cloned().unwrap_or_default();
    for mut other in answers {
        instances.extend(other["instances"].as_array_mut().map(std::mem::take).unwrap_or_default());
    }
    first["instances"] = Value::Array(instances);
    Ok(Some(first))
}

async fn of_protocol(state: ClientState, request: Custom, what: &str) -> Result<Response, MatrixError> {
    let name = &request.path[0];
    let path = format!("{what}/{}{}", escape(name), passed_on(&request.head.uri)?);
    let found = ask(&state, Some(name), path).await?;
    Ok(json_response(StatusCode::OK, &lists(found)))
}

async fn everywhere(state: ClientState, request: Custom, what: &str) -> Result<Response, MatrixError> {
    let found = ask(&state, None, format!("{what}{}", passed_on(&request.head.uri)?)).await?;
    Ok(json_response(StatusCode::OK, &lists(found)))
}

async fn ask(state: &ClientState, protocol: Option<&str>, path: String) -> Result<Vec<Value>, MatrixError> {
    let serves = |name: &str| {
        state.appservices.all().iter().any(|service| service.protocols.iter().any(|known| known == name))
    };
    if protocol.is_some_and(|name| !serves(name)) || state.appservices.all().is_empty() {
        return Ok(Vec::new());
    }
    let protocol = protocol.map(str::to_owned);
    state.appservices.questions.ask(|reply| Question::ThirdParty { protocol, path, reply }).await
}

/// All that is in lists, in one.
fn lists(found: Vec<Value>) -> Value {
    let all =
        found.into_iter().filter_map(|list| if let Value::Array(list) = list { Some(list) } else { None });
    Value::Array(all.flatten().collect())
}

/// The query, written anew: without the tokens, which are nobody else's business.
fn passed_on(uri: &Uri) -> Result<String, MatrixError> {
    let query = uri.query().unwrap_or_default();
    if query.len() > QUERY_BYTES_MAX {
        return Err(MatrixError::too_large("The query is too long"));
    }
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let secret = ["access_token", "user_id", "device_id"];
    let kept: Vec<String> = pairs
        .filter(|(name, _)| !secret.contains(&&**name))
        .map(|(name, value)| format!("{}={}", escape(&name), escape(&value)))
        .collect();
    Ok(if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) })
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// Reads the registrations again.
async fn reload(state: ClientState, _request: Custom<crate::auth::Admin>) -> Result<Response, MatrixError> {
    let count = state.appservices.questions.ask(|reply| Question::Reload { reply }).await?;
    Ok(json_response(StatusCode::OK, &json!({ "appservices": count })))
}
