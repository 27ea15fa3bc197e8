//! One room of the upstream as far as it is at hand.
//!
//! Nothing is asked here. What is wanted and not at hand is noted: whoever holds this
//! gives up, asks without the room's lock, and begins anew.
//!
//! Invariant: what is noted as lacking is what was asked for and had no answer, whatever
//! became of the error that said so.

use std::{collections::BTreeSet, sync::Arc};

use causeway_room::NewEvent;
use causeway_storage::Batch;
use ruma::{EventId, OwnedEventId, RoomId, RoomVersionId};

use super::{
    facts::Facts, freshness::Freshness, intake::Intake, outbox, request::Wanted, wanted::WantedLater,
};
use crate::{
    clock::Clock,
    notify::Topic,
    room_event::RoomEvent,
    rooms::{RoomError, VersionRules},
    shared_space::backend::{Appended, HeldEvent, RoomAccess, RoomFacts, Subject},
};

/// Pieces of state that are asked for together: who wants one wants the others soon.
const TOGETHER: [&str; 6] = [
    "m.room.create",
    "m.room.power_levels",
    "m.room.encryption",
    "m.room.tombstone",
    "m.room.join_rules",
    crate::shared_space::DECLARATION_TYPE,
];

/// What all rooms are known by.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) db: causeway_storage::Database,
    pub(super) clock: Clock,
    pub(super) facts: Arc<Facts>,
    pub(super) intake: Arc<Intake>,
    pub(super) later: WantedLater,
}

/// What becomes of an event that is not at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Events {
    /// It is asked for at once.
    Asked,
    /// It is as if it did not exist, and is asked for by and by.
    Later,
}

/// See the module.
pub(super) struct RoomAtHand<'a> {
    known: &'a Known,
    room: &'a RoomId,
    freshness: Freshness,
    events: Events,
    lacking: BTreeSet<Wanted>,
    batch: Batch,
    topics: Vec<Topic>,
}

impl<'a> RoomAtHand<'a> {
    pub(super) fn new(known: &'a Known, room: &'a RoomId, freshness: Freshness, events: Events) -> Self {
        let (batch, lacking) = (known.db.batch(), BTreeSet::new());
        Self { known, room, freshness, events, lacking, batch, topics: Vec::new() }
    }

    /// What was wanted and not at hand.
    pub(super) fn lacking(&mut self) -> Vec<Wanted> {
        std::mem::take(&mut self.lacking).into_iter().collect()
    }

    /// What is to be committed, and who is to be told.
    pub(super) fn into_parts(self) -> (Batch, Vec<Topic>) {
        (self.batch, self.topics)
    }

    fn lack(&mut self, wanted: Wanted) -> RoomError {
        if let Wanted::State { kind, key } = &wanted
            && (TOGETHER.contains(&kind.as_str()) && key.is_empty() || kind == "m.room.member")
        {
            for kind in TOGETHER {
                if self.known.facts.state(self.room, kind, "", self.freshness).is_none() {
                    self.lacking.insert(Wanted::State { kind: kind.to_owned(), key: String::new() });
                }
            }
        }
        self.lacking.insert(wanted);
        RoomError::Lacking
    }

    fn held(&self, event: RoomEvent) -> HeldEvent {
        let soft_failed = event.shown().is_some_and(|shown| shown.is_soft_failed());
        let position = self.known.intake.position(event.event_id());
        HeldEvent { event, rejected: false, soft_failed, position }
    }
}

impl RoomFacts for RoomAtHand<'_> {
    fn room_id(&self) -> &RoomId {
        self.room
    }

    fn rules(&mut self) -> Result<Arc<VersionRules>, RoomError> {
        let create = self.state("m.room.create", "")?.ok_or(RoomError::UnknownRoom)?;
        let content = create.content_object();
        let version = content.get("room_version").and_then(|version| version.as_str()).unwrap_or("1");
        let version = RoomVersionId::try_from(version)
            .map_err(|_| RoomError::Invalid("the room's version can't be read".to_owned()))?;
        VersionRules::of(&version)
    }

    fn state(&mut self, kind: &str, key: &str) -> Result<Option<RoomEvent>, RoomError> {
        match self.known.facts.state(self.room, kind, key, self.freshness) {
            Some(event) => Ok(event),
            None => Err(self.lack(Wanted::State { kind: kind.to_owned(), key: key.to_owned() })),
        }
    }

    fn event(&mut self, event_id: &EventId) -> Result<Option<HeldEvent>, RoomError> {
        if let Some(event) = self.known.facts.known_event(self.room, event_id) {
            return Ok(Some(self.held(event)));
        }
        if self.events == Events::Later {
            self.known.later.want(self.known.clock.now_ms(), self.room, Wanted::Event(event_id.to_owned()));
            return Ok(None);
        }
        match self.known.facts.event(self.room, event_id, self.freshness) {
            Some(_) => Ok(None),
            None => Err(self.lack(Wanted::Event(event_id.to_owned()))),
        }
    }

    fn may_be_current(&mut self, kind: &str, key: &str) {
        if self.events == Events::Later
            && self.known.facts.state(self.room, kind, key, Freshness::PEER).is_none()
        {
            let wanted = Wanted::State { kind: kind.to_owned(), key: key.to_owned() };
            self.known.later.want(self.known.clock.now_ms(), self.room, wanted);
        }
    }

    fn redaction_of(&mut self, event_id: &EventId) -> Result<Option<OwnedEventId>, RoomError> {
        match self.known.facts.event(self.room, event_id, self.freshness) {
            Some(event) => {
                let redaction = event.as_ref().and_then(|event| event.shown()?.redaction());
                Ok(redaction.map(ToOwned::to_owned))
            }
            None => Err(self.lack(Wanted::Event(event_id.to_owned()))),
        }
    }

    fn rights_shown_by(&mut self, event: &RoomEvent) -> Result<Vec<OwnedEventId>, RoomError> {
        match self.known.facts.rights(event.event_id()) {
            Some(ids) => Ok(ids.to_vec()),
            None => Err(self.lack(Wanted::Rights(event.event_id().to_owned()))),
        }
    }
}

impl RoomAccess for RoomAtHand<'_> {
    fn append(&mut self, event: NewEvent, subject: Subject) -> Result<Appended, RoomError> {
        let of = (&self.known.db, &self.known.clock);
        outbox::queue(of, &mut self.batch, self.room, (&subject, &event)).map_err(|error| {
            tracing::warn!(room = %self.room, error = %crate::error::Chain(&error), "an event can't be queued");
            RoomError::Lacking
        })?;
        self.topics.push(Topic::Outbox);
        Ok(Appended::Queued)
    }

    fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    fn notify(&mut self, topic: Topic) {
        self.topics.push(topic);
    }
}
