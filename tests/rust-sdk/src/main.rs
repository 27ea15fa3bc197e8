//! Two people at matrix-rust-sdk, unmodified, on two homeservers, with
//! encryption: cross-signing, verification by emoji, messages both ways, a key
//! backup, and a second device that restores it; or, by simplified sliding sync, a
//! list of rooms ([`room_list`]); or what is left when the servers were apart ([`outage`]);
//! or what people do besides ([`daily`]).
//!
//! Not a test by itself: `tests/tests/cluster/rust_sdk.rs` starts the servers and
//! runs it with the story's name and, for each person, the homeserver's address, name and password.
//! It ends with 0 when all went well and says what it does on standard output.

mod daily;
mod keeping;
mod oauth;
mod outage;
mod person;
mod pictures;
mod room_list;
mod verification;
mod viewer;

use std::time::Duration;

use matrix_sdk::{
    Room, RoomMemberships, RoomState,
    room::MessagesOptions,
    ruma::{
        OwnedRoomId, UInt,
        api::client::room::create_room::v3::{Request as CreateRoom, RoomPreset},
        events::{
            AnySyncMessageLikeEvent, AnySyncTimelineEvent, InitialStateEvent,
            room::{encryption::RoomEncryptionEventContent, message::RoomMessageEventContent},
        },
    },
};

use person::{Person, Result, ensure, until};
use viewer::Viewer;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [story, first, alice, alices, second, bob, bobs] = arguments.as_slice() else {
        return Err(
            "usage: rust-sdk-client sync|sliding-sync|outage|oauth|daily URL NAME PASSWORD URL NAME PASSWORD"
                .into(),
        );
    };
    if story == "sliding-sync" {
        let alice = Viewer::log_in(first, alice, alices, "ALICETABLET").await?;
        let bob = Viewer::log_in(second, bob, bobs, "BOBTABLET").await?;
        return Box::pin(room_list::story(&alice, &bob)).await;
    }
    if story == "outage" {
        return Box::pin(outage::story((first, alice, alices), (second, bob, bobs))).await;
    }
    if story == "daily" {
        return Box::pin(daily::story([first, alice, alices], [second, bob, bobs])).await;
    }
    if story == "oauth" {
        return Box::pin(oauth::story(first, alice, alices)).await;
    }
    let alice_phone = Person::log_in(first, alice, alices, "ALICEPHONE").await?;
    let bob = Person::log_in(second, bob, bobs, "BOBPHONE").await?;
    for person in [&alice_phone, &bob] {
        person.client.encryption().bootstrap_cross_signing(None).await?;
        person.sync().await?;
    }
    let recovery_key = alice_phone.client.encryption().recovery().enable().await?;
    println!("both have cross-signing keys, alice has a backup");

    let room = encrypted_room(&alice_phone, &bob).await?;
    say(&alice_phone, &room, "from alice").await?;
    bob.hears("from alice").await?;
    say(&bob, &room, "from bob").await?;
    alice_phone.hears("from bob").await?;
    println!("messages go both ways");

    verification::verify(&alice_phone, &bob).await?;
    println!("alice and bob have verified each other");

    alice_phone.client.encryption().backups().wait_for_steady_state().await?;
    let laptop = Person::log_in(first, alice, alices, "ALICELAPTOP").await?;
    laptop.sync().await?;
    restores(&laptop, &room, &recovery_key).await?;
    println!("a second device has restored the keys");

    sees_trust(&laptop, &bob).await?;
    say(&bob, &room, "to both devices").await?;
    alice_phone.hears("to both devices").await?;
    laptop.hears("to both devices").await?;
    say(&laptop, &room, "from the laptop").await?;
    bob.hears("from the laptop").await?;
    println!("the second device takes part");

    let device_id = laptop.client.device_id().ok_or("logged in")?.to_owned();
    laptop.client.matrix_auth().logout().await?;
    until("bob to see that the device is gone", &[&bob], async || {
        let devices = bob.client.encryption().get_user_devices(&alice_phone.id()?).await?;
        Ok(devices.get(&device_id).is_none().then_some(()))
    })
    .await
}

