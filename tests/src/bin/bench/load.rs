//! Many requests, a fixed number of them in flight.
//!
//! What is measured by how many a server takes is made ready beforehand and sent over
//! plain connections, one for each request in flight: the generator shares the machine
//! with the servers, and a full client took a tenth of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use causeway_tests::result::{Doing, Failure, Result, ensure};
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinSet, time::Instant};

/// A request that only has to be sent.
#[derive(Debug)]
pub struct Prepared {
    method: Method,
    path: String,
    body: Bytes,
}

impl Prepared {
    /// One with a JSON body.
    pub fn new(method: Method, path: String, body: &Value) -> Self {
        Self { method, path, body: body.to_string().into() }
    }
}

/// Sends all requests with a user's token, `in_flight` at a time, each of which has to
/// succeed; the time that all took. `base` is the server's address, `http://host:port`.
pub async fn send(base: &str, token: &str, requests: Vec<Prepared>, in_flight: usize) -> Result<Duration> {
    let address = base.trim_start_matches("http://").to_owned();
    let bearer = format!("Bearer {token}");
    let requests = Arc::new(requests);
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers: JoinSet<Result<()>> = JoinSet::new();
    let begin = Instant::now();
    for _ in 0..in_flight {
        let (requests, next) = (Arc::clone(&requests), Arc::clone(&next));
        let (address, bearer) = (address.clone(), bearer.clone());
        workers.spawn(async move {
            let stream = TcpStream::connect(&address).await.doing("connecting")?;
            stream.set_nodelay(true)?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failure)?;
            let work = async {
                while let Some(request) = requests.get(next.fetch_add(1, Ordering::SeqCst)) {
                    send_one(&mut sender, &address, &bearer, request).await?;
                }
                Ok(())
            };
            tokio::select! {
                done = work => done,
                ended = connection => Err(Failure::new(format!("the connection ended: {ended:?}"))),
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.map_err(Failure::from)??;
    }
    Ok(begin.elapsed())
}

async fn send_one(
    sender: &mut SendRequest<Full<Bytes>>,
    address: &str,
    bearer: &str,
    prepared: &Prepared,
) -> Result<()> {
    let request = Request::builder()
        .method(prepared.method.clone())
        .uri(&prepared.path)
        .header(header::HOST, address)
        .header(header::AUTHORIZATION, bearer)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(prepared.body.clone()))
        .map_err(failure)?;
    sender.ready().await.map_err(failure)?;
    let response = sender.send_request(request).await.map_err(failure)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(failure)?.to_bytes();
    ensure(status.is_success(), || {
        format!("{} {}: {status} {}", prepared.method, prepared.path, String::from_utf8_lossy(&body))
    })
}

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(error.to_string())
}

/// Runs `request(0)` to `request(count - 1)`, `in_flight` at a time; the time that all took.
pub async fn run<F, R>(count: usize, in_flight: usize, request: F) -> Result<Duration>
where
    F: Fn(usize) -> R + Send + Sync + 'static,
    R: Future<Output = Result<()>> + Send + 'static,
{
    let request = Arc::new(request);
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers: JoinSet<Result<()>> = JoinSet::new();
    let begin = Instant::now();
    for _ in 0..in_flight {
        let (request, next) = (Arc::clone(&request), Arc::clone(&next));
        workers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= count {
                    return Ok(());
                }
                request(number).await?;
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.map_err(Failure::from)??;
    }
    Ok(begin.elapsed())
}
