//! What this server does for users of other servers who join, leave or knock
//! through it, and for its own invites that another server signs.

use std::sync::Arc;

use causeway_room::{Pdu, auth, build};
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    events::room::member::MembershipState,
    signatures::{JsonError, sign_event},
};
use serde_json::{Map, Value, value::RawValue};

use super::{
    Rooms,
    error::RoomError,
    membership::{BY_PROOF, membership_event},
    receive::Received,
    store::VersionRules,
    writer::RoomWriter,
};

/// A membership event of another server's user that was taken in.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The event, with this server's signature where the room's rules want it.
    pub event: Arc<Pdu>,
    /// The state before it.
    pub state: Vec<Arc<Pdu>>,
    /// What authorises that state and the event.
    pub auth_chain: Vec<Arc<Pdu>>,
    /// The servers in the room before.
    pub servers: Vec<OwnedServerName>,
    /// What somebody outside is told of the room, as whole events: the answer to a knock.
    pub room_state: Vec<Box<RawValue>>,
}

impl Rooms {
    /// The event that a user of another server is to sign in order to join,
    /// leave or knock (`make_join`, `make_leave`, `make_knock`), without hashes
    /// and signatures, and the room's version. `supported`: the versions that
    /// the other server named, `None` where the endpoint has no such list.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`] when this server is not in the room,
    /// [`RoomError::IncompatibleVersion`], [`RoomError::UnableToGrantJoin`], or
    /// [`RoomError::Forbidden`] by the room's rules.
    pub fn member_template(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        membership: &MembershipState,
        supported: Option<&[RoomVersionId]>,
    ) -> Result<(RoomVersionId, CanonicalJsonObject), RoomError> {
        self.write(room_id, |writer| {
            if !writer.is_joined_here() {
                return Err(RoomError::UnknownRoom);
            }
            let version = writer.version().clone();
            if supported.is_some_and(|supported| !supported.contains(&version)) {
                return Err(RoomError::IncompatibleVersion(version));
            }
            let mut content = Map::new();
            if *membership == MembershipState::Join {
                writer.vouch_for(user_id, &mut content)?;
            }
            let event = membership_event(user_id, user_id, membership.as_str(), content)?;
            let (placement, before) = writer.place(&event)?;
            let rules = Arc::clone(writer.rules());
            // Signed only to be judged; this is thrown away.
            let pdu = build::build(&rules.rules, &event, &placement, &self.server_name, self.key_pair())?;
            let state = writer.auth_state(&before, &pdu)?;
            auth::check_against(&rules.rules, &pdu, &state)?;
            Ok((version, build::template(&rules.rules, &event, &placement)))
        })
    }

    /// Takes in the signed event (`send_join`, `send_leave`, `send_knock`): its
    /// origin's signature was checked. It is sent on to all other servers.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] when it is not what `member_template` gave, or
    /// the room's rules refuse it.
    pub fn accept_member(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdu: Pdu,
        membership: &MembershipState,
    ) -> Result<Accepted, RoomError> {
        let forbidden = |why: &str| RoomError::Forbidden(why.to_owned());
        if pdu.membership().as_ref() != Some(membership) || pdu.state_key() != Some(pdu.sender().as_str()) {
            return Err(forbidden("it is not that change of the sender's own membership"));
        }
        if pdu.sender().server_name() != origin {
            return Err(forbidden("its sender is a user of another server"));
        }
        let (event, servers, room_state) = self.write_once(room_id, |writer| {
            if !writer.is_joined_here() {
                return Err(RoomError::UnknownRoom);
            }
            let event = Arc::new(writer.countersigned(pdu)?);
            let servers = writer.head.servers.keys().cloned().collect();
            match writer.receive(&event, true)? {
                Received::Accepted | Received::Duplicate => {}
                Received::SoftFailed(why) | Received::Rejected(why) | Received::Refused(why) => {
                    // What was stored of it stays: the write itself succeeds.
                    return Ok(Err(RoomError::Forbidden(why)));
                }
                Received::Missing { .. } => {
                    return Err(forbidden("it follows events that are not known here"));
                }
            }
            let shown = writer.shown_outside(&event)?;
            Ok(Ok((event, servers, shown.iter().map(|pdu| pdu.raw().to_owned()).collect())))
        })??;
        if *membership != MembershipState::Join {
            let (state, auth_chain) = Default::default();
            return Ok(Accepted { event, state, auth_chain, servers, room_state });
        }
        let given = self.state_for_server(room_id, event.event_id())?;
        let mut chain = given.auth_chain;
        let known: std::collections::HashSet<_> = chain.iter().cloned().collect();
        chain.extend(
            self.auth_chain(room_id, &[event.event_id().to_owned()])?
                .into_iter()
                .filter(|id| !known.contains(id)),
        );
        Ok(Accepted {
            event,
            state: self.state_pdus_for_server(given.state)?,
            auth_chain: self.state_pdus_for_server(chain)?,
            servers,
            room_state,
        })
    }

