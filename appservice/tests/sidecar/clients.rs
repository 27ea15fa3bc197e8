//! What clients of the upstream ask: who asks is found out first, and what they send is passed on.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode},
    response::Response,
    routing::any,
};
use causeway_appservice::sidecar::{
    clients::{Clients, Parts},
    whoami::Sessions,
};
use causeway_service::{
    Services,
    clock::Clock,
    remote::RemoteHandle,
    rooms::CreateRoom,
    session::EstablishedSession,
    settings::Settings,
    upstream::{facts::Facts, intake::Intake, outbox::UpstreamOutbox},
};
use causeway_storage::{Database, Options, StreamPosition};
use ruma::{OwnedRoomId, owned_server_name, user_id};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::{JoinSet, yield_now};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::stub::{Stub, ok, refusal};

/// A sidecar's doors for clients. Its rooms are its own here: what is asked of them is the same.
struct Doors {
    stub: Stub,
    intake: Arc<Intake>,
    router: Router,
    room: OwnedRoomId,
    _tasks: JoinSet<()>,
    _folder: TempDir,
}

impl Doors {
    async fn open() -> Self {
        let (stub, folder) = (Stub::start().await, tempfile::tempdir().expect("a folder"));
        let database = Database::open(folder.path(), &Options::default()).expect("opens");
        let (name, clock) = (owned_server_name!("a.example"), Clock::System);
        let (remote, _requests) = RemoteHandle::channel();
        let settings = Settings::new(name.clone());
        let services = Services::open(database.clone(), settings, clock.clone(), remote).expect("opens");
        let services = Arc::new(services);
        let alice = user_id!("@alice:a.example");
        let room = services.rooms.create(alice, &CreateRoom::default()).expect("a room").room_id;
        let facts = Arc::new(Facts::new(clock.clone()));
        let intake = Intake::open(database.clone(), facts, Arc::clone(&services.notifier)).expect("opens");
        let intake = Arc::new(intake);
        let parts = Parts {
            client: stub.client(),
            sessions: Sessions::new(stub.client(), clock, name),
            services,
            intake: Arc::clone(&intake),
            outbox: UpstreamOutbox::new(database),
        };
        let (clients, (_, driver)) = Clients::new(parts, &CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(driver);
        let who = any(|Extension(EstablishedSession(session)): Extension<EstablishedSession>| async move {
            session.user_id.to_string()
        });
        let spaces = Router::new().route("/_matrix/client/unstable/org.causeway/rooms/{room}/items", who);
        let router = clients.in_front_of(spaces).merge(clients.item_routes());
        Self { stub, intake, router, room, _tasks: tasks, _folder: folder }
    }

    async fn ask(&self, method: Method, path: &str, token: Option<&str>, body: &str) -> Response {
        let mut request = Request::builder().method(method).uri(path).header("x-forwarded-for", "192.0.2.1");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Body::from(body.to_owned())).expect("a request");
        self.router.clone().oneshot(request).await.expect("answers")
    }

    async fn put(&self, key: &str, body: &str) -> (StatusCode, String) {
        let path = format!("/_matrix/client/v3/rooms/{}/state/org.causeway.item{key}", self.room);
        text(self.ask(Method::PUT, &path, Some("t"), body).await).await
    }
}

async fn text(answer: Response) -> (StatusCode, String) {
    let (head, body) = answer.into_parts();
    let body = to_bytes(body, 1 << 20).await.expect("a body");
    (head.status, String::from_utf8(body.to_vec()).expect("text"))
}

