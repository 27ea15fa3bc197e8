//! What people keep of a room, on two homeservers, and what their other devices see of it:
//! threads with receipts of their own, private receipts, tags, markers, account data, push
//! rules, pushers, presence, and whom they ignore.

use matrix_sdk::{
    deserialized_responses::{ThreadSummaryStatus, TimelineEvent},
    notification_settings::RoomNotificationMode,
    room::{IncludeRelations, RelationsOptions},
    ruma::{
        OwnedEventId, OwnedRoomId, UInt,
        api::client::{
            presence::set_presence::v3::Request as SetPresence,
            push::{PusherIds, PusherInit, PusherKind, get_pushers::v3::Request as GetPushers},
            receipt::create_receipt::v3::ReceiptType,
        },
        events::{
            direct::DirectEventContent,
            receipt::{ReceiptThread, ReceiptType as Received},
            relation::{RelationType, Thread},
            room::message::{Relation, RoomMessageEventContent},
            tag::TagName,
        },
        presence::PresenceState,
        push::HttpPusherData,
    },
};

use crate::{
    person::{Person, Result, ensure, equal, until},
    room, say,
};

/// Says something, in a thread if there is one.
async fn said(
    person: &Person,
    room_id: &OwnedRoomId,
    text: &str,
    thread: Option<&OwnedEventId>,
) -> Result<OwnedEventId> {
    let mut content = RoomMessageEventContent::text_plain(text);
    content.relates_to = thread.map(|root| Relation::Thread(Thread::plain(root.clone(), root.clone())));
    Ok(room(person, room_id)?.send(content).await?.response.event_id)
}

/// Both speak in a thread, both get it from their servers, and Bob reads it.
pub async fn threaded(alice: &Person, bob: &Person, room_id: &OwnedRoomId) -> Result<()> {
    let root = said(alice, room_id, "a beginning", None).await?;
    bob.hears("a beginning").await?;
    let first = said(bob, room_id, "first aside", Some(&root)).await?;
    alice.hears("first aside").await?;
    let second = said(alice, room_id, "second aside", Some(&root)).await?;
    bob.hears("second aside").await?;
    for person in [alice, bob] {
        let here = room(person, room_id)?;
        let threads = here.list_threads(Default::default()).await?.chunk;
        equal(&ids(&threads), &vec![root.clone()])?;
        let summary = &threads.first().ok_or("no thread")?.thread_summary;
        let ThreadSummaryStatus::Some(summary) = summary else { return Err("no summary".into()) };
        equal(&summary.num_replies, &2)?;

        let include_relations = IncludeRelations::RelationsOfType(RelationType::Thread);
        let limit = Some(UInt::from(1_u32));
        let options = RelationsOptions { include_relations, limit, ..Default::default() };
        let last = here.relations(root.clone(), options.clone()).await?;
        equal(&ids(&last.chunk), &vec![second.clone()])?;
        let from = Some(last.next_batch_token.or(last.prev_batch_token).ok_or("no more pages")?);
        let before = here.relations(root.clone(), RelationsOptions { from, ..options }).await?;
        equal(&ids(&before.chunk), &vec![first.clone()])?;
    }
    receipts(alice, bob, room_id, &root, &second).await
}

fn ids(events: &[TimelineEvent]) -> Vec<OwnedEventId> {
    events.iter().filter_map(TimelineEvent::event_id).collect()
}

/// Bob reads what is not in the thread privately, the thread publicly.
async fn receipts(
    alice: &Person,
    bob: &Person,
    room_id: &OwnedRoomId,
    root: &OwnedEventId,
    last: &OwnedEventId,
) -> Result<()> {
    let (here, there, bobs_id) = (room(alice, room_id)?, room(bob, room_id)?, bob.id()?);
    there.send_single_receipt(ReceiptType::ReadPrivate, ReceiptThread::Main, root.clone()).await?;
    until("bob's private receipt", &[bob], async || {
        let kept = there.load_user_receipt(Received::ReadPrivate, ReceiptThread::Main, &bobs_id).await?;
        Ok(kept.filter(|(event_id, _)| event_id == root))
    })
    .await?;
    let thread = ReceiptThread::Thread(root.clone());
    there.send_single_receipt(ReceiptType::Read, thread.clone(), last.clone()).await?;
    until("alice to see that bob read the thread", &[alice], async || {
        let readers = here.load_event_receipts(Received::Read, thread.clone(), last).await?;
        Ok(readers.iter().any(|(reader, _)| *reader == bobs_id).then_some(()))
    })
    .await?;
    for kind in [Received::Read, Received::ReadPrivate] {
        let seen = here.load_event_receipts(kind, ReceiptThread::Main, root).await?;
        ensure(seen.iter().all(|(reader, _)| *reader != bobs_id), || format!("alice sees {seen:?}"))?;
    }
    Ok(())
}

