//! End-to-end encryption keys, and messages from device to device.

use axum::{Router, response::Response};
use causeway_service::{
    error::MatrixError,
    keys::{
        CrossSigningKind, Keys, Uploaded,
        remote::{Asked, Query, UserKeys, Wanted},
    },
    remote::RemoteRequest,
    sync::token::SyncToken,
};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use http::{Method, StatusCode};
use ruma::{OwnedServerName, OwnedUserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, future::Future, pin::Pin, time::Duration};
use tokio::time::Sleep;

use crate::{
    ClientState, Custom, Endpoints, blocking, json_response, oauth::account::confirm_reset,
    uiaa::confirm_password,
};

const UPLOAD: &[&str] = &["/_matrix/client/r0/keys/upload", "/_matrix/client/v3/keys/upload"];
const QUERY: &[&str] = &["/_matrix/client/r0/keys/query", "/_matrix/client/v3/keys/query"];
const CLAIM: &[&str] = &["/_matrix/client/r0/keys/claim", "/_matrix/client/v3/keys/claim"];
const CHANGES: &[&str] = &["/_matrix/client/r0/keys/changes", "/_matrix/client/v3/keys/changes"];
const CROSS_SIGNING: &[&str] =
    &["/_matrix/client/unstable/keys/device_signing/upload", "/_matrix/client/v3/keys/device_signing/upload"];
const SIGNATURES: &[&str] =
    &["/_matrix/client/unstable/keys/signatures/upload", "/_matrix/client/v3/keys/signatures/upload"];
const TO_DEVICE: &[&str] = &[
    "/_matrix/client/r0/sendToDevice/{type}/{transaction}",
    "/_matrix/client/v3/sendToDevice/{type}/{transaction}",
];

/// Users and devices that one request may ask for.
const ASKED_MAX: usize = 1_000;

/// How long other servers have to answer, all together, unless the client says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest that a client may wish for.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// Other servers that one request asks at once.
const SERVERS_AT_ONCE: usize = 8;

/// Not ruma's types: keys stay as they were signed, unknown algorithms included.
pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .custom_unlimited(Method::POST, UPLOAD, upload)
        .custom_async_unlimited(Method::POST, QUERY, query)
        .custom_async_unlimited(Method::POST, CLAIM, claim)
        .custom_unlimited(Method::GET, CHANGES, changes)
        .custom_unlimited(Method::POST, CROSS_SIGNING, set_cross_signing)
        .custom_unlimited(Method::POST, SIGNATURES, add_signatures)
        .custom_unlimited(Method::PUT, TO_DEVICE, send_to_device)
}

fn empty() -> Response {
    json_response(StatusCode::OK, &json!({}))
}

fn upload(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(rename = "device_keys")]
        device: Option<Map<String, Value>>,
        #[serde(default, rename = "one_time_keys")]
        one_time: Map<String, Value>,
        #[serde(default, rename = "fallback_keys")]
        fallback: Map<String, Value>,
    }
    let body: Body = request.json()?;
    let uploaded =
        Uploaded { device_keys: body.device, one_time_keys: body.one_time, fallback_keys: body.fallback };
    if request.auth.device().is_none() {
        return Err(MatrixError::new(
            400,
            "M_MISSING_PARAM",
            "Keys are of a device: name one by `device_id`",
        ));
    }
    let mut counts = state.keys.upload(&request.auth, uploaded)?;
    // Clients look for this one, also when it is zero.
    counts.entry("signed_curve25519".to_owned()).or_insert(0);
    Ok(json_response(StatusCode::OK, &json!({ "one_time_key_counts": counts })))
}

