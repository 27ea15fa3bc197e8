//! History before what this server holds, from any server in the room: by chance, so that
//! none is always first, and until one has something of what is asked for.

use causeway_service::{
    error::{Chain, MatrixError},
    rooms::Received,
};
use ruma::RoomId;

use super::candidates::CANDIDATES_MAX;
use crate::{error::blocking, incoming::fetch::Source, state::FederationState};

/// Events that history is asked for before, at once.
const EDGES_MAX: usize = 10;
/// Of so many that are known to be missing; some of them may be had nowhere.
const EDGES_KNOWN_MAX: usize = 200;
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
            rooms.missing_events(&room, EDGES_KNOWN_MAX)?,
            rooms.joined_servers(&room)?,
        ))
    });
    let (version, mut edges, servers) = known.await?;
    if edges.is_empty() {
        return Ok(());
    }
    let mut others: Vec<_> = servers.into_iter().filter(|server| *server != *state.server_name()).collect();
    others.sort_by_cached_key(|_| rand::random::<u64>());
    for server in others.iter().take(CANDIDATES_MAX) {
        let source = Source { server, room_id, version: &version };
        edges.sort_by_cached_key(|_| rand::random::<u64>());
        let edges = &edges[..edges.len().min(EDGES_MAX)];
        match source.backfill(state, edges, limit.min(LIMIT_MAX)).await {
            Ok(pdus) if !pdus.is_empty() => {
                let (services, room, asked) = (state.services().clone(), room_id.to_owned(), edges.to_vec());
                let import = move || Ok(services.rooms.import_backfill(&room, &asked, pdus)?);
                let results = blocking(import).await?;
                // Other events of the room, its old state say, are no history before what is here.
                let is_asked =
                    |(event_id, result): &(_, _)| *result == Received::Accepted && edges.contains(event_id);
                if results.iter().any(is_asked) {
                    return Ok(());
                }
                tracing::info!(%server, "no history from there that is of use");
            }
            Ok(_) => {}
            Err(error) => tracing::info!(%server, error = %Chain(&error), "no history from there"),
        }
    }
    Ok(())
}
