//! Users of this server who asked to be forgotten: to whom their messages are
//! still shown whole (client-server API, `erase` of a deactivation).
//!
//! Whoever was in the room when a message was sent, or when its sender was
//! erased, has had it and keeps it; everybody else is given it as if it were
//! redacted, users and servers alike. State is not touched: it authorises what
//! follows. Not here: the rest of what is forgotten (profile, account data).

use causeway_room::Pdu;
use causeway_storage::accounts;
use ruma::{UserId, events::room::member::MembershipState};

use super::{Rooms, access::Sight, error::RoomError, store::Held};

impl Rooms {
    /// When the sender of a message was erased, as a place in the stream; `None` if he was not.
    fn sender_erased_at(&self, pdu: &Pdu) -> Result<Option<i64>, RoomError> {
        let sender = pdu.sender();
        if pdu.state_key().is_some() || sender.server_name() != self.server_name {
            return Ok(None);
        }
        let account = accounts::account(&self.store.database, sender)?.filter(|account| account.erased);
        // Those from before this was noted: 0, when nobody was in a room.
        Ok(account.map(|account| i64::try_from(account.erased_at.unwrap_or_default()).unwrap_or(i64::MAX)))
    }

    /// Whether an erased user's message is kept from this user.
    pub(crate) fn hides_erased(&self, viewer: &UserId, pdu: &Pdu) -> Result<bool, RoomError> {
        let Some(erased_at) = self.sender_erased_at(pdu)? else { return Ok(false) };
        let Some(held) = self.held(pdu.event_id())? else { return Ok(true) };
        let (at_event, at_erasure) =
            (self.nearest_state(&held)?, self.state_root_at(&held.meta.room_id, erased_at)?);
        for root in [at_event, at_erasure].into_iter().flatten() {
            let member = self.state_at(&root, "m.room.member", viewer.as_str())?;
            if member.and_then(|member| member.membership()) == Some(MembershipState::Join) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether it is kept from the server that this is the sight of.
    pub(super) fn hides_erased_from(&self, sight: &mut Sight<'_>, held: &Held) -> Result<bool, RoomError> {
        let Some(erased_at) = self.sender_erased_at(&held.pdu)? else { return Ok(false) };
        let (at_event, at_erasure) =
            (self.nearest_state(held)?, self.state_root_at(&held.meta.room_id, erased_at)?);
        for root in [at_event, at_erasure].into_iter().flatten() {
            if sight.was_in(root)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use causeway_storage::accounts::{self, Account};
    use serde_json::json;

    use crate::rooms::{
        Preset,
        tests::{Server, federation::join_over, message, state},
    };

    #[test]
    fn a_server_that_comes_later_gets_nothing_of_an_erased_user() {
        let (a, b, c) = (Server::new("a.example"), Server::new("b.example"), Server::new("c.example"));
        let (alice, carol) = (a.user("alice"), a.user("carol"));
        let room_id = a.create(&alice, Preset::PublicChat);
        a.send(
            &room_id,
            state(&alice, "m.room.history_visibility", "", json!({ "history_visibility": "shared" })),
        );
        a.rooms.join(&room_id, &carol, serde_json::Map::new()).expect("joins");
        let early = a.send(&room_id, message(&carol, "early"));
        join_over(&a, &b, &room_id, &b.user("bob")).expect("joins");
        let late = a.send(&room_id, message(&carol, "late"));
        let others = a.send(&room_id, message(&alice, "others"));
        let mut batch = a.database.batch();
        let erased_at = Some(a.database.visible().0);
        let account = Account { deactivated: true, erased: true, erased_at, ..Account::default() };
        accounts::put_account(&mut batch, &carol, &account);
        a.database.commit_durable(batch).expect("stored");
        join_over(&a, &c, &room_id, &c.user("dora")).expect("joins");

        let given = |server: &Server, pdu: &causeway_room::Pdu| {
            let given = a.rooms.event_for_server(server.rooms.server_name(), pdu.event_id());
            let given = given.expect("reads").expect("is in the room");
            assert_eq!(given.event_id(), pdu.event_id(), "its signature still holds");
            given.content_object().get("body").is_some()
        };
        assert_eq!([given(&b, &early), given(&b, &late), given(&b, &others)], [true; 3], "was there before");
        assert_eq!([given(&c, &early), given(&c, &late), given(&c, &others)], [false, false, true]);
        let from = [others.event_id().to_owned()];
        let history = a.rooms.backfill_for_server(c.rooms.server_name(), &room_id, &from, 9).expect("reads");
        assert!(history.iter().any(|pdu| pdu.event_id() == early.event_id()));
        assert!(
            history.iter().all(|pdu| !["early", "late"].iter().any(|word| pdu.raw().get().contains(word)))
        );
    }
}
