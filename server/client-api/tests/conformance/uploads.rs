//! Files whose address is made first: who fills it, when, once, and what those are told who
//! ask for it before.

use std::time::Duration;

use axum::body::Body;
use causeway_service::{
    housekeeping,
    media::{LIFETIME_MS, PENDING_MAX},
};
use causeway_storage::pending_media;
use http::{Request, header};
use serde_json::json;

use super::V1;
use crate::common::{Answer, Server, server, server_with};

const CREATE: &str = "/_matrix/media/v1/create";

/// Server name and media id of a new address.
async fn create(server: &Server, token: &str) -> String {
    let made = server.post(CREATE, token, json!({})).await.ok();
    made["content_uri"].as_str().and_then(|uri| uri.strip_prefix("mxc://")).expect("an address").to_owned()
}

async fn fill(server: &Server, token: &str, address: &str, content: &str) -> Answer {
    let request = Request::builder()
        .method("PUT")
        .uri(format!("/_matrix/media/v3/upload/{address}?filename=a.txt"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "text/plain")
        .body(Body::from(content.to_owned()));
    server.send(request.expect("a request")).await
}

fn download(address: &str) -> String {
    format!("{V1}/media/download/{address}")
}

#[tokio::test]
async fn an_address_is_filled_once_by_whom_it_was_given_to() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let made = server.post(CREATE, &alice, json!({})).await.ok();
    assert_eq!(made["unused_expires_at"], 1_700_000_000_000_u64 + LIFETIME_MS);
    let address = create(&server, &alice).await;
    assert!(address.starts_with("example.org/"), "{address}");

    let now = format!("{}?timeout_ms=0", download(&address));
    server.get(&now, &bob).await.is_error(504, "M_NOT_YET_UPLOADED");
    let small = format!("{V1}/media/thumbnail/{address}?width=32&height=32&timeout_ms=0");
    server.get(&small, &bob).await.is_error(504, "M_NOT_YET_UPLOADED");
    let wrong = format!("{}?timeout_ms=soon", download(&address));
    server.get(&wrong, &bob).await.is_error(400, "M_INVALID_PARAM");

    fill(&server, &bob, &address, "mine").await.is_error(403, "M_FORBIDDEN");
    fill(&server, &alice, "example.org/unknown", "x").await.is_error(404, "M_NOT_FOUND");
    fill(&server, &alice, "other.example/abc", "x").await.is_error(404, "M_NOT_FOUND");
    assert_eq!(fill(&server, &alice, &address, "hello").await.ok(), json!({}));
    let got = server.get(&download(&address), &bob).await;
    assert_eq!(got.bytes, b"hello");
    assert_eq!(got.head.headers["content-disposition"], "inline; filename*=utf-8''a.txt");

    fill(&server, &alice, &address, "again").await.is_error(409, "M_CANNOT_OVERWRITE_MEDIA");
    assert_eq!(server.get(&download(&address), &bob).await.bytes, b"hello");
    // Nor is what was uploaded in the usual way.
    let request =
        Request::post("/_matrix/media/v3/upload").header("authorization", format!("Bearer {alice}"));
    let stored = server.send(request.body(Body::from("whole")).expect("a request")).await.ok();
    let whole = stored["content_uri"].as_str().expect("an address").replace("mxc://", "");
    fill(&server, &alice, &whole, "x").await.is_error(409, "M_CANNOT_OVERWRITE_MEDIA");
}

#[tokio::test]
async fn who_asks_for_a_file_that_is_to_come_waits_for_it() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let address = create(&server, &alice).await;
    let path = format!("{}?timeout_ms=60000", download(&address));
    let asking = server.get(&path, &bob);
    let filling = async {
        // Bob's request is waiting by now, or sees the file at once: all the same to him.
        tokio::task::yield_now().await;
        fill(&server, &alice, &address, "at last").await.ok()
    };
    let (got, _) = tokio::join!(asking, filling);
    assert_eq!(got.bytes, b"at last");
}

#[tokio::test]
async fn addresses_expire_and_a_user_has_a_bounded_number_of_them() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let first = create(&server, &alice).await;
    server.clock.advance(Duration::from_hours(1));
    for _ in 1..PENDING_MAX {
        create(&server, &alice).await;
    }
    let refused = server.post(CREATE, &alice, json!({})).await;
    let error = refused.is_error(429, "M_LIMIT_EXCEEDED");
    assert_eq!(error["retry_after_ms"], LIFETIME_MS - 60 * 60 * 1000);
    assert_eq!(refused.head.headers["retry-after"], (23 * 60 * 60).to_string().as_str());
    create(&server, &bob).await;
    fill(&server, &alice, &first, "filled").await.ok();
    let second = create(&server, &alice).await;
    server.post(CREATE, &alice, json!({})).await.is_error(429, "M_LIMIT_EXCEEDED");

    server.clock.advance(Duration::from_millis(LIFETIME_MS));
    fill(&server, &alice, &second, "too late").await.is_error(404, "M_NOT_FOUND");
    server.get(&download(&second), &bob).await.is_error(404, "M_NOT_FOUND");
    create(&server, &alice).await;
    let left = || pending_media::page(&server.services.database, None, 1_000).expect("reads").len();
    assert_eq!(left(), 2, "hers and one of bob's, who made no other");
    housekeeping::round(&server.services).expect("a round");
    assert_eq!(left(), 1);
    assert_eq!(server.get(&download(&first), &bob).await.bytes, b"filled");
}

#[tokio::test]
async fn what_is_too_large_leaves_the_address_open() {
    let server = server_with(|settings| settings.media.upload_bytes_max = 10);
    let alice = server.register("alice").await;
    let address = create(&server, &alice).await;
    fill(&server, &alice, &address, "eleven byte").await.is_error(413, "M_TOO_LARGE");
    fill(&server, &alice, &address, "ten bytes.").await.ok();
    assert_eq!(server.get(&download(&address), &alice).await.bytes, b"ten bytes.");
}
