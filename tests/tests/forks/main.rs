//! Event authorisation and state resolution beside Synapse's, over rooms that
//! fork and merge. More of them: `make soak ROOMS=100000`.

use causeway_tests::{
    forks::{
        self, Totals, people,
        server::{self, Arrival},
        synapse::Judge,
    },
    program,
    result::Result,
};

/// Rooms in an ordinary test run, evenly of every supported version.
const ROOMS: u64 = 1_400;
/// The same of those that a server takes in.
const TAKEN_IN: u64 = 210;

#[test]
fn synapse_judges_forked_rooms_alike() -> Result<()> {
    let python = program::python()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let totals = forks::compare(&python, 0..ROOMS, cores, |_| ())?;
    assert!(totals.differences.is_empty(), "see one with `make soak ROOM=seed`: {:#?}", totals.differences);
    let Totals { rooms, events, refused, merges, crashes, .. } = totals;
    assert_eq!(rooms, ROOMS);
    assert!(merges > events / 20, "{merges} merges of {events} events are too few to show anything");
    assert!(refused > events / 20 && refused < events / 2, "{refused} of {events} events are refused");
    assert!(crashes < ROOMS, "Synapse's rules failed {crashes} times, where they should judge");
    Ok(())
}

#[test]
fn a_server_that_takes_rooms_in_holds_what_was_judged() -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let taken = server::compare_all(0..TAKEN_IN, cores, |_| ())?;
    assert!(taken.differences.is_empty(), "{:#?}", taken.differences);
    assert_eq!(taken.rooms, TAKEN_IN);
    assert!(taken.outside < taken.events / 4, "too much was not looked at: {taken}");
    assert!(taken.rejected > taken.events / 20, "too little is rejected: {taken}");
    Ok(())
}

#[test]
fn a_server_that_holds_something_else_is_noticed() -> Result<()> {
    for arrival in [Arrival::Single, Arrival::Together] {
        let mut room = people::grow(&forks::version(5), 5)?;
        assert_eq!(server::compare(&mut room, arrival)?.1, None);
        room.steps[4].verdict.before ^= true;
        let told = server::compare(&mut room, arrival)?.1.unwrap_or_default();
        assert!(told.contains("rejected there"), "{told}");
        room.steps[4].verdict.before ^= true;
        room.steps[4].after = room.steps[0].after;
        let told = server::compare(&mut room, arrival)?.1.unwrap_or_default();
        assert!(told.contains("another state after it"), "{told}");
    }
    Ok(())
}

#[test]
fn a_seed_says_everything() -> Result<()> {
    for seed in [3, 17, 41] {
        let [one, other] =
            [people::grow(&forks::version(seed), seed)?, people::grow(&forks::version(seed), seed)?];
        let ids = |room: &forks::room::Room| -> Vec<_> {
            room.steps.iter().map(|step| (step.event.event_id().to_owned(), step.after)).collect()
        };
        assert!(one.steps.len() > 10);
        assert_eq!(ids(&one), ids(&other));
    }
    Ok(())
}

#[test]
fn another_verdict_or_another_state_is_noticed() -> Result<()> {
    let mut judge = Judge::start(&program::python()?)?;
    let mut room = people::grow(&forks::version(5), 5)?;
    assert_eq!(judge.compare(&room)?.difference, None);
    let last = room.steps.len() - 1;
    room.steps[last].verdict.before ^= true;
    assert!(judge.compare(&room)?.difference.is_some());
    room.steps[last].verdict.before ^= true;
    room.steps[last].after = room.steps[1].after;
    let told = judge.compare(&room)?.difference.unwrap_or_default();
    assert!(told.contains("only theirs"), "{told}");
    judge.finish()
}
