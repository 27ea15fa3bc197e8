//! Two people who live in a list of rooms by simplified sliding sync, on two
//! homeservers: invites, encrypted messages, replies, edits, reactions, redactions,
//! receipts, unread counts, typing, the order of the list, a time away, a kick.

use matrix_sdk::{
    RoomState,
    room::edit::EditedContent,
    ruma::{
        OwnedRoomId, RoomId,
        api::client::{
            receipt::create_receipt::v3::ReceiptType,
            room::create_room::v3::{Request as CreateRoom, RoomPreset},
        },
        events::{
            InitialStateEvent,
            room::{
                encryption::RoomEncryptionEventContent,
                message::{RoomMessageEventContent, RoomMessageEventContentWithoutRelation},
            },
        },
    },
};
use matrix_sdk_ui::timeline::Timeline;

use crate::{
    person::{Result, ensure},
    viewer::{Viewer, body, holds, same, shows, until},
};

/// Messages that one misses; more than an answer of a list carries for a room.
const MISSED: usize = 40;

/// The whole story.
pub async fn story(alice: &Viewer, bob: &Viewer) -> Result<()> {
    holds("two empty lists", async || Ok(alice.rooms().await?.is_empty() && bob.rooms().await?.is_empty()))
        .await?;
    let plans = create(alice, bob, "Plans", true).await?;
    let other = create(alice, bob, "Other", false).await?;
    println!("invites reach the list, and both are in both rooms");

    let (here, there) = (alice.open(&plans).await?, bob.open(&plans).await?);
    talk(&here, &there).await?;
    println!("messages, a reply, an edit, a reaction and a redaction go both ways");

    receipts(alice, &here, &there).await?;
    println!("receipts and unread counts");

    typing(alice, bob, &plans).await?;
    order(alice, bob, &plans, &other).await?;
    println!("typing and the order of the list");

    away(bob, &here, &there, &plans).await?;
    println!("what was missed is there");

    let kicked = alice.room(&other)?;
    kicked.kick_user(&bob.id()?, None).await?;
    holds("bob's list to lose the room", async || Ok(!bob.rooms().await?.contains(&other))).await?;
    ensure(bob.room(&other)?.state() == RoomState::Left, || "bob is out".to_owned())?;
    same(&bob.rooms().await?, &[&plans])
}

/// A room with a name, into which bob came by an invite.
async fn create(alice: &Viewer, bob: &Viewer, name: &str, encrypted: bool) -> Result<OwnedRoomId> {
    let mut request = CreateRoom::new();
    request.preset = Some(RoomPreset::PrivateChat);
    request.name = Some(name.to_owned());
    request.invite = vec![bob.id()?];
    if encrypted {
        let content = RoomEncryptionEventContent::with_recommended_defaults();
        request.initial_state = vec![InitialStateEvent::with_empty_state_key(content).to_raw_any()];
    }
    let room_id = alice.client.create_room(request).await?.room_id().to_owned();
    holds("the invite in bob's list", async || Ok(bob.rooms().await?.contains(&room_id))).await?;
    let invited = bob.room(&room_id)?;
    ensure(invited.state() == RoomState::Invited, || format!("it is {:?}", invited.state()))?;
    // The SDK lists a room before it has read the state that came with it.
    holds("the invite's name", async || Ok(invited.name().as_deref() == Some(name))).await?;
    invited.join().await?;
    for person in [alice, bob] {
        holds("both in the room", async || {
            let Ok(room) = person.room(&room_id) else { return Ok(false) };
            let both = room.state() == RoomState::Joined && room.joined_members_count() == 2;
            Ok(both && room.latest_encryption_state().await?.is_encrypted() == encrypted)
        })
        .await?;
    }
    Ok(room_id)
}

fn text(text: &str) -> RoomMessageEventContent {
    RoomMessageEventContent::text_plain(text)
}

fn plain(text: &str) -> RoomMessageEventContentWithoutRelation {
    RoomMessageEventContentWithoutRelation::text_plain(text)
}

