//! What other servers wrote comes in: verified outside the room's lock, joined
//! under it, in one batch for each delivery.
//!
//! One bad entry never keeps the others out: it is refused with its reason, in
//! the log and in a metric. An entry whose right to be written can't be judged
//! yet is held without effect, and judged again when the room moves on
//! ([`super::rejudging`]).

use std::{sync::Arc, thread};

use causeway_replication::Outcome;
use causeway_shared_space::{Change, Standing};
use causeway_storage::shared_space::entries;
use ruma::{RoomId, ServerName};

use super::{
    SharedSpace,
    backend::RoomAccess,
    draft::{Draft, Placement},
    error::SpaceError,
};

/// Entries for which it is worth verifying signatures on more than one thread.
const PARALLEL_MIN: usize = 64;

/// An entry whose signature is valid under a key of its origin.
struct Verified(Change);

/// An entry that is not taken, and why.
struct Refused {
    change: Change,
    reason: &'static str,
}

impl SharedSpace {
    /// Joins the entries that `from` served. Durable when it returns.
    ///
    /// # Errors
    /// The room is not known here, or storage failed: nothing was stored then.
    pub fn join(
        &self,
        room: &RoomId,
        from: &ServerName,
        changes: Vec<Change>,
    ) -> Result<Outcome, SpaceError> {
        let mut outcome = Outcome::default();
        let (verified, refused) = self.verify_all(room, changes)?;
        for Refused { change, reason } in refused {
            self.refuse(&mut outcome, from, &change, reason);
        }
        if verified.is_empty() {
            return Ok(outcome);
        }
        let refused = outcome;
        let mut took_ms = Vec::new();
        let outcome = self.rooms.write_judging(room, |writer| {
            let mut outcome = refused.clone();
            took_ms.clear();
            self.in_draft(writer, |space, draft, writer| {
                for change in &verified {
                    let placement = self.join_one(draft, writer, &change.0, &mut outcome)?;
                    took_ms.extend((placement == Placement::New).then(|| self.age_ms(&change.0)));
                    if placement == Placement::New && change.0.server() == self.server_name() {
                        let change = change.0.id();
                        tracing::warn!(%change, "an own change came back that was not held: this server was restored");
                        // More of them may be on their way, with the counters that come next.
                        space.replica = None;
                    }
                }
                outcome.forks.clone_from(&draft.forks);
                Ok(outcome)
            })
        })?;
        self.metrics.joined(&took_ms);
        if outcome.new > 0 {
            // They may be what others wait for.
            self.judge_soon(room)?;
        }
        Ok(outcome)
    }

    /// How long ago a change was written, by its server's clock.
    pub(super) fn age_ms(&self, change: &Change) -> u64 {
        self.clock.now_ms().saturating_sub(change.header().origin_server_ts())
    }

    pub(super) fn join_one(
        &self,
        draft: &mut Draft<'_>,
        writer: &mut dyn RoomAccess,
        change: &Change,
        outcome: &mut Outcome,
    ) -> Result<Placement, SpaceError> {
        let verdict = self.judge(writer, draft, change)?;
        let placement = draft.place(writer.batch(), change, &verdict, None)?;
        match placement {
            Placement::Known => {
                outcome.known += 1;
                draft.keep_missing_value(writer.batch(), change)?;
            }
            Placement::Deferred => self.refuse(outcome, change.server(), change, "too_many_tips"),
            Placement::OverQuota => self.refuse(outcome, change.server(), change, "quota"),
            Placement::New => {
                outcome.new += 1;
                if let Standing::Void(reason) = verdict.standing {
                    tracing::warn!(change = %change.id(), ?reason, "a change of another server has no effect");
                }
            }
        }
        Ok(placement)
    }

