//! Which user of this server may do something in a room that nobody here asked for.

use std::sync::Arc;

use causeway_room::NewEvent;
use causeway_storage::rooms as rows;
use ruma::{
    OwnedUserId, UserId, events::room::member::MembershipState, room_version_rules::RoomVersionRules,
    state_res::events::RoomPowerLevelsIntField,
};
use serde_json::{Map, Value};

use super::{error::RoomError, membership::membership_event, power::Power, writer::RoomWriter};

/// Members that are read at once.
const MEMBERS_AT_ONCE: usize = 500;

/// A joined user of this server.
enum LocalMember {
    /// Who may do what is asked for.
    Able(OwnedUserId),
    /// Who is there, where nobody may.
    Joined(OwnedUserId),
}

impl RoomWriter<'_> {
    /// A joined user of this server who may invite, and so vouch for who joins.
    pub(crate) fn local_voucher(&mut self) -> Result<Option<OwnedUserId>, RoomError> {
        let able =
            |power: &Power, rules: &_, user: &_| power.may(rules, user, RoomPowerLevelsIntField::Invite);
        Ok(match self.local_member(able)? {
            Some(LocalMember::Able(user_id)) => Some(user_id),
            Some(LocalMember::Joined(_)) | None => None,
        })
    }

    /// An event of a user of this server that says nothing new: one of a type, or, where nobody
    /// may send such, a joined user's join as it is, which the rules let everybody repeat.
    pub(crate) fn saying_nothing(&mut self, kind: &str) -> Result<Option<NewEvent>, RoomError> {
        let able = |power: &Power, rules: &_, user: &_| power.may_send(rules, user, kind, false);
        Ok(match self.local_member(able)? {
            Some(LocalMember::Able(user_id)) => {
                Some(NewEvent::new(kind, user_id, None, Value::Object(Map::new()))?)
            }
            Some(LocalMember::Joined(user_id)) => {
                let join = self.state("m.room.member", user_id.as_str())?;
                let mut content = join.map(|join| join.content_object()).unwrap_or_default();
                // Who is in a room needs nobody to vouch for him.
                content.remove("join_authorised_via_users_server");
                Some(membership_event(&user_id, &user_id, "join", content)?)
            }
            None => None,
        })
    }

    /// A joined user of this server, one who may do something if there is such.
    fn local_member(
        &mut self,
        is_able: impl Fn(&Power, &RoomVersionRules, &UserId) -> bool,
    ) -> Result<Option<LocalMember>, RoomError> {
        self.settle()?;
        let power = self.power()?;
        let rules = Arc::clone(self.rules());
        let (mut joined, mut after) = (None, None);
        loop {
            let database = &self.rooms.store.database;
            let page = rows::members(database, &self.room_id, after.as_deref(), MEMBERS_AT_ONCE)?;
            let is_last = page.len() < MEMBERS_AT_ONCE;
            after = page.last().map(|(user_id, _)| user_id.clone());
            for (user_id, _) in page {
                let is_local = user_id.server_name() == self.rooms.server_name;
                if !is_local || self.membership(&user_id)? != MembershipState::Join {
                    continue;
                }
                if is_able(&power, &rules.rules, &user_id) {
                    return Ok(Some(LocalMember::Able(user_id)));
                }
                joined.get_or_insert(user_id);
            }
            if is_last {
                return Ok(joined.map(LocalMember::Joined));
            }
        }
    }
}
