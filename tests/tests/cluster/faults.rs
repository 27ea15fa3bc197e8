//! A short time of the faults of `make faults`, between servers of ours: what it finds in ten
//! minutes with a Synapse among them it finds here soonest.

use causeway_tests::{
    faults::{self, Settings, complete, misplaced},
    result::Result,
};

#[tokio::test(flavor = "multi_thread")]
async fn servers_agree_after_cuts_and_kills() -> Result<()> {
    let settings = Settings { seed: 7, seconds: 25, servers: 3, synapse: None, pace_ms: 100, logs: None };
    let report = faults::run(&settings).await?;
    println!("{}", report.table());
    report.verdict()
}

#[test]
fn a_message_that_is_lacking_doubled_or_misplaced_is_found() {
    let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let said = [own(&["a1", "a2"]), own(&["b1"])];
    for good in [["a1", "a2", "b1"], ["b1", "a1", "a2"]] {
        assert!(complete(&own(&good), &said).is_ok() && misplaced(&own(&good), &said).is_empty(), "{good:?}");
    }
    for bad in [&["a1", "b1"][..], &["a1", "a2", "b1", "b1"]] {
        assert!(complete(&own(bad), &said).is_err(), "{bad:?}");
    }
    assert_eq!(misplaced(&own(&["a2", "a1", "b1"]), &said), [r#""a2" before "a1""#]);
}
