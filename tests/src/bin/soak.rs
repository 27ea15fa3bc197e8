//! Runs as many simulated schedules as asked.
//!
//! `soak --schedules 100000 --from 0` runs them on all cores and prints the seed
//! of each failure; `soak --replay SEED` runs one again and prints everything
//! that happens in it; `soak --table 1000` prints which rules of the protocol
//! lose writes in the model, and that the real types do not in the same scenes.
//! A seed that fails there is run again by `soak --replay SEED --scene NUMBER`.
//!
//! `soak --rooms 10000 --from 0` has so many forked rooms resolved by our code and by
//! Synapse's, and prints the seed of each difference; `soak --room SEED` prints such a
//! room, event by event, and where the two part.

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use causeway_tests::{
    forks::{self, server::Arrival},
    model, program,
    result::Result,
    simulation::{self, plan::Plan},
};
use clap::Parser;

#[derive(Parser)]
#[command(about = "Runs simulated schedules of the replication protocol.")]
struct Arguments {
    /// How many schedules to run.
    #[arg(long, default_value_t = 10_000)]
    schedules: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Threads; by default one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Runs only this seed and prints what happens.
    #[arg(long)]
    replay: Option<u64>,
    /// Together with `--replay`: in a calm world with brisk traffic.
    #[arg(long)]
    brisk: bool,
    /// Together with `--replay`: in this scene of the table, from 0.
    #[arg(long, value_parser = clap::value_parser!(u8).range(..5))]
    scene: Option<u8>,
    /// Prints the table of rules, over so many schedules for each entry.
    #[arg(long)]
    table: Option<u64>,
    /// Has so many forked rooms judged by Synapse's code as well.
    #[arg(long)]
    rooms: Option<u64>,
    /// The same for this seed only, and prints the room.
    #[arg(long)]
    room: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.rooms.is_some() || arguments.room.is_some() {
        return match compare(&arguments) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(failure) => {
                println!("{failure}");
                ExitCode::FAILURE
            }
        };
    }
    if let Some(seeds) = arguments.table {
        let kept = model::table(seeds, |line| println!("{line}"));
        return if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(seed) = arguments.replay {
        let plan = match arguments.scene.and_then(|number| model::SCENES.get(usize::from(number))) {
            Some(scene) => model::real::plan(*scene, seed),
            None if arguments.brisk => Plan::brisk(seed),
            None => Plan::of(seed),
        };
        return replay(seed, plan);
    }
    let threads =
        arguments.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let next = AtomicU64::new(arguments.from);
    let end = arguments.from.saturating_add(arguments.schedules);
    let totals = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&next, end, &totals));
        }
    });
    let totals = totals.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    println!("{totals}");
    if totals.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Whether our judgement of rooms is Synapse's.
fn compare(arguments: &Arguments) -> Result<bool> {
    let python = program::python()?;
    if let Some(seed) = arguments.room {
        let room = forks::people::grow(&forks::version(seed), seed)?;
        for step in &room.steps {
            println!("{} {:?} {}", step.event.event_id(), step.verdict, step.event.raw());
        }
        let mut judge = forks::synapse::Judge::start(&python)?;
        let difference = judge.compare(&room)?.difference;
        println!("{}", difference.as_deref().unwrap_or("no difference"));
        judge.finish()?;
        let mut is_same = difference.is_none();
        for arrival in [Arrival::Single, Arrival::Together] {
            let mut room = forks::people::grow(&forks::version(seed), seed)?;
            let (_, difference) = forks::server::compare(&mut room, arrival)?;
            println!("{arrival:?}: {}", difference.as_deref().unwrap_or("no difference"));
            is_same &= difference.is_none();
        }
        return Ok(is_same);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let seeds = arguments.from..arguments.from.saturating_add(arguments.rooms.unwrap_or_default());
    let tell = |line: &str| println!("{line}");
    let threads = arguments.threads.unwrap_or(cores);
    let totals = forks::compare(&python, seeds.clone(), threads, tell)?;
    println!("{totals}");
    let taken = forks::server::compare_all(seeds, threads, tell)?;
    println!("{taken}");
    Ok(totals.differences.is_empty() && taken.differences.is_empty())
}

#[derive(Default)]
struct Totals {
    schedules: u64,
    failed: u64,
    changes: u64,
    conflicts: u64,
    forks: u64,
    pulls: u64,
    bytes: u64,
    slowest_ms: u64,
}

impl std::fmt::Display for Totals {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { schedules, failed, changes, conflicts, forks, pulls, bytes, slowest_ms } = self;
        write!(
            out,
            "{schedules} schedules, {failed} failed; {changes} changes, {conflicts} conflicts, {forks} forks, \
             {pulls} pulls, {bytes} bytes; slowest agreement {} s (simulated)",
            slowest_ms / 1_000
        )
    }
}

fn work(next: &AtomicU64, end: u64, totals: &Mutex<Totals>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let report = simulation::run(seed, None, false);
        let mut totals = totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        totals.schedules += 1;
        totals.changes += report.changes;
        totals.conflicts += report.conflicts;
        totals.forks += report.forks;
        totals.pulls += report.pulls;
        totals.bytes += report.bytes;
        totals.slowest_ms = totals.slowest_ms.max(report.healed_in_ms);
        if let Some(violation) = report.violation {
            totals.failed += 1;
            println!("seed {seed}: {}: {}", violation.checker, violation.detail);
        }
        if totals.schedules.is_multiple_of(10_000) {
            println!("{totals}");
        }
    }
}

fn replay(seed: u64, plan: Plan) -> ExitCode {
    println!("{plan:?}");
    let report = simulation::run_plan(seed, plan, None, true);
    for line in &report.trace {
        println!("{line}");
    }
    match report.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("{}: {}", violation.checker, violation.detail);
            ExitCode::FAILURE
        }
    }
}
