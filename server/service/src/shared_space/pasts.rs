//! What room state showed before an event that was adopted.
//!
//! What an adoption ends goes by it, and all servers must judge alike. Who was in
//! the room knows. A newcomer asks those who were, and until they have told, or
//! nobody can, the adoption stays unproven ([`super::judgement`]).
//!
//! Not here: asking (the replication driver), and what follows from the answer.
//! Invariant: what this server knows itself is never replaced by what it is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use causeway_room::{Pdu, format::INTEGER_MAX};
use causeway_shared_space::{ChangeId, ItemKey, header::adopted_item_id};
use causeway_storage::shared_space::{
    entries, items,
    pasts::{self, PastRow},
};
use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId, ServerName};

use super::{
    ITEM_TYPE, SharedSpace,
    backend::{HeldEvent, RoomAccess},
    error::SpaceError,
    patience, stored,
};
use crate::{notify::Topic, room_event::RoomEvent, rooms::RoomError};

/// Events asked for at once, the bound of such a request.
pub const ASKED_MAX: usize = 50;
/// Open entries read at once for a page of what is to be asked for.
const SCANNED_AT_ONCE: usize = 1_000;
/// Such reads for one page.
const SCANS_MAX: usize = 10;

/// What is known of the item that an event is about, as of before the event.
#[derive(Clone, Debug)]
pub(super) enum Past {
    /// The item's event then; `None` if there was none.
    Known(Option<RoomEvent>),
    /// Nobody could say.
    Untold,
    /// Others are yet to be asked.
    Unknown,
}

/// An item's event before another one, as one server tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Before<T> {
    /// This one.
    Event(T),
    /// There was none.
    Nothing,
    /// The server doesn't know.
    #[default]
    Unknown,
}

impl<T> Before<T> {
    /// The event, if there was one.
    pub fn event(self) -> Option<T> {
        if let Self::Event(event) = self { Some(event) } else { None }
    }

    /// The same of a part of the event.
    pub fn map<U>(self, part: impl FnOnce(T) -> U) -> Before<U> {
        match self {
            Self::Event(event) => Before::Event(part(event)),
            Self::Nothing => Before::Nothing,
            Self::Unknown => Before::Unknown,
        }
    }

    /// The same, borrowed.
    pub const fn as_ref(&self) -> Before<&T> {
        match self {
            Self::Event(event) => Before::Event(event),
            Self::Nothing => Before::Nothing,
            Self::Unknown => Before::Unknown,
        }
    }
}

/// An adopted event as it is told to a newcomer.
#[derive(Debug)]
pub struct Told {
    /// The event.
    pub event: Arc<Pdu>,
    /// The item's event before it.
    pub before: Before<Arc<Pdu>>,
}

/// Why others are to be asked for an adopted event.
#[derive(Debug, Default)]
pub struct Lack {
    /// Who adopted it.
    pub adopters: BTreeSet<OwnedServerName>,
    /// An adoption names something, so that what was before the event matters.
    names: bool,
    /// What nobody can tell now is taken for what nobody knows.
    pub last_try: bool,
}

/// How others were asked for events.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    /// Somebody answered.
    pub answered: bool,
    /// It counts, by whoever answered.
    pub counts: bool,
    /// Something of some event became known.
    pub learnt: bool,
}

/// What follows from asking for events that are lacking all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AfterTry {
    /// Some of them are taken for what nobody knows.
    pub gave_up: bool,
    /// How soon patience with one of the others wants the next try.
    pub next: Option<Duration>,
}

/// Adopted events that others are to be asked for.
pub type Lacking = BTreeMap<OwnedEventId, Lack>;

impl SharedSpace {
    /// What is known here of an item as of before one of its events.
    pub(super) fn past(&self, room: &RoomId, key: &ItemKey, held: &HeldEvent) -> Result<Past, SpaceError> {
        self.past_by(room, key, held, &mut |event_id| self.rooms.event(room, event_id))
    }

    /// The same under the room's lock.
    pub(super) fn past_in(
        &self,
        writer: &mut dyn RoomAccess,
        key: &ItemKey,
        held: &HeldEvent,
    ) -> Result<Past, SpaceError> {
        let room = writer.room_id().to_owned();
        self.past_by(&room, key, held, &mut |event_id| writer.event(event_id))
    }

    fn past_by(
        &self,
        room: &RoomId,
        key: &ItemKey,
        held: &HeldEvent,
        event: &mut dyn FnMut(&EventId) -> Result<Option<HeldEvent>, RoomError>,
    ) -> Result<Past, SpaceError> {
        if let Some(shown) = self.rooms.shown_before(held, key.as_str())? {
            return Ok(Past::Known(shown));
        }
        Ok(match pasts::past(&self.db, room, held.event.event_id())? {
            Some(PastRow::Shown(event_id)) => match event(&event_id)?.and_then(HeldEvent::accepted) {
                // It is known to others, who may tell more of it.
                None if !self.rooms.has_all() => Past::Unknown,
                shown => Past::Known(shown),
            },
            Some(PastRow::Nothing) => Past::Known(None),
            Some(PastRow::Untold) => Past::Untold,
            Some(PastRow::Asked(_)) | None => Past::Unknown,
        })
    }

