//! Each part killed in turn while everybody writes: what was acknowledged is there.

use causeway_tests::{
    result::{Result, ensure},
    user::User,
};
use futures_util::future::join_all;
use serde_json::json;

use super::{Besides, notices};

/// Items that each user writes while one part is down.
const ROUND: usize = 4;

/// What may be killed.
#[derive(Clone, Copy, Debug)]
enum Part {
    Home,
    One,
    OneSide,
    Two,
    TwoSide,
}

const PARTS: [Part; 5] = [Part::One, Part::OneSide, Part::Two, Part::TwoSide, Part::Home];

impl Besides {
    async fn kill(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Home => self.cluster[0].kill().await,
            Part::One => self.one.kill().await,
            Part::OneSide => self.one_side.kill().await,
            Part::Two => self.two.kill().await,
            Part::TwoSide => self.two_side.kill().await,
        }
    }

    async fn start_again(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Home => self.cluster[0].start().await,
            Part::One => self.one.start().await,
            Part::OneSide => self.one_side.start().await,
            Part::Two => self.two.start().await,
            Part::TwoSide => self.two_side.start().await,
        }
    }
}

/// The keys of which the write was acknowledged.
async fn write(user: &User, room: &str, round: &str) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0..ROUND {
        let key = format!("{round}/{}/{number}", user.id);
        let body = json!({"key": key});
        let done = if number % 2 == 0 {
            user.put_item(room, &key, &body).await.is_ok()
        } else {
            let answer = user.try_write(room, &key, &json!({ "value": body })).await;
            answer.is_ok_and(|answer| answer.status == 200)
        };
        if done {
            acknowledged.push(key);
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_kill_of_each_part() -> Result<()> {
    let mut besides = Besides::start().await?;
    let mut acknowledged = Vec::new();
    for part in PARTS {
        let before = format!("{part:?}/before");
        let room = besides.room.clone();
        let writing = join_all(besides.users().map(|user| write(user, &room, &before)));
        acknowledged.extend(writing.await.into_iter().flatten());
        besides.kill(part).await?;
        let during = format!("{part:?}/during");
        let writing = join_all(besides.users().map(|user| write(user, &room, &during)));
        acknowledged.extend(writing.await.into_iter().flatten());
        besides.start_again(part).await?;
    }
    ensure(acknowledged.len() >= PARTS.len() * ROUND * 4, || format!("only {} were", acknowledged.len()))?;
    for key in &acknowledged {
        besides.all_hold(key, &json!({ "key": key })).await?;
    }
    for user in besides.users() {
        ensure(notices(user, &besides.room).await?.is_empty(), || "a conflict that nobody made".to_owned())?;
    }
    besides.finish().await
}