async fn query(state: ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Body {
        device_keys: Asked,
        timeout: Option<u64>,
    }
    let Body { device_keys, timeout } = request.json()?;
    if device_keys.values().map(|devices| devices.len().max(1)).sum::<usize>() > ASKED_MAX {
        return Err(MatrixError::too_large("Too many users or devices in one request"));
    }
    let (asker, timeout) = (request.auth.user_id, timeout_of(timeout));
    let (own, for_user, remote) = (state.clone(), asker.clone(), state.remote.clone());
    let Query { mut found, elsewhere } = blocking(move || own.keys.query(&for_user, device_keys)).await?;
    let mut failures = Map::new();
    let mut asking = Asking::new(elsewhere, timeout, |server, asked| {
        let (asker, remote) = (asker.clone(), remote.clone());
        let build = |reply| RemoteRequest::UserKeys { asker, server, asked, timeout, reply };
        async move { remote.request(build).await }
    });
    while let Some((server, asked, answer)) = asking.next().await {
        if let Err(error) = &answer {
            failures.insert(server.to_string(), failure(error));
        }
        let (own, for_user) = (state.clone(), asker.clone());
        found.extend(blocking(move || own.keys.take_answer(&for_user, asked, answer.ok().as_ref())).await?);
    }
    Ok(json_response(StatusCode::OK, &queried(found, failures)))
}

/// Servers that are asked, a few at once and all within one time; what each of
/// them is asked.
struct Asking<'a, A> {
    waiting: BTreeMap<OwnedServerName, A>,
    /// `None` when the time is over: then nobody is asked any more.
    answers: Option<BoxStream<'a, (OwnedServerName, Result<Value, MatrixError>)>>,
    end: Pin<Box<Sleep>>,
}

impl<'a, A: Clone> Asking<'a, A> {
    fn new<F: Future<Output = Result<Value, MatrixError>> + Send + 'a>(
        asked: BTreeMap<OwnedServerName, A>,
        timeout: Duration,
        ask: impl Fn(OwnedServerName, A) -> F + Send + 'a,
    ) -> Self
    where
        A: Send + 'a,
    {
        let asking = asked.clone().into_iter().map(move |(server, what)| {
            let answer = ask(server.clone(), what);
            async move { (server, answer.await) }
        });
        let answers = stream::iter(asking).buffer_unordered(SERVERS_AT_ONCE).boxed();
        Self { waiting: asked, answers: Some(answers), end: Box::pin(tokio::time::sleep(timeout)) }
    }

    /// The next one that answered or, when the time is over, that has not.
    async fn next(&mut self) -> Option<(OwnedServerName, A, Result<Value, MatrixError>)> {
        if let Some(answers) = &mut self.answers {
            let answer = tokio::select! {
                answer = answers.next() => answer,
                () = &mut self.end => None,
            };
            if let Some((server, answer)) = answer {
                let asked = self.waiting.remove(&server)?;
                return Some((server, asked, answer));
            }
            self.answers = None;
        }
        let late = || MatrixError::new(504, "M_UNKNOWN", "The other server did not answer in time");
        self.waiting.pop_first().map(|(server, asked)| (server, asked, Err(late())))
    }
}

/// How long other servers have: as the client wishes, within bounds.
fn timeout_of(wished_ms: Option<u64>) -> Duration {
    wished_ms.map_or(TIMEOUT, |wished_ms| Duration::from_millis(wished_ms).min(TIMEOUT_MAX))
}

fn failure(error: &MatrixError) -> Value {
    let mut failure = error.body();
    failure["status"] = error.status.into();
    failure
}

fn queried(found: BTreeMap<OwnedUserId, UserKeys>, failures: Map<String, Value>) -> Value {
    let mut answer = json!({ "device_keys": {}, "failures": failures });
    for (user_id, keys) in found {
        answer["device_keys"][user_id.as_str()] = json!(keys.devices);
        let others = [
            ("master_keys", keys.master),
            ("self_signing_keys", keys.self_signing),
            ("user_signing_keys", keys.user_signing),
        ];
        for (field, key) in others {
            if let Some(key) = key {
                answer[field][user_id.as_str()] = Value::Object(key);
            }
        }
    }
    answer
}

