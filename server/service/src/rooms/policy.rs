//! Policy servers (server-server API, "Policy Servers"): having a local user's event
//! signed before it is in the room.
//!
//! Nobody waits under a room's lock. A write that comes to an event which is to be
//! signed is given up; the policy server is asked; and the write is begun anew,
//! with what it said of that event. The room may have gone on meanwhile: the event
//! then stands where it stood, as an invite does that another server had to sign.
//! What is done in the background for all rooms waits for no policy server: it asks
//! and tries again later.
//!
//! Invariants: nothing of a write is kept before all its events were signed; a
//! write has only so many of them.

use std::sync::Arc;

use causeway_room::{NewEvent, Pdu, policy::Policy};
use ruma::RoomId;

use super::{
    Rooms,
    error::RoomError,
    receive::Received,
    store::VersionRules,
    vetting::{self, Answer, Asking, Outcome, Unsigned, Vetting},
    writer::RoomWriter,
};
use crate::error::MatrixError;

impl Rooms {
    /// The room's policy server, if it has one now, and the room's rules.
    ///
    /// # Errors
    /// Storage.
    pub fn policy(&self, room_id: &RoomId) -> Result<Option<(Policy, Arc<VersionRules>)>, RoomError> {
        let Some(event) = self.state_event(room_id, causeway_room::policy::POLICY_TYPE, "")? else {
            return Ok(None);
        };
        let Some(policy) = Policy::of(&event) else { return Ok(None) };
        if !self.is_server_joined(room_id, &policy.via)? {
            return Ok(None);
        }
        Ok(Some((policy, self.version_rules(room_id)?)))
    }

    /// Asks the room's policy server, if it has one, whether a user may send such an
    /// event. Nothing is sent.
    ///
    /// # Errors
    /// Its refusal; [`RoomError::Forbidden`] by the room's rules.
    pub fn approve(&self, room_id: &RoomId, event: NewEvent) -> Result<(), RoomError> {
        let unsigned = self.write_once(room_id, |writer| match writer.policy()? {
            None => Ok::<_, RoomError>(None),
            Some(policy) => writer.unsigned(event, policy).map(Some),
        })?;
        let outcome = unsigned.map(|unsigned| self.vet(&unsigned));
        outcome.transpose().map(drop).map_err(RoomError::Policy)
    }

    /// Asks about the event for which a write was given up.
    ///
    /// # Errors
    /// There were too many already.
    pub(super) fn ask_policy(&self, vetting: &mut Vetting) -> Result<(), RoomError> {
        if let Some(unsigned) = vetting.take_open()? {
            let outcome = self.vet(&unsigned);
            vetting.learn(unsigned.event, outcome);
        }
        Ok(())
    }

    /// Has the policy server sign an event.
    fn vet(&self, unsigned: &Unsigned) -> Outcome {
        let answer = self.ask(unsigned);
        let answer = answer.and_then(|answer| answer.blocking_recv().map_err(|_| vetting::unavailable())?);
        unsigned.outcome(answer)
    }

    fn ask(&self, unsigned: &Unsigned) -> Result<Answer, MatrixError> {
        let signer = self.signer.as_ref().ok_or_else(vetting::unavailable)?;
        signer(unsigned.policy.via.clone(), unsigned.pdu.raw().to_owned())
    }
}

impl RoomWriter<'_> {
    /// The room's policy server, if it has one now.
    pub(super) fn policy(&mut self) -> Result<Option<Policy>, RoomError> {
        let event = self.state(causeway_room::policy::POLICY_TYPE, "")?;
        let policy = event.and_then(|event| Policy::of(&event));
        Ok(policy.filter(|policy| self.head.servers.contains_key(&policy.via)))
    }

    /// The policy server that is to sign such an event.
    pub(super) fn policy_for(
        &mut self,
        kind: &str,
        state_key: Option<&str>,
    ) -> Result<Option<Policy>, RoomError> {
        if causeway_room::policy::covers(kind, state_key) { self.policy() } else { Ok(None) }
    }

    fn unsigned(&mut self, event: NewEvent, policy: Policy) -> Result<Unsigned, RoomError> {
        let (pdu, _) = self.prepare(&event)?;
        Ok(Unsigned { event, pdu, policy, rules: Arc::clone(self.rules()) })
    }

    /// Appends an event that the policy server has signed; gives the write up if it
    /// was not asked yet.
    pub(super) fn append_vetted(&mut self, event: NewEvent, policy: Policy) -> Result<Arc<Pdu>, RoomError> {
        let mut outcome = self.vetting.outcome_of(&event);
        if outcome.is_none() && self.vetting.asking() == Asking::Later {
            outcome = self.outcome_later(&event, &policy)?;
        }
        match outcome {
            Some(Ok(pdu)) => match self.receive(&pdu, true)? {
                Received::Accepted | Received::Duplicate => Ok(pdu),
                Received::SoftFailed(why) | Received::Rejected(why) | Received::Refused(why) => {
                    Err(RoomError::Forbidden(why))
                }
                Received::Missing { .. } => Err(RoomError::Forbidden("it follows nothing here".to_owned())),
            },
            Some(Err(refusal)) => Err(RoomError::Policy(refusal)),
            None => {
                if self.vetting.asking() == Asking::Now && !self.vetting.is_open() {
                    let unsigned = self.unsigned(event, policy)?;
                    self.vetting.open(unsigned);
                }
                Err(RoomError::Unsigned)
            }
        }
    }

    /// What was answered in the background by now; asks if nobody did.
    fn outcome_later(&mut self, event: &NewEvent, policy: &Policy) -> Result<Option<Outcome>, RoomError> {
        let (rooms, place) = (self.rooms, vetting::place(&self.room_id, event));
        let is_sent = |pdu: &Pdu| Ok(rooms.held(pdu.event_id())?.is_some());
        rooms.desk.outcome(place, is_sent, || {
            let unsigned = self.unsigned(event.clone(), policy.clone())?;
            let answer = rooms.ask(&unsigned).map_err(|error| RoomError::Policy(Box::new(error)))?;
            Ok((unsigned, answer))
        })
    }

    /// Check 7: why an event is not recommended for the room, if it is not.
    pub(super) fn check_by_policy(&mut self, pdu: &Pdu) -> Result<Result<(), String>, RoomError> {
        let Some(policy) = self.policy_for(pdu.kind_text(), pdu.state_key())? else { return Ok(Ok(())) };
        if policy.has_signed(&self.head.rules.rules, pdu) {
            return Ok(Ok(()));
        }
        Ok(Err(format!("the policy server {} has not signed it", policy.via)))
    }
}
