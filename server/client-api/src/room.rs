//! Creating rooms and asking for what is known of them.

use axum::Router;
use causeway_service::{
    error::{Chain, MatrixError},
    rate_limit::Class,
    rooms::{CreateRoom, InitialState, Preset},
    shared_space::{DECLARATION_TYPE, ITEM_TYPE},
    succession::carry_settings,
};
use ruma::{
    OwnedRoomAliasId,
    api::client::room::{
        Visibility, aliases,
        create_room::{self, v3::RoomPreset},
        upgrade_room,
    },
    serde::Raw,
};
use serde_json::{Map, Value};

use crate::{
    ClientState, Endpoints, Ruma, appservice, blocking, directory::check_alias, membership,
    request::json_error, state_event::declaration, third_party_invite,
};

/// Aliases of one room that are listed.
const ALIASES_MAX: usize = 500;
/// Who is invited by an address when a room is created.
const ADDRESSES_MAX: usize = 20;

/// Invited users whom application services are asked to make before a room is made.
const ASKED_FOR_MAX: usize = 100;

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().endpoint_async(create).endpoint(aliases_of).endpoint(upgrade)
}

async fn create(
    state: ClientState,
    request: Ruma<create_room::v3::Request>,
) -> Result<create_room::v3::Response, MatrixError> {
    let creator = request.auth.user_id.clone();
    for user_id in request.body.invite.iter().take(ASKED_FOR_MAX) {
        appservice::user_is_wanted(&state, user_id).await?;
    }
    let (is_direct, creating, by) = (request.body.is_direct, state.clone(), creator.clone());
    let mut by_address = Vec::new();
    if request.body.invite_3pid.len() > ADDRESSES_MAX {
        return Err(MatrixError::invalid_param("Too many are invited by an address"));
    }
    for invite in &request.body.invite_3pid {
        by_address.push(third_party_invite::checked(invite.clone())?);
    }
    let created = blocking(move || {
        creating.accounts.check_not_suspended(&by)?;
        let wanted = wanted(&creating, &request)?;
        let declares = wanted.initial_state.iter().filter(|state| state.kind == DECLARATION_TYPE);
        let declared = declares.map(|state| declaration(&state.content)).collect::<Result<Vec<_>, _>>()?;
        let created = creating.rooms.create(&by, &wanted)?;
        if !declared.is_empty() {
            // Members may write when this is answered.
            creating.shared_space.follow()?;
        }
        Ok(created)
    })
    .await?;
    let mut content = Map::new();
    if is_direct {
        content.insert("is_direct".to_owned(), true.into());
    }
    // The room exists; a server that can't be reached must not undo that.
    let note = |error: MatrixError| tracing::warn!(%error, "an invite at the creation of a room failed");
    for target in created.remote_invites {
        let invited =
            membership::invite_user(&state, &created.room_id, &creator, &target, content.clone()).await;
        invited.unwrap_or_else(note);
    }
    for invite in by_address {
        let room_id = &created.room_id;
        let invited = membership::invite_address(&state, room_id, &creator, invite, content.clone()).await;
        invited.unwrap_or_else(note);
    }
    Ok(create_room::v3::Response::new(created.room_id))
}

