//! Being asked for the keys of other servers.

use http::{Method, StatusCode};
use ruma::{
    CanonicalJsonObject,
    signatures::{PublicKeyMap, verify_json},
};
use serde_json::{Map, Value, json};

use crate::support::{Network, Server};

/// The documents that `asked` gives to `from`.
async fn ask(from: &Server, asked: &Server, method: Method, path: &str, body: Option<&Value>) -> Vec<Value> {
    let path = format!("/_matrix/key/v2/query{path}");
    let (status, answer) =
        from.state.client().request(&asked.name, method, &path, body).await.expect("answers");
    assert_eq!(status, StatusCode::OK, "{path}");
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    answer["server_keys"].as_array().expect("a list").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_keys_are_told_with_two_signatures_also_when_it_is_gone() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test", "n.test", "gone.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let notary = network.start("n.test", folders[2].path());
    let keys = |server: &Server| server.services.server_keys.own_public_keys();
    let map = PublicKeyMap::from([&a, &notary].map(|server| (server.name.to_string(), keys(server))));
    let is_whole = |documents: &[Value]| {
        let [document] = documents else { panic!("one document: {documents:?}") };
        assert_eq!(document["server_name"], "a.test");
        let signed: CanonicalJsonObject = serde_json::from_value(document.clone()).expect("canonical");
        verify_json(&map, &signed).expect("signed by both");
    };
    let key_id = keys(&a).into_keys().next().expect("a key");
    let now_ms = a.services.clock.now_ms();
    let wanted = |criteria: Value| json!({"server_keys": {"a.test": {key_id.clone(): criteria}}});
    let (fresh, too_fresh) = (
        wanted(json!({"minimum_valid_until_ts": now_ms})),
        wanted(json!({"minimum_valid_until_ts": u64::MAX >> 12})),
    );
    is_whole(&ask(&b, &notary, Method::GET, "/a.test", None).await);
    is_whole(&ask(&b, &notary, Method::GET, &format!("/a.test/{key_id}"), None).await);
    is_whole(&ask(&b, &notary, Method::GET, &format!("/a.test?minimum_valid_until_ts={now_ms}"), None).await);
    is_whole(&ask(&b, &notary, Method::POST, "", Some(&fresh)).await);

    a.stop().await;
    is_whole(&ask(&b, &notary, Method::POST, "", Some(&json!({"server_keys": {"a.test": {}}}))).await);
    // What is known is told even if it is not what was wished for.
    is_whole(&ask(&b, &notary, Method::POST, "", Some(&too_fresh)).await);
    assert!(ask(&b, &notary, Method::GET, "/gone.test", None).await.is_empty(), "nobody makes keys up");
    let own = ask(&b, &notary, Method::GET, "/n.test", None).await;
    assert_eq!(own[0]["server_name"], "n.test");
    b.stop().await;
    notary.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_keys_are_asked_for_in_vain() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["b.test", "n.test"]);
    let b = network.start("b.test", folders[0].path());
    let notary = network.start("n.test", folders[1].path());
    let servers: Map<String, Value> = (0..101).map(|n| (format!("s{n}.test"), json!({}))).collect();
    let keys: Map<String, Value> = (0..1_001).map(|n| (format!("ed25519:{n}"), json!({}))).collect();
    for wanted in [Value::Object(servers), json!({ "s.test": keys })] {
        let body = json!({ "server_keys": wanted });
        let answer =
            b.state.client().request(&notary.name, Method::POST, "/_matrix/key/v2/query", Some(&body)).await;
        assert_eq!(answer.expect("answers").0, StatusCode::PAYLOAD_TOO_LARGE);
    }
    b.stop().await;
    notary.stop().await;
}