    /// Verifies signatures, on several threads when there are many.
    fn verify_all(
        &self,
        room: &RoomId,
        changes: Vec<Change>,
    ) -> Result<(Vec<Verified>, Vec<Refused>), SpaceError> {
        let (mut waiting, mut refused) = (Vec::with_capacity(changes.len()), Vec::new());
        for change in changes {
            if change.header().room_id() != room {
                refused.push(Refused { change, reason: "another_room" });
            } else if entries::link(&self.db, room, &change.id())?.is_some() {
                // Signatures of held entries were verified when they came.
                waiting.push((change, None));
            } else if !self.may_be_taken(&change)? {
                refused.push(Refused { change, reason: "claim_ended" });
            } else if let Some(key) = self.verify_key(room, change.server(), change.signature().key_id())? {
                waiting.push((change, Some(Arc::<[u8]>::from(key))));
            } else {
                refused.push(Refused { change, reason: "unknown_key" });
            }
        }
        let valid = check_signatures(&waiting);
        let mut verified = Vec::with_capacity(waiting.len());
        for ((change, _), valid) in waiting.into_iter().zip(valid) {
            if valid {
                verified.push(Verified(change));
            } else {
                refused.push(Refused { change, reason: "forged" });
            }
        }
        Ok((verified, refused))
    }

    fn refuse(&self, outcome: &mut Outcome, from: &ServerName, change: &Change, reason: &'static str) {
        outcome.refused += 1;
        self.metrics.refused(reason);
        tracing::warn!(%from, change = %change.id(), origin = %change.server(), reason, "a change was refused");
    }
}

/// Which of these are signed by their key; those without one are taken as they are.
fn check_signatures(waiting: &[(Change, Option<Arc<[u8]>>)]) -> Vec<bool> {
    let check = |entries: &[(Change, Option<Arc<[u8]>>)]| -> Vec<bool> {
        entries
            .iter()
            .map(|(change, key)| key.as_ref().is_none_or(|key| change.verify(key).is_ok()))
            .collect()
    };
    if waiting.len() < PARALLEL_MIN {
        return check(waiting);
    }
    let (one, other) = waiting.split_at(waiting.len() / 2);
    thread::scope(|scope| {
        let other = scope.spawn(|| check(other));
        let mut valid = check(one);
        match other.join() {
            Ok(rest) => valid.extend(rest),
            // What panicked was verified by nobody.
            Err(_) => valid.resize(waiting.len(), false),
        }
        valid
    })
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::{
        super::pair::{MALLORY, Pair, put},
        *,
    };
    use crate::rooms::CreateRoom;

    /// `change` with the signature that the same key gave another one.
    fn with_signature_of(other: &Change, change: &Change) -> Change {
        let (header, value) = (change.header().clone(), change.value().cloned());
        Change::from_parts(header, other.signature().clone(), value).expect("the value is the header's")
    }

    #[test]
    fn what_is_forged_or_of_another_room_is_refused_and_the_rest_is_taken() {
        let pair = Pair::new();
        let b = server_name!("b.example");
        let other = pair.b.rooms.create(*MALLORY, &CreateRoom::default()).expect("a room").room_id;
        let good = pair.change("plan", put(1), |_| {});
        let forged = with_signature_of(&good, &pair.change("plan", put(2), |_| {}));
        let elsewhere = pair.change("plan", put(3), |new| new.room_id = other);
        let changes = vec![forged.clone(), good.clone(), elsewhere.clone()];
        let (_, refused) = pair.a.shared_space.verify_all(&pair.room, changes.clone()).expect("looked at");
        let reasons: Vec<_> = refused.iter().map(|refused| (refused.change.id(), refused.reason)).collect();
        assert_eq!(reasons, [(elsewhere.id(), "another_room"), (forged.id(), "forged")]);
        let outcome = pair.a.shared_space.join(&pair.room, b, changes).expect("joined");
        assert_eq!((outcome.new, outcome.refused), (1, 2));
        assert_eq!(pair.values(&pair.a, "plan"), [1]);
        // Among many, whose signatures are checked on two threads.
        let mut many: Vec<Change> =
            (0..PARALLEL_MIN).map(|n| pair.change(&format!("{n}"), put(1), |_| {})).collect();
        many.insert(1, forged.clone());
        many.push(with_signature_of(&good, &pair.change("plan", put(4), |_| {})));
        let outcome = pair.a.shared_space.join(&pair.room, b, many).expect("joined");
        assert_eq!((outcome.new, outcome.refused), (PARALLEL_MIN as u64, 2));
        assert_eq!(pair.values(&pair.a, "plan"), [1]);
    }
}
