//! Searching for people: those one shares a room with, and exact user ids of
//! this server. Nobody else is listed: an account is not public by existing.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};

use crate::{accounts::Accounts, error::MatrixError, profiles::Profiles, rooms::Rooms};

/// Rooms looked at for one search.
const ROOMS_MAX: usize = 100;

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
        let mut looked_at = 0;
        let joined = |membership: &MembershipState| *membership == MembershipState::Join;
        let memberships = self.rooms.memberships_of(asker)?;
        for (room_id, _) in
            memberships.iter().filter(|(_, member)| joined(&member.membership)).take(ROOMS_MAX)
        {
            for (user_id, member) in self.rooms.members(room_id, Some(&MembershipState::Join))? {
                looked_at += 1;
                let mut shown =
                    Found { user_id, display_name: member.displayname, avatar_url: member.avatar_url };
                let is_meant = |shown: &Found| {
                    let name = shown.display_name.as_deref().unwrap_or_default().to_lowercase();
                    name.contains(&term) || shown.user_id.as_str().to_lowercase().contains(&term)
                };
                let mut matches = is_meant(&shown);
                // A name of one room does not hide that of the profile.
                if shown.user_id.server_name() == self.rooms.server_name() {
                    let profile = self.profiles.profile(&shown.user_id)?;
                    let field = |name: &str| profile.get(name)?.as_str().map(ToOwned::to_owned);
                    shown.display_name = field("displayname");
                    shown.avatar_url = field("avatar_url");
                    matches |= is_meant(&shown);
                }
                if matches {
                    found.entry(shown.user_id.clone()).or_insert(shown);
                }
            }
            if found.len() > limit || looked_at > MEMBERS_MAX {
                break;
            }
        }
        found.remove(asker);
        let limited = found.len() > limit;
        Ok((found.into_values().take(limit).collect(), limited))
    }
}