async fn claim(state: ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Body {
        one_time_keys: Wanted,
        timeout: Option<u64>,
    }
    let Body { one_time_keys, timeout } = request.json()?;
    if one_time_keys.values().map(BTreeMap::len).sum::<usize>() > ASKED_MAX {
        return Err(MatrixError::too_large("Too many devices in one request"));
    }
    let timeout = timeout_of(timeout);
    let (mut local, mut elsewhere) = (Wanted::new(), BTreeMap::<OwnedServerName, Wanted>::new());
    for (user_id, devices) in one_time_keys {
        if user_id.server_name() == state.settings.server_name {
            local.insert(user_id, devices);
        } else {
            let server = user_id.server_name().to_owned();
            elsewhere.entry(server).or_default().insert(user_id, devices);
        }
    }
    let own = state.clone();
    let mut claimed = blocking(move || own.keys.claim_all(&local)).await?;
    let mut failures = Map::new();
    let (asker, remote) = (request.auth.user_id, state.remote.clone());
    let mut asking = Asking::new(elsewhere, timeout, |server, wanted| {
        let (asker, remote) = (asker.clone(), remote.clone());
        let build = |reply| RemoteRequest::ClaimKeys { asker, server, wanted, timeout, reply };
        async move { remote.request(build).await }
    });
    while let Some((server, wanted, answer)) = asking.next().await {
        match answer {
            Ok(answer) => claimed.extend(Keys::claimed_elsewhere(&wanted, &answer)),
            Err(error) => drop(failures.insert(server.to_string(), failure(&error))),
        }
    }
    Ok(json_response(StatusCode::OK, &json!({ "one_time_keys": claimed, "failures": failures })))
}

/// Whose keys changed between two sync tokens, and who is gone.
fn changes(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Query {
        from: String,
        to: String,
    }
    let query: Query = request.query()?;
    let token = |token: &str| {
        let token: Result<SyncToken, _> = token.parse();
        token.map_err(|_| MatrixError::invalid_param("Invalid token"))
    };
    let (from, to) = (token(&query.from)?, token(&query.to)?);
    let lists = state.sync.device_lists_between(&request.auth.user_id, from, to)?;
    Ok(json_response(StatusCode::OK, &json!(lists)))
}

fn set_cross_signing(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(rename = "master_key")]
        master: Option<Map<String, Value>>,
        #[serde(rename = "self_signing_key")]
        self_signing: Option<Map<String, Value>>,
        #[serde(rename = "user_signing_key")]
        user_signing: Option<Map<String, Value>>,
    }
    let body: Body = request.json()?;
    let user_id = &request.auth.user_id;
    let keys = [
        (CrossSigningKind::Master, body.master),
        (CrossSigningKind::SelfSigning, body.self_signing),
        (CrossSigningKind::UserSigning, body.user_signing),
    ];
    let keys: Vec<_> = keys.into_iter().filter_map(|(kind, key)| key.map(|key| (kind, key))).collect();
    // The first keys need no confirmation, and neither do those that are there.
    if !state.keys.set_cross_signing(user_id, keys.clone(), false)? {
        match &state.oauth {
            Some(oauth) if state.devices.is_by_oauth(user_id, &request.auth.device_id)? => {
                confirm_reset(state, oauth, &request.auth)?;
            }
            _ if request.auth.appservice.is_some() => {}
            _ => drop(confirm_password(state, &request.auth, "replace cross-signing keys", &request.raw)?),
        }
        state.keys.set_cross_signing(user_id, keys, true)?;
    }
    Ok(empty())
}

fn add_signatures(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let body: BTreeMap<OwnedUserId, BTreeMap<String, Map<String, Value>>> = request.json()?;
    if body.values().map(BTreeMap::len).sum::<usize>() > ASKED_MAX {
        return Err(MatrixError::too_large("Too many signatures in one request"));
    }
    let mut failures: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for (user_id, targets) in body {
        for (target, signed) in targets {
            let added = if user_id == request.auth.user_id {
                state.keys.add_signatures(&user_id, &target, &signed)
            } else {
                state.keys.sign_user(&request.auth.user_id, &user_id, &target, &signed)
            };
            if let Err(error) = added {
                failures.entry(user_id.to_string()).or_default().insert(target, error.body());
            }
        }
    }
    Ok(json_response(StatusCode::OK, &json!({ "failures": failures })))
}

fn send_to_device(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Body {
        messages: Map<String, Value>,
    }
    let body: Body = request.json()?;
    state.to_device.send(&request.auth, &request.path[0], &request.path[1], &body.messages)?;
    Ok(empty())
}