fn errcode(body: &str) -> String {
    let body: Value = serde_json::from_str(body).expect("JSON");
    body["errcode"].as_str().expect("a code").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_passed_on_as_it_is_but_for_what_only_servers_say() {
    let doors = Doors::open().await;
    let event = json!({"type": "org.causeway.item", "state_key": "a/b", "event_id": "$e",
        "sender": "@alice:a.example", "origin_server_ts": 1, "content": {"n": 1}});
    let answer = r#"{ "event_id" : "$e" }"#;
    doors.stub.answers(move |asked| match asked.method {
        Method::GET => ok(&event),
        _ => crate::stub::Said::Now(StatusCode::OK, answer.to_owned()),
    });
    let key = "/a%2Fb?ts=7&user_id=%40irc%3Aa.example";
    let (status, body) = doors.put(key, r#"{ "n":1 }"#).await;
    assert_eq!((status, &*body), (StatusCode::OK, answer), "byte for byte");
    let asked = doors.stub.until_asked(2).await;
    let path = format!("/_matrix/client/v3/rooms/{}/state/org.causeway.item{key}", doors.room);
    assert_eq!((&asked[0].target, asked[0].token()), (&path, Some("t")), "in the client's name");
    assert_eq!(
        (&asked[0].body[..], &asked[0].headers["x-forwarded-for"]),
        (&br#"{ "n":1 }"#[..], &"192.0.2.1".parse().expect("a value"))
    );
    assert!(asked[1].target.ends_with("/event/%24e"), "{}", asked[1].target);
    let taken = async {
        while doors.intake.stream(StreamPosition(0), 1).expect("reads").is_empty() {
            yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), taken).await.expect("is taken in at once");

    let stamped = json!({"n": 2, "org.causeway.change": {}, "org.causeway.conflict": []}).to_string();
    doors.put("/plan", &stamped).await;
    let asked = doors.stub.until_asked(3).await;
    let put = asked.iter().rfind(|asked| asked.method == Method::PUT).expect("is passed on");
    assert_eq!(put.json(), json!({"n": 2}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_upstream_is_the_answer() {
    let doors = Doors::open().await;
    doors.stub.answers(|_| refusal(403, "M_FORBIDDEN"));
    let (status, body) = doors.put("/plan", "{}").await;
    assert_eq!((status, &*errcode(&body)), (StatusCode::FORBIDDEN, "M_FORBIDDEN"));
    // Reading is for the upstream alone, and so is what is no room.
    let get = "/_matrix/client/r0/rooms/!r:a.example/state/org.causeway.item/plan?format=event";
    let (status, _) = text(doors.ask(Method::GET, get, Some("t"), "").await).await;
    assert_eq!((status, &*doors.stub.asked()[1].target), (StatusCode::FORBIDDEN, get));
    let none = "/_matrix/client/v3/rooms/none/state/org.causeway.item/plan";
    text(doors.ask(Method::PUT, none, Some("t"), "{}").await).await;
    assert_eq!(doors.stub.asked()[2].target, none);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_rule_of_items_is_not_passed_on() {
    let doors = Doors::open().await;
    let large = format!("{{\"n\": \"{}\"}}", "x".repeat(288 * 1024));
    for (key, body, expected) in [
        ("/%40plan", "{}", (400, "M_INVALID_PARAM")),
        ("/plan", "[]", (400, "M_BAD_JSON")),
        ("/plan", "{", (400, "M_NOT_JSON")),
        ("/plan", &large, (413, "M_TOO_LARGE")),
        ("", "{}", (400, "M_INVALID_PARAM")),
        ("/", "{}", (400, "M_INVALID_PARAM")),
    ] {
        let (status, answer) = doors.put(key, body).await;
        assert_eq!((status.as_u16(), &*errcode(&answer)), expected, "{key} {}", &body[..body.len().min(20)]);
    }
    assert!(doors.stub.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_items_is_found_out_first() {
    let doors = Doors::open().await;
    let items = format!("/_matrix/client/unstable/org.causeway/rooms/{}/items", doors.room);
    let ask = async |path: &str, token| text(doors.ask(Method::GET, path, token, "").await).await;
    let (status, body) = ask(&items, None).await;
    assert_eq!((status.as_u16(), &*errcode(&body)), (401, "M_MISSING_TOKEN"));
    assert!(doors.stub.asked().is_empty());
    doors.stub.answers(|asked| match asked.token() {
        Some("good") => ok(&json!({"user_id": "@alice:a.example", "device_id": "D"})),
        Some("bad") => refusal(401, "M_UNKNOWN_TOKEN"),
        _ => refusal(503, "M_UNKNOWN"),
    });
    assert_eq!(ask(&items, Some("good")).await, (StatusCode::OK, "@alice:a.example".to_owned()));
    let in_query = format!("{items}?access_token=good");
    assert_eq!(ask(&in_query, None).await.0, StatusCode::OK, "as some clients do it still");
    for (token, expected) in [("bad", (401, "M_UNKNOWN_TOKEN")), ("silence", (502, "M_UNKNOWN"))] {
        let (status, body) = ask(&items, Some(token)).await;
        assert_eq!((status.as_u16(), &*errcode(&body)), expected);
    }
}
