//! Schedules of the real replicator, real changes, real bytes.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use causeway_tests::simulation::{
    self, Violation,
    plan::{LIES, Lie, Plan},
    watch::Dangers,
};

/// Schedules in an ordinary test run.
const SCHEDULES: u64 = 2_000;

/// Simulated time in which calm servers agree: an advertisement that waits for
/// another one, a question, an answer, 400 ms each at most, and syncing.
const PROMPT_MS: u64 = 5_000;

/// And for each page: a question and its answer, and syncing.
const PAGE_MS: u64 = 900;

/// Runs seeds on all cores; the failures.
fn failures(
    seeds: std::ops::Range<u64>,
    run: impl Fn(u64) -> Option<Violation> + Sync,
) -> Vec<(u64, Violation)> {
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    if let Some(violation) = run(seed) {
                        failed.lock().expect("no thread panics with it").push((seed, violation));
                    }
                }
            });
        }
    });
    failed.into_inner().expect("no thread panics with it")
}

#[test]
fn every_schedule_keeps_every_rule() {
    let met = Mutex::new(Dangers::default());
    let failed = failures(0..SCHEDULES, |seed| {
        let report = simulation::run(seed, None, false);
        *met.lock().expect("no thread panics with it") += report.dangers;
        report.violation
    });
    assert!(failed.is_empty(), "replay with `soak --replay SEED`: {failed:#?}");
    // They kept the rules because nothing happened, otherwise.
    let met = met.into_inner().expect("no thread panics with it");
    let Dangers { cuts, crashes, faces, islands, restores, unnoticed, redactions, erased_late, .. } = met;
    let Dangers { copies, lost, doubled, late, lies, .. } = met;
    let each = [
        cuts,
        crashes,
        faces,
        islands,
        restores,
        unnoticed,
        copies,
        lost,
        doubled,
        late,
        lies,
        redactions,
        erased_late,
    ];
    assert!(each.iter().all(|count| *count > 0), "{met:?}");
}

#[test]
fn a_liar_harms_nobody_but_itself() {
    for lie in LIES {
        let told = AtomicU64::new(0);
        let failed = failures(0..20, |seed| {
            let plan = Plan { servers: 4, lie: Some(lie), ..Plan::of(seed) };
            let report = simulation::run_plan(seed, plan, None, false);
            // Who shows one half of the others this and the other half that does so as two machines.
            let machines = if lie == Lie::Equivocate { report.dangers.unnoticed } else { 0 };
            told.fetch_add(report.dangers.lies + machines, Ordering::Relaxed);
            report.violation
        });
        assert!(failed.is_empty(), "{lie:?}: {failed:#?}");
        assert!(told.into_inner() >= 20, "{lie:?} was hardly ever told");
    }
}

#[test]
fn copied_and_rolled_back_machines_fork_and_lose_nothing() {
    let forks = AtomicU64::new(0);
    let failed = failures(0..60, |seed| {
        // A crash would give the copies incarnations of their own.
        let fork = Plan {
            unnoticed: true,
            cuts: true,
            crashes: false,
            restores: false,
            lie: None,
            ..Plan::of(seed)
        };
        let plan = Plan { steps: 90, pace_ms: 2_000, ..fork };
        let report = simulation::run_plan(seed, plan, None, false);
        forks.fetch_add(report.forks, Ordering::Relaxed);
        report.violation
    });
    assert!(failed.is_empty(), "{failed:#?}");
    let forks = forks.into_inner();
    assert!(forks >= 5, "these worlds must show forks, not {forks}");
}

/// That values also come after their redaction, a test of the checker shows.
#[test]
fn what_is_redacted_goes_everywhere_and_stays_gone() {
    let redactions = AtomicU64::new(0);
    let failed = failures(0..60, |seed| {
        let plan = Plan { redactions: true, stamps: 90, ..Plan::of(seed) };
        let report = simulation::run_plan(seed, plan, None, false);
        redactions.fetch_add(report.dangers.redactions, Ordering::Relaxed);
        report.violation
    });
    assert!(failed.is_empty(), "{failed:#?}");
    let redactions = redactions.into_inner();
    assert!(redactions >= 20, "these worlds must show redactions, not {redactions}");
}

/// Writes, reads and nothing else: whatever way a change comes, all hold it within
/// seconds, without waiting for a timer.
#[test]
fn a_calm_world_agrees_within_seconds() {
    let failed = failures(0..120, |seed| {
        let plan = Plan::brisk(seed);
        let report = simulation::run_plan(seed, plan, None, false);
        assert!(report.changes > 5, "seed {seed}: {} changes", report.changes);
        let slow = report.healed_in_ms > PROMPT_MS + PAGE_MS * (report.changes / u64::from(plan.page));
        let detail = format!("agreed after {} ms", report.healed_in_ms);
        report.violation.or(slow.then_some(Violation { checker: "prompt", detail }))
    });
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_seed_says_everything() {
    for seed in [3, 17, 42] {
        let (one, other) = (simulation::run(seed, None, true), simulation::run(seed, None, true));
        assert!(one.trace.len() > 50);
        assert_eq!(one.trace, other.trace);
    }
}
