//! Two servers, each behind the reverse proxy that `deploy/` has an example for:
//! clients and the other server come through it, and nothing is lost on the way.

use causeway_tests::{
    client::{Client, segment},
    cluster::Cluster,
    link::Cut,
    proxy::{Kind, base_of},
    result::{Doing, Result, ensure},
    server::Tuning,
    user::{User, timeline},
};
use reqwest::Method;
use serde_json::json;

use crate::pair::{Pair, value};

/// The default of `media.upload_max_bytes`, which the examples are made for.
const UPLOAD_BYTES_MAX: usize = 100 << 20;
/// Longer than a proxy waits for an answer when nobody tells it to wait longer: a minute.
const LONG_POLL_MS: u64 = 65_000;
/// Keys of items that a proxy could take for something else, encoded as one segment.
const ODD_KEYS: [&str; 7] =
    ["plans/by hand", "a//b", "./a/../b", "100%25", "ä?#&=+", "trailing/", "%2e%2e%2fup"];
/// What the public is not given, also not by a path that leads elsewhere for who works `..` out.
const PRIVATE: [&str; 5] = [
    "/metrics",
    "/_synapse/admin/v2/users",
    "/_causeway/admin/v1/federation",
    "/_synapse/admin/v2/users/..%2F..%2F..%2F..%2F_matrix%2Fx",
    "/",
];

