//! Searching for people: those one shares a room with, those in rooms of this server that
//! anybody may join or read, and exact user ids of this server (client-server API, "User
//! Directory"). Nobody else is listed: an account is not public by existing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use causeway_room::visibility::visibility_of;
use causeway_storage::{
    directory::published_rooms,
    rooms::{self as rows, Member},
};
use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::room::{history_visibility::HistoryVisibility, member::MembershipState},
};

use crate::{accounts::Accounts, error::MatrixError, profiles::Profiles, room_view::RoomView, rooms::Rooms};

/// Rooms whose members are looked at for one search, shared ones before others.
const ROOMS_MAX: usize = 200;

/// Rooms of the server of which it is looked at whether they are public.
const SCANNED_MAX: usize = 1_000;

/// Members looked at for one search, all rooms together.
const MEMBERS_MAX: usize = 10_000;

/// Results of one search.
pub const RESULTS_MAX: usize = 100;

/// Somebody who was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who.
    pub user_id: OwnedUserId,
    /// The name in a shared room, or of the profile.
    pub display_name: Option<String>,
    /// The picture.
    pub avatar_url: Option<String>,
}

/// See the module.
pub struct UserDirectory {
    accounts: Arc<Accounts>,
    profiles: Arc<Profiles>,
    rooms: Arc<Rooms>,
}

impl UserDirectory {
    /// Over these.
    pub fn new(accounts: Arc<Accounts>, profiles: Arc<Profiles>, rooms: Arc<Rooms>) -> Self {
        Self { accounts, profiles, rooms }
    }

    /// People whose id or name contains `term`, without regard to case, and
    /// whether there are more than `limit`.
    pub fn search(
        &self,
        asker: &UserId,
        term: &str,
        limit: usize,
    ) -> Result<(Vec<Found>, bool), MatrixError> {
        let (term, limit) = (term.to_lowercase(), limit.min(RESULTS_MAX));
        let mut found = BTreeMap::new();
        if let Some(user_id) = self.accounts.local_user_id(&term)
            && self.accounts.is_active(&user_id)?
        {
            let profile = self.profiles.profile(&user_id)?;
            let field =
                |name: &str| profile.get(name).and_then(|value| value.as_str()).map(ToOwned::to_owned);
            let (display_name, avatar_url) = (field("displayname"), field("avatar_url"));
            found.insert(user_id.clone(), Found { user_id, display_name, avatar_url });
        }
        let mut budget = Budget { rooms: ROOMS_MAX, members: MEMBERS_MAX };
        let memberships = self.rooms.memberships_of(asker)?;
        let joined = memberships.into_iter().filter(|(_, member)| is_joined(member));
        let shared: BTreeSet<OwnedRoomId> = joined.map(|(room_id, _)| room_id).collect();
        for room_id in &shared {
            if found.len() <= limit {
                self.look(room_id, true, &term, &mut budget, &mut found)?;
            }
        }
        let mut known = self.rooms.room_ids(None, SCANNED_MAX)?;
        let is_all = known.len() < SCANNED_MAX;
        known.extend(published_rooms(RoomView::new(&self.rooms).database(), None, ROOMS_MAX)?);
        known.sort();
        known.dedup();
        for room_id in known.iter().filter(|room_id| !shared.contains(*room_id)) {
            if found.len() <= limit && budget.is_left() && self.is_public(room_id)? {
                self.look(room_id, false, &term, &mut budget, &mut found)?;
            }
        }
        found.remove(asker);
        let limited = found.len() > limit || !budget.is_left() || !is_all;
        Ok((found.into_values().take(limit).collect(), limited))
    }

    /// Takes those of a room's members who are meant. Whoever does not share the room finds
    /// a user of this server by his profile alone, not by his name in that room.
    fn look(
        &self,
        room_id: &RoomId,
        is_shared: bool,
        term: &str,
        budget: &mut Budget,
        found: &mut BTreeMap<OwnedUserId, Found>,
    ) -> Result<(), MatrixError> {
        if !budget.is_left() {
            return Ok(());
        }
        let database = RoomView::new(&self.rooms).database();
        let members = rows::members(database, room_id, None, budget.members)?;
        budget.rooms -= 1;
        budget.members -= members.len();
        for (user_id, member) in members.into_iter().filter(|(_, member)| is_joined(member)) {
            let mut shown =
                Found { user_id, display_name: member.displayname, avatar_url: member.avatar_url };
            let is_local = shown.user_id.server_name() == self.rooms.server_name();
            let mut matches = (is_shared || !is_local) && is_meant(&shown, term);
            // A name of one room does not hide that of the profile.
            if is_local {
                let profile = self.profiles.profile(&shown.user_id)?;
                let field = |name: &str| profile.get(name)?.as_str().map(ToOwned::to_owned);
                shown.display_name = field("displayname");
                shown.avatar_url = field("avatar_url");
                matches |= is_meant(&shown, term);
            }
            if matches {
                found.entry(shown.user_id.clone()).or_insert(shown);
            }
        }
        Ok(())
    }

    /// Whether anybody may join the room, or read it, and this server is in it.
    fn is_public(&self, room_id: &RoomId) -> Result<bool, MatrixError> {
        let view = RoomView::new(&self.rooms);
        let rule = view.current(room_id, "m.room.join_rules", "")?;
        let may_join = rule.is_some_and(|rule| {
            rule.content_object().get("join_rule").and_then(|rule| rule.as_str()) == Some("public")
        });
        let visibility = view.current(room_id, "m.room.history_visibility", "")?;
        let may_read = visibility_of(visibility.as_deref()) == HistoryVisibility::WorldReadable;
        Ok((may_join || may_read) && self.rooms.is_joined_here(room_id)?)
    }
}

/// What one search may still look at.
struct Budget {
    rooms: usize,
    members: usize,
}

impl Budget {
    fn is_left(&self) -> bool {
        self.rooms > 0 && self.members > 0
    }
}

fn is_joined(member: &Member) -> bool {
    member.membership == MembershipState::Join
}

fn is_meant(shown: &Found, term: &str) -> bool {
    let name = shown.display_name.as_deref().unwrap_or_default().to_lowercase();
    name.contains(term) || shown.user_id.as_str().to_lowercase().contains(term)
}
