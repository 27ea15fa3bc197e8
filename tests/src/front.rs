//! What stands before a homeserver with a sidecar: a reverse proxy of this process, with the rules
//! that `causeway sidecar init` prints; and between the homeserver and its sidecar a post office,
//! which can lose, repeat and delay transactions.
//!
//! It outlives both, so that its ports are known before either runs.

use std::{
    convert::Infallible,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    dice::Dice,
    result::{Failure, Result},
};

/// As long as a client's own patience.
const PATIENCE: Duration = Duration::from_secs(90);
/// Where the sidecar's endpoints are.
const OWN: [&str; 2] =
    ["/_matrix/client/unstable/org.causeway/", "/_matrix/federation/unstable/org.causeway/"];

/// Where a name says who speaks for it.
const CLAIM: &str = "/.well-known/org.causeway.shared_spaces";

/// What the post office does to transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Post {
    /// It brings them.
    #[default]
    Good,
    /// It says so, and does not.
    Loses,
    /// Some are lost, some come twice, some after the next one.
    Bad,
}

/// See the module.
#[derive(Debug)]
pub struct Front {
    /// For clients.
    pub clients: SocketAddr,
    /// For other servers, by TLS.
    pub servers: SocketAddr,
    /// For the homeserver, as the sidecar.
    pub transactions: SocketAddr,
    /// For the sidecar, and whoever gets past the proxy, as the homeserver.
    pub direct: SocketAddr,
    /// For other servers, as the sidecar by a name of its own, by TLS.
    pub own: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    http: reqwest::Client,
    places: Mutex<Places>,
    /// Who speaks for the homeserver, by its name's word.
    claim: Mutex<Option<String>>,
    /// Whether the sidecar has a name of its own, and nothing for servers at the homeserver's.
    has_name: AtomicBool,
    post: Mutex<PostOffice>,
}

/// Where who is; none while he is down.
#[derive(Debug, Default)]
struct Places {
    homeserver: Option<SocketAddr>,
    sidecar: Option<SocketAddr>,
}

#[derive(Debug)]
struct PostOffice {
    does: Post,
    dice: Dice,
    /// What comes after the next one.
    kept: Vec<Passed>,
}

/// A request as it came.
#[derive(Clone, Debug)]
struct Passed {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

/// Who is spoken to at an address.
#[derive(Clone, Copy)]
enum Side {
    Proxy,
    Post,
    Homeserver,
    Sidecar,
}

impl Front {
    /// Opens its ports, with the certificate and key of these files.
    pub async fn open(chain: &Path, key: &Path, seed: u64) -> Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only([])
            .build()?;
        let post = PostOffice { does: Post::Good, dice: Dice::new(seed), kept: Vec::new() };
        let shared = Arc::new(Shared {
            http,
            places: Mutex::default(),
            claim: Mutex::default(),
            has_name: AtomicBool::new(false),
            post: Mutex::new(post),
        });
        let (plain, secure) = (listener().await?, listener().await?);
        let (office, past, name) = (listener().await?, listener().await?, listener().await?);
        let (clients, servers) = (plain.local_addr()?, secure.local_addr()?);
        let (transactions, direct, own) = (office.local_addr()?, past.local_addr()?, name.local_addr()?);
        let acceptor = TlsAcceptor::from(Arc::new(tls(chain, key)?));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(plain, None, Arc::clone(&shared), Side::Proxy));
        tasks.spawn(serve(secure, Some(acceptor.clone()), Arc::clone(&shared), Side::Proxy));
        tasks.spawn(serve(name, Some(acceptor), Arc::clone(&shared), Side::Sidecar));
        tasks.spawn(serve(office, None, Arc::clone(&shared), Side::Post));
        tasks.spawn(serve(past, None, Arc::clone(&shared), Side::Homeserver));
        Ok(Self { clients, servers, transactions, direct, own, shared, _tasks: tasks })
    }

    /// Says where the homeserver listens, for clients and servers.
    pub fn homeserver_is_at(&self, address: Option<SocketAddr>) {
        lock(&self.shared.places).homeserver = address;
    }

    /// Says where the sidecar listens.
    pub fn sidecar_is_at(&self, address: Option<SocketAddr>) {
        lock(&self.shared.places).sidecar = address;
    }

    /// The sidecar has a name of its own: nothing for servers is led to it from the homeserver's.
    pub fn has_name(&self) {
        self.shared.has_name.store(true, Ordering::Relaxed);
    }

    /// Has the homeserver's name say who speaks for it, or that nobody does.
    pub fn claims(&self, speaker: Option<&str>) {
        *lock(&self.shared.claim) = speaker.map(str::to_owned);
    }

    /// What is done to transactions from now on. What is kept comes with the next one.
    pub fn post(&self, does: Post) {
        lock(&self.shared.post).does = does;
    }
}

async fn listener() -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?)
}

