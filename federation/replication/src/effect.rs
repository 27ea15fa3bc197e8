//! What goes into a replicator and what comes out.

use causeway_shared_space::{Change, ForkProof};
use serde_json::value::RawValue;

use crate::message::Message;

/// A server's name as it stands in its replicas' names.
pub type ServerName = String;

/// Something that happened. The shell says so, together with the time and a
/// fresh snapshot.
#[derive(Clone, Debug)]
pub enum Input {
    /// This server wrote to the room; the write is durable. Several writes may
    /// share one input.
    LocalChange,
    /// A peer's message. The shell has authenticated the peer and found it
    /// joined to the room and allowed by its ACL.
    Received {
        /// Who sent it.
        from: ServerName,
        /// What it says.
        message: Message,
    },
    /// An [`Effect::Apply`] is done and durable (or failed): exactly one of
    /// these for each of those.
    Applied {
        /// Whose entries they were.
        from: ServerName,
        /// What became of them.
        outcome: Outcome,
    },
    /// An advertisement is on its way: it left, or it waits where the next one
    /// to the same peer would replace it. It says nothing about what the peer
    /// holds; it only lets the next one go.
    Delivered {
        /// Whom it was for.
        to: ServerName,
    },
    /// This server has just come into the room: what peers told before is lost.
    Joined,
    /// A capable peer is in the room and can be reached: at start, when it
    /// joined, when it was reached or heard again.
    PeerUp {
        /// Which.
        peer: ServerName,
    },
    /// A peer can't be asked now.
    PeerDown {
        /// Which.
        peer: ServerName,
        /// Why.
        why: Down,
    },
    /// The time given by [`crate::Replicator::next_deadline`] has come.
    Deadline,
}

/// Why a peer can't be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// It does not answer, or with an error of its own.
    Unreachable,
    /// It answered 429, or refused one request: up still, and asked again after so many
    /// milliseconds at the earliest.
    Busy(u64),
    /// It left the room, is denied by the ACL, or does not speak the protocol:
    /// forgotten until the next [`Input::PeerUp`]. Never because of one answer.
    Gone,
}

/// What became of the entries of one [`Effect::Apply`].
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Entries that were not held before and are now, islands too.
    pub new: u64,
    /// Entries that were held already.
    pub known: u64,
    /// Entries that were refused (broken, forged) or deferred (quota); the shell
    /// logs each with its reason.
    pub refused: u64,
    /// Forks that came to light, each once.
    pub forks: Vec<ForkProof>,
    /// The shell could not write: nothing of this was stored.
    pub failed: bool,
}

/// Something to do. The shell does them in this order, and an
/// [`Effect::Apply`] is durable before any later [`Effect::Send`] leaves.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Verify these entries and join those that are valid, in one durable batch;
    /// then say so with [`Input::Applied`].
    Apply {
        /// Who served them.
        from: ServerName,
        /// The entries, each parsed, none verified.
        entries: Vec<Change>,
        /// Verify keys that came with them, as signed JSON, unverified.
        keys: Vec<Box<RawValue>>,
        /// Entries that were not even well-formed: why, for the log.
        broken: Vec<String>,
    },
    /// Send a message: an advertisement as an EDU (coalesced by the shell: only
    /// the newest per peer and room counts), a pull as a request, a delta as the
    /// response to the pull just received.
    Send {
        /// To whom.
        to: ServerName,
        /// What.
        message: Message,
    },
    /// A replica signed two entries with one dot. The proof is to be stored and
    /// shown.
    ForkFound(ForkProof),
}
