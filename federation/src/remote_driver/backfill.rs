//! History before what this server holds, from any server in the room.

use causeway_service::error::{Chain, MatrixError};
use ruma::RoomId;

use super::candidates::CANDIDATES_MAX;
use crate::{error::blocking, incoming::fetch::Source, state::FederationState};

/// Events that history is asked for before, at once.
const EDGES_MAX: usize = 10;
/// Events asked for at once.
const LIMIT_MAX: usize = 100;

pub(super) async fn backfill(
    state: &FederationState,
    room_id: &RoomId,
    limit: usize,
) -> Result<(), MatrixError> {
    let (services, room) = (state.services().clone(), room_id.to_owned());
    let known = blocking(move || {
        let rooms = &services.rooms;
        Ok((
            rooms.version_rules(&room)?,
            rooms.missing_events(&room, EDGES_MAX)?,
            rooms.joined_servers(&room)?,
        ))
    });
    let (version, edges, servers) = known.await?;
    if edges.is_empty() {
        return Ok(());
    }
    let others = servers.iter().filter(|server| **server != *state.server_name());
    for server in others.take(CANDIDATES_MAX) {
        let source = Source { server, room_id, version: &version };
        match source.backfill(state, &edges, limit.min(LIMIT_MAX)).await {
            Ok(pdus) if !pdus.is_empty() => {
                let (services, room) = (state.services().clone(), room_id.to_owned());
                return blocking(move || {
                    services.rooms.import_backfill(&room, pdus)?;
                    Ok(())
                })
                .await;
            }
            Ok(_) => {}
            Err(error) => tracing::info!(%server, error = %Chain(&error), "no history from there"),
        }
    }
    Ok(())
}
