//! Joining a room through another server: `make_join`, `send_join`, and the
//! import of what that answers.
//!
//! Invariants: the join is this server's own event, whatever the template says;
//! no event of the answer is used whose signatures were not checked; the room
//! exists here after the import or not at all, and in the latter case who may have
//! taken the join is told that the user is not in the room ([`super::undo`]).

use std::collections::{BTreeMap, HashSet};

use causeway_room::Pdu;
use causeway_service::{
    error::{Chain, MatrixError},
    rooms::{AskedJoin, VersionRules},
};
use http::Method;
use ruma::{
    OwnedEventId, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    answer,
    candidates::{candidates, first},
};
use crate::{
    bounded::BoundedList,
    client::{ClientError, Request, STATE_BYTES_MAX, escape},
    error::blocking,
    handshake::{Template, TemplateError, Wanted},
    state::FederationState,
    verification::verify,
};

/// Events of a room's state, and of what authorises it, that one answer may hold.
pub const ANSWER_EVENTS_MAX: usize = 500_000;
/// Largest template, in bytes.
const TEMPLATE_BYTES_MAX: usize = 256 * 1024;
/// A large room's state takes a while to make and to send.
const SEND_JOIN_TIMEOUT: std::time::Duration = std::time::Duration::from_mins(5);

/// What `send_join` answers. Other keys are not looked at.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    state: BoundedList<&'a RawValue, ANSWER_EVENTS_MAX>,
    #[serde(borrow)]
    auth_chain: BoundedList<&'a RawValue, ANSWER_EVENTS_MAX>,
    #[serde(default, borrow)]
    event: Option<&'a RawValue>,
}

/// The same, parsed and not checked.
struct Parsed {
    join: Pdu,
    state: HashSet<OwnedEventId>,
    /// With those that authorise it.
    events: BTreeMap<OwnedEventId, Pdu>,
}

pub(super) async fn join(
    state: &FederationState,
    room_id: &RoomId,
    user_id: &UserId,
    via: Vec<OwnedServerName>,
    content: Value,
) -> Result<(), MatrixError> {
    let named = room_id.server_name().map(ToOwned::to_owned);
    let servers = candidates(state.server_name(), via.into_iter().chain(named));
    // A client that waited too long asks once more: the answer may be large.
    let _turn = state.joins().turn(room_id, user_id).await;
    let (services, room, user) = (state.services().clone(), room_id.to_owned(), user_id.to_owned());
    let found = blocking(move || {
        let rooms = &services.rooms;
        Ok((rooms.is_joined_here(&room)?, rooms.is_joined(&room, &user)?))
    });
    let (is_here, is_in) = found.await?;
    if is_here && is_in {
        return Ok(());
    }
    let _under_way = (!is_here).then(|| state.joins().begin(room_id));
    let joined = first(&servers, |server| {
        let wanted = Wanted { room_id, user_id, membership: "join", content: &content };
        join_through(state, server, wanted)
    });
    let joined = joined.await;
    if joined.is_ok() {
        forget(state, (room_id, user_id), None).await;
    }
    joined
}

/// The join is no longer to be undone, at one server or at all.
async fn forget(
    state: &FederationState,
    (room_id, user_id): (&RoomId, &UserId),
    server: Option<&ServerName>,
) {
    let (services, room_id, user_id) = (state.services().clone(), room_id.to_owned(), user_id.to_owned());
    let server = server.map(ToOwned::to_owned);
    let forgotten =
        blocking(move || Ok(services.rooms.forget_asked_joins(&room_id, &user_id, server.as_deref())?));
    if let Err(error) = forgotten.await {
        tracing::error!(error = %Chain(&error), "it can't be noted that a join is over");
    }
}

#[tracing::instrument(name = "federation.room.join", skip_all, fields(server.address = %server))]
async fn join_through(
    state: &FederationState,
    server: OwnedServerName,
    wanted: Wanted<'_>,
) -> Result<(), MatrixError> {
    let template = template(state, &server, "make_join", wanted).await?;
    let version = template.room_version.clone().ok_or_else(unsupported)?;
    let join = complete(state, template, wanted)?;
    let asked = AskedJoin {
        room_id: wanted.room_id.to_owned(),
        user_id: wanted.user_id.to_owned(),
        server: server.clone(),
        event_id: join.event_id().to_owned(),
    };
    let services = state.services().clone();
    blocking(move || Ok(services.rooms.note_asked_join(&asked)?)).await?;
    let path =
        format!("/_matrix/federation/v2/send_join/{}/{}", escape(wanted.room_id), escape(join.event_id()));
    let mut request = Request::new(&server, Method::PUT, &path);
    request.body = Some(join.raw().get().as_bytes().to_vec());
    request.timeout = Some(SEND_JOIN_TIMEOUT);
    request.response_bytes_max = STATE_BYTES_MAX;
    let response = match state.client().send_ok(request).await {
        Ok(response) => response,
        Err(error) => {
            if !error.is_outage() && matches!(error, ClientError::Status { .. }) {
                forget(state, (wanted.room_id, wanted.user_id), Some(&server)).await;
            }
            return Err(answer(&error));
        }
    };
    let _turn = response.turn();
    let (body, rules) = (response.body, causeway_room::version::rules(&version).ok_or_else(unsupported)?);
    let for_parsing = rules.clone();
    let parsed = blocking(move || {
        let malformed = |_| nonsense("the answer to the join is malformed");
        parse(serde_json::from_slice(&body).map_err(malformed)?, join, &for_parsing)
    });
    let Parsed { join, state: state_ids, events } = parsed.await?;
    let events = check_all(state, &server, &rules, (state_ids, events)).await;
    import(state, wanted.room_id, version, join, events).await
}