/// Bob's laptop sees his tag, his marks and whom he speaks with there.
pub async fn kept(alice: &Person, bob: &Person, laptop: &Person, room_id: &OwnedRoomId) -> Result<()> {
    let here = room(bob, room_id)?;
    let (alices_id, last) = (alice.id()?, said(alice, room_id, "keep this", None).await?);
    bob.hears("keep this").await?;
    here.set_is_favourite(true, Some(0.5)).await?;
    here.set_unread_flag(true).await?;
    here.send_single_receipt(ReceiptType::FullyRead, ReceiptThread::Unthreaded, last.clone()).await?;
    bob.client.account().mark_as_dm(room_id, std::slice::from_ref(&alices_id)).await?;
    until("the laptop to see what bob keeps", &[laptop], async || {
        let Some(there) = laptop.client.get_room(room_id) else { return Ok(None) };
        let tags = there.tags().await?.unwrap_or_default();
        let favourite = tags.get(&TagName::Favorite).and_then(|tag| tag.order) == Some(0.5);
        let read = there.fully_read_event_id().as_ref() == Some(&last);
        let direct = laptop.client.account().account_data::<DirectEventContent>().await?;
        let direct = direct.map(|raw| raw.deserialize()).transpose()?.unwrap_or_default();
        let theirs = direct.get(alices_id.as_str()).is_some_and(|rooms| rooms.contains(room_id));
        Ok((favourite && read && there.is_marked_unread() && theirs).then_some(()))
    })
    .await?;
    here.set_is_favourite(false, None).await?;
    until("the laptop to see that the tag is gone", &[laptop], async || {
        Ok((!room(laptop, room_id)?.is_favourite()).then_some(()))
    })
    .await
}

/// Bob waits for a word; his laptop knows of it, and of his pusher.
pub async fn alerted(alice: &Person, bob: &Person, laptop: &Person, room_id: &OwnedRoomId) -> Result<()> {
    let has_keyword = async |wanted: bool| {
        until(&format!("the laptop to have the rule: {wanted}"), &[laptop], async || {
            let rules = laptop.client.account().push_rules().await?.content;
            let kept = rules.iter().any(|rule| rule.pattern == "zebra" && rule.enabled);
            Ok((kept == wanted).then_some(()))
        })
        .await
    };
    let settings = bob.client.notification_settings().await;
    settings.add_keyword("zebra".to_owned()).await?;
    has_keyword(true).await?;
    settings.set_room_notification_mode(room_id, RoomNotificationMode::MentionsAndKeywordsOnly).await?;
    let last = said(alice, room_id, "silence", None).await?;
    bob.hears("silence").await?;
    let read = (ReceiptType::Read, ReceiptThread::Unthreaded);
    room(bob, room_id)?.send_single_receipt(read.0, read.1, last).await?;
    let counts = async |wanted: u64| {
        until(&format!("{wanted} to be counted for bob"), &[laptop], async || {
            let counted = room(laptop, room_id)?.unread_notification_counts().notification_count;
            Ok((counted == wanted).then_some(()))
        })
        .await
    };
    counts(0).await?;
    said(alice, room_id, "a horse passes", None).await?;
    said(alice, room_id, "a zebra passes", None).await?;
    laptop.hears("a zebra passes").await?;
    counts(1).await?;
    settings.remove_keyword("zebra").await?;
    has_keyword(false).await?;

    let url = "https://push.example.org/_matrix/push/v1/notify".to_owned();
    let ids = PusherIds::new("key".to_owned(), "org.example".to_owned());
    let pusher = PusherInit {
        ids: ids.clone(),
        kind: PusherKind::Http(HttpPusherData::new(url)),
        app_display_name: "x".to_owned(),
        device_display_name: "y".to_owned(),
        profile_tag: None,
        lang: "en".to_owned(),
    };
    let pushers =
        async || Ok::<_, matrix_sdk::HttpError>(laptop.client.send(GetPushers::new()).await?.pushers);
    bob.client.pusher().set(pusher.into(), false).await?;
    equal(&pushers().await?.iter().map(|one| one.ids.pushkey.as_str()).collect::<Vec<_>>(), &vec!["key"])?;
    bob.client.pusher().delete(ids).await?;
    equal(&pushers().await?.len(), &0)
}

/// Bob does not hear Alice while he ignores her; what is done to the room he sees.
pub async fn ignored(alice: &Person, bob: &Person, room_id: &OwnedRoomId) -> Result<()> {
    let alices_id = alice.id()?;
    bob.client.account().ignore_user(&alices_id).await?;
    until("alice to be ignored", &[bob], async || {
        Ok(bob.client.is_user_ignored(&alices_id).await.then_some(()))
    })
    .await?;
    say(alice, room_id, "unheard").await?;
    room(alice, room_id)?.set_name("After the quarrel".to_owned()).await?;
    until("the room's new name", &[bob], async || {
        Ok((room(bob, room_id)?.name().as_deref() == Some("After the quarrel")).then_some(()))
    })
    .await?;
    ensure(!bob.has_heard("unheard"), || "bob heard whom he ignores".to_owned())?;
    bob.client.account().unignore_user(&alices_id).await?;
    until("alice to be heard", &[bob], async || {
        Ok((!bob.client.is_user_ignored(&alices_id).await).then_some(()))
    })
    .await?;
    say(alice, room_id, "heard again").await?;
    bob.hears("heard again").await
}

/// Bob sees what Alice says of herself.
pub async fn present(alice: &Person, bob: &Person) -> Result<()> {
    let alices_id = alice.id()?;
    let mut request = SetPresence::new(alices_id.clone(), PresenceState::Unavailable);
    request.status_msg = Some("among the roses".to_owned());
    until("alice's presence", &[bob], async || {
        alice.client.send(request.clone()).await?;
        let Some(seen) = bob.client.state_store().get_presence_event(&alices_id).await? else {
            return Ok(None);
        };
        Ok((seen.deserialize()?.content.status_msg == request.status_msg).then_some(()))
    })
    .await
}
