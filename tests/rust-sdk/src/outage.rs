//! What was said and changed while two homeservers could not reach each other, or while one
//! was down, is read and known afterwards, without anybody doing anything for it: messages
//! with their keys, and new devices, to whose keys the next message goes.
//!
//! Who runs this program moves the servers: it is asked by a line on standard output and says
//! that it is done by a line on standard input.

use std::io;

use matrix_sdk::ruma::OwnedRoomId;

use crate::{
    encrypted_room,
    person::{Person, Result, ensure, until},
    say,
};

/// A person with an account, as it is given on the command line.
pub type Account<'a> = (&'a str, &'a str, &'a str);

/// Cut off from each other, then each server down once.
pub async fn story(first: Account<'_>, second: Account<'_>) -> Result<()> {
    let alice = log_in(first, "ALICEPHONE").await?;
    let bob = log_in(second, "BOBPHONE").await?;
    for person in [&alice, &bob] {
        person.client.encryption().bootstrap_cross_signing(None).await?;
        person.sync().await?;
    }
    let room = encrypted_room(&alice, &bob).await?;
    talk(&room, &alice, &bob, "at first").await?;
    talk(&room, &bob, &alice, "at last").await?;
    println!("messages go both ways");

    please("cut").await?;
    say(&alice, &room, "alice alone").await?;
    say(&bob, &room, "bob alone").await?;
    let laptop = new_device(first, "ALICELAPTOP").await?;
    please("heal").await?;
    bob.hears("alice alone").await?;
    alice.hears("bob alone").await?;
    knows(&bob, &laptop).await?;
    talk(&room, &bob, &laptop, "after the cut").await?;
    talk(&room, &laptop, &bob, "from the laptop").await?;
    println!("the cut is over");

    for ((away, aways), (here, heres), number) in
        [((&bob, second), (&alice, first), "1"), ((&alice, first), (&bob, second), "0")]
    {
        please(&format!("stop {number}")).await?;
        let missed = format!("while {number} was away");
        say(here, &room, &missed).await?;
        let heres_new = new_device(heres, &format!("TABLET{number}")).await?;
        please(&format!("start {number}")).await?;
        away.hears(&missed).await?;
        knows(away, &heres_new).await?;
        talk(&room, away, &heres_new, &format!("{number} is back")).await?;
        let aways_new = new_device(aways, &format!("WATCH{number}")).await?;
        knows(here, &aways_new).await?;
        talk(&room, here, &aways_new, &format!("{number} is here")).await?;
        println!("server {number} is back");
    }
    Ok(())
}

async fn log_in((url, name, password): Account<'_>, device_id: &str) -> Result<Person> {
    Person::log_in(url, name, password, device_id).await
}

/// Another device of somebody, whose keys are uploaded.
async fn new_device(account: Account<'_>, device_id: &str) -> Result<Person> {
    let device = log_in(account, device_id).await?;
    device.sync().await?;
    Ok(device)
}

async fn talk(room: &OwnedRoomId, from: &Person, to: &Person, text: &str) -> Result<()> {
    say(from, room, text).await?;
    to.hears(text).await
}

/// Waits until somebody has been told of another's new device.
async fn knows(person: &Person, of: &Person) -> Result<()> {
    let (user, device) = (of.id()?, of.client.device_id().ok_or("logged in")?.to_owned());
    until(&format!("{} to know {device}", person.id()?), &[person], async || {
        Ok(person.client.encryption().get_device(&user, &device).await?.map(drop))
    })
    .await
}

/// Asks for something to be done to the servers, and waits until it is.
async fn please(what: &str) -> Result<()> {
    println!("please {what}");
    let mut said = String::new();
    let (read, said) = tokio::task::spawn_blocking(move || (io::stdin().read_line(&mut said), said)).await?;
    ensure(read? > 0 && said.trim() == "done", || format!("{what} was not done: {said:?}"))
}