/// Parses the events; those that are none are left out.
fn parse(answer: Answer<'_>, join: Pdu, rules: &RoomVersionRules) -> Result<Parsed, MatrixError> {
    let join = countersigned(join, answer.event, rules)?;
    let mut events: BTreeMap<OwnedEventId, Pdu> = BTreeMap::new();
    let mut ids = |list: Vec<&RawValue>| {
        let mut ids = HashSet::new();
        for raw in list {
            match Pdu::parse(rules, raw.get()) {
                Ok(pdu) => {
                    ids.insert(pdu.event_id().to_owned());
                    events.entry(pdu.event_id().to_owned()).or_insert(pdu);
                }
                Err(error) => tracing::warn!(error = %Chain(&error), "a malformed event is left out"),
            }
        }
        ids
    };
    let (state, _chain) = (ids(answer.state.0), ids(answer.auth_chain.0));
    Ok(Parsed { join, state, events })
}

/// Asks for a template, naming every supported version.
pub(super) async fn template(
    state: &FederationState,
    server: &ServerName,
    endpoint: &str,
    wanted: Wanted<'_>,
) -> Result<Template, MatrixError> {
    let versions =
        causeway_room::version::SUPPORTED.iter().map(|version| format!("ver={}", escape(version.as_str())));
    let path = format!(
        "/_matrix/federation/v1/{endpoint}/{}/{}?{}",
        escape(wanted.room_id),
        escape(wanted.user_id),
        versions.collect::<Vec<_>>().join("&")
    );
    let mut request = Request::new(server, Method::GET, &path);
    request.response_bytes_max = TEMPLATE_BYTES_MAX;
    let response = state.client().send_ok(request).await.map_err(|error| answer(&error))?;
    serde_json::from_slice(&response.body).map_err(|_| nonsense("the template is malformed"))
}

/// The signed event of `template`.
pub(super) fn complete(
    state: &FederationState,
    template: Template,
    wanted: Wanted<'_>,
) -> Result<Pdu, MatrixError> {
    template.complete(wanted, &state.services().server_keys, state.clock()).map_err(|error| match error {
        TemplateError::Version => unsupported(),
        TemplateError::Content => MatrixError::bad_json("The content can't be part of an event"),
        error => {
            tracing::warn!(error = %Chain(&error), "another server's template is refused");
            nonsense("the template is not for what was asked")
        }
    })
}

/// A join that somebody vouched for comes back with that server's signature.
fn countersigned(join: Pdu, event: Option<&RawValue>, rules: &RoomVersionRules) -> Result<Pdu, MatrixError> {
    let Some(event) = event else { return Ok(join) };
    match Pdu::parse(rules, event.get()) {
        Ok(signed) if signed.event_id() == join.event_id() => Ok(signed),
        _ => Err(nonsense("the join came back as another event")),
    }
}

/// What a join is answered with, checked.
pub(super) struct Checked {
    pub(super) state: Vec<Pdu>,
    pub(super) auth_chain: Vec<Pdu>,
}

/// Verifies; events that don't hold are left out and the room must be whole without them.
async fn check_all(
    state: &FederationState,
    server: &ServerName,
    rules: &RoomVersionRules,
    (state_ids, events): (HashSet<OwnedEventId>, BTreeMap<OwnedEventId, Pdu>),
) -> Checked {
    let results = verify(state.keys(), rules, events.into_values().collect(), Some(server)).await;
    let mut checked = Checked { state: Vec::new(), auth_chain: Vec::new() };
    for result in results {
        match result {
            Ok(pdu) if state_ids.contains(pdu.event_id()) => checked.state.push(pdu),
            Ok(pdu) => checked.auth_chain.push(pdu),
            Err(error) => tracing::warn!(error = %Chain(&error), "an event is left out of a join"),
        }
    }
    checked
}

async fn import(
    state: &FederationState,
    room_id: &RoomId,
    version: RoomVersionId,
    join: Pdu,
    events: Checked,
) -> Result<(), MatrixError> {
    let (services, room_id) = (state.services().clone(), room_id.to_owned());
    blocking(move || {
        let version = VersionRules::of(&version)?;
        services.rooms.import_join(&room_id, &version, join, events.state, events.auth_chain)?;
        Ok(())
    })
    .await
}

pub(super) fn nonsense(what: &str) -> MatrixError {
    MatrixError::new(502, "M_UNKNOWN", format!("The other server makes no sense: {what}"))
}

pub(super) fn unsupported() -> MatrixError {
    MatrixError::new(400, "M_UNSUPPORTED_ROOM_VERSION", "The room's version is not supported here")
}
