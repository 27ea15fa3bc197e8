//! What a write knows of its room's policy server's opinion, and what is asked in
//! the background.
//!
//! Not here: asking, and what a write makes of it ([`super::policy`]).
//! Invariant: what was signed once is sent once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use causeway_room::{NewEvent, Pdu, policy::Policy};
use ruma::{OwnedServerName, RoomId};
use serde_json::{Value, value::RawValue};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{error::RoomError, store::VersionRules};
use crate::error::MatrixError;

/// Events of one write that a policy server is asked about.
pub const VETTED_MAX: usize = 20;
/// Events that are asked about in the background at once, or were and are remembered.
const DESK_MAX: usize = 256;

/// A policy server's answer to come.
pub type Answer = oneshot::Receiver<Result<Value, MatrixError>>;
/// How a policy server is asked to sign an event; the answer comes in time.
pub type Signer = Box<dyn Fn(OwnedServerName, Box<RawValue>) -> Result<Answer, MatrixError> + Send + Sync>;
/// What became of an event: as it was signed, or why it was not.
pub(super) type Outcome = Result<Arc<Pdu>, Box<MatrixError>>;

/// An event that is to be signed before it can be sent.
#[derive(Debug)]
pub(super) struct Unsigned {
    pub(super) event: NewEvent,
    pub(super) pdu: Pdu,
    pub(super) policy: Policy,
    pub(super) rules: Arc<VersionRules>,
}

impl Unsigned {
    /// What the policy server's answer makes of the event.
    pub(super) fn outcome(&self, answer: Result<Value, MatrixError>) -> Outcome {
        let Self { pdu, policy, rules, .. } = self;
        let signed = answer.and_then(|answer| match policy.signed(&rules.rules, pdu, &answer) {
            Ok(Some(signed)) => Ok(Arc::new(signed)),
            Ok(None) => Err(MatrixError::forbidden("The room's policy server has not signed the event")),
            Err(_) => Err(MatrixError::too_large("The event is too large with its signatures")),
        });
        signed.map_err(Box::new)
    }
}

/// An event of a write, and what the policy server said of it.
#[derive(Clone, Debug)]
struct Vetted {
    event: NewEvent,
    outcome: Outcome,
    used: bool,
}

/// How a write has its policy server asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Asking {
    /// Not at all: it can't be begun anew.
    #[default]
    Not,
    /// While it waits.
    Now,
    /// For its next try.
    Later,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Vetting {
    asking: Asking,
    known: Vec<Vetted>,
    /// The first event that is to be asked about.
    open: Option<Box<Unsigned>>,
}

impl Vetting {
    /// Of a write that has it asked so.
    pub(super) fn of(asking: Asking) -> Self {
        Self { asking, ..Self::default() }
    }

    pub(super) fn asking(&self) -> Asking {
        self.asking
    }

    /// Whether the write is to be given up for now.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The write is given up for this event.
    pub(super) fn open(&mut self, unsigned: Unsigned) {
        self.open = Some(Box::new(unsigned));
    }

    /// The event for which it was given up.
    ///
    /// # Errors
    /// There were too many already.
    pub(super) fn take_open(&mut self) -> Result<Option<Box<Unsigned>>, RoomError> {
        if self.open.is_some() && self.known.len() >= VETTED_MAX {
            let why = "too many events at once for the room's policy server";
            return Err(RoomError::Invalid(why.to_owned()));
        }
        Ok(self.open.take())
    }

    /// The write begins anew, with this.
    pub(super) fn learn(&mut self, event: NewEvent, outcome: Outcome) {
        self.known.push(Vetted { event, outcome, used: false });
        for vetted in &mut self.known {
            vetted.used = false;
        }
    }

    /// What became of such an event; of several that are the same, of each once.
    pub(super) fn outcome_of(&mut self, event: &NewEvent) -> Option<Outcome> {
        let is_same = |other: &NewEvent| {
            let (a, b) = (event, other);
            (&a.kind, &a.sender, &a.state_key, &a.redacts, &a.content)
                == (&b.kind, &b.sender, &b.state_key, &b.redacts, &b.content)
        };
        let vetted = self.known.iter_mut().find(|vetted| !vetted.used && is_same(&vetted.event))?;
        vetted.used = true;
        Some(vetted.outcome.clone())
    }
}

/// What is asked in the background, and what was answered.
#[derive(Debug, Default)]
pub(super) struct Desk(Mutex<HashMap<[u8; 32], Asked>>);

#[derive(Debug)]
enum Asked {
    Waiting(Box<Unsigned>, Answer),
    Signed(Arc<Pdu>),
}

impl Desk {
    /// What was answered about an event by now. If nobody asked yet, it is asked about.
    pub(super) fn outcome(
        &self,
        place: [u8; 32],
        is_sent: impl FnOnce(&Pdu) -> Result<bool, RoomError>,
        ask: impl FnOnce() -> Result<(Unsigned, Answer), RoomError>,
    ) -> Result<Option<Outcome>, RoomError> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match asked.remove(&place) {
            // One that was sent is said once more: that is another event.
            Some(Asked::Signed(pdu)) if !is_sent(&pdu)? => Ok(pdu),
            Some(Asked::Waiting(unsigned, mut answer)) => match answer.try_recv() {
                Err(TryRecvError::Empty) => {
                    asked.insert(place, Asked::Waiting(unsigned, answer));
                    return Ok(None);
                }
                Err(TryRecvError::Closed) => unsigned.outcome(Err(unavailable())),
                Ok(answer) => unsigned.outcome(answer),
            },
            Some(Asked::Signed(_)) | None => {
                let (unsigned, answer) = ask()?;
                // What is forgotten is asked again.
                if asked.len() >= DESK_MAX {
                    asked.clear();
                }
                asked.insert(place, Asked::Waiting(Box::new(unsigned), answer));
                return Ok(None);
            }
        };
        // The write may be given up for another of its events. Of a refusal only this
        // one is told: the next one asks again.
        if let Ok(pdu) = &outcome {
            asked.insert(place, Asked::Signed(Arc::clone(pdu)));
        }
        Ok(Some(outcome))
    }
}

/// Where an event of a room is on the desk.
pub(super) fn place(room_id: &RoomId, event: &NewEvent) -> [u8; 32] {
    let mut hash = Sha256::new();
    let state_key = event.state_key.as_ref().map(|key| format!("={key}"));
    for part in [
        room_id.as_str(),
        event.sender.as_str(),
        &event.kind.to_string(),
        &state_key.unwrap_or_default(),
        event.redacts.as_ref().map_or("", |target| target.as_str()),
        &serde_json::to_string(&event.content).unwrap_or_default(),
    ] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

pub(super) fn unavailable() -> MatrixError {
    MatrixError::new(503, "M_UNKNOWN", "Federation is not available")
}
