//! An application service that keeps what it is asked, and answers as it is told to;
//! and a server that knows it from a registration file.

use std::{
    fs,
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
use causeway_appservice::host::{self, Pauses, Settings};
use causeway_service::{Services, clock::Clock, remote::RemoteHandle, settings::Settings as ServiceSettings};
use causeway_storage::{Database, Options};
use ruma::server_name;
use rustls::RootCertStore;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// What it was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub target: String,
    pub token: String,
    pub body: Value,
}

type Answering = dyn Fn(&Asked) -> (StatusCode, String) + Send + Sync;

/// The service.
#[derive(Clone)]
pub struct Fake {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    answering: Arc<Mutex<Box<Answering>>>,
    changed: Arc<Notify>,
}

impl Fake {
    /// It listens as long as `tasks` live.
    pub async fn start(tasks: &mut JoinSet<()>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let answering: Box<Answering> = Box::new(|_: &Asked| (StatusCode::OK, "{}".to_owned()));
        let fake = Self {
            url,
            asked: Arc::default(),
            answering: Arc::new(Mutex::new(answering)),
            changed: Arc::default(),
        };
        let router = Router::new().fallback(answer).with_state(fake.clone());
        tasks.spawn(async move { axum::serve(listener, router).await.expect("serves") });
        fake
    }

    /// What it answers from now on.
    pub fn answers(&self, answering: impl Fn(&Asked) -> (StatusCode, String) + Send + Sync + 'static) {
        *self.answering.lock().expect("not poisoned") = Box::new(answering);
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("not poisoned").clone()
    }

    /// Waits until what it was asked is enough.
    pub async fn until(&self, is_enough: impl Fn(&[Asked]) -> bool) -> Vec<Asked> {
        let waiting = async {
            loop {
                let asked = self.asked();
                if is_enough(&asked) {
                    return asked;
                }
                self.changed.notified().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_mins(1), waiting).await;
        waited.unwrap_or_else(|_| panic!("not enough in a minute: {:#?}", self.asked()))
    }
}

async fn answer(
    State(fake): State<Fake>,
    method: Method,
    uri: Uri,
    head: HeaderMap,
    body: Bytes,
) -> Response {
    let token = head.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let asked = Asked { method, target: uri.to_string(), token: token.to_owned(), body };
    let (status, text) = fake.answering.lock().expect("not poisoned")(&asked);
    fake.asked.lock().expect("not poisoned").push(asked);
    fake.changed.notify_one();
    Response::builder().status(status).body(Body::from(text)).expect("an answer")
}

/// A server, which stops when it is dropped.
pub struct Server {
    pub services: Arc<Services>,
    pub folder: Arc<TempDir>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Where a server lives.
pub fn folder() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().expect("a folder"))
}

/// A registration file's text for a service of this id.
pub fn registration(id: &str, url: &str, more: &str) -> String {
    format!(
        "id: {id}\nurl: {url}\nas_token: as-{id}\nhs_token: hs-{id}\nsender_localpart: {id}-bot\n\
         namespaces:\n  users: [{{exclusive: true, regex: '@{id}_.*'}}]\n  \
         aliases: [{{exclusive: true, regex: '#{id}_.*'}}]\nprotocols: [net]\n{more}"
    )
}

impl Server {
    /// Over what is in the folder; the registrations are the files in it.
    pub fn start(folder: Arc<TempDir>, registrations: &[&str]) -> Self {
        let database = Database::open(folder.path(), &Options::default()).expect("opens");
        let settings = ServiceSettings::new(server_name!("a.example").to_owned());
        let (remote, _requests) = RemoteHandle::channel();
        let services = Arc::new(Services::open(database, settings, Clock::System, remote).expect("opens"));
        let files = (0..registrations.len()).map(|at| folder.path().join(format!("{at}.yaml")));
        let files: Vec<_> = files.collect();
        for (file, text) in files.iter().zip(registrations) {
            fs::write(file, text).expect("writes");
        }
        let stop = CancellationToken::new();
        let ms = Duration::from_millis;
        let pauses = Pauses { first: ms(10), longest: ms(100) };
        let settings = Settings { files, tls_roots: Arc::new(RootCertStore::empty()), pauses };
        let drivers = host::drivers(&services, &settings, &stop).expect("registers");
        let mut tasks = JoinSet::new();
        for (_, driver) in drivers {
            tasks.spawn(driver);
        }
        Self { services, folder, stop, tasks }
    }

    /// Stops it, so that another may be started in the folder.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
