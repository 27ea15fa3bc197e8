//! Push rules and pushers.

use axum::{Router, response::Response};
use causeway_service::{error::MatrixError, history::Reader, notifications::Wanted, rate_limit::Class};
use http::{Method, StatusCode};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::push::{
        PushRule, delete_pushrule,
        get_notifications::{self, v3::Notification},
        get_pushrule, get_pushrule_actions, get_pushrule_enabled, get_pushrules_all,
        get_pushrules_global_scope, set_pushrule, set_pushrule_actions, set_pushrule_enabled,
    },
    push::{AnyPushRule, AnyPushRuleRef, InsertPushRuleError, RemovePushRuleError, RuleKind, Ruleset},
    serde::Raw,
};
use serde_json::{Value, json};

use crate::{ClientState, Custom, Endpoints, Ruma, json_response, long_poll::looking};

const PUSHERS: &[&str] = &["/_matrix/client/r0/pushers", "/_matrix/client/v3/pushers"];
const SET_PUSHER: &[&str] = &["/_matrix/client/r0/pushers/set", "/_matrix/client/v3/pushers/set"];

/// Notifications on a page when the client doesn't say.
const PAGE_DEFAULT: usize = 20;

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .endpoint(all)
        .endpoint(global)
        .endpoint(get)
        .endpoint(set)
        .endpoint(delete)
        .endpoint(get_enabled)
        .endpoint(set_enabled)
        .endpoint(get_actions)
        .endpoint(set_actions)
        .endpoint_async(notifications)
        .custom_unlimited(Method::GET, PUSHERS, pushers)
        .custom(Method::POST, SET_PUSHER, set_pusher)
}

fn all(
    state: &ClientState,
    request: Ruma<get_pushrules_all::v3::Request>,
) -> Result<get_pushrules_all::v3::Response, MatrixError> {
    Ok(get_pushrules_all::v3::Response::new(state.account_data.push_rules(&request.auth.user_id)?))
}

fn global(
    state: &ClientState,
    request: Ruma<get_pushrules_global_scope::v3::Request>,
) -> Result<get_pushrules_global_scope::v3::Response, MatrixError> {
    Ok(get_pushrules_global_scope::v3::Response::new(state.account_data.push_rules(&request.auth.user_id)?))
}

fn unknown_rule() -> MatrixError {
    MatrixError::not_found("Push rule not found")
}

fn find(rules: &Ruleset, kind: RuleKind, rule_id: &str) -> Result<AnyPushRule, MatrixError> {
    let rule = rules.get(kind, rule_id).ok_or_else(unknown_rule)?;
    Ok(rule.to_owned())
}

fn get(
    state: &ClientState,
    request: Ruma<get_pushrule::v3::Request>,
) -> Result<get_pushrule::v3::Response, MatrixError> {
    let rules = state.account_data.push_rules(&request.auth.user_id)?;
    let rule = find(&rules, request.body.kind, &request.body.rule_id)?;
    Ok(get_pushrule::v3::Response::new(PushRule::from(rule)))
}

fn set(
    state: &ClientState,
    request: Ruma<set_pushrule::v3::Request>,
) -> Result<set_pushrule::v3::Response, MatrixError> {
    let body = request.body;
    state.account_data.change_push_rules(&request.auth.user_id, |rules| {
        let (kind, rule_id) = (body.rule.kind(), body.rule.rule_id().to_owned());
        let was = rules.get(kind.clone(), &rule_id).map(AnyPushRuleRef::enabled);
        if was.is_some()
            && [&body.after, &body.before].into_iter().any(|named| named.as_ref() == Some(&rule_id))
        {
            return Err(MatrixError::invalid_param("A rule has no place relative to itself"));
        }
        if was.is_some() && (body.after.is_some() || body.before.is_some()) {
            // ruma does not move a rule behind the last one: it is put there anew.
            rules
                .remove(kind.clone(), &rule_id)
                .map_err(|error| MatrixError::invalid_param(error.to_string()))?;
        }
        rules.insert(body.rule, body.after.as_deref(), body.before.as_deref()).map_err(
            |error| match error {
                InsertPushRuleError::UnknownRuleId => MatrixError::not_found(error.to_string()),
                error => MatrixError::invalid_param(error.to_string()),
            },
        )?;
        was.map_or(Ok(()), |was| rules.set_enabled(kind, &rule_id, was).map_err(|_| unknown_rule()))
    })?;
    Ok(set_pushrule::v3::Response::new())
}

