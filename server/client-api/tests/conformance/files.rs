//! Files and devices: under which name a file is given back, what browsers may show of it,
//! and who is told that a device changed.

use http::{Request, header};
use ruma::{
    CanonicalJsonObject,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json};

use super::{V1, V3, encoded, id, list};
use crate::common::{Answer, Server, server};

async fn upload(server: &Server, token: &str, name: Option<&str>, kind: &str) -> String {
    let query = name.map(|name| format!("?filename={}", encoded(&json!(name)))).unwrap_or_default();
    let request = Request::builder()
        .method("POST")
        .uri(format!("/_matrix/media/v3/upload{query}"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, kind)
        .body(axum::body::Body::from("content"));
    let stored = server.send(request.expect("a request")).await.ok();
    stored["content_uri"].as_str().and_then(|uri| uri.strip_prefix("mxc://")).expect("an address").to_owned()
}

fn disposition(answer: &Answer) -> String {
    assert!(answer.status.is_success());
    assert_eq!(answer.bytes, b"content");
    answer.head.headers[header::CONTENT_DISPOSITION].to_str().expect("text").to_owned()
}

#[tokio::test]
async fn files_are_given_back_by_their_names_and_only_harmless_ones_inline() {
    let server = server();
    let alice = server.register("alice").await;
    for name in ["ascii", "name with space", "name;with;semicolons", "\u{1f41}\u{1f414}.png", "a\"b"] {
        let file = upload(&server, &alice, Some(name), "text/plain").await;
        let got = server.get(&format!("{V1}/media/download/{file}"), &alice).await;
        let shown = disposition(&got);
        assert!(shown.starts_with("inline; filename"), "{shown}");
        let plain: String = encoded(&json!(name));
        let decoded: Vec<u8> = decoded(shown.rsplit("''").next().expect("a name"));
        assert_eq!(String::from_utf8(decoded).ok().as_deref(), Some(name), "{shown}");
        let other = server.get(&format!("{V1}/media/download/{file}/{plain}x"), &alice).await;
        let shown = disposition(&other);
        assert!(String::from_utf8_lossy(&self::decoded(&shown)).contains(&format!("{name}x")), "{shown}");
    }
    let file = upload(&server, &alice, None, "text/plain").await;
    let shown = disposition(&server.get(&format!("{V1}/media/download/{file}"), &alice).await);
    assert_eq!(shown, "inline");
    for (kind, how) in [
        ("text/plain; charset=utf-8", "inline"),
        ("image/png", "inline"),
        ("audio/ogg", "inline"),
        ("text/html", "attachment"),
        ("image/svg+xml", "attachment"),
        ("application/octet-stream", "attachment"),
    ] {
        let file = upload(&server, &alice, Some("f"), kind).await;
        let shown = disposition(&server.get(&format!("{V1}/media/download/{file}"), &alice).await);
        assert!(shown.starts_with(how), "{kind}: {shown}");
    }
}

/// What percent-encoding stands for.
fn decoded(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    bytes
}

#[tokio::test]
async fn devices_that_change_are_told_of_to_those_who_share_a_room() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let eve = server.register("eve").await;
    server.shared(&[&alice, &bob]).await;
    let tablet = server.login("bob", "TABLET").await;
    let keys = json!({ "one_time_keys": { "signed_curve25519:A": { "key": "1" } } });
    server.post(&format!("{V3}/keys/upload"), &tablet, keys).await.ok();
    let query = async |asked: Value| {
        let body = json!({ "device_keys": { "@bob:example.org": asked } });
        server.post(&format!("{V3}/keys/query"), &alice, body).await
    };
    assert_eq!(query(json!([])).await.ok()["device_keys"][id("bob")], json!({}), "no keys");
    query(json!({ "device_id": "DEV" })).await.is_error(400, "M_BAD_JSON");
    query(json!("DEV")).await.is_error(400, "M_BAD_JSON");
    server
        .post(&format!("{V3}/keys/upload"), &tablet, json!({ "device_keys": device_keys("bob", "TABLET") }))
        .await
        .ok();
    let mut starts = Vec::new();
    for token in [&alice, &bob, &eve] {
        starts.push(server.sync(token, "").await);
    }
    let rename = json!({ "display_name": "Slate" });
    server.put(&format!("{V3}/devices/TABLET"), &bob, rename).await.ok();
    for step in ["renamed", "logged out"] {
        for ((token, start), is_told) in
            [&alice, &bob, &eve].into_iter().zip(&mut starts).zip([true, true, false])
        {
            let next = server.sync_since(token, start).await;
            let changed = list(&next["device_lists"]["changed"]).contains(&json!(id("bob")));
            assert_eq!(changed, is_told, "{step}: {next}");
            *start = next;
        }
        server.post(&format!("{V3}/logout"), &tablet, json!({})).await;
    }
    let claim = json!({ "one_time_keys": { "@bob:example.org": { "TABLET": "signed_curve25519" } } });
    let claimed = server.post(&format!("{V3}/keys/claim"), &alice, claim).await.ok();
    assert_eq!(claimed["one_time_keys"], json!({}), "its keys went with it");
}

/// The keys of somebody's device, signed.
pub(super) fn device_keys(name: &str, device_id: &str) -> Value {
    let pair = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), device_id.to_owned()).expect("a key");
    let public = Base64::<Standard, _>::new(pair.public_key().to_vec()).encode();
    let keys = json!({ "user_id": id(name), "device_id": device_id, "algorithms": [],
        "keys": { (format!("ed25519:{device_id}")): public } });
    let mut keys: CanonicalJsonObject = serde_json::from_value(keys).expect("canonical");
    sign_json(&id(name), &pair, &mut keys).expect("signed");
    serde_json::to_value(keys).expect("JSON")
}
