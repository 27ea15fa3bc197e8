//! A write that was acknowledged survives kill -9, on every server in the room.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use causeway_tests::{
    cluster::Cluster,
    result::{Result, ensure},
    user::User,
    wait,
};
use serde_json::json;

use crate::pair::{Pair, value};

const WRITERS: usize = 6;
/// Acknowledged writes before each kill.
const BEFORE_KILL: usize = 60;
const KILLS: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_write_survives_kills() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let pair = Pair::meet(&cluster).await?;
    let carol = pair.bystander(&cluster).await?;
    let acknowledged = Mutex::new(Vec::new());
    for round in 0..KILLS {
        let stop = AtomicBool::new(false);
        let goal = BEFORE_KILL * (round + 1);
        let writers = futures(WRITERS, |writer| {
            write_until_killed(&pair.alice, &pair.room, round, writer, &acknowledged, &stop)
        });
        let kill = async {
            wait::until("acknowledged writes", async || {
                let count = acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len();
                Ok((count >= goal).then_some(()))
            })
            .await?;
            cluster[0].kill().await?;
            stop.store(true, Ordering::SeqCst);
            Result::Ok(())
        };
        let ((), killed) = tokio::join!(writers, kill);
        killed?;
        cluster[0].start().await?;
    }
    let acknowledged = acknowledged.into_inner().unwrap_or_else(PoisonError::into_inner);
    for user in [&pair.alice, &pair.bob, &carol] {
        wait::until("every acknowledged write", async || {
            let items = user.items(&pair.room).await?;
            let lost: Vec<_> = acknowledged
                .iter()
                .filter(|(key, value)| {
                    !items.iter().any(|item| item.key == *key && item.value() == Some(value))
                })
                .collect();
            ensure(lost.is_empty(), || format!("{} lost {} writes: {lost:?}", user.id, lost.len()))?;
            Ok(Some(()))
        })
        .await?;
    }
    cluster.finish().await
}

async fn futures<F: Future>(count: usize, make: impl Fn(usize) -> F) {
    let mut set: Vec<_> = (0..count).map(|number| Box::pin(make(number))).collect();
    let mut pending: Vec<bool> = vec![true; count];
    std::future::poll_fn(|context| {
        for (future, pending) in set.iter_mut().zip(&mut pending).filter(|(_, pending)| **pending) {
            *pending = future.as_mut().poll(context).is_pending();
        }
        if pending.contains(&true) { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
}

/// Half of the writes by state event, half through the API.
async fn write_until_killed(
    user: &User,
    room: &str,
    round: usize,
    writer: usize,
    acknowledged: &Mutex<Vec<(String, serde_json::Value)>>,
    stop: &AtomicBool,
) {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let key = format!("crash/{round}/{writer}/{number}");
        let content = value("alice", number);
        let written = if number % 2 == 0 {
            user.put_item(room, &key, &content).await.is_ok()
        } else {
            let answer = user.try_write(room, &key, &json!({ "value": content })).await;
            answer.is_ok_and(|answer| answer.status == 200)
        };
        if !written {
            return;
        }
        acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push((key, content));
        number += 1;
    }
}