/// `here` is alice's timeline, `there` bob's.
async fn talk(here: &Timeline, there: &Timeline) -> Result<()> {
    here.send(text("first").into()).await?;
    let first = shows(there, "first").await?;
    ensure(first.encryption_info().is_some(), || "it came encrypted".to_owned())?;
    let first_id = first.event_id().ok_or("it is not sent")?.to_owned();
    there.send_reply(plain("a reply"), first_id.clone()).await?;
    let reply = shows(here, "a reply").await?;
    let answered = reply.content().in_reply_to().map(|details| details.event_id);
    ensure(answered == Some(first_id.clone()), || format!("it answers {answered:?}"))?;

    let sent =
        until("alice's message to be known by its id", async || Ok(here.item_by_event_id(&first_id).await))
            .await?;
    here.edit(&sent.identifier(), EditedContent::RoomMessage(plain("first, edited"))).await?;
    let edited = shows(there, "first, edited").await?;
    ensure(edited.content().as_message().is_some_and(matrix_sdk_ui::timeline::Message::is_edited), || {
        "edited".to_owned()
    })?;

    there.toggle_reaction(&edited.identifier(), "👍").await?;
    holds("alice to see the reaction", async || {
        let Some(item) = here.item_by_event_id(&first_id).await else { return Ok(false) };
        let by = item
            .content()
            .reactions()
            .and_then(|all| all.get("👍").map(|by| by.keys().cloned().collect::<Vec<_>>()));
        Ok(by.is_some_and(|by| by == [there.room().own_user_id().to_owned()]))
    })
    .await?;

    here.send(text("oops").into()).await?;
    let oops = shows(there, "oops").await?.event_id().ok_or("it is not sent")?.to_owned();
    until("alice's message to be known by its id", async || Ok(here.item_by_event_id(&oops).await)).await?;
    here.room().redact(&oops, None, None).await?;
    holds("bob to see that it was redacted", async || {
        Ok(there.item_by_event_id(&oops).await.is_some_and(|item| item.content().is_redacted()))
    })
    .await
}

/// Bob has not read, reads, and alice sees that he did.
async fn receipts(alice: &Viewer, here: &Timeline, there: &Timeline) -> Result<()> {
    there.mark_as_read(ReceiptType::Read).await?;
    holds("nothing unread", async || Ok(there.room().num_unread_messages() == 0)).await?;
    here.send(text("unread").into()).await?;
    let unread = shows(there, "unread").await?;
    holds("one unread message", async || Ok(there.room().num_unread_messages() == 1)).await?;
    there.mark_as_read(ReceiptType::Read).await?;
    holds("nothing unread any more", async || Ok(there.room().num_unread_messages() == 0)).await?;
    let (id, bob) = (unread.event_id().ok_or("it is not sent")?, there.room().own_user_id());
    ensure(alice.id()? == here.room().own_user_id(), || "alice's timeline".to_owned())?;
    holds("bob's receipt at alice's", async || {
        Ok(here.item_by_event_id(id).await.is_some_and(|item| item.read_receipts().contains_key(bob)))
    })
    .await
}

async fn typing(alice: &Viewer, bob: &Viewer, room_id: &RoomId) -> Result<()> {
    let (_guard, mut typing) = alice.room(room_id)?.subscribe_to_typing_notifications();
    bob.room(room_id)?.typing_notice(true).await?;
    let who = tokio::time::timeout(crate::PATIENCE, typing.recv()).await??;
    ensure(who == [bob.id()?], || format!("typing: {who:?}"))?;
    bob.room(room_id)?.typing_notice(false).await?;
    let who = tokio::time::timeout(crate::PATIENCE, typing.recv()).await??;
    ensure(who.is_empty(), || format!("still typing: {who:?}"))
}

/// The room with the latest message comes first, on both sides.
async fn order(alice: &Viewer, bob: &Viewer, plans: &RoomId, other: &RoomId) -> Result<()> {
    for (room, expected) in [(other, [other, plans]), (plans, [plans, other])] {
        bob.room(room)?.send(text(&format!("news of {room}"))).await?;
        for person in [alice, bob] {
            holds("the list in order", async || Ok(person.rooms().await? == expected)).await?;
        }
    }
    Ok(())
}

/// Bob's app sleeps while alice writes.
async fn away(bob: &Viewer, here: &Timeline, there: &Timeline, room_id: &RoomId) -> Result<()> {
    bob.stop().await;
    for n in 0..MISSED {
        here.send(text(&format!("missed {n}")).into()).await?;
    }
    let last = format!("missed {}", MISSED - 1);
    holds("alice's messages to be sent", async || {
        Ok(crate::viewer::shown(here, &last).await.is_some_and(|item| item.event_id().is_some()))
    })
    .await?;
    bob.start().await;
    shows(there, &last).await?;
    ensure(bob.room(room_id)?.state() == RoomState::Joined, || "bob is in".to_owned())?;
    let all: Vec<String> = (0..MISSED).map(|n| format!("missed {n}")).collect();
    until("all that was missed, in order", async || {
        let items = there.items().await;
        let texts: Vec<String> =
            items.iter().filter_map(|item| Some(body(item.as_event()?)?.to_owned())).collect();
        let missed: Vec<&String> = texts.iter().filter(|text| text.starts_with("missed ")).collect();
        if missed.len() >= MISSED {
            ensure(missed.iter().copied().eq(all.iter()), || format!("out of order: {missed:?}"))?;
            return Ok(Some(()));
        }
        there.paginate_backwards(20).await?;
        Ok(None)
    })
    .await
}
