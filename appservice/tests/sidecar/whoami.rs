//! Whose token it is: asked once, believed for a moment.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use causeway_appservice::sidecar::{
    requests::Acting,
    whoami::{BAD_FOR, GOOD_FOR, Sessions},
};
use causeway_service::clock::Clock;
use futures_util::future::join_all;
use ruma::owned_server_name;
use serde_json::json;

use crate::stub::{Said, Stub, ok, refusal};

struct Asking {
    stub: Stub,
    clock: Clock,
    sessions: Arc<Sessions>,
}

impl Asking {
    async fn start() -> Self {
        let (stub, clock) = (Stub::start().await, Clock::manual(1_000_000));
        stub.answers(|_| ok(&json!({"user_id": "@a:a.example", "device_id": "D", "is_guest": true})));
        let sessions = Sessions::new(stub.client(), clock.clone(), owned_server_name!("a.example"));
        Self { stub, clock, sessions: Arc::new(sessions) }
    }

    async fn of(&self, token: &str) -> Result<String, (u16, &'static str)> {
        let session = self.sessions.session(token, &Acting::default(), None).await;
        session.map(|session| session.user_id.to_string()).map_err(|error| (error.status, error.errcode))
    }

    fn asked(&self) -> usize {
        self.stub.asked().len()
    }
}

#[tokio::test]
async fn a_token_is_asked_about_once_in_a_while() {
    let asking = Asking::start().await;
    let session = asking.sessions.session("t", &Acting::default(), None).await.expect("is known");
    assert!(session.is_guest && session.device().is_some_and(|device| device == "D"));
    asking.clock.advance(GOOD_FOR.saturating_sub(Duration::from_millis(1)));
    asking.of("t").await.expect("is known");
    assert_eq!(asking.asked(), 1);
    asking.of("other").await.expect("is known");
    assert_eq!(asking.asked(), 2, "about each token");
    asking.clock.advance(Duration::from_millis(1));
    asking.stub.answers(|_| refusal(401, "M_UNKNOWN_TOKEN"));
    assert_eq!(asking.of("t").await, Err((401, "M_UNKNOWN_TOKEN")), "was logged out");
}

#[tokio::test]
async fn a_refusal_is_believed_for_a_shorter_while() {
    let asking = Asking::start().await;
    asking.stub.answers(|_| {
        let body = json!({"errcode": "M_UNKNOWN_TOKEN", "error": "No", "soft_logout": true});
        Said::Now(StatusCode::UNAUTHORIZED, body.to_string())
    });
    let refused = asking.sessions.session("t", &Acting::default(), None).await.expect_err("is refused");
    assert_eq!((refused.status, &refused.body()["soft_logout"]), (401, &json!(true)));
    asking.stub.answers(|_| ok(&json!({"user_id": "@a:a.example"})));
    asking.clock.advance(BAD_FOR.saturating_sub(Duration::from_millis(1)));
    assert_eq!((asking.of("t").await, asking.asked()), (Err((401, "M_UNKNOWN_TOKEN")), 1));
    asking.clock.advance(Duration::from_millis(1));
    assert_eq!(asking.of("t").await.as_deref(), Ok("@a:a.example"));
}

#[tokio::test]
async fn nobody_is_let_in_while_the_upstream_says_nothing_and_nothing_of_it_is_remembered() {
    let asking = Asking::start().await;
    for (said, expected) in [
        (refusal(500, "M_UNKNOWN"), (502, "M_UNKNOWN")),
        (refusal(404, "M_UNRECOGNIZED"), (502, "M_UNKNOWN")),
        (refusal(429, "M_LIMIT_EXCEEDED"), (429, "M_LIMIT_EXCEEDED")),
        (ok(&json!({"user_id": "@a:b.example"})), (502, "M_UNKNOWN")),
        (refusal(403, "M_SOMETHING_NEW"), (403, "M_UNKNOWN_TOKEN")),
    ] {
        asking.stub.answers(move |_| said.clone());
        assert_eq!(asking.of("t").await, Err(expected));
    }
    asking.clock.advance(BAD_FOR);
    asking.stub.answers(|_| ok(&json!({"user_id": "@a:a.example"})));
    assert_eq!(asking.of("t").await.as_deref(), Ok("@a:a.example"));
    assert_eq!(asking.of("no\nheader").await, Err((401, "M_UNKNOWN_TOKEN")));
}

#[tokio::test]
async fn many_who_ask_at_once_are_one_question() {
    let asking = Asking::start().await;
    asking.stub.answers(|_| Said::Later);
    let all = join_all((0..20).map(|_| asking.of("t")));
    let told = async {
        asking.stub.until_asked(1).await;
        asking.stub.answers(|_| ok(&json!({"user_id": "@a:a.example"})));
        asking.stub.release();
    };
    let (all, ()) = tokio::join!(all, told);
    assert!(all.iter().all(|who| who.as_deref() == Ok("@a:a.example")), "{all:?}");
    assert_eq!(asking.asked(), 1);
}

#[tokio::test]
async fn a_service_of_the_upstream_is_whom_it_names() {
    let asking = Asking::start().await;
    let acting = Acting::of("ts=1&user_id=%40irc_x%3Aa.example&org.matrix.msc3202.device_id=D%261");
    asking.sessions.session("t", &acting, None).await.expect("is known");
    asking.sessions.session("t", &Acting::default(), None).await.expect("is known");
    let asked = asking.stub.asked();
    assert_eq!(asked.len(), 2, "whom it names is another user");
    let whoami = "/_matrix/client/v3/account/whoami";
    assert_eq!(asked[0].target, format!("{whoami}?user_id=%40irc_x%3Aa.example&device_id=D%261"));
    assert_eq!(asked[1].target, whoami);
}
