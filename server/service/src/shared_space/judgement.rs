//! What a verified entry counts for, as far as can be told now.
//!
//! [`authorise`] says who may write. Here is what hangs on more than that: what
//! an adoption ends, and whether a redaction may take a value away. What this
//! server writes itself is judged alike where others might judge it otherwise.
//!
//! Invariant: a verdict follows from the entry, from events that never change
//! and from held entries; what can't be told yet is said to be open, and never
//! guessed.

use causeway_shared_space::{Change, Header, Kind, Standing, VoidReason, header::adopted_item_id};
use causeway_storage::shared_space::items;
use ruma::EventId;

use super::{
    SharedSpace, authorise, backend::RoomAccess, draft::Draft, error::SpaceError, follower::StampRead,
    pasts::Past, stored, verdict::Verdict,
};
impl SharedSpace {
    /// What a verified entry counts for, after what `draft` has placed.
    pub(super) fn judge(
        &self,
        writer: &mut dyn RoomAccess,
        draft: &Draft<'_>,
        change: &Change,
    ) -> Result<Verdict, SpaceError> {
        let header = change.header();
        let standing = authorise::standing(writer, header)?;
        if !standing.is_effective() {
            return Ok(standing.into());
        }
        if let Some(event_id) = header.adopts() {
            return self.judge_adoption(writer, header, event_id);
        }
        match header.kind() {
            Kind::Redact => Ok(self.judge_redaction(writer, draft, header)?.into()),
            Kind::Put | Kind::Delete => Ok(standing.into()),
        }
    }

    /// An adoption that says what its event says: whether the event was one to
    /// be adopted, and what of the adoption's names counts.
    fn judge_adoption(
        &self,
        writer: &mut dyn RoomAccess,
        header: &Header,
        event_id: &EventId,
    ) -> Result<Verdict, SpaceError> {
        let Some(held) = writer.event(event_id)? else { return Ok(Standing::Unproven.into()) };
        let (room, key) = (&*writer.room_id().to_owned(), header.key());
        match self.examine_stamp(room, key, &held.event) {
            // The event carries a change of its own. To adopt it would bring an
            // old value back in its author's name.
            Ok(StampRead::Genuine(_)) => return Ok(Standing::Void(VoidReason::AdoptionMismatch).into()),
            // The event was signed by that very server: its key can be had. Were the
            // adoption let through before, it would have effect here alone.
            Ok(StampRead::WaitsForKey(stamp))
                if stamp.change().server().as_str() == held.event.sender().server_name().as_str() =>
            {
                return Ok(Standing::Unproven.into());
            }
            _ => {}
        }
        let mut verdict = Verdict { standing: Standing::Effective, ends: Some(Vec::new()), open: false };
        if header.supersedes().is_empty() {
            return Ok(verdict);
        }
        let shown = match self.past_in(writer, key, &held)? {
            Past::Known(Some(shown)) => shown,
            Past::Known(None) => return Ok(verdict),
            // Those who were in the room then judge by it: so does who came later,
            // once they told him.
            Past::Unknown => return Ok(Standing::Unproven.into()),
            Past::Untold => return Ok(Verdict { open: true, ..verdict }),
        };
        // What the adopter names beside that was not overwritten by this event.
        let adopted = adopted_item_id(shown.event_id());
        let (stamped, is_genuine) = match self.examine_stamp(room, key, &shown) {
            Ok(StampRead::Genuine(stamp)) => (Some(stamp.change().header().item_id()), true),
            Ok(StampRead::WaitsForKey(stamp)) => (Some(stamp.change().header().item_id()), false),
            _ => (None, false),
        };
        let mut ends = Vec::new();
        for id in header.supersedes() {
            if *id == adopted || (is_genuine && Some(*id) == stamped) {
                ends.push(*id);
            } else if Some(*id) == stamped {
                verdict.open = true;
            }
        }
        verdict.ends = Some(ends);
        Ok(verdict)
    }

    /// Whether a redaction's author may erase all that it names.
    fn judge_redaction(
        &self,
        writer: &mut dyn RoomAccess,
        draft: &Draft<'_>,
        header: &Header,
    ) -> Result<Standing, SpaceError> {
        let room = draft.room();
        let mut judged = Standing::Effective;
        for id in header.redacts() {
            let entry = items::adoptions(&self.db, room, id, 1)?.pop().unwrap_or(*id);
            let redacted = match draft.drafted().get(&entry) {
                Some(drafted) => Some(drafted.clone()),
                None => stored::change(&self.db, room, &entry)?,
            };
            match redacted.map(|redacted| redacted.header().author() == header.author()) {
                Some(true) => {}
                Some(false) if authorise::may_redact(writer, header)? => {}
                Some(false) => return Ok(Standing::Void(VoidReason::RedactionNotAllowed)),
                None => judged = Standing::Unproven,
            }
        }
        Ok(judged)
    }
}
