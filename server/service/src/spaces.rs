//! Walking through spaces for a client (client-server API, "Spaces"), and a
//! room's summary for one who is not in it.
//!
//! What this server is in it knows itself; of other rooms it asks one of the
//! servers that the space names, and remembers the answer for a short time, for that user.
//!
//! Invariants: what a server told this one is told to a user only if the rules
//! in the summary let that user know of the room; the costs of a walk, rooms and
//! requests to others, are bounded whatever the spaces say.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId};
use serde::Serialize;

use crate::{
    cache::Cache,
    clock::Clock,
    error::MatrixError,
    remote::{RemoteHandle, RemoteRequest},
    rooms::Rooms,
    summary::{ChildEvent, SpaceForServer, SpaceRoom, Summaries, Summary, in_order},
};

/// Rooms on one page.
pub const PAGE_MAX: usize = 100;
/// How deep a walk goes.
pub const DEPTH_MAX: usize = 10;
/// Rooms that one walk looks at.
const ROOMS_MAX: usize = 2_000;
/// Rooms of one walk that other servers are asked about.
const ASKED_MAX: usize = 40;
/// How long others have to answer, for one walk.
const ASKING_MS_MAX: u64 = 20_000;
/// How long an answer is remembered.
const REMEMBERED_MS: u64 = 5 * 60_000;
/// How long it is remembered that none came.
const SILENCE_REMEMBERED_MS: u64 = 60_000;
/// Answers in a generation of the cache.
const CACHED: usize = 256;
/// A larger answer is not remembered, in bytes of JSON.
const CACHED_BYTES_MAX: usize = 64 * 1024;

/// Which part of a space.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The space.
    pub room_id: OwnedRoomId,
    /// Only what spaces suggest.
    pub suggested_only: bool,
    /// How deep.
    pub max_depth: usize,
    /// At most so many rooms.
    pub limit: usize,
    /// Where the page begins.
    pub from: Option<Place>,
}

/// Where a page begins, and what it is a page of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Rooms on the pages before.
    seen: usize,
    max_depth: usize,
    suggested_only: bool,
    room_id: OwnedRoomId,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suggested = u8::from(self.suggested_only);
        write!(f, "{}_{}_{suggested}_{}", self.seen, self.max_depth, self.room_id)
    }
}

impl FromStr for Place {
    type Err = MatrixError;

    fn from_str(text: &str) -> Result<Self, MatrixError> {
        let unknown = || MatrixError::invalid_param("Not a token of this server");
        let parts: Vec<&str> = text.splitn(4, '_').collect();
        let [seen, max_depth, suggested, room_id] = parts[..] else { return Err(unknown()) };
        Ok(Self {
            seen: seen.parse().map_err(|_| unknown())?,
            max_depth: max_depth.parse().map_err(|_| unknown())?,
            suggested_only: suggested == "1",
            room_id: RoomId::parse(room_id).map_err(|_| unknown())?,
        })
    }
}

/// A page of a walk.
#[derive(Debug, Default, Serialize)]
pub struct Page {
    /// The rooms.
    pub rooms: Vec<SpaceRoom>,
    /// Where the next one begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
}

/// What a server said, and when that is to be forgotten.
type Remembered = (u64, Option<Arc<SpaceForServer>>);

/// See the module.
pub struct Spaces {
    rooms: Arc<Rooms>,
    summaries: Arc<Summaries>,
    remote: RemoteHandle,
    clock: Clock,
    /// By user: whom to ask is the user's word, so what these say is for him only.
    remembered: Cache<(OwnedUserId, OwnedRoomId, bool), Remembered>,
}

/// A room on the way.
struct Visit {
    room_id: OwnedRoomId,
    depth: usize,
    via: Vec<OwnedServerName>,
    /// What the server of its parent said of it.
    told: Option<Summary>,
}

/// A room that was found.
#[derive(Default)]
struct Found {
    children: Vec<ChildEvent>,
    told: HashMap<OwnedRoomId, Summary>,
    hidden: HashSet<OwnedRoomId>,
}

/// What other servers may still be asked.
struct Budget {
    requests: usize,
    until_ms: u64,
}