fn tls(chain: &Path, key: &Path) -> Result<ServerConfig> {
    let (chain, key) = (fs::read(chain)?, fs::read(key)?);
    let chain = CertificateDer::pem_slice_iter(&chain).collect::<std::result::Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| Failure::new(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| Failure::new(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn serve(listener: TcpListener, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>, side: Side) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
                connections.spawn(async move {
                    match acceptor {
                        None => speak(stream, shared, side).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                speak(stream, shared, side).await;
                            }
                        }
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, shared: Arc<Shared>, side: Side) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.answer(request, side).await) }
    });
    // Whoever hangs up has his reasons.
    let _ended = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>, side: Side) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else { return plain(StatusCode::BAD_REQUEST) };
        let mut headers = head.headers;
        for name in [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
            headers.remove(name);
        }
        let passed = Passed { method: head.method, uri: head.uri, headers, body: body.to_bytes() };
        match side {
            Side::Proxy => self.route(&passed).await,
            Side::Post => self.deliver(passed).await,
            Side::Homeserver => {
                let homeserver = lock(&self.places).homeserver;
                self.pass(&passed, homeserver).await.unwrap_or_else(|| plain(StatusCode::BAD_GATEWAY))
            }
            Side::Sidecar => {
                let sidecar = lock(&self.places).sidecar;
                self.pass(&passed, sidecar).await.unwrap_or_else(|| plain(StatusCode::BAD_GATEWAY))
            }
        }
    }

    async fn route(&self, passed: &Passed) -> Response<Full<Bytes>> {
        let (homeserver, sidecar) = {
            let places = lock(&self.places);
            (places.homeserver, places.sidecar)
        };
        let path = passed.uri.path();
        if path == CLAIM
            && let Some(speaker) = &*lock(&self.claim)
        {
            return json(StatusCode::OK, &serde_json::json!({ "speaker": speaker }));
        }
        let own = if self.has_name.load(Ordering::Relaxed) { &OWN[..1] } else { &OWN[..] };
        let is_for_sidecar = is_item(path) || own.iter().any(|own| path.starts_with(own));
        let to = if is_for_sidecar { sidecar } else { homeserver };
        self.pass(passed, to).await.unwrap_or_else(|| plain(StatusCode::BAD_GATEWAY))
    }

    /// None if nobody is there.
    async fn pass(&self, passed: &Passed, to: Option<SocketAddr>) -> Option<Response<Full<Bytes>>> {
        let url = format!("http://{}{}", to?, passed.uri.path_and_query()?);
        let request = self.http.request(passed.method.clone(), url).headers(passed.headers.clone());
        let answer = request.body(passed.body.clone()).send().await.ok()?;
        let mut response = Response::builder().status(answer.status());
        let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
        // What was compressed is so no longer, or else is given as it is.
        let encoding = answer.headers().get(header::CONTENT_ENCODING).cloned();
        for (name, value) in [(header::CONTENT_TYPE, kind), (header::CONTENT_ENCODING, encoding)] {
            if let Some(value) = value {
                response = response.header(name, value);
            }
        }
        response.body(Full::new(answer.bytes().await.ok()?)).ok()
    }

    async fn deliver(&self, passed: Passed) -> Response<Full<Bytes>> {
        let is_transaction = passed.method == Method::PUT;
        let (mut now, said) = {
            let mut post = lock(&self.post);
            let throw = if is_transaction { post.dice.below(4) } else { 0 };
            let mut kept = std::mem::take(&mut post.kept);
            match (post.does, throw) {
                (Post::Loses, _) if is_transaction => (kept, true),
                (Post::Bad, 1) => (kept, true),
                (Post::Bad, 2) => {
                    post.kept.push(passed.clone());
                    (kept, true)
                }
                (Post::Bad, 3) => {
                    kept.splice(0..0, [passed.clone(), passed.clone()]);
                    (kept, false)
                }
                _ => {
                    kept.insert(0, passed.clone());
                    (kept, false)
                }
            }
        };
        let sidecar = lock(&self.places).sidecar;
        let mut answer = None;
        for (number, one) in now.drain(..).enumerate() {
            let one = self.pass(&one, sidecar).await;
            if number == 0 && !said {
                answer = Some(one.unwrap_or_else(|| plain(StatusCode::BAD_GATEWAY)));
            }
        }
        answer.unwrap_or_else(|| plain(StatusCode::OK))
    }
}

/// `/_matrix/client/VERSION/rooms/ROOM/state/org.causeway.item/KEY`.
fn is_item(path: &str) -> bool {
    let below = ["r0", "v3", "api/v1"]
        .iter()
        .find_map(|version| path.strip_prefix(&format!("/_matrix/client/{version}/rooms/")));
    below.and_then(|below| below.split_once('/')).is_some_and(|(_, what)| {
        what.strip_prefix("state/org.causeway.item").is_some_and(|key| key.is_empty() || key.starts_with('/'))
    })
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    json(status, &serde_json::json!({}))
}

/// An answer that is not to be kept.
fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    let never = header::HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, never);
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
