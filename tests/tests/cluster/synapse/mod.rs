//! A real Synapse in the room, in both directions: each test lets a user here and one there
//! take turns in making what the other one comes to.

use causeway_tests::{
    client::{Client, segment},
    cluster::Cluster,
    result::Result,
    server::Tuning,
    synapse::Synapse,
    user::{User, text},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::two::python;

mod items;
mod membership;
mod outage;
mod people;
mod rooms;

/// One of each, and a user of each.
struct Mixed {
    cluster: Cluster,
    synapse: Synapse,
    alice: User,
    zoe: User,
}

/// Who makes the room, who comes to it, and through which server.
#[derive(Clone, Copy)]
struct Way<'a> {
    maker: &'a User,
    guest: &'a User,
    via: &'a str,
    guests_server: &'a Client,
}

impl Mixed {
    async fn start() -> Result<Self> {
        let python = python().await?;
        let tuning = Tuning { announce_step_ms: 1_000, ..Tuning::default() };
        let cluster = Cluster::start_tuned(1, &tuning).await?;
        let synapse = cluster.add_synapse(&python).await?;
        let alice = User::register(&cluster[0], "alice").await?;
        let zoe = User::register_with(synapse.client(), "zoe").await?;
        Ok(Self { cluster, synapse, alice, zoe })
    }

    fn ways(&self) -> [Way<'_>; 2] {
        let Self { cluster, synapse, alice, zoe } = self;
        let there = Way { maker: alice, guest: zoe, via: &cluster[0].name, guests_server: synapse.client() };
        let here = Way { maker: zoe, guest: alice, via: &synapse.name, guests_server: cluster[0].client() };
        [there, here]
    }

    async fn finish(mut self) -> Result<()> {
        self.synapse.kill().await?;
        self.cluster.finish().await
    }
}

impl Way<'_> {
    /// A room that the maker makes and the guest joins.
    async fn room(&self, body: &Value) -> Result<String> {
        let room = create(self.maker, body).await?;
        self.guest.join(&room, self.via).await?;
        Ok(room)
    }
}

/// A request about a room.
async fn in_room(user: &User, method: Method, room: &str, what: &str, body: &Value) -> Result<Value> {
    user.call(method, &format!("/_matrix/client/v3/rooms/{}/{what}", segment(room)), Some(body)).await
}

async fn create(user: &User, body: &Value) -> Result<String> {
    text(&user.call(Method::POST, "/_matrix/client/v3/createRoom", Some(body)).await?, "room_id")
}

async fn say(user: &User, room: &str, body: &str) -> Result<String> {
    user.send(room, "m.room.message", &json!({"msgtype": "m.text", "body": body})).await
}

/// Waits until a user can read an event whose content pleases.
async fn sees(user: &User, room: &str, event: &str, pleases: impl Fn(&Value) -> bool) -> Result<()> {
    let path = format!("/_matrix/client/v3/rooms/{}/event/{}", segment(room), segment(event));
    wait::until(&format!("{} to see {event}", user.id), async || {
        let answer = user.try_call(Method::GET, &path, None).await?;
        Ok((answer.status == 200 && pleases(&answer.body["content"])).then_some(()))
    })
    .await
}

/// Says something and waits until the other can read it.
async fn hears(from: &User, to: &User, room: &str, body: &str) -> Result<String> {
    let said = say(from, room, body).await?;
    sees(to, room, &said, |content| content["body"] == body).await?;
    Ok(said)
}

/// Waits until a piece of a room's state pleases a user.
async fn state_is(user: &User, room: &str, kind: &str, key: &str, field: &str, value: &str) -> Result<()> {
    wait::until(&format!("{kind} {key:?} to be {value} for {}", user.id), async || {
        let state = user.state(room, kind, key).await?;
        Ok(state.filter(|content| content[field] == value).map(drop))
    })
    .await
}

/// Waits until a user sees what another's membership is.
async fn member_is(user: &User, room: &str, member: &User, membership: &str) -> Result<()> {
    state_is(user, room, "m.room.member", &member.id, "membership", membership).await
}
