//! Rooms that fork and merge at random, judged event by event: which events the
//! rules allow, and what the state is after each.
//!
//! A seed says everything about a room. [`room`] holds it and judges with
//! `causeway-room`; [`people`] make it up; [`synapse`] has another homeserver's
//! code judge the same events, and [`server`] holds against it what a server of ours makes of them
//! when they come. What differs is a difference between servers that
//! take part in one room: they would not agree on who is in it. Signatures are
//! not looked at here, nor what depends on the time of arrival (soft failure).

pub mod people;
pub mod room;
pub mod server;
pub mod synapse;

mod contents;

use std::{
    fmt,
    ops::Range,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use ruma::RoomVersionId;

use crate::result::Result;

/// How often progress is told, in rooms.
const PROGRESS: u64 = 5_000;

/// What came of many comparisons.
#[derive(Debug, Default)]
pub struct Totals {
    /// Rooms compared.
    pub rooms: u64,
    /// Events judged.
    pub events: usize,
    /// Of these, refused.
    pub refused: usize,
    /// Of these, with several events before them.
    pub merges: usize,
    /// Times that Synapse refused by another error than one of authorisation.
    pub crashes: u64,
    /// Seeds that differ, and where.
    pub differences: Vec<(u64, String)>,
}

impl fmt::Display for Totals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rooms, events, refused, merges, crashes, differences } = self;
        write!(
            out,
            "{rooms} rooms, {events} events ({merges} of them merges, {refused} refused), \
             {crashes} crashes of Synapse's rules, {} differences",
            differences.len()
        )
    }
}

/// The version of the room of a seed: each in turn.
pub fn version(seed: u64) -> RoomVersionId {
    let all = causeway_room::version::SUPPORTED;
    let place = usize::try_from(seed % all.len() as u64).unwrap_or(0);
    all[place].clone()
}

/// Has the rooms of these seeds judged by both sides.
pub fn compare(python: &Path, seeds: Range<u64>, threads: usize, tell: fn(&str)) -> Result<Totals> {
    let next = AtomicU64::new(seeds.start);
    let totals = Mutex::new(Totals::default());
    let work = || -> Result<()> {
        let mut judge = synapse::Judge::start(python)?;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return judge.finish();
            }
            let room = people::grow(&version(seed), seed)?;
            let comparison = judge.compare(&room)?;
            let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
            totals.rooms += 1;
            totals.events += comparison.events;
            totals.refused += comparison.refused;
            totals.merges += comparison.merges;
            totals.crashes += comparison.crashes;
            if let Some(difference) = comparison.difference {
                tell(&format!("seed {seed} (room version {}): {difference}", version(seed)));
                totals.differences.push((seed, difference));
            }
            if totals.rooms.is_multiple_of(PROGRESS) {
                tell(&totals.to_string());
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(totals.into_inner().unwrap_or_else(PoisonError::into_inner))
}
