//! The table of rules: which variants lose writes, and that the chosen one does
//! not, neither in the model nor with the real types. `soak --table 1000` prints
//! all of it.

use std::collections::BTreeMap;

use causeway_tests::{
    model::{
        CHOSEN, ForkRule, SCENES, Scene, StartRule, VARIANTS, Variant, context::Rule, count, real,
        world::Fault,
    },
    simulation::{Broken, watch::Dangers},
};

fn faults(context: Rule, start: StartRule, fork: ForkRule, scene: Scene, seeds: u64) -> BTreeMap<Fault, u64> {
    let variant = Variant { context, start, fork };
    assert!(VARIANTS.contains(&variant), "the table has it");
    count(variant, scene, 0, seeds)
}

#[test]
fn a_vector_as_context_loses_writes_even_in_the_plain_world() {
    for (rule, least) in [(Rule::RoomVector, 20), (Rule::Vector, 10)] {
        let faults = faults(rule, StartRule::AskOne, ForkRule::Freeze, SCENES[0], 40);
        assert!(faults.get(&Fault::Lost).is_some_and(|lost| *lost >= least), "{rule:?}: {faults:?}");
    }
    assert!(faults(Rule::Ids, StartRule::AskOne, ForkRule::Freeze, SCENES[0], 40).is_empty());
}

#[test]
fn asking_one_peer_at_the_start_gives_out_dots_twice() {
    let asked = faults(Rule::Ids, StartRule::AskOne, ForkRule::Freeze, SCENES[3], 100);
    assert!(asked.contains_key(&Fault::DotReuse), "{asked:?}");
    let fresh = faults(Rule::Ids, StartRule::EachStart, ForkRule::Freeze, SCENES[3], 100);
    assert!(!fresh.contains_key(&Fault::DotReuse), "{fresh:?}");
}

#[test]
fn freezing_and_trees_without_islands_lose_what_comes_behind_a_hole() {
    for fork in [ForkRule::Freeze, ForkRule::Tree] {
        let faults = faults(Rule::Ids, StartRule::EachStart, fork, SCENES[4], 200);
        assert!(
            faults.contains_key(&Fault::Lost) && faults.contains_key(&Fault::Diverged),
            "{fork:?}: {faults:?}"
        );
    }
}

#[test]
fn dots_lose_writes_where_a_dot_can_be_given_out_twice() {
    let faults = faults(Rule::Dots, StartRule::EachStart, ForkRule::Islands, SCENES[4], 150);
    assert!(faults.contains_key(&Fault::Lost), "{faults:?}");
}

#[test]
fn the_chosen_rules_are_clean_in_every_world() {
    for scene in SCENES {
        let faults = culpable(count(CHOSEN, scene, 0, 300), scene);
        assert!(faults.is_empty(), "{}: {faults:?}", scene.title);
    }
}

/// Without what is nobody's fault: an alarm whose reason was lost with a disk, and
/// a dot given out twice by a machine that can't know better.
fn culpable(mut faults: BTreeMap<Fault, u64>, scene: Scene) -> BTreeMap<Fault, u64> {
    if scene.restores {
        faults.remove(&Fault::FalseViaLost);
    }
    if scene.unnoticed {
        faults.remove(&Fault::DotReuse);
    }
    faults
}

/// And that each scene has the dangers that it names, and no other.
#[test]
fn the_real_types_are_clean_in_every_scene_and_meet_its_dangers() {
    for scene in SCENES {
        // Forks are the rarest of all.
        let seeds = if scene.unnoticed { 24 } else { 12 };
        let row = real::count(scene, None, 0, seeds);
        let faults = culpable(row.faults.clone(), scene);
        assert!(row.violation.is_none() && faults.is_empty(), "{}: {row}", scene.title);
        assert!(row.changes > 12 * seeds, "{}: {row}", scene.title);
        let Dangers { cuts, crashes, faces, islands, restores, unnoticed, redactions, erased_late, .. } =
            row.dangers;
        let forked = row.faults.contains_key(&Fault::DotReuse) && row.forks > 0;
        for (name, came_about, named) in [
            ("cuts", cuts > 0, true),
            ("crashes", crashes > 0, true),
            ("faces", faces > 0, scene.face),
            ("islands", islands > 0, scene.stamps),
            ("restores", restores > 0, scene.restores),
            ("unnoticed", unnoticed > 0, scene.unnoticed),
            ("forks", forked, scene.unnoticed),
            ("redactions", redactions + erased_late > 0, false),
        ] {
            assert_eq!(came_about, named, "{name} in {}: {row}", scene.title);
        }
    }
}

#[test]
fn the_row_of_the_real_types_can_show_each_fault() {
    for (broken, fault, scene) in [
        (Broken::NameAll, Fault::Lost, SCENES[0]),
        (Broken::NameNothing, Fault::FalseConflict, SCENES[0]),
        (Broken::KeepIncarnation, Fault::DotReuse, SCENES[3]),
    ] {
        let shows = |seed| real::count(scene, Some(broken), seed, 1).faults.contains_key(&fault);
        assert!((0..30).any(shows), "{broken:?} never ended with {fault}");
    }
}