fn wanted(state: &ClientState, request: &Ruma<create_room::v3::Request>) -> Result<CreateRoom, MatrixError> {
    let body = &request.body;
    let alias = body.room_alias_name.as_deref().map(|name| {
        let alias = format!("#{name}:{}", state.settings.server_name);
        alias.try_into().map_err(|_| MatrixError::invalid_param("The alias is not valid"))
    });
    let alias: Option<OwnedRoomAliasId> = alias.transpose()?;
    alias.as_ref().map_or(Ok(()), |alias| check_alias(state, &request.auth, alias))?;
    for user_id in body.invite.iter().filter(|user_id| user_id.server_name() == state.settings.server_name) {
        if !state.accounts.is_active(user_id)? {
            return Err(MatrixError::not_found(format!("No such user: {user_id}")));
        }
    }
    let published = match body.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(MatrixError::bad_json("`visibility` is neither `public` nor `private`")),
    };
    let initial_state: Result<Vec<_>, MatrixError> = body.initial_state.iter().map(initial).collect();
    let initial_state = initial_state?;
    // Raw: the fields that ruma doesn't know are the client's all the same.
    let raw: Map<String, Value> = if request.raw.is_empty() {
        Map::new()
    } else {
        serde_json::from_slice(&request.raw).map_err(|error| json_error(&error))?
    };
    let object = |field: &str| match raw.get(field) {
        Some(Value::Object(object)) => Ok(object.clone()),
        None | Some(Value::Null) => Ok(Map::new()),
        Some(_) => Err(MatrixError::bad_json(format!("`{field}` is not an object"))),
    };
    Ok(CreateRoom {
        version: body.room_version.clone().or_else(|| Some(state.settings.default_room_version.clone())),
        creation_content: object("creation_content")?,
        preset: match body.preset {
            Some(RoomPreset::PublicChat) => Preset::PublicChat,
            Some(RoomPreset::TrustedPrivateChat) => Preset::TrustedPrivateChat,
            None if published => Preset::PublicChat,
            Some(RoomPreset::PrivateChat) | None => Preset::PrivateChat,
            Some(_) => return Err(MatrixError::bad_json("`preset` is none of the specification's")),
        },
        initial_state,
        power_level_content_override: object("power_level_content_override")?,
        invite: body.invite.clone(),
        is_direct: body.is_direct,
        alias,
        published,
        name: body.name.clone(),
        topic: body.topic.clone(),
        creator_profile: state.profiles.profile(&request.auth.user_id)?,
    })
}

fn initial<T>(event: &Raw<T>) -> Result<InitialState, MatrixError> {
    let field = |name: &str| event.get_field::<Value>(name).map_err(|error| json_error(&error));
    let kind = text(field("type")?)
        .ok_or_else(|| MatrixError::bad_json("`initial_state` has an event without type"))?;
    if kind == ITEM_TYPE {
        // An item's event carries the change that it is, and there is no log to put it in yet.
        return Err(MatrixError::invalid_param("Items can't be initial state: write them to the room"));
    }
    Ok(InitialState {
        kind,
        state_key: text(field("state_key")?).unwrap_or_default(),
        content: field("content")?
            .filter(Value::is_object)
            .ok_or_else(|| MatrixError::bad_json("`initial_state` has an event without content"))?,
    })
}

fn text(value: Option<Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text),
        _ => None,
    }
}

fn aliases_of(
    state: &ClientState,
    request: Ruma<aliases::v3::Request>,
) -> Result<aliases::v3::Response, MatrixError> {
    let (room_id, user_id) = (&request.body.room_id, &request.auth.user_id);
    state.history.require_presence(room_id, user_id)?;
    let aliases = state.directory.aliases_of(room_id, ALIASES_MAX)?;
    Ok(aliases::v3::Response::new(aliases))
}

fn upgrade(
    state: &ClientState,
    request: Ruma<upgrade_room::v3::Request>,
) -> Result<upgrade_room::v3::Response, MatrixError> {
    let (body, user_id) = (request.body, &request.auth.user_id);
    state.accounts.check_not_suspended(user_id)?;
    // It copies a whole space.
    crate::auth::admit(state, Class::Request, &request.auth)?;
    let profile = state.profiles.profile(user_id)?;
    state.shared_space.expect_copy();
    let replacement = state.upgrades.upgrade(
        &body.room_id,
        user_id,
        &body.new_version,
        &body.additional_creators,
        profile,
    )?;
    carry_settings(&state.rooms, &state.account_data, user_id, &replacement);
    if let Err(error) = state.shared_space.begin_copy(&body.room_id, &replacement) {
        // The new room exists, and the rest is copied in the background.
        tracing::warn!(room = %body.room_id, error = %Chain(&error), "items of an upgraded room wait to be copied");
    }
    Ok(upgrade_room::v3::Response::new(replacement))
}
