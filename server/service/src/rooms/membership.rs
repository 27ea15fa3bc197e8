//! Joining, leaving, inviting, knocking, kicking, banning: what local users do.
//!
//! What can't be done here because this server is not in the room, or because
//! another server must sign, is answered as such ([`Outcome::Remote`],
//! [`Invite::Remote`]): the door then asks the federation door.

use std::{collections::BTreeSet, sync::Arc};

use causeway_room::{NewEvent, Pdu, StateKey};
use causeway_storage::rooms as rows;
use ruma::{
    OwnedEventId, OwnedServerName, OwnedUserId, RoomId, UserId, events::room::member::MembershipState,
    room::JoinRuleKind, state_res::events::RoomJoinRulesEvent,
};
use serde_json::{Map, Value, value::RawValue};

use super::{Rooms, error::RoomError, store::VersionRules, writer::RoomWriter};
use crate::notify::Topic;

/// Servers named to go through, at most.
const VIA_MAX: usize = 10;
/// Rooms of a restricted join rule that are looked at.
const ALLOWED_ROOMS_MAX: usize = 64;

/// In an invite: what an identity server says of who is invited.
pub(super) const BY_PROOF: &str = "third_party_invite";

/// What came of a change of one's own membership.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is done; the event.
    Done(OwnedEventId),
    /// Only another server can: one of these, best first.
    Remote {
        /// Servers that are likely in the room.
        via: Vec<OwnedServerName>,
    },
}

/// An invite for a user of another server, which is to sign it.
#[derive(Clone, Debug)]
pub struct PreparedInvite {
    /// Built, allowed and signed, and not in the room.
    pub event: Arc<Pdu>,
    /// The room's version.
    pub version: Arc<VersionRules>,
    /// What the invited user's server is told of the room.
    pub room_state: Vec<Box<RawValue>>,
}

/// What came of an invitation.
#[derive(Clone, Debug)]
pub enum Invite {
    /// It is done; the event.
    Done(OwnedEventId),
    /// Have it signed, then [`Rooms::commit_invite`].
    Remote(PreparedInvite),
}

/// Of a piece of stripped state, who wrote it.
#[derive(serde::Deserialize)]
struct Told {
    sender: OwnedUserId,
}

/// State that an invited user is shown of the room.
const STRIPPED_TYPES: [&str; 7] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.name",
    "m.room.topic",
    "m.room.encryption",
];

