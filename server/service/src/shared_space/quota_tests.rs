//! How much another server may put into a room.

use causeway_shared_space::Change;
use causeway_storage::shared_space::usage::{self, UsageRow};
use ruma::server_name;
use serde_json::json;

use super::{
    pair::{Pair, put},
    quota::size,
    tests::{ALICE, write_at},
};

fn ten(pair: &Pair) -> Vec<Change> {
    (0..10).map(|n| pair.change(&format!("k{n}"), put(n), |_| {})).collect()
}

fn used(pair: &Pair) -> Option<UsageRow> {
    usage::usage(&pair.a.database, &pair.room, server_name!("b.example")).expect("reads")
}

#[test]
fn what_passes_a_servers_quota_waits_and_is_shown() {
    let pair = Pair::new();
    let changes = ten(&pair);
    let quota: u64 = changes[..4].iter().map(size).sum();
    let pair = pair.with_quota(quota + 1);
    assert_eq!(pair.join(&changes), 4);
    // Nothing is counted twice, and this server's own writes are free.
    assert_eq!(pair.join(&changes), 0);
    write_at(&pair.a, *ALICE, &pair.room, "ONE", "own", &json!({ "n": 1 }));
    assert_eq!(used(&pair).expect("counted").bytes, quota);
    let status = pair.a.shared_space.status(*ALICE, &pair.room).expect("a status");
    let expected = json!([{ "server": "b.example", "bytes": quota, "quota": quota + 1 }]);
    assert_eq!((&status["changes"], &status["deferred"]), (&json!(5), &expected));
    // When there is room, it comes with the next pull.
    let pair = pair.with_quota(1 << 20);
    let status = pair.a.shared_space.status(*ALICE, &pair.room).expect("a status");
    assert_eq!(status["deferred"], json!([]));
    assert_eq!(pair.join(&changes), 6);
}

#[test]
fn what_came_before_it_was_counted_counts() {
    let pair = Pair::new();
    let changes = ten(&pair);
    assert_eq!(pair.join(&changes[..5]), 5);
    let counted = used(&pair).expect("counted").bytes;
    assert_eq!(counted, changes[..5].iter().map(size).sum::<u64>());
    // A data folder of before has no such row.
    let mut batch = pair.a.database.batch();
    usage::delete_usage(&mut batch, &pair.room, server_name!("b.example"));
    pair.a.database.commit_durable(batch).expect("committed");
    let pair = pair.with_quota(counted + size(&changes[5]));
    assert_eq!(pair.join(&changes[5..]), 1);
    assert_eq!(used(&pair).expect("counted").bytes, counted + size(&changes[5]));
}