impl Spaces {
    /// Over these rooms.
    pub fn new(rooms: Arc<Rooms>, summaries: Arc<Summaries>, remote: RemoteHandle, clock: Clock) -> Self {
        Self { rooms, summaries, remote, clock, remembered: Cache::new(CACHED) }
    }

    /// A page of the space's rooms, depth first.
    ///
    /// # Errors
    /// 403 when the user may not know of the space; 400 when the page is one of
    /// another walk.
    pub async fn hierarchy(
        self: &Arc<Self>,
        user_id: &OwnedUserId,
        wanted: &Wanted,
    ) -> Result<Page, MatrixError> {
        let max_depth = wanted.max_depth.min(DEPTH_MAX);
        let place = |seen| Place {
            seen,
            max_depth,
            suggested_only: wanted.suggested_only,
            room_id: wanted.room_id.clone(),
        };
        let skipped = wanted.from.as_ref().map_or(0, |from| from.seen);
        if wanted.from.as_ref().is_some_and(|from| *from != place(skipped)) {
            return Err(MatrixError::invalid_param("The token is for another room or other parameters"));
        }
        let mut budget = self.budget();
        let mut page = Page::default();
        let mut passed = 0;
        let mut seen = HashSet::new();
        let mut stack =
            vec![Visit { room_id: wanted.room_id.clone(), depth: 0, via: Vec::new(), told: None }];
        while let Some(visit) = stack.pop() {
            if seen.len() >= ROOMS_MAX || !seen.insert(visit.room_id.clone()) {
                continue;
            }
            let depth = visit.depth;
            let found = self.look(user_id, visit, wanted.suggested_only, &mut budget).await?;
            let Some((summary, mut found)) = found else {
                if depth == 0 {
                    return Err(MatrixError::forbidden("You may not see this room"));
                }
                continue;
            };
            if depth < max_depth {
                for child in found.children.iter().rev() {
                    if !found.hidden.contains(&child.state_key) {
                        let told = found.told.remove(&child.state_key);
                        let room_id = child.state_key.clone();
                        stack.push(Visit { room_id, depth: depth + 1, via: child.via(), told });
                    }
                }
            }
            passed += 1;
            if passed <= skipped {
                continue;
            }
            if page.rooms.len() >= wanted.limit.clamp(1, PAGE_MAX) {
                page.next_batch = Some(place(skipped.saturating_add(page.rooms.len())).to_string());
                break;
            }
            page.rooms.push(SpaceRoom { summary, children_state: found.children });
        }
        Ok(page)
    }

    /// A room in short, for a user or, without one, for anybody; asks `via` if
    /// this server is not in the room.
    ///
    /// # Errors
    /// 404 when there is no such room, or not for him.
    pub async fn summary(
        self: &Arc<Self>,
        user_id: Option<&OwnedUserId>,
        room_id: &RoomId,
        via: Vec<OwnedServerName>,
    ) -> Result<Summary, MatrixError> {
        let not_found = || MatrixError::not_found("No such room, or you may not know of it");
        let (this, user, room) = (Arc::clone(self), user_id.cloned(), room_id.to_owned());
        let own = run(move || {
            let Some(summary) = this.summaries.of(&room)? else { return Ok(None) };
            let may_know = this.summaries.user_may_know(&summary, user.as_deref())?;
            Ok(Some(Some(summary).filter(|_| may_know)))
        });
        if let Some(own) = own.await? {
            return own.ok_or_else(not_found);
        }
        // Who is nobody does not make this server ask others.
        let user_id = user_id.ok_or_else(not_found)?;
        let visit = Visit { room_id: room_id.to_owned(), depth: 0, via, told: None };
        let found = self.look(user_id, visit, true, &mut self.budget()).await?;
        found.map(|(summary, _)| summary).ok_or_else(not_found)
    }

    fn budget(&self) -> Budget {
        Budget { requests: ASKED_MAX, until_ms: self.clock.now_ms().saturating_add(ASKING_MS_MAX) }
    }

