//! Conflicts settled from the room: a reaction or a reply to a notice.
//!
//! It means the list in the very event that it points to, and acts only while
//! two of those changes live. The home server of the one who chose writes the
//! change; it supersedes all that the notice listed. Where that server has no
//! part in shared spaces, the server that told the conflict writes it, by its
//! service user, if the one who chose may write items.

use causeway_room::NewEvent;
use causeway_shared_space::{ChangeId, ItemKey, Observed, Value, change::Body};
use causeway_storage::shared_space::{
    entries,
    items::ItemRow,
    notices::{self, NoticeRow},
};
use ruma::{EventId, RoomId, UserId};

use super::{
    SharedSpace, authorise,
    backend::{RoomAccess, Subject},
    choice,
    error::SpaceError,
    hearing::CONFLICTS_MAX,
    notice_text,
    service_user::Speaker,
    write::Wanted,
};
use crate::{room_event::RoomEvent, rooms::RoomError};

/// One conflict, and what was chosen in it.
#[derive(Clone)]
struct Chosen {
    id: ChangeId,
    key: ItemKey,
    notice: NoticeRow,
}

/// Who chose, and who writes what he chose.
struct Chooser<'a> {
    user: &'a UserId,
    /// Another than the user where that one's server has no part in shared spaces.
    author: &'a UserId,
}

/// What a choice comes to.
enum Settled {
    /// A change was written.
    Written(ChangeId),
    /// Nothing was, and this is said to the one who chose.
    Answered(String),
}

impl Settled {
    /// Of several outcomes the first change that was written counts, else the last answer.
    fn or(&mut self, other: Self) {
        if matches!(self, Self::Answered(_)) {
            *self = other;
        }
    }
}

impl SharedSpace {
    /// A user of some server chose from a notice.
    pub(super) fn follow_choice(
        &self,
        room: &RoomId,
        event: &RoomEvent,
        notice: &EventId,
        number: usize,
    ) -> Result<(), SpaceError> {
        if notices::change_of_event(&self.db, room, event.event_id())?.is_some() {
            return Ok(());
        }
        let told = notices::notices_at(&self.db, room, notice, CONFLICTS_MAX)?;
        let user = event.sender();
        let local = user.server_name() == self.server_name();
        if !local && !self.stands_in_for(room, user, &told)? {
            return Ok(());
        }
        let mut chosen = Vec::new();
        for notice in told {
            chosen.extend(self.chosen(room, notice, number)?);
        }
        let Some(first) = chosen.first().map(|one| one.id) else { return Ok(()) };
        self.rooms.write_patiently(room, |writer| {
            let author = if local { Speaker::User(user.to_owned()) } else { self.speaker(writer, user)? };
            let Speaker::User(author) = author else { return Ok(()) };
            let told = chosen.first().map(|one| one.notice.clone());
            let settled = self.settle(writer, &Chooser { user, author: &author }, &chosen)?;
            if let (Settled::Written(_), false, Some(told)) = (&settled, local, told)
                && told.authors.is_empty()
            {
                // By the change alone it would seem that the service user decided.
                let said = format!("Settled by {user}: {} is kept.", choice::reaction(number + 1));
                self.edit(writer, notice, &told, &said)?;
            }
            let marker = match &settled {
                Settled::Written(id) => *id,
                Settled::Answered(said) => {
                    self.answer(writer, event, said)?;
                    // Something, so that the choice is not answered twice.
                    first
                }
            };
            notices::put_change_of_event(writer.batch(), room, event.event_id(), &marker);
            Ok::<_, SpaceError>(())
        })
    }

    /// Whether this server writes what `user` of another server chooses: it told
    /// the conflict, and that server is not known to take part.
    fn stands_in_for(&self, room: &RoomId, user: &UserId, told: &[NoticeRow]) -> Result<bool, SpaceError> {
        let own = told.first().is_some_and(|notice| notice.sender.server_name() == self.server_name());
        Ok(own && !self.capable_servers(room)?.iter().any(|server| server == user.server_name()))
    }

    /// What a number means for one conflict: in a notice of its own a sibling; in
    /// a message about several an author, and of each item what he wrote.
    fn chosen(&self, room: &RoomId, notice: NoticeRow, choice: usize) -> Result<Option<Chosen>, SpaceError> {
        if notice.authors.is_empty() {
            let Some(id) = notice.siblings.get(choice).copied() else { return Ok(None) };
            let header = self.header_of_item_id(room, &id)?;
            let key = header.map(|header| header.key().clone()).or_else(|| ItemKey::new(&notice.key).ok());
            return Ok(key.map(|key| Chosen { id, key, notice }));
        }
        let Some(author) = notice.authors.get(choice) else { return Ok(None) };
        for id in &notice.siblings {
            if let Some(header) = self.header_of_item_id(room, id)?
                && header.author() == author
            {
                return Ok(Some(Chosen { id: *id, key: header.key().clone(), notice }));
            }
        }
        Ok(None)
    }