    /// What this server can tell `asker`, who is in the room, of adopted events.
    /// Nothing of an event that no effective entry adopts: the log, which all in
    /// the room may read, says the same as one that is.
    ///
    /// # Errors
    /// Storage failed.
    pub fn tell_pasts(
        &self,
        room: &RoomId,
        asker: &ServerName,
        events: &[OwnedEventId],
    ) -> Result<Vec<(OwnedEventId, Told)>, SpaceError> {
        let mut told = Vec::new();
        for event_id in events.iter().take(ASKED_MAX) {
            if items::adoptions(&self.db, room, &adopted_item_id(event_id), 1)?.is_empty() {
                continue;
            }
            let Some(held) = self.item_event(room, event_id)? else { continue };
            let Some(event) = self.rooms.pdu_for_server(asker, event_id)? else { continue };
            let Ok(key) = ItemKey::new(event.state_key().unwrap_or_default()) else { continue };
            let before = match self.past(room, &key, &held)? {
                Past::Known(Some(shown)) => {
                    let shown = self.rooms.pdu_for_server(asker, shown.event_id())?;
                    shown.map_or(Before::Unknown, Before::Event)
                }
                Past::Known(None) => Before::Nothing,
                Past::Untold | Past::Unknown => Before::Unknown,
            };
            told.push((event_id.clone(), Told { event, before }));
        }
        Ok(told)
    }

    /// A page of adopted events of open entries that others are to be asked for,
    /// at most [`ASKED_MAX`], from the entry `after` on. The entry to go on after;
    /// `None` at the end.
    ///
    /// # Errors
    /// Storage failed.
    pub fn lacking_pasts(
        &self,
        room: &RoomId,
        after: Option<ChangeId>,
    ) -> Result<(Lacking, Option<ChangeId>), SpaceError> {
        let (mut lacking, after) = self.page_of_lacking(room, after)?;
        self.complete_adopters(room, &mut lacking)?;
        let now_ms = self.clock.now_ms();
        for (event_id, lack) in &mut lacking {
            lack.last_try = patience::is_over(pasts::past(&self.db, room, event_id)?.as_ref(), now_ms);
        }
        Ok((lacking, after))
    }

    fn page_of_lacking(
        &self,
        room: &RoomId,
        mut after: Option<ChangeId>,
    ) -> Result<(Lacking, Option<ChangeId>), SpaceError> {
        let mut lacking = Lacking::new();
        for _ in 0..SCANS_MAX {
            let page = entries::unproven(&self.db, room, after.as_ref(), SCANNED_AT_ONCE)?;
            for id in &page {
                after = Some(*id);
                let Some(row) = entries::entry(&self.db, room, id)? else { continue };
                let Some((header, _)) = stored::parts(&row) else { continue };
                let Some(event_id) = header.adopts() else { continue };
                let names = !header.supersedes().is_empty();
                if !self.lacks_past(room, event_id, names)? {
                    continue;
                }
                let lack = lacking.entry(event_id.to_owned()).or_default();
                lack.names |= names;
                lack.adopters.insert(header.server().to_owned());
                if lacking.len() >= ASKED_MAX {
                    return Ok((lacking, after));
                }
            }
            if page.len() < SCANNED_AT_ONCE {
                return Ok((lacking, None));
            }
        }
        Ok((lacking, after))
    }

    /// Adds who else adopted these events, wherever in the list: he is not to be
    /// taken for one who gains nothing.
    fn complete_adopters(&self, room: &RoomId, lacking: &mut Lacking) -> Result<(), SpaceError> {
        if lacking.is_empty() {
            return Ok(());
        }
        let events: Vec<OwnedEventId> = lacking.keys().cloned().collect();
        let mut note = |id: &ChangeId| {
            let Some(row) = entries::entry(&self.db, room, id)? else { return Ok(()) };
            let Some((header, _)) = stored::parts(&row) else { return Ok(()) };
            if let Some(lack) = header.adopts().and_then(|event_id| lacking.get_mut(event_id)) {
                lack.adopters.insert(header.server().to_owned());
            }
            Ok::<_, SpaceError>(())
        };
        for event_id in &events {
            for id in items::adoptions(&self.db, room, &adopted_item_id(event_id), SCANNED_AT_ONCE)? {
                note(&id)?;
            }
        }
        let mut after = None;
        for _ in 0..SCANS_MAX {
            let page = entries::unproven(&self.db, room, after.as_ref(), SCANNED_AT_ONCE)?;
            page.iter().try_for_each(&mut note)?;
            after = page.last().copied();
            if page.len() < SCANNED_AT_ONCE {
                break;
            }
        }
        Ok(())
    }

