//! Pings, queries, third-party networks, and registrations that are read again.

use std::fs;

use axum::http::StatusCode;
use causeway_service::{appservices::questions::Question, error::MatrixError};
use ruma::{room_alias_id, user_id};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::fake::{Fake, Server, folder, registration};

async fn ping(server: &Server, id: &str) -> Result<Value, MatrixError> {
    let transaction_id = Some("t".to_owned());
    let ask = |reply| Question::Ping { service: id.to_owned(), transaction_id, reply };
    server.services.appservices.questions.ask(ask).await
}

#[tokio::test]
async fn a_ping_says_whether_the_service_is_reached() {
    let mut tasks = JoinSet::new();
    let fake = Fake::start(&mut tasks).await;
    let gone = registration("gone", "http://127.0.0.1:1", "");
    let none = registration("none", "null", "");
    let server = Server::start(folder(), &[&registration("irc", &fake.url, ""), &gone, &none]);
    assert!(ping(&server, "irc").await.expect("answers")["duration_ms"].is_u64());
    let asked = fake.asked();
    assert_eq!((asked[0].method.as_str(), &*asked[0].target), ("POST", "/_matrix/app/v1/ping"));
    assert_eq!((&*asked[0].token, &asked[0].body), ("Bearer hs-irc", &json!({ "transaction_id": "t" })));

    fake.answers(|_| (StatusCode::FORBIDDEN, "{\"errcode\":\"M_FORBIDDEN\"}".to_owned()));
    let refused = ping(&server, "irc").await.expect_err("refuses");
    assert_eq!((refused.status, refused.errcode), (502, "M_BAD_STATUS"));
    assert_eq!(refused.extra["status"], 403);
    assert_eq!(refused.extra["body"], "{\"errcode\":\"M_FORBIDDEN\"}");
    fake.answers(|_| (StatusCode::OK, "x".repeat((1 << 20) + 1)));
    assert_eq!(ping(&server, "irc").await.expect_err("too large").errcode, "M_CONNECTION_FAILED");
    let gone = ping(&server, "gone").await.expect_err("is gone");
    assert_eq!((gone.status, gone.errcode), (502, "M_CONNECTION_FAILED"));
    assert!(!gone.message.contains("127.0.0.1"), "{}", gone.message);
    assert_eq!(ping(&server, "none").await.expect_err("has none").errcode, "M_URL_NOT_SET");
}

#[tokio::test]
async fn who_may_be_made_is_asked_for_until_some_service_makes_him() {
    let mut tasks = JoinSet::new();
    let (first, second) = (Fake::start(&mut tasks).await, Fake::start(&mut tasks).await);
    first.answers(|_| (StatusCode::NOT_FOUND, "{}".to_owned()));
    let more = registration("net", &second.url, "").replace("@net_.*", "@irc_.*").replace("true", "false");
    let server = Server::start(folder(), &[&registration("irc", &first.url, ""), &more]);
    let user = |user_id: &ruma::UserId| {
        let user_id = user_id.to_owned();
        server.services.appservices.questions.ask(|reply| Question::User { user_id, reply })
    };
    assert!(user(user_id!("@irc_x:a.example")).await.expect("answers"));
    assert_eq!(first.asked()[0].target, "/_matrix/app/v1/users/%40irc_x%3Aa.example");
    assert_eq!(second.asked()[0].token, "Bearer hs-net");
    assert!(!user(user_id!("@other:a.example")).await.expect("answers"));
    let alias = room_alias_id!("#irc_room:a.example").to_owned();
    let made = server.services.appservices.questions.ask(|reply| Question::Alias { alias, reply }).await;
    assert!(!made.expect("answers"));
    assert_eq!(first.asked()[1].target, "/_matrix/app/v1/rooms/%23irc_room%3Aa.example");
    assert_eq!((first.asked().len(), second.asked().len()), (2, 1));
}

#[tokio::test]
async fn a_network_is_asked_about_where_it_is_served() {
    let mut tasks = JoinSet::new();
    let (first, second) = (Fake::start(&mut tasks).await, Fake::start(&mut tasks).await);
    first.answers(|asked| (StatusCode::OK, json!([{ "at": asked.target }]).to_string()));
    second.answers(|_| (StatusCode::INTERNAL_SERVER_ERROR, "[1]".to_owned()));
    let files = [registration("irc", &first.url, ""), registration("xmpp", &second.url, "")];
    let other = registration("other", &second.url, "").replace("[net]", "[else]");
    let server = Server::start(folder(), &[&files[0], &files[1], &other]);
    let ask = |protocol: Option<&str>, path: &str| {
        let (protocol, path) = (protocol.map(str::to_owned), path.to_owned());
        let ask = |reply| Question::ThirdParty { protocol, path, reply };
        server.services.appservices.questions.ask(ask)
    };
    let found = ask(Some("net"), "user/net?nick=x").await.expect("answers");
    assert_eq!(found, [json!([{ "at": "/_matrix/app/v1/thirdparty/user/net?nick=x" }])]);
    assert_eq!(second.asked().len(), 1, "not the one of another network");
    assert_eq!(ask(None, "location?alias=a").await.expect("answers").len(), 1);
    assert_eq!(second.asked().len(), 3, "all of them");
}

#[tokio::test]
async fn registrations_are_read_again_and_a_fault_changes_nothing() {
    let server = Server::start(folder(), &[&registration("irc", "null", "")]);
    let reload = || server.services.appservices.questions.ask(|reply| Question::Reload { reply });
    let file = server.folder.path().join("0.yaml");
    fs::write(&file, registration("irc", "null", "unknown: 1\n")).expect("writes");
    let refused = reload().await.expect_err("has a fault");
    assert_eq!(refused.errcode, "M_INVALID_PARAM");
    assert!(refused.message.ends_with("0.yaml: unknown key `unknown`"), "{}", refused.message);
    let is_known = |token| server.services.appservices.by_token(token).is_some();
    assert!(is_known("as-irc"));
    fs::write(&file, registration("net", "null", "")).expect("writes");
    assert_eq!(reload().await.expect("reads"), 1);
    assert!(!is_known("as-irc") && is_known("as-net"));
    let sender = user_id!("@net-bot:a.example");
    assert!(server.services.accounts.account(sender).expect("reads").is_some(), "the sender exists");
}