    fn settle(
        &self,
        writer: &mut dyn RoomAccess,
        chooser: &Chooser<'_>,
        chosen: &[Chosen],
    ) -> Result<Settled, SpaceError> {
        let Chooser { user, author } = *chooser;
        match Self::refuse_replaced(writer) {
            Ok(()) => {}
            Err(error @ SpaceError::Replaced(_)) => return Ok(Settled::Answered(error.to_string())),
            Err(error) => return Err(error),
        }
        let mut authorized_by = Vec::new();
        for writes in [user, author] {
            authorized_by = match authorise::local_writer(writer, writes) {
                Ok(shown) => shown,
                Err(SpaceError::Forbidden(why)) => return Ok(Settled::Answered(why.to_owned())),
                Err(error) => return Err(error),
            };
        }
        let mut settled = Settled::Answered("That value is not there any more.".to_owned());
        self.in_draft(writer, |space, draft, writer| {
            for Chosen { id, key, notice } in chosen {
                let row = draft.item(key)?.clone();
                let rewritten = !notice.authors.is_empty() && !self.is_listed_value(&row, notice, writer)?;
                if let Some(said) = already_settled(&row, notice, chooser, rewritten) {
                    settled.or(Settled::Answered(said));
                    continue;
                }
                let Some(body) = self.body_of(writer.room_id(), id)? else { continue };
                let mut observed: Observed = notice.siblings.iter().copied().collect();
                // He may have changed his mind.
                row.item
                    .siblings_by(author)
                    .filter(|own| names_all(&own.supersedes, notice))
                    .for_each(|own| observed.give(own.id));
                let wanted = Wanted {
                    key,
                    body,
                    observed: &observed,
                    author: author.to_owned(),
                    authorized_by: authorized_by.clone(),
                    adopts: None,
                    device: None,
                };
                let change = self.write_change(space, draft, writer, wanted)?;
                self.queue_projection(writer, key)?;
                self.metrics.settled();
                self.metrics.wrote(1, "settlement");
                settled.or(Settled::Written(change.id()));
            }
            Ok(settled)
        })
    }

    /// Whether an item shows one of the values that the notice listed.
    fn is_listed_value(
        &self,
        row: &ItemRow,
        notice: &NoticeRow,
        writer: &mut dyn RoomAccess,
    ) -> Result<bool, SpaceError> {
        let Some(face) = row.item.face() else { return Ok(false) };
        for id in &notice.siblings {
            if let Some(header) = self.header_of_item_id(writer.room_id(), id)?
                && header.value_hash() == face.value_hash
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What writing a change's value again would write.
    fn body_of(&self, room: &RoomId, item_id: &ChangeId) -> Result<Option<Body>, SpaceError> {
        let Some(header) = self.header_of_item_id(room, item_id)? else { return Ok(None) };
        if header.value_hash().is_none() {
            return Ok(Some(Body::Delete));
        }
        let value = entries::value(&self.db, room, &header.id())?;
        Ok(value.and_then(|text| Value::parse(&text).ok()).map(Body::Put))
    }

    fn answer(&self, writer: &mut dyn RoomAccess, event: &RoomEvent, said: &str) -> Result<(), SpaceError> {
        let Speaker::User(speaker) = self.speaker(writer, event.sender())? else { return Ok(()) };
        let content = notice_text::answer(event.event_id().as_str(), event.sender().as_str(), said);
        let message = NewEvent::new("m.room.message", speaker, None, content).map_err(RoomError::from)?;
        writer.append(message, Subject::Answer(event.event_id().to_owned()))?;
        Ok(())
    }
}

/// What to say to somebody who chose when nothing is left to choose. What he
/// has `rewritten` himself he means to keep when he chooses for many items.
fn already_settled(
    row: &ItemRow,
    notice: &NoticeRow,
    chooser: &Chooser<'_>,
    rewritten: bool,
) -> Option<String> {
    let live = notice.siblings.iter().filter(|id| row.item.sibling(id).is_some()).count();
    if live >= 2 {
        return None;
    }
    let face = row.item.face()?;
    // Changing one's own mind is no quarrel.
    let decided = face.author == chooser.user && chooser.user == chooser.author;
    let own = decided && names_all(&face.supersedes, notice) && row.item.siblings().len() == 1;
    (rewritten || !own).then(|| format!("That conflict was already settled by {}.", face.author))
}

fn names_all(supersedes: &[ChangeId], notice: &NoticeRow) -> bool {
    notice.siblings.iter().all(|id| supersedes.contains(id))
}
