//! What the endpoint tests share: a server over a temporary data folder, asked
//! through its real router without a network.
#![expect(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;

use axum::{Router, body::Body};
use causeway_client_api::{ClientState, router};
use causeway_service::{Services, clock::Clock, remote::RemoteHandle, settings::Settings};
use causeway_storage::{Database, Options};
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use ruma::OwnedServerName;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

/// A server, and the folder that it lives in.
pub struct Server {
    pub router: Router,
    pub services: Arc<Services>,
    pub clock: Clock,
    folder: TempDir,
}

/// An answer with its body read.
pub struct Answer {
    pub status: StatusCode,
    pub head: http::response::Parts,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("a JSON answer")
    }

    /// The body of an answer that must be 200.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }

    /// Asserts an error.
    #[track_caller]
    pub fn is_error(&self, status: u16, errcode: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.bytes));
        let body = self.json();
        assert_eq!(body["errcode"], errcode, "{body}");
        assert!(body["error"].is_string(), "{body}");
        body
    }
}

pub fn server() -> Server {
    server_with(|_| ())
}

pub fn server_with(adjust: impl FnOnce(&mut Settings)) -> Server {
    server_on(RemoteHandle::channel().0, adjust)
}

/// A server that asks others through `remote`.
pub fn server_on(remote: RemoteHandle, adjust: impl FnOnce(&mut Settings)) -> Server {
    let folder = tempfile::tempdir().expect("temporary folder");
    server_in(folder, remote, adjust)
}

fn server_in(folder: TempDir, remote: RemoteHandle, adjust: impl FnOnce(&mut Settings)) -> Server {
    let database = Database::open(folder.path(), &Options::default()).expect("open");
    let mut settings = Settings::for_tests(OwnedServerName::try_from("example.org").expect("name"));
    adjust(&mut settings);
    let clock = Clock::manual(1_700_000_000_000);
    let services = Arc::new(Services::open(database, settings, clock.clone(), remote).expect("services"));
    let router = router(ClientState::new(Arc::clone(&services)));
    Server { router, services, clock, folder }
}

impl Server {
    /// Stopped, and started again with the usual settings.
    pub fn restarted(self) -> Server {
        let Self { router, services, clock: _, folder } = self;
        drop(router);
        let services = Arc::into_inner(services).expect("nobody else uses it");
        drop(services);
        server_in(folder, RemoteHandle::channel().0, |_| ())
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response: Response<Body> = self.router.clone().oneshot(request).await.expect("infallible");
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.expect("body").to_bytes().to_vec();
        Answer { status: head.status, head, bytes }
    }

    pub async fn ask(&self, method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.send(request.body(body).expect("request")).await
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.ask("GET", path, Some(token), None).await
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.ask("POST", path, Some(token), Some(body)).await
    }

    pub async fn put(&self, path: &str, token: &str, body: Value) -> Answer {
        self.ask("PUT", path, Some(token), Some(body)).await
    }

    /// A new room of whoever has the token.
    pub async fn room(&self, token: &str, body: Value) -> String {
        let made = self.post("/_matrix/client/v3/createRoom", token, body).await.ok();
        made["room_id"].as_str().expect("a room id").to_owned()
    }

    /// Registers a user with the password `pw`; the access token.
    pub async fn register(&self, name: &str) -> String {
        let body = json!({ "username": name, "password": "pw", "device_id": "DEV",
            "auth": { "type": "m.login.dummy" } });
        let answer = self.ask("POST", "/_matrix/client/v3/register", None, Some(body)).await.ok();
        answer["access_token"].as_str().expect("a token").to_owned()
    }
}