    /// A room that the user may know of.
    async fn look(
        self: &Arc<Self>,
        user_id: &OwnedUserId,
        visit: Visit,
        suggested_only: bool,
        budget: &mut Budget,
    ) -> Result<Option<(Summary, Found)>, MatrixError> {
        let (this, user, room) = (Arc::clone(self), user_id.clone(), visit.room_id.clone());
        let own = run(move || this.own(&user, &room, suggested_only)).await?;
        if let Some(own) = own {
            return Ok(own);
        }
        let (summary, found) = match visit.told {
            // Of what is no space there is no more to know.
            Some(told) if !told.is_space() => (told, Found::default()),
            told => match self.ask(user_id, &visit.room_id, visit.via, suggested_only, budget).await? {
                Some(space) => (space.room.summary.clone(), told_by(&space, suggested_only)),
                None => match told {
                    Some(told) => (told, Found::default()),
                    None => return Ok(None),
                },
            },
        };
        let (this, user) = (Arc::clone(self), user_id.clone());
        run(move || {
            let may_know = this.summaries.user_may_know(&summary, Some(&user))?;
            Ok(may_know.then_some((summary, found)))
        })
        .await
    }

    /// A room that this server is in; `None` inside when the user may not know of it.
    #[expect(clippy::option_option, reason = "unknown here and hidden are different things")]
    fn own(
        &self,
        user_id: &OwnedUserId,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<Option<Option<(Summary, Found)>>, MatrixError> {
        let Some(summary) = self.summaries.of(room_id)? else { return Ok(None) };
        if !self.summaries.user_may_know(&summary, Some(user_id))? {
            return Ok(Some(None));
        }
        let children =
            if summary.is_space() { self.summaries.children(room_id, suggested_only)? } else { Vec::new() };
        Ok(Some(Some((summary, Found { children, ..Found::default() }))))
    }

    /// What another server says of a room, now or a short time ago.
    async fn ask(
        self: &Arc<Self>,
        user_id: &OwnedUserId,
        room_id: &OwnedRoomId,
        mut via: Vec<OwnedServerName>,
        suggested_only: bool,
        budget: &mut Budget,
    ) -> Result<Option<Arc<SpaceForServer>>, MatrixError> {
        let now_ms = self.clock.now_ms();
        let key = (user_id.clone(), room_id.clone(), suggested_only);
        if let Some((until_ms, said)) = self.remembered.get(&key)
            && now_ms < until_ms
        {
            return Ok(said);
        }
        let (this, user, room) = (Arc::clone(self), user_id.clone(), room_id.clone());
        let inviter = run(move || Ok(this.rooms.member(&room, &user)?)).await?;
        via.extend(inviter.map(|member| member.sender.server_name().to_owned()));
        via.extend(room_id.server_name().map(ToOwned::to_owned));
        via.retain(|server| *server != *self.rooms.server_name());
        if via.is_empty() || budget.requests == 0 || now_ms >= budget.until_ms {
            return Ok(None);
        }
        budget.requests -= 1;
        let asked = room_id.clone();
        let request = |reply| RemoteRequest::Space { room_id: asked, via, suggested_only, reply };
        let left = Duration::from_millis(budget.until_ms.saturating_sub(now_ms));
        let said = match tokio::time::timeout(left, self.remote.request(request)).await {
            Ok(Ok(said)) => Some(Arc::new(said)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "no server says what is in a space");
                None
            }
            Err(_) => {
                tracing::debug!("servers take too long to say what is in a space");
                None
            }
        };
        let kept_ms = if said.is_some() { REMEMBERED_MS } else { SILENCE_REMEMBERED_MS };
        if said.as_ref().is_none_or(|said| is_small(said)) {
            self.remembered.insert(key, (self.clock.now_ms().saturating_add(kept_ms), said.clone()));
        }
        Ok(said)
    }
}

fn is_small(said: &SpaceForServer) -> bool {
    serde_json::to_vec(said).is_ok_and(|json| json.len() <= CACHED_BYTES_MAX)
}

/// What another server's answer gives for the way on.
fn told_by(space: &SpaceForServer, suggested_only: bool) -> Found {
    if !space.room.summary.is_space() {
        return Found::default();
    }
    Found {
        children: in_order(space.room.children_state.clone(), suggested_only),
        told: space.children.iter().map(|child| (child.room_id.clone(), child.clone())).collect(),
        hidden: space.inaccessible_children.iter().cloned().collect(),
    }
}

async fn run<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, MatrixError> + Send + 'static,
) -> Result<R, MatrixError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(MatrixError::internal(&error)),
    }
}