    /// Those of these events that others are still to be asked for. What is not
    /// among them any more is all that an answer brought.
    ///
    /// # Errors
    /// Storage failed.
    pub fn still_lacking(&self, room: &RoomId, lacking: Lacking) -> Result<Lacking, SpaceError> {
        let mut still = Lacking::new();
        for (event_id, lack) in lacking {
            if self.lacks_past(room, &event_id, lack.names)? {
                still.insert(event_id, lack);
            }
        }
        Ok(still)
    }

    /// Whether the adoption of an event can't be judged without asking others.
    fn lacks_past(&self, room: &RoomId, event_id: &EventId, names: bool) -> Result<bool, SpaceError> {
        let Some(held) = self.rooms.event(room, event_id)? else { return Ok(true) };
        if *held.event.room_id() != *room || held.rejected || !names {
            return Ok(false);
        }
        let Ok(key) = ItemKey::new(held.event.state_key().unwrap_or_default()) else { return Ok(false) };
        Ok(!matches!(self.past(room, &key, &held)?, Past::Known(_)))
    }

    /// Whether an item's event before one of its events may have been this one;
    /// both are held by now. Not if it is no event of that item, or comes after the
    /// event: what is before it has a smaller depth, as long as depths can grow.
    ///
    /// # Errors
    /// Storage failed.
    pub fn may_be_past(
        &self,
        room: &RoomId,
        event_id: &EventId,
        before: Before<&EventId>,
    ) -> Result<bool, SpaceError> {
        let Some(held) = self.item_event(room, event_id)? else { return Ok(false) };
        let before = match before {
            Before::Unknown => return Ok(false),
            Before::Nothing => return Ok(true),
            Before::Event(before) => before,
        };
        let Some(shown) = self.item_event(room, before)? else { return Ok(false) };
        let depth = |held: &HeldEvent| held.event.pdu().map(|pdu| pdu.depth());
        let (Some(earlier), Some(depth)) = (depth(&shown), depth(&held)) else { return Ok(false) };
        let is_before = earlier < depth || (earlier == depth && depth == INTEGER_MAX);
        Ok(before != event_id && is_before && shown.event.state_key() == held.event.state_key())
    }

    /// Notes what an item's event was before one of its events, as other servers
    /// told. False if that can't be ([`Self::may_be_past`]).
    ///
    /// # Errors
    /// Storage failed.
    pub fn learn_past(
        &self,
        room: &RoomId,
        event_id: &EventId,
        before: Before<&EventId>,
    ) -> Result<bool, SpaceError> {
        if !self.may_be_past(room, event_id, before)? {
            return Ok(false);
        }
        let row = before.event().map_or(PastRow::Nothing, |before| PastRow::Shown(before.to_owned()));
        self.note_past(room, event_id, &row)?;
        Ok(true)
    }

    /// Notes that others were asked for these events and that this did not suffice.
    /// Those for which it was the last try are given up if anybody answered.
    ///
    /// # Errors
    /// Storage failed.
    pub fn asked_for_pasts(
        &self,
        room: &RoomId,
        lacking: &Lacking,
        tried: Tried,
    ) -> Result<AfterTry, SpaceError> {
        let (mut after, now_ms) = (AfterTry::default(), self.clock.now_ms());
        let mut batch = self.db.batch();
        for (event_id, lack) in lacking {
            let row = pasts::past(&self.db, room, event_id)?;
            if lack.last_try {
                after.gave_up |= tried.answered;
                if tried.answered && matches!(row, None | Some(PastRow::Asked(_))) {
                    pasts::put_past(&mut batch, room, event_id, &PastRow::Untold);
                }
            } else if tried.counts {
                let left = patience::after_try(row.as_ref(), now_ms, !tried.learnt);
                let next = Duration::from_millis(left.next_ms.saturating_sub(now_ms));
                after.next = after.next.into_iter().chain([next]).min();
                if row != Some(PastRow::Asked(left)) {
                    pasts::put_past(&mut batch, room, event_id, &PastRow::Asked(left));
                }
            }
        }
        // Losing it in a crash costs some more questions.
        let _unsynced = self.db.commit(batch)?;
        Ok(after)
    }

    /// Judges again soon what is open: events that were fetched may prove it.
    ///
    /// # Errors
    /// Storage failed.
    pub fn judge_again(&self, room: &RoomId) -> Result<(), SpaceError> {
        self.judge_soon(room)?;
        self.notifier.notify([&Topic::Spaces]);
        Ok(())
    }

    fn note_past(&self, room: &RoomId, event_id: &EventId, row: &PastRow) -> Result<(), SpaceError> {
        let mut batch = self.db.batch();
        pasts::put_past(&mut batch, room, event_id, row);
        // Losing it in a crash costs another question.
        let _unsynced = self.db.commit(batch)?;
        Ok(())
    }

    /// A held event of an item of this room that the rules allowed.
    fn item_event(&self, room: &RoomId, event_id: &EventId) -> Result<Option<HeldEvent>, SpaceError> {
        Ok(self.rooms.event(room, event_id)?.filter(|held| {
            let is_item = held.event.kind_text() == ITEM_TYPE && held.event.state_key().is_some();
            is_item && *held.event.room_id() == *room && !held.rejected
        }))
    }
}
