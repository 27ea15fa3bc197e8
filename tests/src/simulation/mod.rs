//! The replication protocol in a simulated world: real changes, real signatures,
//! real bytes, the real replicator; simulated disks, clocks and network.
//!
//! A schedule follows from its seed alone. After every step the checkers
//! ([`checkers`]) compare what the servers show with what really happened
//! ([`truth`]); after the faults are healed, and with no new writes, all honest
//! servers must come to hold and show the same.
//!
//! Each checker is worth something only if it trips: [`Broken`] names a way to
//! break a server for each of them, and a test sees it caught.

pub mod checkers;
pub mod device;
pub mod liar;
pub mod network;
pub mod plan;
pub mod redaction;
pub mod server;
pub mod shell;
pub mod store;
pub mod truth;
pub mod watch;
pub mod world;

use plan::Plan;
use watch::Dangers;
use world::World;

/// A rule broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A write supersedes all siblings, seen or not.
    NameAll,
    /// A write supersedes nothing.
    NameNothing,
    /// A change that was superseded before it arrived is shown.
    ForgetNamed,
    /// A server goes on in its old log after a start.
    KeepIncarnation,
    /// A peer that answered 200 is taken to hold what it was told.
    TrustDelivery,
    /// Peers are told what is committed, not what is synced.
    TellBeforeSync,
    /// Clients are answered before their write is synced.
    AnswerBeforeSync,
    /// Nothing happens because time passes.
    Deaf,
    /// A second pull is sent while one is in flight.
    PullTwice,
    /// Redacted values are kept.
    KeepRedacted,
    /// Values are lost that nobody redacted.
    LoseValues,
    /// Peers are sent values that were redacted, though they are not kept.
    SendRedacted,
    /// Changes are shown with the time of their arrival, not with their author's.
    OwnTimes,
    /// Each write is by somebody who saw nothing, and an item takes any number.
    Crowd,
    /// More entries ride along with advertisements than may.
    OverfillAdvertisements,
    /// Advertisements are padded beyond their bound.
    PadAdvertisements,
}

/// A rule of the protocol that a schedule broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which checker saw it.
    pub checker: &'static str,
    /// What it saw.
    pub detail: String,
}

/// How a schedule went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The first violation, if any.
    pub violation: Option<Violation>,
    /// What was done, if a trace was asked for.
    pub trace: Vec<String>,
    /// Changes written.
    pub changes: u64,
    /// Conflicts that stood at the end.
    pub conflicts: u64,
    /// Bytes sent between servers.
    pub bytes: u64,
    /// Forks that came to light.
    pub forks: u64,
    /// Pulls that were sent.
    pub pulls: u64,
    /// Simulated milliseconds from healing to agreement.
    pub healed_in_ms: u64,
    /// Which dangers came about.
    pub dangers: Dangers,
    /// Dots that an honest server gave out twice: a violation unless its machine
    /// was rolled back or copied behind its back.
    pub reused: u64,
    /// Items that show, after healing, a change together with one that its author
    /// had seen: a violation unless what connected them was lost with a disk.
    pub seen_conflicts: u64,
}

/// Runs the schedule of a seed.
pub fn run(seed: u64, broken: Option<Broken>, trace: bool) -> Report {
    run_plan(seed, Plan::of(seed), broken, trace)
}

/// Runs a given plan with the choices of a seed.
pub fn run_plan(seed: u64, plan: Plan, broken: Option<Broken>, trace: bool) -> Report {
    let mut world = World::new(seed, plan, broken, trace);
    for _ in 0..plan.steps {
        if world.violation.is_some() {
            break;
        }
        world.step();
    }
    if world.violation.is_none() {
        world.heal();
    }
    world.report()
}