/// A room with encryption that both are in.
async fn encrypted_room(alice: &Person, bob: &Person) -> Result<OwnedRoomId> {
    let mut request = CreateRoom::new();
    request.preset = Some(RoomPreset::PrivateChat);
    request.invite = vec![bob.id()?];
    let encryption = RoomEncryptionEventContent::with_recommended_defaults();
    request.initial_state = vec![InitialStateEvent::with_empty_state_key(encryption).to_raw_any()];
    let room_id = alice.client.create_room(request).await?.room_id().to_owned();
    let invited = until("the invite", &[bob], async || {
        let room = bob.client.get_room(&room_id);
        Ok(room.filter(|room| room.state() == RoomState::Invited))
    })
    .await?;
    invited.join().await?;
    until("both to be in the room", &[alice, bob], async || {
        let mut joined = true;
        for person in [alice, bob] {
            let Some(room) = person.client.get_room(&room_id) else { return Ok(None) };
            // Not the count of a summary: Synapse sends none to who does not load members lazily.
            let members = room.members(RoomMemberships::JOIN).await?;
            joined &= room.state() == RoomState::Joined && members.len() == 2;
            joined &= room.latest_encryption_state().await?.is_encrypted();
        }
        Ok(joined.then_some(()))
    })
    .await?;
    Ok(room_id)
}

fn room(person: &Person, room_id: &OwnedRoomId) -> Result<Room> {
    person.client.get_room(room_id).ok_or_else(|| "the room is not known".into())
}

async fn say(person: &Person, room_id: &OwnedRoomId, text: &str) -> Result<()> {
    room(person, room_id)?.send(RoomMessageEventContent::text_plain(text)).await?;
    Ok(())
}

/// A new device opens the backup by the recovery key and reads what was said before it was there.
async fn restores(laptop: &Person, room_id: &OwnedRoomId, recovery_key: &str) -> Result<()> {
    let before = texts(laptop, room_id).await?;
    ensure(before.is_empty(), || format!("read without keys: {before:?}"))?;
    laptop.client.encryption().recovery().recover(recovery_key).await?;
    ensure(laptop.client.encryption().backups().are_enabled().await, || "no backup".to_owned())?;
    until("the keys to come out of the backup", &[laptop], async || {
        laptop.client.encryption().backups().download_room_keys_for_room(room_id).await?;
        let texts = texts(laptop, room_id).await?;
        let all = ["from alice", "from bob"].iter().all(|text| texts.iter().any(|read| read == text));
        Ok(all.then_some(()))
    })
    .await
}

/// What can be read of the room's past.
async fn texts(person: &Person, room_id: &OwnedRoomId) -> Result<Vec<String>> {
    let mut options = MessagesOptions::backward();
    options.limit = UInt::from(100_u32);
    let messages = room(person, room_id)?.messages(options).await?;
    let mut texts = Vec::new();
    for event in messages.chunk {
        if let Ok(AnySyncTimelineEvent::MessageLike(AnySyncMessageLikeEvent::RoomMessage(message))) =
            event.raw().deserialize()
            && let Some(original) = message.as_original()
        {
            texts.push(original.content.body().to_owned());
        }
    }
    Ok(texts)
}

/// Signatures went everywhere: the new device knows whom its owner verified, and
/// the other side sees that the new device is its owner's.
async fn sees_trust(laptop: &Person, bob: &Person) -> Result<()> {
    let (alice, device_id) = (laptop.id()?, laptop.client.device_id().ok_or("logged in")?.to_owned());
    until("the new device to know that bob is verified", &[laptop], async || {
        let identity = laptop.client.encryption().request_user_identity(&bob.id()?).await?;
        Ok(identity.filter(matrix_sdk::encryption::identities::UserIdentity::is_verified).map(drop))
    })
    .await?;
    until("bob to see alice's new device as verified", &[bob, laptop], async || {
        let device = bob.client.encryption().get_device(&alice, &device_id).await?;
        Ok(device.filter(matrix_sdk::encryption::identities::Device::is_verified).map(drop))
    })
    .await
}