impl Rooms {
    /// Joins a room. `content` may hold `displayname`, `avatar_url`, `reason` …
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] by the room's rules.
    #[expect(clippy::needless_pass_by_value, reason = "a wish is made to be carried out once")]
    pub fn join(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        content: Map<String, Value>,
    ) -> Result<Outcome, RoomError> {
        // Who is in it may still change his name.
        if !self.is_joined(room_id, user_id)? {
            self.check_not_blocked(room_id)?;
        }
        if !self.is_joined_here(room_id)? {
            return Ok(Outcome::Remote { via: self.via_of_invite(room_id, user_id)? });
        }
        self.write(room_id, |writer| writer.join(user_id, content.clone()))
    }

    /// Leaves a room, or turns down an invite, or takes back a knock.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] when the user is not in the room in any way.
    pub fn leave(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        reason: Option<&str>,
    ) -> Result<Outcome, RoomError> {
        if !self.is_joined_here(room_id)? {
            let standing = rows::membership(&self.store.database, user_id, room_id)?;
            let standing = standing.map(|member| member.membership);
            if !matches!(standing, Some(MembershipState::Invite | MembershipState::Knock)) {
                return Err(RoomError::NotFound("the room"));
            }
            let via = self.via_of_invite(room_id, user_id)?;
            if !via.is_empty() || !self.exists(room_id)? {
                return Ok(Outcome::Remote { via });
            }
            // Everybody left, and only this server has the room.
        }
        self.write(room_id, |writer| {
            let membership = writer.membership(user_id)?;
            if matches!(membership, MembershipState::Leave | MembershipState::Ban) {
                return Err(RoomError::Forbidden("you are not in this room".to_owned()));
            }
            let pdu = writer.set_membership(user_id, user_id, "leave", reason_content(reason))?;
            Ok(Outcome::Done(pdu.event_id().to_owned()))
        })
    }

    /// Asks to be let in.
    ///
    /// # Errors
    /// As [`Self::join`].
    #[expect(clippy::needless_pass_by_value, reason = "a wish is made to be carried out once")]
    pub fn knock(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        content: Map<String, Value>,
    ) -> Result<Outcome, RoomError> {
        self.check_not_blocked(room_id)?;
        if !self.is_joined_here(room_id)? {
            return Ok(Outcome::Remote { via: self.via_of_invite(room_id, user_id)? });
        }
        self.write(room_id, |writer| {
            let pdu = writer.set_membership(user_id, user_id, "knock", content.clone())?;
            Ok(Outcome::Done(pdu.event_id().to_owned()))
        })
    }

    /// Invites a user. `content` may hold `reason`, `is_direct`, `displayname` …
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] by the room's rules.
    #[expect(clippy::needless_pass_by_value, reason = "a wish is made to be carried out once")]
    pub fn invite(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        target: &UserId,
        content: Map<String, Value>,
    ) -> Result<Invite, RoomError> {
        self.check_not_blocked(room_id)?;
        self.write(room_id, |writer| {
            if content.contains_key(BY_PROOF)
                && let Some(held) = writer.taken_proof(target)?
            {
                return Ok(Invite::Done(held));
            }
            if target.server_name() == self.server_name {
                let pdu = writer.invite(sender, target, content.clone())?;
                return Ok(Invite::Done(pdu.event_id().to_owned()));
            }
            let (pdu, _) = writer.prepare(&membership_event(sender, target, "invite", content.clone())?)?;
            let shown = writer.shown_outside(&pdu)?;
            let room_state = shown.iter().map(|pdu| pdu.raw().to_owned()).collect();
            let version = Arc::clone(writer.rules());
            Ok(Invite::Remote(PreparedInvite { event: Arc::new(pdu), version, room_state }))
        })
    }

    /// Whether a user may invite somebody by an address.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] by the room's rules.
    pub fn check_may_invite_address(&self, room_id: &RoomId, sender: &UserId) -> Result<(), RoomError> {
        self.check_not_blocked(room_id)?;
        let key = Some("token".to_owned());
        let event =
            NewEvent::new("m.room.third_party_invite", sender.to_owned(), key, Value::Object(Map::new()))?;
        self.write(room_id, |writer| writer.prepare(&event).map(drop))
    }

    /// Removes a user from the room.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] by the room's rules, or when he is not in it.
    pub fn kick(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        target: &UserId,
        reason: Option<&str>,
    ) -> Result<OwnedEventId, RoomError> {
        self.write(room_id, |writer| {
            let membership = writer.membership(target)?;
            if matches!(membership, MembershipState::Leave | MembershipState::Ban) {
                return Err(RoomError::Forbidden("the user is not in this room".to_owned()));
            }
            let pdu = writer.set_membership(sender, target, "leave", reason_content(reason))?;
            Ok(pdu.event_id().to_owned())
        })
    }

    /// Bans a user.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] by the room's rules.
    pub fn ban(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        target: &UserId,
        reason: Option<&str>,
    ) -> Result<OwnedEventId, RoomError> {
        self.write(room_id, |writer| {
            let pdu = writer.set_membership(sender, target, "ban", reason_content(reason))?;
            Ok(pdu.event_id().to_owned())
        })
    }

    /// Lifts a ban.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] by the room's rules, or when he is not banned.
    pub fn unban(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        target: &UserId,
        reason: Option<&str>,
    ) -> Result<OwnedEventId, RoomError> {
        self.write(room_id, |writer| {
            if writer.membership(target)? != MembershipState::Ban {
                return Err(RoomError::Forbidden("the user is not banned".to_owned()));
            }
            let pdu = writer.set_membership(sender, target, "leave", reason_content(reason))?;
            Ok(pdu.event_id().to_owned())
        })
    }

    /// Takes a room that the user has left off his list.
    ///
    /// # Errors
    /// [`RoomError::Invalid`] while he is in it.
    pub fn forget(&self, room_id: &RoomId, user_id: &UserId) -> Result<(), RoomError> {
        let slot = self.slots.of(room_id);
        let _writing = slot.lock();
        let standing = rows::membership(&self.store.database, user_id, room_id)?;
        let standing = standing.ok_or(RoomError::NotFound("the room"))?;
        if !matches!(standing.membership, MembershipState::Leave | MembershipState::Ban) {
            return Err(RoomError::Invalid("leave the room before you forget it".to_owned()));
        }
        let mut batch = self.store.database.batch();
        let forgotten = rows::Member { forgotten: true, ..standing };
        rows::put_membership(&mut batch, user_id, room_id, &forgotten);
        let _commit = self.store.database.commit_durable(batch)?;
        self.notifier.notify(&[Topic::User(user_id.to_owned())]);
        Ok(())
    }

    /// Servers that an invite or knock of this user may be answered through.
    fn via_of_invite(&self, room_id: &RoomId, user_id: &UserId) -> Result<Vec<OwnedServerName>, RoomError> {
        let mut via = Vec::new();
        if let Some(member) = rows::membership(&self.store.database, user_id, room_id)? {
            via.push(member.sender.server_name().to_owned());
        }
        via.extend(rows::joined_servers(&self.store.database, room_id)?.into_keys());
        // Whoever wrote what was told of the room is or was in it.
        for told in rows::invite_state(&self.store.database, user_id, room_id)? {
            if let Ok(Told { sender }) = serde_json::from_str(told.get()) {
                via.push(sender.server_name().to_owned());
            }
        }
        via.extend(room_id.server_name().map(ToOwned::to_owned));
        let mut seen = BTreeSet::new();
        via.retain(|server| *server != self.server_name && seen.insert(server.clone()));
        via.truncate(VIA_MAX);
        Ok(via)
    }
}