    /// Puts an invite into the room that the invited user's server has signed.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] when the room does not allow it (any more).
    pub fn commit_invite(&self, room_id: &RoomId, signed: &RawValue) -> Result<OwnedEventId, RoomError> {
        let rules = self.version_rules(room_id)?;
        let pdu = Pdu::parse(&rules.rules, signed.get())?;
        if pdu.sender().server_name() != self.server_name || pdu.membership() != Some(MembershipState::Invite)
        {
            return Err(RoomError::Forbidden("it is no invite of this server".to_owned()));
        }
        let event_id = pdu.event_id().to_owned();
        let target = pdu.state_key().and_then(|key| UserId::parse(key).ok());
        let target = target.filter(|_| pdu.content_object().contains_key(BY_PROOF));
        let received = self.write_once(room_id, |writer| {
            // He may have joined while his server signed.
            if let Some(target) = &target
                && writer.taken_proof(target)?.is_some()
            {
                return Ok(Received::Duplicate);
            }
            writer.receive(&Arc::new(pdu), true)
        })?;
        match received {
            Received::Accepted | Received::Duplicate => Ok(event_id),
            other => Err(RoomError::Forbidden(format!("the invite was not accepted: {other:?}"))),
        }
    }

    /// Adds this server's signature to an event (an invite of a local user, say).
    ///
    /// # Errors
    /// When the event is malformed.
    pub fn sign(&self, version: &VersionRules, object: &mut CanonicalJsonObject) -> Result<(), JsonError> {
        sign_event(self.server_name.as_str(), self.key_pair(), object, &version.rules.redaction)
    }
}

impl RoomWriter<'_> {
    /// Names a local user who lets somebody into a restricted room, if he needs one.
    fn vouch_for(&mut self, user_id: &UserId, content: &mut Map<String, Value>) -> Result<(), RoomError> {
        let membership = self.membership(user_id)?;
        if matches!(membership, MembershipState::Join | MembershipState::Invite) || !self.is_restricted()? {
            return Ok(());
        }
        self.check_allowed_by_other_room(user_id)?;
        let voucher = self.local_voucher()?.ok_or(RoomError::UnableToGrantJoin)?;
        content.insert("join_authorised_via_users_server".to_owned(), voucher.as_str().into());
        Ok(())
    }

    /// The event with this server's signature, if a local user vouches in it.
    fn countersigned(&mut self, pdu: Pdu) -> Result<Pdu, RoomError> {
        let content = pdu.content_object();
        let voucher = content.get("join_authorised_via_users_server").and_then(Value::as_str);
        let voucher = voucher.and_then(|user_id| UserId::parse(user_id).ok());
        let local = voucher.is_some_and(|user_id| user_id.server_name() == self.rooms.server_name);
        if pdu.membership() != Some(MembershipState::Join) || !local {
            return Ok(pdu);
        }
        let membership = self.membership(pdu.sender())?;
        if !matches!(membership, MembershipState::Join | MembershipState::Invite) && self.is_restricted()? {
            self.check_allowed_by_other_room(pdu.sender())?;
        }
        let mut object = pdu.object();
        let rules = Arc::clone(self.rules());
        self.rooms.sign(&rules, &mut object).map_err(causeway_room::PduError::Hash)?;
        Ok(Pdu::from_object(&rules.rules, object)?)
    }
}
