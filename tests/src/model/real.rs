//! The chosen rules with the real types, in the scenes of the table: real
//! headers, signatures, logs with branches and islands, and messages as bytes,
//! through [`crate::simulation`].
//!
//! As in the model, there are as many servers, devices, items and steps, links
//! are cut and processes start anew in every scene, and what a scene does not
//! name does not happen. Unlike in the model, servers exchange by the real
//! replicator and by room events, a crash loses what is not synced, and the
//! checkers look after every step, not only at the end: a schedule ends with the
//! first rule that it breaks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{
    Scene,
    world::{DEVICES_EACH, Fault, KEYS, PAGES, SERVERS, STEPS},
};
use crate::{
    dice::Dice,
    simulation::{self, Broken, Report, Violation, plan::Plan, watch::Dangers},
};

/// Of a hundred changes, so many reach a server by room event: few enough that
/// those before them often don't.
const STAMPS: usize = 30;

/// How the schedules of a scene went.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// How many ended with each fault.
    pub faults: BTreeMap<Fault, u64>,
    /// Which dangers came about, in all of them together.
    pub dangers: Dangers,
    /// Changes written.
    pub changes: u64,
    /// Forks that came to light.
    pub forks: u64,
    /// The first seed that broke a rule, and how.
    pub violation: Option<(u64, Violation)>,
}

/// What may happen in a scene's schedules.
pub fn plan(scene: Scene, seed: u64) -> Plan {
    let page = PAGES[Dice::new(seed ^ 0x9a6e).below(PAGES.len())];
    let alone = seed % 2 == 1;
    Plan {
        devices: DEVICES_EACH,
        keys: KEYS,
        steps: STEPS,
        cuts: true,
        // A start gives a copy an incarnation of its own, and nothing forks.
        crashes: !(scene.unnoticed && alone),
        restores: scene.restores,
        unnoticed: scene.unnoticed,
        stamps: if scene.stamps { STAMPS } else { 0 },
        face: scene.face,
        page,
        pace_ms: if scene.unnoticed && alone { 2_000 } else { 0 },
        ..Plan::calm(SERVERS)
    }
}

/// Runs the schedules from `first_seed` on, perhaps with servers that are broken
/// on purpose.
pub fn count(scene: Scene, broken: Option<Broken>, first_seed: u64, seeds: u64) -> Row {
    let mut row = Row::default();
    for seed in first_seed..first_seed + seeds {
        let report = simulation::run_plan(seed, plan(scene, seed), broken, false);
        for fault in faults(&report) {
            *row.faults.entry(fault).or_default() += 1;
        }
        row.dangers += report.dangers;
        row.changes += report.changes;
        row.forks += report.forks;
        row.violation = row.violation.or_else(|| report.violation.map(|violation| (seed, violation)));
    }
    row
}

/// The faults of the table in a schedule, those included that are nobody's fault
/// (which the checkers excuse).
fn faults(report: &Report) -> BTreeSet<Fault> {
    let mut faults = BTreeSet::new();
    if report.reused > 0 {
        faults.insert(Fault::DotReuse);
    }
    match report.violation.as_ref().map(|violation| violation.checker) {
        None if report.seen_conflicts > 0 => {
            faults.insert(Fault::FalseViaLost);
        }
        None => {}
        Some(checker) => {
            faults.insert(match checker {
                "no_lost_write" => Fault::Lost,
                "no_false_conflict" => Fault::FalseConflict,
                "no_dot_reuse" => Fault::DotReuse,
                "converged" => Fault::Diverged,
                other => Fault::Other(other),
            });
        }
    }
    faults
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dangers { cuts, crashes, faces, islands, restores, unnoticed, .. } = self.dangers;
        write!(
            out,
            "{} (in {} changes: cuts={cuts} crashes={crashes} faces={faces} islands={islands} \
             restores={restores} unnoticed={unnoticed} forks={})",
            super::verdict(&self.faults),
            self.changes,
            self.forks
        )?;
        match &self.violation {
            None => Ok(()),
            Some((seed, Violation { checker, detail })) => {
                write!(out, " VIOLATED, first by seed {seed}: {checker}: {detail}")
            }
        }
    }
}
