//! What two people do on ordinary days, on two homeservers: an app that is opened again,
//! pictures with thumbnails, aliases and the public list, threads with receipts of their own,
//! kicks and bans, knocks, a space with a restricted room, an upgrade, and what is kept
//! for a person's other device ([`keeping`]).

use std::pin::pin;

use futures_util::StreamExt as _;
use matrix_sdk::{
    Room, RoomMemberships, RoomState,
    ruma::{
        OwnedRoomId, RoomAliasId, RoomId, RoomVersionId,
        api::client::{
            directory::get_public_rooms_filtered::v3::Request as PublicRooms,
            room::{
                Visibility,
                create_room::v3::{CreationContent, Request as CreateRoom, RoomPreset},
                upgrade_room::v3::Request as Upgrade,
            },
        },
        directory::Filter,
        events::{
            InitialStateEvent,
            room::{
                join_rules::{AllowRule, JoinRule, RoomJoinRulesEventContent},
                member::MembershipState,
            },
            space::child::SpaceChildEventContent,
        },
        room::RoomType,
        serde::Raw,
    },
};
use matrix_sdk_ui::spaces::SpaceService;

use crate::{
    encrypted_room, keeping,
    person::{Person, Result, ensure, equal, until},
    pictures, room, say,
};

/// The whole story, of people with a homeserver's address, a name and a password each.
pub async fn story(alices: [&str; 3], bobs: [&str; 3]) -> Result<()> {
    let bob = Person::log_in(bobs[0], bobs[1], bobs[2], "BOBPHONE").await?;
    let (alice, secret) = opened_again(alices, &bob).await?;
    println!("an app that is opened again goes on");
    let garden = found(&alice, &bob).await?;
    println!("the alias and the public list lead to the room");
    pictures::seen(&alice, &bob, &secret, &garden).await?;
    println!("pictures and thumbnails, encrypted and not");
    keeping::threaded(&alice, &bob, &garden).await?;
    println!("a thread is read back, with receipts of its own");
    knocked(&alice, &bob).await?;
    spaced(&alice, &bob).await?;
    upgraded(&alice, &bob).await?;
    println!("a knock, a space and an upgrade");
    let laptop = Person::log_in(bobs[0], bobs[1], bobs[2], "BOBLAPTOP").await?;
    keeping::kept(&alice, &bob, &laptop, &garden).await?;
    keeping::alerted(&alice, &bob, &laptop, &garden).await?;
    println!("tags, markers, rules and pushers are the other device's, too");
    keeping::ignored(&alice, &bob, &garden).await?;
    keeping::present(&alice, &bob).await?;
    println!("who is ignored is not heard, and who is there is seen");
    thrown_out(&alice, &bob, &garden).await
}

/// Alice's app ends after it logged in by password, and begins again with what it kept.
async fn opened_again([url, name, password]: [&str; 3], bob: &Person) -> Result<(Person, OwnedRoomId)> {
    let stores = Person::stores();
    let alice = Person::log_in_with(url, name, password, "ALICEPHONE", &stores).await?;
    // Each has told its keys before the other asks for them.
    alice.sync().await?;
    bob.sync().await?;
    let room_id = encrypted_room(&alice, bob).await?;
    say(bob, &room_id, "before").await?;
    alice.hears("before").await?;
    let session = alice.client.matrix_auth().session().ok_or("no session")?;
    drop(alice);
    let alice = Person::restore(url, session, &stores).await?;
    let who = alice.client.whoami().await?.device_id.ok_or("no device")?;
    ensure(who == "ALICEPHONE", || format!("it is {who} now"))?;
    equal(&room(&alice, &room_id)?.state(), &RoomState::Joined)?;
    // The key of what comes now is the one that the app had before.
    say(bob, &room_id, "after").await?;
    alice.hears("after").await?;
    ensure(!alice.has_heard("before"), || "it did not go on from where it was".to_owned())?;
    say(&alice, &room_id, "here again").await?;
    bob.hears("here again").await?;
    Ok((alice, room_id))
}

