//! An upstream that keeps what it is asked, and answers as it is told to, or not at all.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::Response,
};
use causeway_appservice::sidecar::client::UpstreamClient;
use rustls::RootCertStore;
use serde_json::Value;
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};
use url::Url;

/// The token of the service in these tests.
pub const TOKEN: &str = "as-0123456789abcdef";

/// What it was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    /// Path and query as they came.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Asked {
    /// The token that was shown.
    pub fn token(&self) -> Option<&str> {
        self.headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// An answer.
#[derive(Clone)]
pub enum Said {
    /// This one.
    Now(StatusCode, String),
    /// None, until the stub is told otherwise and releases who waits.
    Later,
}

type Answering = dyn Fn(&Asked) -> Said + Send + Sync;

/// See the module. It listens until it is dropped.
#[derive(Clone)]
pub struct Stub {
    pub url: Url,
    asked: Arc<Mutex<Vec<Asked>>>,
    answering: Arc<Mutex<Box<Answering>>>,
    /// Answers that are held back are given when this is told.
    released: Arc<Notify>,
    changed: Arc<Notify>,
    _serving: Arc<JoinSet<()>>,
}

/// A good answer.
pub fn ok(body: &Value) -> Said {
    Said::Now(StatusCode::OK, body.to_string())
}

/// A refusal.
pub fn refusal(status: u16, errcode: &str) -> Said {
    let body = serde_json::json!({"errcode": errcode, "error": "No"});
    Said::Now(StatusCode::from_u16(status).expect("a status"), body.to_string())
}

impl Stub {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let answering: Box<Answering> = Box::new(|_| refusal(404, "M_UNRECOGNIZED"));
        let (asked, released, changed) = (Arc::default(), Arc::default(), Arc::default());
        let answering = Arc::new(Mutex::new(answering));
        let shared = Shared {
            asked: Arc::clone(&asked),
            answering: Arc::clone(&answering),
            released: Arc::clone(&released),
            changed: Arc::clone(&changed),
        };
        let router = Router::new().fallback(answer).with_state(shared);
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.expect("serves") });
        let url = Url::parse(&url).expect("an address");
        Self { url, asked, answering, released, changed, _serving: Arc::new(serving) }
    }

    /// A client of it.
    pub fn client(&self) -> UpstreamClient {
        UpstreamClient::new(&self.url, TOKEN, &Arc::new(RootCertStore::empty())).expect("a client")
    }

    /// What it answers from now on.
    pub fn answers(&self, answering: impl Fn(&Asked) -> Said + Send + Sync + 'static) {
        *self.answering.lock().expect("not poisoned") = Box::new(answering);
    }

    /// Those who were kept waiting are answered as it is told to by now.
    pub fn release(&self) {
        self.released.notify_waiters();
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("not poisoned").clone()
    }

    /// What it was asked, once that is so many things.
    pub async fn until_asked(&self, count: usize) -> Vec<Asked> {
        let waiting = async {
            loop {
                let asked = self.asked();
                if asked.len() >= count {
                    return asked;
                }
                self.changed.notified().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_mins(1), waiting).await;
        waited.unwrap_or_else(|_| panic!("not enough in a minute: {:#?}", self.asked()))
    }
}

#[derive(Clone)]
struct Shared {
    asked: Arc<Mutex<Vec<Asked>>>,
    answering: Arc<Mutex<Box<Answering>>>,
    released: Arc<Notify>,
    changed: Arc<Notify>,
}

async fn answer(
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let asked = Asked { method, target: uri.to_string(), headers, body };
    shared.asked.lock().expect("not poisoned").push(asked.clone());
    shared.changed.notify_one();
    loop {
        let released = shared.released.notified();
        tokio::pin!(released);
        released.as_mut().enable();
        let said = shared.answering.lock().expect("not poisoned")(&asked);
        match said {
            Said::Now(status, text) => {
                return Response::builder().status(status).body(Body::from(text)).expect("an answer");
            }
            Said::Later => released.await,
        }
    }
}
