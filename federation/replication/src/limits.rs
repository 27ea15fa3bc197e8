//! Every bound of this crate, by name.
//!
//! A bound on what a peer may make us hold or do is here and nowhere else, so
//! that the list can be read against `federation/PROTOCOL.md` §5.

/// Points of the vector in one advertisement (a vector in a pull or a delta has
/// at most [`causeway_shared_space::version_vector::MAX_POINTS`]): it travels as an EDU, and a
/// transaction of a hundred of them must stay small. What is left out is still
/// covered by the digest.
pub const MAX_ADVERTISED: usize = 200;

/// Entries in one delta.
pub const MAX_DELTA_ENTRIES: usize = 500;

/// Bytes of entries in one delta (4 MiB); one entry is sent even if it is larger.
pub const MAX_DELTA_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of a whole delta that are read from a peer: entries, one entry that
/// passes the bound, vector, heads and keys.
pub const MAX_DELTA_BODY_BYTES: usize = 8 * 1024 * 1024;

/// Bytes of a pull that are read from a peer.
pub const MAX_PULL_BODY_BYTES: usize = 512 * 1024;

/// Bytes of an advertisement's content that are read from a peer.
pub const MAX_ADVERTISE_BYTES: usize = 64 * 1024;

/// Bytes of entries that ride along in an advertisement.
pub const MAX_RIDING_BYTES: usize = 4 * 1024;

/// Entries that ride along in an advertisement.
pub const MAX_RIDING_ENTRIES: usize = 8;

/// Sets of verify keys in one delta.
pub const MAX_KEYS: usize = 100;

/// Pages without a single new entry after which a session ends, over and above
/// what our own holdings can explain.
pub const MAX_IDLE_PAGES: u64 = 64;

/// Peers that one room's replicator knows. More are served, not remembered.
pub const MAX_PEERS: usize = 10_000;

/// Peers that the timer's advertisement goes to, besides the origins of what is
/// missing.
pub const TIMER_FANOUT: usize = 3;

/// Up to this many peers are told at once when they come up; in a larger room a
/// random part of them is, and the timer reaches the others.
pub const START_FANOUT: usize = 32;

/// A room with more peers than this spreads its pulls in time.
pub const LARGE_ROOM: usize = 8;

/// First interval of the timer after traffic, in milliseconds (one minute).
pub const TIMER_FIRST_MS: u64 = 60_000;

/// Last interval of the timer, in milliseconds (one hour).
pub const TIMER_LAST_MS: u64 = 3_600_000;

/// How long a pull may stay unanswered, in milliseconds.
pub const PULL_TIMEOUT_MS: u64 = 30_000;

/// How long the shell may take to apply one delta, in milliseconds.
pub const APPLY_TIMEOUT_MS: u64 = 300_000;

/// How long an advertisement may stay in flight before another one is sent, in
/// milliseconds.
pub const ADVERT_TIMEOUT_MS: u64 = 60_000;

/// Between two advertisements of the same state to the same peer in reply to
/// its own, in milliseconds.
pub const REPLY_INTERVAL_MS: u64 = 60_000;

/// A digest that differs while the peer is known to be behind us is looked into
/// after this time, in milliseconds: most of the time the peer is pulling.
pub const EXPLAINED_HINT_MS: u64 = 30_000;

/// First back-off after a pull that failed, in milliseconds.
pub const FAILURE_FIRST_MS: u64 = 5_000;

/// First back-off after a pull that brought nothing new, in milliseconds.
pub const FRUITLESS_FIRST_MS: u64 = 60_000;

/// Last back-off of both kinds, in milliseconds (one hour).
pub const BACKOFF_LAST_MS: u64 = 3_600_000;

/// Pulls in one session: 2^16 full pages are 32 million entries.
pub const MAX_PAGES: u64 = 1 << 16;

/// How long one session may take before another peer has its turn, in
/// milliseconds (five minutes). What it brought is kept.
pub const SESSION_MS: u64 = 300_000;

/// Servers to whose entries one pull may be limited.
pub const MAX_SCOPE: usize = 50;

/// How long entries that rode along may take to be applied before a pull is
/// started all the same, in milliseconds.
pub const RIDING_TIMEOUT_MS: u64 = 5_000;
