//! The table of rules: which variants lose writes, and that the chosen one does
//! not. `soak --table 1000` prints all of it.

use std::collections::BTreeMap;

use causeway_tests::model::{
    CHOSEN, ForkRule, SCENES, Scene, StartRule, VARIANTS, Variant, context::Rule, count, world::Fault,
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
        let mut faults = count(CHOSEN, scene, 0, 300);
        // A dot given out twice by a machine that can't know better, and an alarm
        // whose reason was lost with a disk, are nobody's fault.
        faults.remove(&Fault::FalseViaLost);
        if scene.unnoticed {
            faults.remove(&Fault::DotReuse);
        }
        assert!(faults.is_empty(), "{}: {faults:?}", scene.title);
    }
}
