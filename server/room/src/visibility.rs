//! Who may see an event: the rule of `m.room.history_visibility`
//! (client-server API, "Room History Visibility").
//!
//! Pure: the state at the event and the memberships come in.

use ruma::events::room::{history_visibility::HistoryVisibility, member::MembershipState};

use crate::pdu::Pdu;

/// What the state at an event says of one user.
#[derive(Clone, Debug)]
pub struct AtEvent {
    /// `m.room.history_visibility` then; `shared` when there was none.
    pub visibility: HistoryVisibility,
    /// The user's membership then.
    pub membership: MembershipState,
}

/// Reads the visibility from its state event; anything unknown is `shared`, as absent is.
pub fn visibility_of(event: Option<&Pdu>) -> HistoryVisibility {
    let named = event.and_then(|event| {
        event.content_object().get("history_visibility").and_then(|value| value.as_str().map(str::to_owned))
    });
    match named.as_deref() {
        Some("world_readable") => HistoryVisibility::WorldReadable,
        Some("invited") => HistoryVisibility::Invited,
        Some("joined") => HistoryVisibility::Joined,
        _ => HistoryVisibility::Shared,
    }
}

/// Whether a user may see an event.
///
/// `joined_since` is whether the user was joined at the event or at any time
/// after it. For an event that changes the visibility or this user's
/// membership, ask with the state before and the state after: either allows.
pub fn user_may_see(at: &AtEvent, joined_since: bool) -> bool {
    match at.visibility {
        HistoryVisibility::WorldReadable => true,
        _ if at.membership == MembershipState::Join => true,
        HistoryVisibility::Invited => joined_since && at.membership == MembershipState::Invite,
        HistoryVisibility::Joined => false,
        _ => joined_since,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        use HistoryVisibility::{Invited, Joined, Shared, WorldReadable};
        use MembershipState::{Invite, Join, Leave};
        for (visibility, membership, since, expected) in [
            (WorldReadable, Leave, false, true),
            (Shared, Leave, true, true),
            (Shared, Leave, false, false),
            (Invited, Leave, true, false),
            (Invited, Invite, true, true),
            (Invited, Invite, false, false),
            (Joined, Invite, true, false),
            (Joined, Join, true, true),
        ] {
            let at = AtEvent { visibility: visibility.clone(), membership: membership.clone() };
            assert_eq!(user_may_see(&at, since), expected, "{visibility} {membership} {since}");
        }
    }
}