impl RoomWriter<'_> {
    /// The membership of who need not be invited again by what an identity server has said.
    /// That is readable for all, may come as often as anybody likes, and would take a member
    /// back to being invited, which the room's rules allow.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] if nobody of this server is in the room any more.
    pub(super) fn taken_proof(&mut self, target: &UserId) -> Result<Option<OwnedEventId>, RoomError> {
        if !self.is_joined_here() {
            return Err(RoomError::Forbidden("this server is not in the room".to_owned()));
        }
        let held = self.state("m.room.member", target.as_str())?;
        let is_in = |pdu: &Arc<Pdu>| {
            matches!(pdu.membership(), Some(MembershipState::Join | MembershipState::Invite))
        };
        Ok(held.filter(is_in).map(|pdu| pdu.event_id().to_owned()))
    }

    fn join(&mut self, user_id: &UserId, mut content: Map<String, Value>) -> Result<Outcome, RoomError> {
        let held = self.state("m.room.member", user_id.as_str())?;
        let membership = held.as_ref().and_then(|event| event.membership()).unwrap_or(MembershipState::Leave);
        if let Some(held) = held
            && membership == MembershipState::Join
            && ["displayname", "avatar_url"]
                .iter()
                .all(|field| held.content_object().get(*field) == content.get(*field))
        {
            return Ok(Outcome::Done(held.event_id().to_owned()));
        }
        if !matches!(membership, MembershipState::Join | MembershipState::Invite) && self.is_restricted()? {
            self.check_allowed_by_other_room(user_id).map_err(|error| match error {
                RoomError::UnableToAuthoriseJoin => RoomError::Forbidden(error.to_string()),
                error => error,
            })?;
            let Some(voucher) = self.local_voucher()? else {
                let via = self.head.servers.keys().filter(|server| **server != self.rooms.server_name);
                return Ok(Outcome::Remote { via: via.take(VIA_MAX).cloned().collect() });
            };
            content.insert("join_authorised_via_users_server".to_owned(), voucher.as_str().into());
        }
        let pdu = self.set_membership(user_id, user_id, "join", content)?;
        Ok(Outcome::Done(pdu.event_id().to_owned()))
    }

    /// Appends a membership event.
    pub(crate) fn set_membership(
        &mut self,
        sender: &UserId,
        target: &UserId,
        membership: &str,
        content: Map<String, Value>,
    ) -> Result<Arc<Pdu>, RoomError> {
        self.append(membership_event(sender, target, membership, content)?)
    }

    /// Invites a user of this server.
    pub(crate) fn invite(
        &mut self,
        sender: &UserId,
        target: &UserId,
        content: Map<String, Value>,
    ) -> Result<Arc<Pdu>, RoomError> {
        self.set_membership(sender, target, "invite", content)
    }

    /// The state that somebody outside is told of the room, besides the event about him.
    pub(crate) fn shown_outside(&mut self, about: &Pdu) -> Result<Vec<Arc<Pdu>>, RoomError> {
        let mut shown = Vec::with_capacity(STRIPPED_TYPES.len() + 1);
        for kind in STRIPPED_TYPES {
            shown.extend(self.state(kind, "")?);
        }
        if about.state_key() != Some(about.sender().as_str()) {
            shown.extend(self.state("m.room.member", about.sender().as_str())?);
        }
        Ok(shown)
    }

    /// The same as a client of this server gets it, with the event about its user.
    pub(crate) fn stripped_state(&mut self, about: &Pdu) -> Result<Vec<Box<RawValue>>, RoomError> {
        let mut stripped: Vec<_> = self.shown_outside(about)?.iter().map(|event| event.stripped()).collect();
        stripped.push(about.stripped());
        Ok(stripped)
    }

    /// Whether members of other rooms may join without an invite.
    pub(crate) fn is_restricted(&mut self) -> Result<bool, RoomError> {
        let rule = self
            .state("m.room.join_rules", "")?
            .and_then(|event| RoomJoinRulesEvent::new(&*event).join_rule().ok());
        let authorization = &self.head.rules.rules.authorization;
        Ok(match rule {
            Some(JoinRuleKind::Restricted) => authorization.restricted_join_rule,
            Some(JoinRuleKind::KnockRestricted) => authorization.knock_restricted_join_rule,
            _ => false,
        })
    }

    /// Fails unless the user is in a room that the join rule names: as forbidden where this server
    /// is in all of them and so knows, or else as what another server may know better.
    pub(crate) fn check_allowed_by_other_room(&mut self, user_id: &UserId) -> Result<(), RoomError> {
        let refused =
            RoomError::Forbidden("the user is in none of the rooms that let one in here".to_owned());
        let Some(event) = self.state("m.room.join_rules", "")? else { return Err(refused) };
        let content = event.content_object();
        let allow = content.get("allow").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let mut knows_all = allow.len() <= ALLOWED_ROOMS_MAX;
        for rule in allow.iter().take(ALLOWED_ROOMS_MAX) {
            let named =
                rule.get("room_id").and_then(Value::as_str).and_then(|room_id| RoomId::parse(room_id).ok());
            let Some(other) =
                named.filter(|_| rule.get("type").is_some_and(|kind| kind == "m.room_membership"))
            else {
                continue;
            };
            let database = &self.rooms.store.database;
            if !rows::joined_servers(database, &other)?.contains_key(&*self.rooms.server_name) {
                knows_all = false;
                continue;
            }
            let member = rows::member(database, &other, user_id)?;
            if member.is_some_and(|member| member.membership == MembershipState::Join) {
                return Ok(());
            }
        }
        Err(if knows_all { refused } else { RoomError::UnableToAuthoriseJoin })
    }
}

/// A membership event, before it has a place.
pub(crate) fn membership_event(
    sender: &UserId,
    target: &UserId,
    membership: &str,
    mut content: Map<String, Value>,
) -> Result<NewEvent, RoomError> {
    content.insert("membership".to_owned(), membership.into());
    let key = StateKey::new("m.room.member", target.as_str());
    Ok(NewEvent::new(key.kind.as_str(), sender.to_owned(), Some(key.key), Value::Object(content))?)
}

fn reason_content(reason: Option<&str>) -> Map<String, Value> {
    reason.map(|reason| ("reason".to_owned(), reason.into())).into_iter().collect()
}
