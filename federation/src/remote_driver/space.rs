//! `hierarchy`: what is in a space that this server is not in, from the first
//! server that says it.

use std::time::Duration;

use causeway_service::{
    error::MatrixError,
    summary::{CHILDREN_MAX, SPACE_BYTES_MAX, SpaceForServer, SpaceRoom, Summary},
};
use http::Method;
use ruma::{OwnedRoomId, OwnedServerName, RoomId};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    answer,
    candidates::{candidates, first},
    join::nonsense,
};
use crate::{
    bounded::BoundedList,
    client::{Request, escape},
    state::FederationState,
};

/// A client waits for several of these, one after the other.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Answer {
    room: Value,
    #[serde(default)]
    children: BoundedList<Value, CHILDREN_MAX>,
    #[serde(default)]
    inaccessible_children: BoundedList<Value, CHILDREN_MAX>,
}

pub(super) async fn space(
    state: &FederationState,
    room_id: &RoomId,
    via: Vec<OwnedServerName>,
    suggested_only: bool,
) -> Result<SpaceForServer, MatrixError> {
    let servers = candidates(state.server_name(), via);
    let path =
        format!("/_matrix/federation/v1/hierarchy/{}?suggested_only={suggested_only}", escape(room_id));
    first(&servers, |server| {
        let path = &path;
        async move {
            let mut request = Request::new(&server, Method::GET, path);
            request.response_bytes_max = SPACE_BYTES_MAX;
            request.timeout = Some(TIMEOUT);
            let response = state.client().send_ok(request).await.map_err(|error| answer(&error))?;
            read(room_id, &response.body)
        }
    })
    .await
}

/// What of the answer makes sense; a child that doesn't is left out.
fn read(room_id: &RoomId, body: &[u8]) -> Result<SpaceForServer, MatrixError> {
    let malformed = |_| nonsense("the space is malformed");
    let mut answer: Answer = serde_json::from_slice(body).map_err(malformed)?;
    let children_state = answer.room.get_mut("children_state").map(Value::take).unwrap_or_default();
    let children_state: BoundedList<Value, CHILDREN_MAX> =
        serde_json::from_value(children_state).map_err(malformed)?;
    let summary: Summary = serde_json::from_value(answer.room).map_err(malformed)?;
    if summary.room_id != room_id {
        return Err(nonsense("the space is another one"));
    }
    let inaccessible: Vec<OwnedRoomId> = sensible(answer.inaccessible_children);
    Ok(SpaceForServer {
        room: SpaceRoom { summary, children_state: sensible(children_state) },
        children: sensible(answer.children),
        inaccessible_children: inaccessible,
    })
}

fn sensible<T: DeserializeOwned, const MAX: usize>(list: BoundedList<Value, MAX>) -> Vec<T> {
    list.0.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect()
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use serde_json::json;

    use super::*;

    #[test]
    fn children_that_make_no_sense_cost_only_themselves() {
        let child = json!({ "type": "m.space.child", "state_key": "!c:b.c", "sender": "@a:b.c",
            "content": { "via": ["b.c"] }, "origin_server_ts": 1 });
        let mut bad = child.clone();
        bad["state_key"] = "nonsense".into();
        let body = json!({
            "room": { "room_id": "!s:b.c", "room_type": "m.space", "children_state": [bad, child, 7] },
            "children": [{ "room_id": "!c:b.c" }, { "room_id": 5 }], "inaccessible_children": ["!x:b.c", "x"],
        });
        let space = read(room_id!("!s:b.c"), body.to_string().as_bytes()).expect("makes sense");
        assert_eq!(space.room.children_state.len(), 1);
        assert_eq!((space.children.len(), space.inaccessible_children.len()), (1, 1));
        assert!(read(room_id!("!other:b.c"), body.to_string().as_bytes()).is_err());
    }
}
