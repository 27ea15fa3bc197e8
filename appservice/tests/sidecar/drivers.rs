//! The drivers beside a homeserver that repeats, hides, loses and stalls.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use causeway_appservice::sidecar::drivers::{self, Parts};
use causeway_room::NewEvent;
use causeway_service::{
    clock::Clock,
    notify::{Notifier, Topic},
    shared_space::backend::Subject,
    upstream::{
        facts::Facts,
        intake::Intake,
        outbox::{self, UpstreamOutbox},
        request::{Fact, UpstreamError, UpstreamHandle, Wanted},
    },
};
use causeway_storage::{Database, OpenError, Options, StreamPosition};
use ruma::{OwnedEventId, owned_server_name, owned_user_id};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    homeserver::{Homeserver, room},
    stub::Said,
};

/// What the homeserver shows.
const HS_TOKEN: &str = "hs-0123456789abcdef";
/// Generous: builders are slow.
const PATIENCE: Duration = Duration::from_mins(2);

struct Sidecar {
    db: Database,
    clock: Clock,
    notifier: Arc<Notifier>,
    intake: Arc<Intake>,
    handle: UpstreamHandle,
    routes: axum::Router,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Sidecar {
    /// Over the data in `folder`.
    async fn start(server: &Homeserver, folder: &TempDir) -> Self {
        let db = open(folder).await;
        let (clock, notifier) = (Clock::System, Arc::new(Notifier::default()));
        let facts = Arc::new(Facts::new(clock.clone()));
        let intake = Arc::new(Intake::open(db.clone(), facts, Arc::clone(&notifier)).expect("opens"));
        let (handle, requests) = UpstreamHandle::channel();
        let stop = CancellationToken::new();
        let parts = Parts {
            client: server.stub.client(),
            intake: Arc::clone(&intake),
            outbox: UpstreamOutbox::new(db.clone()),
            notifier: Arc::clone(&notifier),
            clock: clock.clone(),
            server_name: owned_server_name!("a.example"),
            id: "causeway-sidecar".to_owned(),
            hs_token: HS_TOKEN.to_owned(),
            requests,
        };
        let (drivers, routes) = drivers::drivers(parts, &stop);
        let mut tasks = JoinSet::new();
        for (_, driver) in drivers {
            tasks.spawn(driver);
        }
        Self { db, clock, notifier, intake, handle, routes, stop, tasks }
    }

    async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    async fn transaction(&self, id: &str, body: &str) -> StatusCode {
        self.request(HS_TOKEN, Method::PUT, &format!("/_matrix/app/v1/transactions/{id}"), body).await
    }

    async fn request(&self, token: &str, method: Method, path: &str, body: &str) -> StatusCode {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
            .body(Body::from(body.to_owned()))
            .expect("a request");
        self.routes.clone().oneshot(request).await.expect("answers").status()
    }

    /// Events that wait to be followed.
    fn waiting(&self) -> Vec<String> {
        let places = self.intake.stream(StreamPosition(0), 10_000).expect("reads");
        places.into_iter().map(|place| place.event_id.to_string()).collect()
    }

    fn queue(&self, subject: &Subject, event: &NewEvent) {
        let mut batch = self.db.batch();
        outbox::queue((&self.db, &self.clock), &mut batch, &room(), (subject, event)).expect("queues");
        self.db.commit_durable(batch).expect("commits");
        self.notifier.notify([&Topic::Outbox]);
    }
}

/// What was on a blocking thread when its driver ended still has the database for a moment.
async fn open(folder: &TempDir) -> Database {
    let opening = async {
        loop {
            match Database::open(folder.path(), &Options::default()) {
                Ok(db) => return db,
                Err(OpenError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, opening).await.expect("is free")
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn body(events: &[Value]) -> String {
    json!({ "events": events }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_confirmed_kept_and_taken_once() {
    let (server, folder) = (Homeserver::start().await, folder());
    // Nothing else is to bring it.
    server.world().joined.remove("@causeway:a.example");
    let sidecar = Sidecar::start(&server, &folder).await;
    let (seen, hidden) = (server.item("a", 1), server.item("b", 1));
    server.world().hidden.insert(hidden.clone());
    let events = body(&[server.event(&seen), server.event(&hidden), json!({ "type": "broken" })]);
    let path = "/_matrix/app/v1/transactions/1";
    for (token, method) in [("", Method::PUT), ("other", Method::PUT), ("as-0123456789abcdef", Method::PUT)] {
        assert_eq!(sidecar.request(token, method, path, &events).await, StatusCode::FORBIDDEN);
    }
    assert!(sidecar.waiting().is_empty());
    server.world().is_down = true;
    assert_eq!(sidecar.transaction("1", &events).await, StatusCode::SERVICE_UNAVAILABLE);
    server.world().is_down = false;
    for _ in 0..2 {
        assert_eq!(sidecar.transaction("1", &events).await, StatusCode::OK);
        assert_eq!(sidecar.waiting().first(), Some(&seen));
    }
    assert!(!sidecar.waiting().contains(&hidden));
    for poison in ["", "[]", "{\"events\": 7}"] {
        assert_eq!(sidecar.transaction("2", poison).await, StatusCode::OK, "else it comes for ever");
    }
    let user = "/_matrix/app/v1/users/@x:a.example";
    assert_eq!(sidecar.request(HS_TOKEN, Method::GET, user, "").await, StatusCode::NOT_FOUND);
    sidecar.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_space_is_known_when_a_user_comes_into_it_however_old_it_is() {
    let (server, folder) = (Homeserver::start().await, folder());
    let joined = std::mem::take(&mut server.world().joined);
    let declared = server.send("@x:b.example", "org.causeway.shared_space", Some(""), &json!({}));
    let old = server.send("@x:b.example", "org.causeway.item", Some("old"), &json!({ "n": 1 }));
    let sidecar = Sidecar::start(&server, &folder).await;
    let stranger = "@y:c.example";
    let came = |user: &str| {
        let content = json!({ "membership": "join" });
        server.event(&server.send(user, "m.room.member", Some(user), &content))
    };
    assert_eq!(sidecar.transaction("1", &body(&[came(stranger)])).await, StatusCode::OK);
    assert!(!sidecar.intake.is_ours(&room()), "nobody of the homeserver is there");
    server.world().joined = joined;
    assert_eq!(sidecar.transaction("2", &body(&[came("@zoe:a.example")])).await, StatusCode::OK);
    assert!(sidecar.intake.is_ours(&room()));
    assert_eq!(sidecar.intake.take_new(), [room()]);
    until("all that it shows is heard", || {
        let waiting = sidecar.waiting();
        waiting.contains(&declared) && waiting.contains(&old)
    })
    .await;
    sidecar.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_without_its_data_hears_the_rooms_of_the_service_user() {
    let (server, folder) = (Homeserver::start().await, folder());
    let old = server.item("old", 1);
    let sidecar = Sidecar::start(&server, &folder).await;
    until("what was there before is heard", || sidecar.waiting().contains(&old)).await;
    assert!(sidecar.intake.is_ours(&room()));
    sidecar.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_transaction_brought_is_heard_by_sync_across_restarts() {
    let (server, folder) = (Homeserver::start().await, folder());
    let before = server.item("a", 1);
    let sidecar = Sidecar::start(&server, &folder).await;
    let first = server.item("a", 2);
    let told = body(&[server.event(&first)]);
    assert_eq!(sidecar.transaction("1", &told).await, StatusCode::OK);
    // The room is one of ours now: what it showed before is heard, too.
    sidecar.queue(&Subject::Levels, &message("ignored"));
    until("all of the room is heard", || sidecar.waiting().contains(&before)).await;
    sidecar.end().await;

    let many: Vec<String> = (0..250).map(|n| server.item("a", n)).collect();
    server.world().synced_max = Some(20);
    let sidecar = Sidecar::start(&server, &folder).await;
    until("what happened meanwhile is heard", || {
        let waiting = sidecar.waiting();
        many.iter().all(|id| waiting.contains(id))
    })
    .await;
    let waiting = sidecar.waiting();
    let last = |id: &String| waiting.iter().rposition(|other| other == id);
    assert!(many.is_sorted_by_key(last), "in order");
    sidecar.end().await;

    // The homeserver was restored, and does not know where it was.
    server.world().oldest_since = usize::MAX;
    let sidecar = Sidecar::start(&server, &folder).await;
    until("it is refused", || server.asked(&Method::GET, "since=") > 2).await;
    // The one that is under way may be answered already.
    let later = server.item("z", 1);
    server.world().oldest_since = 0;
    until("all is heard anew", || sidecar.waiting().contains(&later)).await;
    sidecar.end().await;
}

fn message(text: &str) -> NewEvent {
    let content = json!({ "body": text });
    NewEvent::new("m.room.message", owned_user_id!("@causeway:a.example"), None, content).expect("an event")
}

fn face(n: u64) -> NewEvent {
    let content = json!({ "n": n });
    NewEvent::new("org.causeway.item", owned_user_id!("@zoe:a.example"), Some("k".to_owned()), content)
        .expect("an event")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_queued_is_sent_once_though_answers_are_lost() {
    let (server, folder) = (Homeserver::start().await, folder());
    let sidecar = Sidecar::start(&server, &folder).await;
    server.world().lost = 2;
    let answer: OwnedEventId = "$x".try_into().expect("an id");
    sidecar.queue(&Subject::Answer(answer), &message("settled"));
    sidecar.queue(&Subject::Face("k".to_owned()), &face(1));
    let outbox = UpstreamOutbox::new(sidecar.db.clone());
    until("all is sent", || outbox.next(&room()).expect("reads").is_none()).await;
    let kinds: Vec<Value> = server.world().events.iter().map(|event| event["type"].clone()).collect();
    assert_eq!(kinds, ["m.room.message", "org.causeway.item"], "each once, in order");
    assert!(server.asked(&Method::PUT, "/send/") >= 3);
    assert!(server.asked(&Method::PUT, "device_id=CAUSEWAY") >= 3);
    // What is there is not sent again, and what was not heard of is not covered.
    let sent = server.asked(&Method::PUT, "/state/");
    sidecar.queue(&Subject::Face("k".to_owned()), &face(1));
    until("it is dropped", || outbox.next(&room()).expect("reads").is_none()).await;
    let other = server.item("k", 9);
    sidecar.queue(&Subject::Face("k".to_owned()), &face(2));
    until("it gives way", || outbox.next(&room()).expect("reads").is_none()).await;
    assert!(sidecar.waiting().contains(&other));
    assert_eq!(server.asked(&Method::PUT, "/state/"), sent);
    // Who is not in the room is refused, and keeps nobody waiting.
    server.world().joined.remove("@zoe:a.example");
    sidecar.queue(&Subject::Face("k".to_owned()), &face(3));
    sidecar.queue(&Subject::Levels, &message("next"));
    until("the next one is sent", || outbox.next(&room()).expect("reads").is_none()).await;
    assert_eq!(server.world().events.last().expect("an event")["content"]["body"], "next");
    sidecar.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_are_asked_for_in_the_name_of_somebody_who_is_there() {
    let (server, folder) = (Homeserver::start().await, folder());
    let member = |user: &str, membership: &str| {
        server.send(user, "m.room.member", Some(user), &json!({ "membership": membership }))
    };
    member("@causeway:a.example", "join");
    member("@zoe:a.example", "join");
    let item = server.item("k", 1);
    let sidecar = Sidecar::start(&server, &folder).await;
    let zoe = owned_user_id!("@zoe:a.example");
    let id: OwnedEventId = item.as_str().try_into().expect("an id");
    let state = Wanted::State { kind: "org.causeway.item".to_owned(), key: "k".to_owned() };
    let wanted = vec![state.clone(), Wanted::Event(id.clone()), Wanted::Servers];
    let facts = sidecar.handle.ask(room(), Some(zoe.clone()), wanted).await.expect("answers");
    let is_item = |fact: &Fact| matches!(fact, Fact::Event(Some(event)) if event.get().contains(&item));
    assert!(is_item(&facts[0]) && is_item(&facts[1]));
    assert!(matches!(&facts[2], Fact::Servers(servers) if servers.len() == 1));
    // The homeserver goes on answering her with the state as it was when she left.
    member("@zoe:a.example", "leave");
    let asked = server.stub.asked().len();
    let facts = sidecar.handle.ask(room(), Some(zoe.clone()), vec![state.clone()]).await.expect("answers");
    assert!(is_item(&facts[0]));
    let asked = server.stub.asked()[asked..].to_vec();
    assert!(
        asked.iter().any(|asked| asked.target.contains("/state/org.causeway.item/k")
            && asked.target.contains("%40causeway"))
    );
    member("@causeway:a.example", "leave");
    let refused = sidecar.handle.ask(room(), Some(zoe), vec![state.clone()]).await;
    assert_eq!(refused.expect_err("nobody is there"), UpstreamError::NotInRoom);
    // One who does not see an event does not make it disappear.
    member("@causeway:a.example", "join");
    server.world().hidden.insert(item.clone());
    let facts = sidecar.handle.ask(room(), None, vec![Wanted::Event(id)]).await.expect("answers");
    assert!(matches!(&facts[0], Fact::Event(None)));
    server.stub.answers(|_| Said::Later);
    let silent = sidecar.handle.ask(room(), None, vec![state]).await;
    assert_eq!(silent.expect_err("in time"), UpstreamError::Silent);
    server.stub.release();
    sidecar.end().await;
}
