//! Endpoint tests of media.

mod common;

use std::{num::NonZeroU32, time::Duration};

use axum::body::Body;
use causeway_service::remote::{RemoteHandle, RemoteMedia, RemoteRequest};
use common::{Server, server, server_on, server_with};
use http::{Request, header};
use serde_json::{Value, json};

async fn upload(server: &Server, token: &str, query: &str, kind: &str, content: Vec<u8>) -> common::Answer {
    let request = Request::builder()
        .method("POST")
        .uri(format!("/_matrix/media/v3/upload{query}"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, kind)
        .body(Body::from(content));
    server.send(request.expect("request")).await
}

fn address(answer: &Value) -> String {
    let uri = answer["content_uri"].as_str().expect("an address");
    uri.strip_prefix("mxc://").expect("mxc").to_owned()
}

#[tokio::test]
async fn what_was_uploaded_comes_back_and_is_harmless_to_browsers() {
    let server = server();
    let alice = server.register("alice").await;
    let content: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let first = upload(&server, &alice, "?filename=a%20b.png", "image/png", content.clone()).await.ok();
    let got = server.get(&format!("/_matrix/client/v1/media/download/{}", address(&first)), &alice).await;
    assert_eq!(got.bytes, content);
    let head = |name: &str| got.head.headers[name].to_str().expect("text").to_owned();
    assert_eq!(head("content-type"), "image/png");
    assert_eq!(head("content-length"), "3000000");
    assert_eq!(head("content-disposition"), "inline; filename*=utf-8''a%20b.png");
    assert!(head("content-security-policy").contains("sandbox"));

    let script = upload(&server, &alice, "", "text/html", b"<script>".to_vec()).await.ok();
    let got =
        server.get(&format!("/_matrix/client/v1/media/download/{}/x.html", address(&script)), &alice).await;
    assert_eq!(got.head.headers["content-disposition"], "attachment; filename*=utf-8''x.html");

    let thumbnail = format!("/_matrix/client/v1/media/thumbnail/{}?width=10&height=10", address(&first));
    assert_eq!(server.get(&thumbnail, &alice).await.bytes, content);

    // The same content again: another address, the same file.
    let again = upload(&server, &alice, "", "image/png", content).await.ok();
    assert_ne!(address(&first), address(&again));
    let files = std::fs::read_dir(server.services.database.folder().join("media")).expect("folder");
    let names: Vec<_> = files.map(|entry| entry.expect("entry").file_name()).collect();
    // Each content has a folder by its hash; thumbnails have one together.
    let contents = names.iter().filter(|name| *name != "thumbnails").count();
    assert_eq!(contents, 2, "two contents, and nothing temporary is left: {names:?}");
}

#[tokio::test]
async fn media_needs_a_token_unless_the_operator_says_otherwise() {
    let server = server();
    let alice = server.register("alice").await;
    let stored = address(&upload(&server, &alice, "", "text/plain", b"hello".to_vec()).await.ok());
    let download = format!("/_matrix/client/v1/media/download/{stored}");
    server.ask("GET", &download, None, None).await.is_error(401, "M_MISSING_TOKEN");
    let legacy = format!("/_matrix/media/v3/download/{stored}");
    server.ask("GET", &legacy, None, None).await.is_error(404, "M_NOT_FOUND");
    server.ask("POST", "/_matrix/media/v3/upload", None, None).await.is_error(401, "M_MISSING_TOKEN");

    let open = server_with(|settings| settings.media.allow_legacy_download = true);
    let alice = open.register("alice").await;
    let stored = address(&upload(&open, &alice, "", "text/plain", b"hello".to_vec()).await.ok());
    let legacy = format!("/_matrix/media/r0/download/{stored}");
    assert_eq!(open.ask("GET", &legacy, None, None).await.bytes, b"hello");
}

#[tokio::test]
async fn what_is_too_large_or_unknown_is_refused_and_leaves_nothing() {
    let server = server_with(|settings| settings.media.upload_bytes_max = 1000);
    let alice = server.register("alice").await;
    upload(&server, &alice, "", "text/plain", vec![0; 1001]).await.is_error(413, "M_TOO_LARGE");
    upload(&server, &alice, "", "text/plain", vec![0; 1000]).await.ok();
    let folder = server.services.database.folder().join("media");
    assert_eq!(std::fs::read_dir(&folder).expect("folder").count(), 1);
    for unknown in ["example.org/none", "example.org/..%2f..%2flock", "example.org/%00"] {
        let answer = server.get(&format!("/_matrix/client/v1/media/download/{unknown}"), &alice).await;
        answer.is_error(404, "M_NOT_FOUND");
    }
    let config = server.get("/_matrix/client/v1/media/config", &alice).await.ok();
    assert_eq!(config["m.upload.size"], 1000);
}

#[tokio::test]
async fn a_file_of_another_server_is_fetched_once_and_kept() {
    let (remote, mut requests) = RemoteHandle::channel();
    let server = server_on(remote, |_| ());
    let alice = server.register("alice").await;
    let path = "/_matrix/client/v1/media/download/other.example/abc";
    let door = async {
        let Some(RemoteRequest::Media { mxc, reply, .. }) = requests.recv().await else {
            panic!("a request")
        };
        assert_eq!(mxc, "mxc://other.example/abc");
        let mut content = server.services.media.begin().expect("begins");
        content.write(b"from afar").expect("writes");
        let media = RemoteMedia {
            content_type: Some("text/plain".into()),
            content_disposition: Some("inline; filename=\"notes.txt\"".into()),
            content,
        };
        reply.send(Ok(media)).expect("somebody waits");
        requests
    };
    let (answer, requests) = tokio::join!(server.get(path, &alice), door);
    assert_eq!(answer.bytes, b"from afar");
    drop(requests);
    let again = server.get(path, &alice).await;
    assert_eq!(again.bytes, b"from afar");
    assert_eq!(again.head.headers["content-disposition"], "inline; filename*=utf-8''notes.txt");
    let gone = server.get("/_matrix/client/v1/media/download/other.example/xyz", &alice).await;
    gone.is_error(503, "M_UNKNOWN");
}

#[tokio::test]
async fn old_copies_go_once_a_day_but_for_those_that_items_name() {
    const DAY: Duration = Duration::from_hours(24);
    let (remote, mut requests) = RemoteHandle::channel();
    let server = server_on(remote, |settings| settings.media.keep_remote_days = NonZeroU32::new(2));
    let alice = server.register("alice").await;
    let made = server.post("/_matrix/client/v3/createRoom", &alice, json!({})).await.ok();
    let room = made["room_id"].as_str().expect("an id");
    let declaration = format!("/_matrix/client/v3/rooms/{room}/state/org.causeway.shared_space/");
    server.put(&declaration, &alice, json!({ "version": 1 })).await.ok();
    let item = format!("/_matrix/client/unstable/org.causeway/rooms/{room}/items/a");
    let named = json!({ "value": { "file": { "url": "mxc://other.example/named" } } });
    assert!(server.put(&item, &alice, named).await.status.is_success());
    let own = address(&upload(&server, &alice, "", "text/plain", b"own".to_vec()).await.ok());
    let mut serve = async |id: &str| {
        let Some(RemoteRequest::Media { mxc, reply, .. }) = requests.recv().await else {
            panic!("a request")
        };
        assert_eq!(mxc, format!("mxc://other.example/{id}"));
        let mut content = server.services.media.begin().expect("begins");
        content.write(id.as_bytes()).expect("writes");
        reply
            .send(Ok(RemoteMedia { content_type: None, content_disposition: None, content }))
            .expect("waits");
    };
    let path = |file: &str| format!("/_matrix/client/v1/media/download/{file}");
    let (named, plain) = (path("other.example/named"), path("other.example/plain"));
    for (file, id) in [(&named, "named"), (&plain, "plain")] {
        let (answer, ()) = tokio::join!(server.get(file, &alice), serve(id));
        assert_eq!(answer.bytes, id.as_bytes());
    }
    let round = || causeway_service::housekeeping::round(&server.services).expect("a round");
    let held = |id: &str| server.services.media.held(ruma::server_name!("other.example"), id).is_ok();
    server.clock.advance(2 * DAY);
    round();
    assert!(held("plain"), "it is not older than two days");
    server.clock.advance(Duration::from_millis(1));
    round();
    assert!(held("plain"), "was looked at today");
    server.clock.advance(DAY);
    round();
    assert!(!held("plain") && held("named"), "what no item names is gone");
    for (file, content) in [(named, "named"), (path(&own), "own")] {
        assert_eq!(server.get(&file, &alice).await.bytes, content.as_bytes());
    }
    let (again, ()) = tokio::join!(server.get(&plain, &alice), serve("plain"));
    assert_eq!(again.bytes, b"plain");
}

#[tokio::test]
async fn an_address_that_waits_for_its_content_outlives_a_restart() {
    let server = server();
    let alice = server.register("alice").await;
    let address = address(&server.post("/_matrix/media/v1/create", &alice, json!({})).await.ok());
    let server = server.restarted();
    let request = Request::put(format!("/_matrix/media/v3/upload/{address}"))
        .header(header::AUTHORIZATION, format!("Bearer {alice}"))
        .body(Body::from("at last"));
    server.send(request.expect("request")).await.ok();
    let got = server.get(&format!("/_matrix/client/v1/media/download/{address}"), &alice).await;
    assert_eq!(got.bytes, b"at last");
}