fn tuning(kind: Kind) -> Tuning {
    let variable = |name: &str, value: &str| (format!("CAUSEWAY_WELL_KNOWN__{name}"), value.to_owned());
    Tuning {
        names: vec!["north.example".to_owned(), "south.example".to_owned()],
        variables: vec![
            variable("CLIENT", "https://matrix.example.org"),
            variable("SERVER", "matrix.example.org:443"),
        ],
        proxy: Some(kind),
        ..Tuning::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_behind_nginx() -> Result<()> {
    behind(Kind::Nginx).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_behind_caddy() -> Result<()> {
    behind(Kind::Caddy).await
}

async fn behind(kind: Kind) -> Result<()> {
    let cluster = Cluster::start_tuned(2, &tuning(kind)).await?;
    let pair = Pair::meet(&cluster).await?;
    let carol = User::register(&cluster[0], "carol").await?;
    let (waited, used) = tokio::join!(waits_for_long(&carol), async {
        wakes_who_waits(&cluster, &pair).await?;
        keys_arrive_as_they_are(&cluster, &pair).await?;
        conflict_is_kept(&cluster, &pair).await?;
        large_file_arrives(&pair).await?;
        only_what_is_public(&cluster).await
    });
    waited?;
    used?;
    cluster.finish().await
}

/// A sync for somebody to whom nothing happens is answered when it says, not cut.
async fn waits_for_long(carol: &User) -> Result<()> {
    carol.sync(0).await?;
    carol.sync(0).await?;
    let answer = carol.sync(LONG_POLL_MS).await.doing("a long sync")?;
    ensure(answer["rooms"].get("join").is_none_or(|rooms| rooms == &json!({})), || answer.to_string())
}

/// Another device logs in, and its waiting sync is answered by what another server sends.
async fn wakes_who_waits(cluster: &Cluster, pair: &Pair) -> Result<()> {
    let bob = User::log_in(&cluster[1], "bob").await?;
    bob.sync(0).await?;
    let content = json!({ "msgtype": "m.text", "body": "through two proxies" });
    let (waited, sent) =
        tokio::join!(bob.sync(30_000), pair.alice.send(&pair.room, "m.room.message", &content));
    let sent = sent?;
    if timeline(&waited?, &pair.room).iter().any(|event| event["event_id"] == *sent) {
        return Ok(());
    }
    // Something else was first.
    bob.sync_until(&pair.room, "Alice's message", |event| event["event_id"] == *sent).await.map(drop)
}

/// Matrix signs raw URIs and items have any key: nothing may be normalised.
async fn keys_arrive_as_they_are(cluster: &Cluster, pair: &Pair) -> Result<()> {
    for (number, key) in ODD_KEYS.into_iter().enumerate() {
        let body = json!({ "value": value("alice", number) });
        pair.alice.try_write(&pair.room, key, &body).await?.ok().doing(format!("writing {key:?}"))?;
    }
    let items = pair.in_step(ODD_KEYS.len()).await?;
    let mut wanted = ODD_KEYS;
    wanted.sort_unstable();
    let keys: Vec<&str> = items.iter().map(|item| item.key.as_str()).collect();
    ensure(keys == wanted, || format!("{keys:?}"))?;
    // And by state event, read past the proxy.
    pair.alice.put_item(&pair.room, "by/event %2F", &value("alice", 0)).await?;
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/org.causeway.item/{}",
        segment(&pair.room),
        segment("by/event %2F")
    );
    let read = cluster[0].direct().call(Method::GET, &path, Some(&pair.alice.token), None).await?.ok()?;
    ensure(read["writer"] == "alice", || read.to_string())
}

/// Both write the same item while the link between the proxies is cut.
async fn conflict_is_kept(cluster: &Cluster, pair: &Pair) -> Result<()> {
    pair.in_step(ODD_KEYS.len() + 1).await?;
    cluster.cut(0, 1, Cut::Refused)?;
    pair.alice.put_item(&pair.room, "plan", &value("alice", 1)).await?;
    pair.bob.put_item(&pair.room, "plan", &value("bob", 1)).await?;
    cluster.heal(0, 1)?;
    let items = pair.in_step(ODD_KEYS.len() + 2).await?;
    let plan = items.iter().find(|item| item.key == "plan");
    ensure(plan.is_some_and(|plan| plan.conflict && plan.siblings.len() == 2), || format!("{plan:?}"))
}

/// The largest file that may be uploaded gets through, to the other server too; what is
/// larger is refused by Causeway, in Matrix's words.
async fn large_file_arrives(pair: &Pair) -> Result<()> {
    let content: Vec<u8> = (0..251).cycle().take(UPLOAD_BYTES_MAX).collect();
    let file = pair.alice.upload("application/octet-stream", content.clone()).await?;
    let (status, got) = pair.bob.download(&file).await?;
    ensure(status == 200 && got == content, || format!("{status}, {} bytes", got.len()))?;
    let larger = vec![0; UPLOAD_BYTES_MAX + 1];
    match pair.alice.upload("application/octet-stream", larger).await {
        Ok(file) => ensure(false, || format!("{file} is too large")),
        Err(error) => ensure(error.to_string().contains("M_TOO_LARGE"), || error.to_string()),
    }
}

/// What administers or measures the server is not for the public; where it is, is.
async fn only_what_is_public(cluster: &Cluster) -> Result<()> {
    let get = async |client: &Client, path: &str| client.call(Method::GET, path, None, None).await;
    for path in PRIVATE {
        let status = get(cluster[0].client(), path).await?.status;
        ensure(status == 404, || format!("{path} answered {status}"))?;
    }
    let version = get(cluster[0].client(), "/_matrix/federation/v1/version").await?.ok()?;
    ensure(version["server"]["name"].is_string(), || version.to_string())?;
    let port = cluster[0].client().base().rsplit(':').next().unwrap_or_default().to_owned();
    let base = base_of("north.example");
    let client = Client::through_tls(&cluster.path("authority/ca.pem"), &[&base])?;
    client.set_base(&format!("https://{base}:{port}"));
    let told = get(&client, "/.well-known/matrix/server").await?.ok()?;
    ensure(told == json!({ "m.server": "matrix.example.org:443" }), || told.to_string())?;
    let told = get(&client, "/.well-known/matrix/client").await?.ok()?;
    ensure(told["m.homeserver"]["base_url"] == "https://matrix.example.org", || told.to_string())?;
    let status = get(&client, "/_matrix/client/versions").await?.status;
    ensure(status == 404, || format!("{base} answered {status}"))
}
