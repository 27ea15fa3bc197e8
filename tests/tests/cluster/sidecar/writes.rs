//! Writes from all sides, by state events and through the API.

use causeway_tests::{result::Result, user::User};
use serde_json::json;

use super::Besides;

#[tokio::test(flavor = "multi_thread")]
async fn writes_from_all_sides_are_the_same_everywhere() -> Result<()> {
    let besides = Besides::start().await?;
    let room = &besides.room;
    let said = besides.one_side.health().await?;
    assert!(said.contains(&besides.one.name), "{said}");
    let name = |user: &User| user.id.trim_start_matches('@').split(':').next().unwrap_or_default().to_owned();
    for user in besides.users() {
        let (state, api) = (format!("state/{}", name(user)), format!("api/{}", name(user)));
        user.put_item(room, &state, &json!({"by": user.id})).await?;
        user.try_write(room, &api, &json!({"value": {"by": user.id}})).await?.ok()?;
        for key in [&state, &api] {
            let item = besides.all_hold(key, &json!({"by": user.id})).await?;
            assert_eq!(item.siblings[0].author, user.id, "{key}");
            besides.all_see(key, &json!({"by": user.id})).await?;
        }
    }
    // Each goes on where the one before him left off, having seen it.
    for (number, user) in besides.users().into_iter().enumerate() {
        let before = besides.all_hold("state/zoe", &seen(number, &besides)).await?;
        let body = json!({"value": {"turn": number}, "token": token(user, room).await?});
        user.try_write(room, "state/zoe", &body).await?.ok()?;
        let after = besides.all_hold("state/zoe", &json!({"turn": number})).await?;
        assert_ne!(before.ids(), after.ids());
        besides.all_see("state/zoe", &json!({"turn": number})).await?;
    }
    besides.finish().await
}

fn seen(number: usize, besides: &Besides) -> serde_json::Value {
    match number.checked_sub(1) {
        None => json!({"by": besides.zoe.id}),
        Some(before) => json!({"turn": before}),
    }
}

async fn token(user: &User, room: &str) -> Result<String> {
    Ok(user.item(room, "state/zoe").await?.map(|item| item.token).unwrap_or_default())
}
