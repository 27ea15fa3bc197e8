//! Searching in rooms.

use std::collections::BTreeSet;

use axum::{Router, response::Response};
use causeway_service::{
    error::MatrixError,
    rate_limit::Class,
    search::{Around, Found, Hit, Order, Wanted},
    sync::filter::EventFilter,
};
use http::StatusCode;
use ruma::api::client::search::search_events::v3::{Criteria, GroupingKey, OrderBy, Request, SearchKeys};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    ClientState, Endpoints, Ruma, frame::serialized_response, message::limit, request::json_error,
    state_event::reader,
};

/// What each key is the field of.
const KINDS: [(SearchKeys, &str); 3] = [
    (SearchKeys::ContentBody, "m.room.message"),
    (SearchKeys::ContentName, "m.room.name"),
    (SearchKeys::ContentTopic, "m.room.topic"),
];

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().endpoint_raw(search)
}

fn search(state: &ClientState, request: Ruma<Request>) -> Result<Response, MatrixError> {
    let reader = reader(&request.auth);
    let Some(criteria) = &request.body.search_categories.room_events else {
        return serialized_response(StatusCode::OK, &json!({ "search_categories": {} }));
    };
    // A search costs more than other requests: it counts twice.
    crate::auth::admit(state, Class::Request, &request.auth)?;
    let next_batch = request.body.next_batch.as_deref().filter(|token| !token.is_empty());
    let beside = beside(&request.raw)?;
    let wanted = Wanted {
        term: criteria.search_term.clone(),
        kinds: kinds(criteria),
        filter: beside.filter,
        order: if criteria.order_by == Some(OrderBy::Recent) { Order::Recent } else { Order::Rank },
        around: beside.event_context.is_some().then(|| Around {
            before: limit(criteria.event_context.before_limit),
            after: limit(criteria.event_context.after_limit),
            profiles: criteria.event_context.include_profile,
        }),
        state: criteria.include_state == Some(true),
        from: next_batch.map(str::parse).transpose()?,
    };
    let found = state.search.find(reader, &wanted)?;
    state.rooms.barrier()?;
    let mut answer = json!({
        "count": found.count,
        "highlights": found.words,
        "results": found.hits.iter().map(result).collect::<Vec<_>>(),
        "groups": groups(criteria, &found),
    });
    if let Some(next) = &found.next {
        answer["next_batch"] = next.to_string().into();
    }
    if wanted.state {
        answer["state"] = json!(found.state);
    }
    serialized_response(StatusCode::OK, &json!({ "search_categories": { "room_events": answer } }))
}

fn kinds(criteria: &Criteria) -> BTreeSet<&'static str> {
    let is_wanted = |key: &SearchKeys| criteria.keys.as_ref().is_none_or(|keys| keys.contains(key));
    KINDS.iter().filter(|(key, _)| is_wanted(key)).map(|(_, kind)| *kind).collect()
}

/// What ruma's type doesn't carry: whether a context is asked for at all, and the
/// whole filter.
#[derive(Deserialize)]
struct Beside {
    event_context: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    filter: EventFilter,
}

fn beside(raw: &[u8]) -> Result<Beside, MatrixError> {
    #[derive(Deserialize)]
    struct Body {
        search_categories: Categories,
    }
    #[derive(Deserialize)]
    struct Categories {
        room_events: Beside,
    }
    let body: Body = serde_json::from_slice(raw).map_err(|error| json_error(&error))?;
    Ok(body.search_categories.room_events)
}

fn result(hit: &Hit) -> Value {
    let mut result = json!({ "rank": hit.rank, "result": hit.event });
    if let Some((before, after)) = &hit.around {
        result["context"] = json!({
            "start": before.end.unwrap_or(before.start).to_string(),
            "end": after.end.unwrap_or(after.start).to_string(),
            "events_before": before.chunk,
            "events_after": after.chunk,
            "profile_info": hit.profiles,
        });
    }
    result
}

/// The hits of the page by what they were to be grouped by.
fn groups(criteria: &Criteria, found: &Found) -> Value {
    let mut groups = Map::new();
    for key in criteria.groupings.group_by.iter().filter_map(|grouping| grouping.key.as_ref()) {
        let of = |hit: &Hit| match key {
            GroupingKey::RoomId => Some(hit.room_id.to_string()),
            GroupingKey::Sender => Some(hit.sender.to_string()),
            _ => None,
        };
        let mut group: Map<String, Value> = Map::new();
        for hit in &found.hits {
            let Some(of) = of(hit) else { continue };
            let order = group.len();
            let entry = group.entry(of).or_insert_with(|| json!({ "order": order, "results": [] }));
            if let Some(results) = entry["results"].as_array_mut() {
                results.push(hit.event_id.clone().into());
            }
        }
        if !group.is_empty() {
            groups.insert(key.to_string(), Value::Object(group));
        }
    }
    Value::Object(groups)
}