/// A room of Alice's, once her client knows it.
async fn created(alice: &Person, request: CreateRoom) -> Result<OwnedRoomId> {
    let room_id = alice.client.create_room(request).await?.room_id().to_owned();
    until("the new room", &[alice], async || {
        let known = alice.client.get_room(&room_id).filter(Room::is_synced);
        Ok(known.filter(|room| room.join_rule().is_some()))
    })
    .await?;
    Ok(room_id)
}

/// Bob joins by Alice's server, and both see him.
async fn joins(alice: &Person, bob: &Person, room_id: &RoomId) -> Result<()> {
    let via = [alice.id()?.server_name().to_owned()];
    bob.client.join_room_by_id_or_alias(room_id.into(), &via).await?;
    both_in(alice, bob, room_id).await
}

async fn both_in(alice: &Person, bob: &Person, room_id: &RoomId) -> Result<()> {
    until("both to be in the room", &[alice, bob], async || {
        for person in [alice, bob] {
            let Some(room) = person.client.get_room(room_id) else { return Ok(None) };
            let joined = room.state() == RoomState::Joined && room.is_synced();
            if !joined || room.members(RoomMemberships::JOIN).await?.len() != 2 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// A public room of Alice's that Bob finds by its alias and in the list of her server.
async fn found(alice: &Person, bob: &Person) -> Result<OwnedRoomId> {
    let mut request = CreateRoom::new();
    request.preset = Some(RoomPreset::PublicChat);
    request.visibility = Visibility::Public;
    request.room_alias_name = Some("garden".to_owned());
    request.topic = Some("Roses".to_owned());
    let room_id = created(alice, request).await?;
    let server = alice.id()?.server_name().to_owned();
    let alias = RoomAliasId::parse(format!("#garden:{server}"))?;
    equal(&bob.client.resolve_room_alias(&alias).await?.room_id, &room_id)?;

    let other = RoomAliasId::parse(format!("#yard:{server}"))?;
    alice.client.create_room_alias(&other, &room_id).await?;
    equal(&bob.client.resolve_room_alias(&other).await?.room_id, &room_id)?;
    alice.client.remove_room_alias(&other).await?;
    ensure(bob.client.resolve_room_alias(&other).await.is_err(), || "the alias is left".to_owned())?;

    let mut request = PublicRooms::new();
    request.server = Some(server);
    request.filter = Filter::new();
    request.filter.generic_search_term = Some("roses".to_owned());
    let list = bob.client.public_rooms_filtered(request).await?.chunk;
    ensure(list.iter().any(|one| one.room_id == room_id), || format!("not in {list:?}"))?;
    bob.client.join_room_by_id_or_alias((&*alias).into(), &[]).await?;
    both_in(alice, bob, &room_id).await?;
    equal(&room(bob, &room_id)?.canonical_alias(), &Some(alias))?;
    Ok(room_id)
}

/// Bob knocks, Alice lets him in.
async fn knocked(alice: &Person, bob: &Person) -> Result<()> {
    let mut request = CreateRoom::new();
    request.initial_state = vec![rule(JoinRule::Knock)];
    let room_id = created(alice, request).await?;
    let via = vec![alice.id()?.server_name().to_owned()];
    bob.client.knock(room_id.clone().into(), Some("let me in".to_owned()), via).await?;
    until("the knock", &[alice], async || {
        let member = room(alice, &room_id)?.get_member(&bob.id()?).await?;
        Ok(member.filter(|member| *member.membership() == MembershipState::Knock))
    })
    .await?;
    until("bob to know that he knocked", &[bob], async || {
        Ok((room(bob, &room_id)?.state() == RoomState::Knocked).then_some(()))
    })
    .await?;
    let (requests, watching) = room(alice, &room_id)?.subscribe_to_knock_requests().await?;
    let requests = pin!(requests).next().await.ok_or("no list of knocks")?;
    let [asked] = requests.as_slice() else { return Err(format!("{} knocks", requests.len()).into()) };
    equal(&asked.member_info.reason.as_deref(), &Some("let me in"))?;
    asked.accept().await?;
    watching.abort();
    until("bob to be let in", &[bob], async || {
        Ok((room(bob, &room_id)?.state() == RoomState::Invited).then_some(()))
    })
    .await?;
    joins(alice, bob, &room_id).await
}

fn rule(rule: JoinRule) -> Raw<matrix_sdk::ruma::events::AnyInitialStateEvent> {
    InitialStateEvent::with_empty_state_key(RoomJoinRulesEventContent::new(rule)).to_raw_any()
}

/// Who is in the house may go into its kitchen, and finds it there.
async fn spaced(alice: &Person, bob: &Person) -> Result<()> {
    let mut content = CreationContent::new();
    content.room_type = Some(RoomType::Space);
    let mut request = CreateRoom::new();
    request.preset = Some(RoomPreset::PublicChat);
    request.creation_content = Some(Raw::new(&content)?);
    let house = created(alice, request).await?;
    let mut request = CreateRoom::new();
    request.name = Some("The kitchen".to_owned());
    let allow = vec![AllowRule::room_membership(house.clone())];
    request.initial_state = vec![rule(RoomJoinRulesEventContent::restricted(allow).join_rule)];
    let kitchen = created(alice, request).await?;
    let via = [alice.id()?.server_name().to_owned()];
    // Not by its SpaceService, which names no servers that have addresses for names.
    let child = SpaceChildEventContent::new(via.to_vec());
    room(alice, &house)?.send_state_event_for_key(&kitchen, child).await?;

    let refused = bob.client.join_room_by_id_or_alias((&*kitchen).into(), &via).await;
    ensure(refused.is_err(), || "the kitchen is open to all".to_owned())?;
    joins(alice, bob, &house).await?;
    ensure(room(bob, &house)?.is_space(), || "not a space".to_owned())?;
    let spaces = SpaceService::new(bob.client.clone()).await;
    let child = until("the house to show its kitchen", &[bob], async || {
        let list = spaces.space_room_list(house.clone()).await;
        list.paginate().await?;
        Ok(list.rooms().await.into_iter().find(|child| child.room_id == kitchen))
    })
    .await?;
    equal(&child.name.as_deref(), &Some("The kitchen"))?;
    joins(alice, bob, &kitchen).await
}

/// A room is upgraded, and Bob follows.
async fn upgraded(alice: &Person, bob: &Person) -> Result<()> {
    let mut request = CreateRoom::new();
    request.preset = Some(RoomPreset::PublicChat);
    request.room_version = Some(RoomVersionId::V10);
    request.name = Some("Of old".to_owned());
    let old = created(alice, request).await?;
    joins(alice, bob, &old).await?;
    let new = alice.client.send(Upgrade::new(old.clone(), RoomVersionId::V12)).await?.replacement_room;
    let successor = until("the tombstone", &[bob], async || Ok(room(bob, &old)?.successor_room())).await?;
    equal(&successor.room_id, &new)?;
    until("alice to be in the new room", &[alice], async || Ok(alice.client.get_room(&new))).await?;
    joins(alice, bob, &new).await?;
    let followed = room(bob, &new)?;
    equal(&followed.name().as_deref(), &Some("Of old"))?;
    equal(&followed.predecessor_room().map(|room| room.room_id), &Some(old))
}

/// Bob is kicked and comes back; he is banned and can't until he is forgiven.
async fn thrown_out(alice: &Person, bob: &Person, room_id: &OwnedRoomId) -> Result<()> {
    let (here, bobs_id) = (room(alice, room_id)?, bob.id()?);
    let is = async |membership: MembershipState| {
        until(&format!("bob's membership to be {membership}"), &[bob], async || {
            let there = room(bob, room_id)?;
            let own = there.get_member_no_sync(&bobs_id).await?;
            let known = own.is_some_and(|own| *own.membership() == membership);
            Ok((known && there.state() == RoomState::Left).then_some(()))
        })
        .await
    };
    here.kick_user(&bobs_id, Some("enough")).await?;
    is(MembershipState::Leave).await?;
    joins(alice, bob, room_id).await?;
    here.ban_user(&bobs_id, Some("for good")).await?;
    is(MembershipState::Ban).await?;
    let via = [alice.id()?.server_name().to_owned()];
    let refused = bob.client.join_room_by_id_or_alias((&**room_id).into(), &via).await;
    ensure(refused.is_err(), || "who is banned came back".to_owned())?;
    here.unban_user(&bobs_id, None).await?;
    joins(alice, bob, room_id).await?;
    say(bob, room_id, "forgiven").await?;
    alice.hears("forgiven").await
}
