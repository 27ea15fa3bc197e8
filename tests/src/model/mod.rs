//! The rules of the protocol that were weighed against each other, in a model
//! without cryptography or encoding: which of them lose writes.
//!
//! Here the rejected rules live on, so that the reason for the chosen ones can be
//! seen (`soak --table 1000`) and stays true (a test). The chosen ones are in the
//! table twice: in the model, and with the real types and their encoding in the
//! same scenes ([`real`]).
//!
//! Why the rejected rules are in the model only: the real types can't express them. A
//! header has no place for a vector or for dots as what an author had seen, and
//! the change log has no state in which it freezes, or leaves islands out; types
//! that could would be code that nothing else runs. What a server can do wrong in
//! spite of the types is broken there, in [`crate::simulation::Broken`]: going on
//! in an old log, naming all or nothing, forgetting what was named.

pub mod context;
pub mod real;
pub mod server;
pub mod world;

use std::{collections::BTreeMap, fmt};

use context::Rule;
use world::Fault;

/// When a server takes a new incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartRule {
    /// When one peer that it asks at the start has more of its log, or nobody
    /// can be asked.
    AskOne,
    /// At the first write after each start.
    EachStart,
}

/// What becomes of a replica with two entries for one dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkRule {
    /// Its log stops there.
    Freeze,
    /// Every chained entry of every branch is held.
    Tree,
    /// And entries whose chain has a hole are exchanged too.
    Islands,
}

/// A combination of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// How what an author had seen is encoded.
    pub context: Rule,
    /// When a server takes a new incarnation.
    pub start: StartRule,
    /// What becomes of forks.
    pub fork: ForkRule,
}

/// What happens in a world besides writes, reads, pulls and cuts.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent dangers, each on or off")]
pub struct Scene {
    /// In words.
    pub title: &'static str,
    /// Changes arrive by room event before their predecessors.
    pub stamps: bool,
    /// Ordinary clients see one sibling only.
    pub face: bool,
    /// Old backups are put back.
    pub restores: bool,
    /// Without the server noticing.
    pub unnoticed: bool,
}

/// The chosen rules.
pub const CHOSEN: Variant =
    Variant { context: Rule::Ids, start: StartRule::EachStart, fork: ForkRule::Islands };

/// All combinations worth showing, the chosen one last.
pub const VARIANTS: [Variant; 11] = {
    use ForkRule::{Freeze, Islands, Tree};
    use StartRule::{AskOne, EachStart};
    const fn of(context: Rule, start: StartRule, fork: ForkRule) -> Variant {
        Variant { context, start, fork }
    }
    [
        of(Rule::RoomVector, AskOne, Freeze),
        of(Rule::Vector, AskOne, Freeze),
        of(Rule::Vector, EachStart, Freeze),
        of(Rule::Dots, AskOne, Freeze),
        of(Rule::Dots, EachStart, Freeze),
        of(Rule::Dots, EachStart, Tree),
        of(Rule::Dots, EachStart, Islands),
        of(Rule::Ids, AskOne, Freeze),
        of(Rule::Ids, EachStart, Freeze),
        of(Rule::Ids, EachStart, Tree),
        CHOSEN,
    ]
};

/// The worlds, each harder than the one before.
pub const SCENES: [Scene; 5] = [
    Scene { title: "plain", stamps: false, face: false, restores: false, unnoticed: false },
    Scene {
        title: "+ ordinary clients, who see one sibling",
        stamps: false,
        face: true,
        restores: false,
        unnoticed: false,
    },
    Scene { title: "+ stamps out of order", stamps: true, face: true, restores: false, unnoticed: false },
    Scene {
        title: "+ restores from old backups",
        stamps: true,
        face: true,
        restores: true,
        unnoticed: false,
    },
    Scene {
        title: "+ restores that the server does not notice (VM roll-back, clone)",
        stamps: true,
        face: true,
        restores: true,
        unnoticed: true,
    },
];

impl fmt::Display for Variant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context = match self.context {
            Rule::RoomVector => "room vector",
            Rule::Vector => "vector",
            Rule::Dots => "dots",
            Rule::Ids => "ids",
        };
        let start = match self.start {
            StartRule::AskOne => "ask one",
            StartRule::EachStart => "each start",
        };
        let fork = match self.fork {
            ForkRule::Freeze => "freeze",
            ForkRule::Tree => "tree",
            ForkRule::Islands => "islands",
        };
        out.pad(&format!("{context} / {start} / {fork}"))
    }
}

/// How many of the schedules from `first_seed` on ended with each fault.
pub fn count(variant: Variant, scene: Scene, first_seed: u64, seeds: u64) -> BTreeMap<Fault, u64> {
    let mut counts = BTreeMap::new();
    for seed in first_seed..first_seed + seeds {
        for fault in world::run(seed, variant, scene) {
            *counts.entry(fault).or_default() += 1;
        }
    }
    counts
}

/// The whole table: for each scene and variant, and for the real types, the
/// number of schedules with each fault. True if the real types broke no rule.
pub fn table(seeds: u64, mut line: impl FnMut(String)) -> bool {
    let mut kept = true;
    for scene in SCENES {
        line(format!("== {}: of {seeds} schedules, those with each fault", scene.title));
        for variant in VARIANTS {
            line(format!("  {variant:34} {}", verdict(&count(variant, scene, 0, seeds))));
        }
        let real = real::count(scene, None, 0, seeds);
        kept &= real.violation.is_none();
        line(format!("  {:34} {real}", "the real types"));
    }
    kept
}

/// A row's faults in words.
fn verdict(faults: &BTreeMap<Fault, u64>) -> String {
    let faults: Vec<String> = faults.iter().map(|(fault, count)| format!("{fault}={count}")).collect();
    if faults.is_empty() { "clean".to_owned() } else { faults.join("  ") }
}
