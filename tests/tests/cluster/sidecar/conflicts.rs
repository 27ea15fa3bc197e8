//! A cut, both sides write, and after it is healed the conflict is told once and settled once.

use causeway_tests::{
    result::{Result, ensure},
    user::text,
    wait,
};
use serde_json::json;

use super::{Besides, CONFLICT, notices};

/// More than a Synapse asks for of events that it missed.
const WRITTEN_APART: usize = 15;

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_over_a_cut_is_told_once_and_settled_by_a_reaction() -> Result<()> {
    let besides = Besides::start().await?;
    let (room, zoe, yan, alice) = (&besides.room, &besides.zoe, &besides.yan, &besides.alice);
    besides.cut_one_off()?;
    zoe.put_item(room, "plan", &json!({"text": "Zoe's"})).await?;
    yan.put_item(room, "plan", &json!({"text": "Yan's"})).await?;
    for number in 0..WRITTEN_APART {
        zoe.put_item(room, &format!("one/{number}"), &json!({"n": number})).await?;
        yan.put_item(room, &format!("two/{number}"), &json!({"n": number})).await?;
    }
    besides.heal()?;
    let mut ids = Vec::new();
    for user in besides.users() {
        let shown = wait::until("the conflict to be seen", async || {
            Ok(user.item(room, "plan").await?.filter(|item| item.conflict))
        });
        ids.push(shown.await?.ids());
    }
    ensure(ids[0].len() == 2 && ids.iter().all(|other| *other == ids[0]), || format!("{ids:?}"))?;
    for number in 0..WRITTEN_APART {
        besides.all_hold(&format!("one/{number}"), &json!({"n": number})).await?;
        besides.all_hold(&format!("two/{number}"), &json!({"n": number})).await?;
    }

    let notice = wait::until("Yan to be told", async || Ok(notices(yan, room).await?.pop())).await?;
    let listed = notice["content"][CONFLICT]["siblings"].as_array().cloned().unwrap_or_default();
    let number = listed.iter().position(|one| one["author"] == zoe.id.as_str()).unwrap_or_default() + 1;
    let event = text(&notice, "event_id")?;
    yan.react(room, &event, &format!("{number}\u{fe0f}\u{20e3}")).await?;
    besides.all_hold("plan", &json!({"text": "Zoe's"})).await?;
    besides.all_see("plan", &json!({"text": "Zoe's"})).await?;
    for user in [alice, zoe, yan] {
        wait::until(&format!("{} to see that it is settled", user.id), async || {
            let said = user.texts(room, 50).await?;
            let edits = said.iter().any(|said| {
                said["content"]["m.relates_to"]["event_id"] == event.as_str()
                    && said["content"]["m.relates_to"]["rel_type"] == "m.replace"
            });
            Ok(edits.then_some(()))
        })
        .await?;
        let told = notices(user, room).await?;
        ensure(told.len() == 1, || format!("{} was told {} times: {told:?}", user.id, told.len()))?;
    }
    besides.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_room_heals_by_what_sidecars_tell_each_other() -> Result<()> {
    let besides = Besides::start().await?;
    let (room, zoe, yan) = (&besides.room, &besides.zoe, &besides.yan);
    besides.cut_one_off()?;
    zoe.try_write(room, "quiet/one", &json!({"value": {"n": 1}})).await?.ok()?;
    yan.try_write(room, "quiet/two", &json!({"value": {"n": 2}})).await?.ok()?;
    besides.heal()?;
    besides.all_hold("quiet/one", &json!({"n": 1})).await?;
    besides.all_hold("quiet/two", &json!({"n": 2})).await?;
    for synapse in [&besides.one, &besides.two] {
        let told = synapse.log().matches("org.causeway.version_vector").count();
        ensure(told == 0, || format!("{} was told {told} times what it does not know", synapse.name))?;
    }
    besides.finish().await
}
