//! A room that many users of one server are in, joined from the other: until the client is
//! answered, what its clients ask of such a room, and how long somebody else had to wait.
//!
//! Its users are an application service's: they need no passwords, which cost what is not
//! measured here.

use std::{path::Path, time::Duration};

use causeway_tests::{
    client::segment,
    cluster::Cluster,
    process,
    result::{Doing, Failure, Result, ensure},
    user::{User, timeline},
};
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    federation::slowest_meanwhile,
    figures::{Figures, number, quantile},
    load::{self, Prepared},
};

/// Users of the room.
const MEMBERS: usize = 10_000;
const IN_FLIGHT: usize = 16;
/// Messages that are followed in each direction.
const MESSAGES: usize = 50;
/// Pieces of state that a sync may send of a room whose members are loaded lazily.
const LAZY_STATE_MAX: usize = 100;
const TOKEN: &str = "crowd-token";

/// The environment of servers that know the service whose users are the room's.
///
/// # Errors
/// The registration can't be written.
pub fn variables(folder: &Path) -> Result<Vec<(String, String)>> {
    let file = folder.join("crowd.yaml");
    let registration = format!(
        "id: crowd\nurl: null\nas_token: {TOKEN}\nhs_token: crowd-hs-token\nsender_localpart: crowd\n\
         rate_limited: false\nnamespaces:\n  users: [{{regex: '@crowd_.*', exclusive: true}}]\n"
    );
    std::fs::write(&file, registration).doing(file.display())?;
    let key = "CAUSEWAY_APPSERVICES__REGISTRATIONS".to_owned();
    Ok(vec![(key, json!([file.display().to_string()]).to_string())])
}

/// Measures one room.
pub async fn measure(cluster: &Cluster, scale: usize, figures: &mut Figures) -> Result<()> {
    let count = MEMBERS / scale;
    let (north, south) = (&cluster[0], &cluster[1]);
    let alice = User::register(north, "alice").await?;
    let [bob, carol] = [User::register(south, "bob").await?, User::register(south, "carol").await?];
    let room = alice.create_room("crowd").await?;
    let elsewhere = carol.create_room("elsewhere").await?;
    fill(&north.client().base(), &north.name, &room, count, figures).await?;
    let pids = [north.pid(), south.pid()].map(|pid| pid.ok_or_else(|| Failure::new("a server is down")));
    let [north_pid, south_pid] = pids;
    let (north_pid, south_pid) = (north_pid?, south_pid?);
    for pid in [north_pid, south_pid] {
        process::forget_peak(pid)?;
    }
    let (answered, slowest) = slowest_meanwhile(&carol, &elsewhere, bob.join(&room, &north.name)).await?;
    figures.add("members_join_answered", answered, "s", "");
    figures.add("members_join_slowest_other_message", slowest, "s", "");
    listed(&bob, &room, count, figures).await?;
    first_sync(&bob, &room, figures).await?;
    for (from, to, name) in [(&alice, &bob, "in"), (&bob, &alice, "out")] {
        to.sync(0).await?;
        let mut took = Vec::new();
        for at in 0..MESSAGES {
            took.push(followed(from, to, &room, at).await?);
        }
        figures.add(format!("members_message_{name}_p50"), quantile(&mut took, 0.5), "ms", "");
    }
    let mebibytes = |bytes: u64| Ok::<_, Failure>(number(usize::try_from(bytes / (1 << 20))?));
    figures.add("members_peak_memory_of_joined", mebibytes(process::peak_bytes(north_pid)?)?, "MiB", "");
    figures.add("members_peak_memory_of_joining", mebibytes(process::peak_bytes(south_pid)?)?, "MiB", "");
    Ok(())
}

/// Registers the service's users and has each join.
async fn fill(base: &str, server: &str, room: &str, count: usize, figures: &mut Figures) -> Result<()> {
    let register = |at| {
        let kind = "m.login.application_service";
        let body = json!({ "type": kind, "username": format!("crowd_{at}"), "inhibit_login": true });
        Prepared::new(Method::POST, "/_matrix/client/v3/register".to_owned(), &body)
    };
    let join = |at| {
        let user = format!("@crowd_{at}:{server}");
        let path = format!("/_matrix/client/v3/join/{}?user_id={}", segment(room), segment(&user));
        Prepared::new(Method::POST, path, &json!({}))
    };
    load::send(base, TOKEN, (0..count).map(register).collect(), IN_FLIGHT).await?;
    let took = load::send(base, TOKEN, (0..count).map(join).collect(), IN_FLIGHT).await?;
    figures.add("members_joins_of_own_users", number(count) / took.as_secs_f64(), "joins/s", "");
    Ok(())
}

/// What it takes to list all members.
async fn listed(user: &User, room: &str, count: usize, figures: &mut Figures) -> Result<()> {
    for (name, what) in [("list", "members"), ("names", "joined_members")] {
        let begin = Instant::now();
        let path = format!("/_matrix/client/v3/rooms/{}/{what}", segment(room));
        let answer = user.call(Method::GET, &path, None).await?;
        figures.add(format!("members_{name}"), milliseconds(begin.elapsed()), "ms", "");
        let members =
            answer["chunk"].as_array().into_iter().flatten().filter_map(|event| event["state_key"].as_str());
        let joined =
            answer["joined"].as_object().into_iter().flat_map(|joined| joined.keys().map(String::as_str));
        // Not who made the room, who asks, or who tells of conflicts.
        let listed = members.chain(joined).filter(|user_id| user_id.starts_with("@crowd_")).count();
        ensure(listed == count, || format!("{listed} of {count} are listed"))?;
    }
    Ok(())
}

/// What a new device is sent first.
async fn first_sync(user: &User, room: &str, figures: &mut Figures) -> Result<()> {
    let filter = json!({ "room": { "state": { "lazy_load_members": true } } }).to_string();
    for (name, filter) in [("lazy", filter.as_str()), ("whole", "{}")] {
        let begin = Instant::now();
        let path = format!("/_matrix/client/v3/sync?filter={}", segment(filter));
        let answer = user.call(Method::GET, &path, None).await?;
        figures.add(format!("members_first_sync_{name}"), milliseconds(begin.elapsed()), "ms", "");
        let bytes = answer.to_string().len();
        figures.add(format!("members_first_sync_{name}_bytes"), number(bytes), "bytes", "");
        let state = answer["rooms"]["join"][room]["state"]["events"].as_array().map_or(0, Vec::len);
        let is_as_wished = (state <= LAZY_STATE_MAX) == (name == "lazy");
        ensure(is_as_wished, || format!("{state} pieces of state in the {name} sync"))?;
    }
    Ok(())
}

/// From a message on one server to the other's sync, in milliseconds.
async fn followed(from: &User, to: &User, room: &str, at: usize) -> Result<f64> {
    let begin = Instant::now();
    let body = format!("message {at}");
    let content = json!({ "msgtype": "m.text", "body": body });
    let seen = async {
        loop {
            let answer = to.sync(10_000).await?;
            let is_it = |event: &Value| event["content"]["body"] == body.as_str();
            if timeline(&answer, room).iter().any(is_it) {
                return Ok::<_, Failure>(milliseconds(begin.elapsed()));
            }
        }
    };
    let (sent, seen) = tokio::join!(from.send(room, "m.room.message", &content), seen);
    sent?;
    seen
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}
