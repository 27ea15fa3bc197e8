//! Each checker trips when the rule that it watches is broken.

use causeway_tests::simulation::{self, Broken, plan::Plan};

/// Runs schedules with a broken server until the checker trips.
fn trips(broken: Broken, checker: &str, plan: impl Fn(Plan) -> Plan) {
    trips_saying(broken, checker, "", plan);
}

/// The same; what the checker saw must contain `part`.
fn trips_saying(broken: Broken, checker: &str, part: &str, plan: impl Fn(Plan) -> Plan) {
    let mut others = Vec::new();
    for seed in 0..400 {
        let plan = plan(Plan { lie: None, ..Plan::of(seed) });
        match simulation::run_plan(seed, plan, Some(broken), false).violation {
            Some(violation) if violation.checker == checker && violation.detail.contains(part) => return,
            Some(violation) => others.push((seed, violation.checker)),
            None => {}
        }
    }
    panic!("{checker} never saw {broken:?}; others did: {others:?}");
}

#[test]
fn no_lost_write_sees_a_write_that_supersedes_what_its_author_never_saw() {
    trips(Broken::NameAll, "no_lost_write", |plan| plan);
}

#[test]
fn no_lost_write_sees_an_answer_before_the_sync() {
    trips(Broken::AnswerBeforeSync, "no_lost_write", |plan| Plan { crashes: true, ..plan });
}

#[test]
fn no_false_conflict_sees_a_write_that_names_nothing() {
    trips(Broken::NameNothing, "no_false_conflict", |plan| plan);
}

#[test]
fn no_resurrection_sees_a_forgotten_name() {
    trips(Broken::ForgetNamed, "no_resurrection", |plan| Plan { stamps: 90, keys: 1, ..plan });
}

#[test]
fn no_dot_reuse_sees_a_server_that_goes_on_in_its_old_log() {
    trips(Broken::KeepIncarnation, "no_dot_reuse", |plan| Plan { restores: true, unnoticed: false, ..plan });
}

#[test]
fn durable_before_told_sees_a_shell_that_tells_too_early() {
    trips(Broken::TellBeforeSync, "durable_before_told", |plan| plan);
}

#[test]
fn knowledge_sees_a_shell_that_believes_in_200() {
    trips(Broken::TrustDelivery, "knowledge", |plan| plan);
}

#[test]
fn redacted_sees_a_value_that_is_kept() {
    trips(Broken::KeepRedacted, "redacted", |plan| Plan { redactions: true, stamps: 90, ..plan });
}

#[test]
fn redacted_sees_a_value_that_is_lost() {
    trips_saying(Broken::LoseValues, "redacted", "is gone from", |plan| Plan { redactions: true, ..plan });
}

#[test]
fn redacted_sees_a_value_that_is_sent() {
    let plan = |plan| Plan { redactions: true, keys: 1, ..plan };
    trips_saying(Broken::SendRedacted, "redacted", "sends the value", plan);
}

#[test]
fn bounds_sees_an_item_that_takes_any_number() {
    let plan = |_| Plan { keys: 1, steps: 400, ..Plan::calm(2) };
    trips_saying(Broken::Crowd, "bounds", "siblings", plan);
}

#[test]
fn bounds_sees_two_pulls_in_flight() {
    trips_saying(Broken::PullTwice, "bounds", "two pulls", |plan| plan);
}

#[test]
fn bounds_sees_a_list_that_is_too_long() {
    trips_saying(Broken::OverfillAdvertisements, "bounds", "points and entries", |plan| plan);
}

#[test]
fn bounds_sees_a_message_that_is_too_long() {
    trips_saying(Broken::PadAdvertisements, "bounds", "bytes", |plan| plan);
}

#[test]
fn converged_sees_a_shell_that_never_tells_the_time() {
    trips(Broken::Deaf, "converged", |mut plan| {
        plan.weather.drop = 25;
        plan
    });
}

#[test]
fn converged_sees_items_that_differ_over_the_same_changes() {
    trips_saying(Broken::OwnTimes, "converged", "show different items", |plan| plan);
}