fn delete(
    state: &ClientState,
    request: Ruma<delete_pushrule::v3::Request>,
) -> Result<delete_pushrule::v3::Response, MatrixError> {
    let body = request.body;
    state.account_data.change_push_rules(&request.auth.user_id, |rules| {
        rules.remove(body.kind, &body.rule_id).map_err(|error| match error {
            RemovePushRuleError::NotFound => unknown_rule(),
            error => MatrixError::invalid_param(error.to_string()),
        })
    })?;
    Ok(delete_pushrule::v3::Response::new())
}

fn get_enabled(
    state: &ClientState,
    request: Ruma<get_pushrule_enabled::v3::Request>,
) -> Result<get_pushrule_enabled::v3::Response, MatrixError> {
    let rules = state.account_data.push_rules(&request.auth.user_id)?;
    let rule = find(&rules, request.body.kind, &request.body.rule_id)?;
    Ok(get_pushrule_enabled::v3::Response::new(PushRule::from(rule).enabled))
}

fn set_enabled(
    state: &ClientState,
    request: Ruma<set_pushrule_enabled::v3::Request>,
) -> Result<set_pushrule_enabled::v3::Response, MatrixError> {
    let body = request.body;
    state.account_data.change_push_rules(&request.auth.user_id, |rules| {
        rules.set_enabled(body.kind, &body.rule_id, body.enabled).map_err(|_| unknown_rule())
    })?;
    Ok(set_pushrule_enabled::v3::Response::new())
}

fn get_actions(
    state: &ClientState,
    request: Ruma<get_pushrule_actions::v3::Request>,
) -> Result<get_pushrule_actions::v3::Response, MatrixError> {
    let rules = state.account_data.push_rules(&request.auth.user_id)?;
    let rule = find(&rules, request.body.kind, &request.body.rule_id)?;
    Ok(get_pushrule_actions::v3::Response::new(PushRule::from(rule).actions))
}

fn set_actions(
    state: &ClientState,
    request: Ruma<set_pushrule_actions::v3::Request>,
) -> Result<set_pushrule_actions::v3::Response, MatrixError> {
    let body = request.body;
    state.account_data.change_push_rules(&request.auth.user_id, |rules| {
        rules.set_actions(body.kind, &body.rule_id, body.actions).map_err(|_| unknown_rule())
    })?;
    Ok(set_pushrule_actions::v3::Response::new())
}

async fn notifications(
    state: ClientState,
    request: Ruma<get_notifications::v3::Request>,
) -> Result<get_notifications::v3::Response, MatrixError> {
    let (body, auth) = (request.body, request.auth);
    // Each reads many events, whatever the specification says of limits.
    crate::auth::admit(&state, Class::Request, &auth)?;
    let from = body.from.map(|from| from.parse());
    let wanted = Wanted {
        from: from
            .transpose()
            .map_err(|_| MatrixError::invalid_param("`from` is not a token of this server"))?,
        highlights: body.only.as_deref() == Some("highlight"),
        limit: body.limit.map_or(PAGE_DEFAULT, |limit| usize::try_from(limit).unwrap_or(usize::MAX)),
    };
    let page = looking(move || {
        let reader = Reader { user_id: &auth.user_id, device_id: &auth.device_id };
        let page = state.notifications.page(reader, wanted)?;
        state.rooms.barrier()?;
        Ok(page)
    })
    .await?;
    let listed = page.notifications.into_iter().map(|one| {
        let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(one.ts));
        Notification::new(one.actions, Raw::from_json(one.event), one.is_read, one.room_id, ts)
    });
    let mut response = get_notifications::v3::Response::new(listed.collect());
    response.next_token = page.next.map(|next| next.to_string());
    Ok(response)
}

fn pushers(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let pushers = state.account_data.pushers(&request.auth.user_id)?;
    Ok(json_response(StatusCode::OK, &json!({ "pushers": pushers })))
}

fn set_pusher(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let pusher: Value = request.json()?;
    state.account_data.set_pusher(&request.auth.user_id, &request.auth.device_id, &pusher)?;
    Ok(json_response(StatusCode::OK, &json!({})))
}
