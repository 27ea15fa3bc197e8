//! Media: upload, also to an address that was made first, authenticated download,
//! thumbnails, configuration, and the older paths.
//!
//! Uploads and downloads are streamed: no file is held in memory. Where no
//! thumbnail can be made, the original is sent.

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    extract::{RawPathParams, RawQuery, State},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post, put},
};
use bytes::{Bytes, BytesMut};
use causeway_service::{
    credential::no_guests,
    devices::Session,
    error::MatrixError,
    media::{Label, Media, Thumbnail, Upload, Wish, patience_ms},
    rate_limit::Class,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::BodyExt;
use ruma::{
    MilliSecondsSinceUnixEpoch, MxcUri, ServerName, UInt,
    api::{auth_scheme::AccessToken, client::media::create_mxc_uri},
};
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use crate::{
    ClientState, Endpoints, Ruma, auth, blocking, endpoint::note, error_response, json_response,
    request::client_address,
};

/// How much of an upload is gathered before it is written.
const PIECE_BYTES: usize = 1 << 20;

/// How long a piece of an upload may take.
const PIECE_TIMEOUT: Duration = Duration::from_mins(1);

const NO_GUESTS: &str = "Guests may not upload files";

/// Types that a browser may show; everything else is offered for saving, so
/// that no upload runs as a script in this origin.
const INLINE_TYPES: &[&str] = &[
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// What a document from here may do (client-server API, "Content repository").
const CONTENT_SECURITY_POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types \
    application/pdf; style-src 'unsafe-inline'; object-src 'self';";

/// Where the content goes whose address was made first.
const FILL: &str = "/_matrix/media/v3/upload/{server}/{media}";

pub(crate) fn routes() -> Router<ClientState> {
    let mut router = noted(Router::new().endpoint(create), &Method::PUT, FILL, put(fill));
    for path in ["/_matrix/media/r0/upload", "/_matrix/media/v3/upload"] {
        router = noted(router, &Method::POST, path, post(upload));
    }
    for path in ["/_matrix/client/v1/media/config", "/_matrix/media/r0/config", "/_matrix/media/v3/config"] {
        router = noted(router, &Method::GET, path, get(config));
    }
    for end in ["download/{server}/{media}", "download/{server}/{media}/{name}"] {
        router = noted(router, &Method::GET, &format!("/_matrix/client/v1/media/{end}"), get(download));
        for old in ["r0", "v1", "v3"] {
            let path = format!("/_matrix/media/{old}/{end}");
            router = noted(router, &Method::GET, &path, get(legacy_download));
        }
    }
    let end = "thumbnail/{server}/{media}";
    router = noted(router, &Method::GET, &format!("/_matrix/client/v1/media/{end}"), get(thumbnail));
    for old in ["r0", "v1", "v3"] {
        let path = format!("/_matrix/media/{old}/{end}");
        router = noted(router, &Method::GET, &path, get(legacy_thumbnail));
    }
    router
}

fn noted(
    router: Router<ClientState>,
    method: &Method,
    path: &str,
    serve: MethodRouter<ClientState>,
) -> Router<ClientState> {
    note(method, path);
    router.route(path, serve)
}

/// Who asks; also counts against the rate limits.
async fn session(
    state: &ClientState,
    request: Request<Body>,
) -> Result<(Session, Request<Body>), MatrixError> {
    let (head, body) = request.into_parts();
    let state = state.clone();
    blocking(move || {
        let request = Request::from_parts(head, &b""[..]);
        let session = auth::identify::<AccessToken>(&state, &request)?;
        auth::admit(&state, Class::Request, &session)?;
        Ok((session, Request::from_parts(request.into_parts().0, body)))
    })
    .await
}

async fn config(State(state): State<ClientState>, request: Request<Body>) -> Response {
    match session(&state, request).await {
        Ok(_) => json_response(StatusCode::OK, &json!({ "m.upload.size": state.media.bytes_max() })),
        Err(error) => error_response(&error),
    }
}

fn create(
    state: &ClientState,
    request: Ruma<create_mxc_uri::v1::Request>,
) -> Result<create_mxc_uri::v1::Response, MatrixError> {
    if request.auth.is_guest {
        return Err(no_guests(NO_GUESTS));
    }
    let (mxc, expires_ts) = state.media.create(&request.auth.user_id)?;
    let mut response = create_mxc_uri::v1::Response::new(mxc);
    response.unused_expires_at = Some(MilliSecondsSinceUnixEpoch(UInt::new_saturating(expires_ts)));
    Ok(response)
}

async fn upload(
    State(state): State<ClientState>,
    RawQuery(query): RawQuery,
    request: Request<Body>,
) -> Response {
    let stored = async {
        let (session, request) = uploader(&state, request).await?;
        let (upload, label) = receive(&state, query, request).await?;
        let mxc = blocking(move || state.media.finish(upload, session.user_id, label)).await?;
        Ok(json!({ "content_uri": mxc }))
    };
    answer(stored.await)
}

async fn fill(
    State(state): State<ClientState>,
    params: RawPathParams,
    RawQuery(query): RawQuery,
    request: Request<Body>,
) -> Response {
    let stored = async {
        let (session, request) = uploader(&state, request).await?;
        let user_id = session.user_id;
        let mut parts = params.iter().map(|(_, value)| value);
        let (server, media_id) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if server != state.settings.server_name.as_str() {
            return Err(MatrixError::not_found("The address is of another server"));
        }
        let (media_id, early) = (media_id.to_owned(), state.clone());
        // Before the content comes; and again when it is there.
        let (user_id, media_id) =
            blocking(move || early.media.may_fill(&media_id, &user_id).map(|()| (user_id, media_id))).await?;
        let (upload, label) = receive(&state, query, request).await?;
        blocking(move || state.media.fill(&media_id, upload, user_id, label)).await?;
        Ok(json!({}))
    };
    answer(stored.await)
}

fn answer(stored: Result<Value, MatrixError>) -> Response {
    match stored {
        Ok(body) => json_response(StatusCode::OK, &body),
        Err(error) => error_response(&error),
    }
}

/// Who uploads: no guest.
async fn uploader(
    state: &ClientState,
    request: Request<Body>,
) -> Result<(Session, Request<Body>), MatrixError> {
    let (session, request) = session(state, request).await?;
    if session.is_guest { Err(no_guests(NO_GUESTS)) } else { Ok((session, request)) }
}

/// Takes a content, and what is said of it.
async fn receive(
    state: &ClientState,
    query: Option<String>,
    request: Request<Body>,
) -> Result<(Upload, Label), MatrixError> {
    let (head, mut body) = request.into_parts();
    let too_large = || MatrixError::too_large(format!("A file may have {} bytes", state.media.bytes_max()));
    let text = |name: header::HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    let announced: Option<u64> = text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    if announced.is_some_and(|announced| announced > state.media.bytes_max()) {
        return Err(too_large());
    }
    let query = query.unwrap_or_default();
    let filename = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "filename");
    let label = Label {
        content_type: text(header::CONTENT_TYPE).map(ToOwned::to_owned),
        filename: filename.map(|(_, value)| value.into_owned()),
    };
    let mut upload = state.media.begin()?;
    let mut gathered = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(PIECE_TIMEOUT, body.frame()).await;
        let frame = frame.map_err(|_| MatrixError::new(408, "M_UNKNOWN", "The upload stands still"))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| MatrixError::new(400, "M_UNKNOWN", "The upload broke off"))?;
        if let Ok(data) = frame.into_data() {
            gathered.extend_from_slice(&data);
        }
        if gathered.len() >= PIECE_BYTES {
            upload = write(upload, gathered.split().freeze()).await?;
        }
    }
    Ok((write(upload, gathered.freeze()).await?, label))
}

async fn write(mut upload: Upload, piece: Bytes) -> Result<Upload, MatrixError> {
    blocking(move || upload.write(&piece).map(|()| upload)).await
}

async fn download(
    State(state): State<ClientState>,
    params: RawPathParams,
    request: Request<Body>,
) -> Response {
    let answer = match session(&state, request).await {
        Ok((_, request)) => serve(&state, &params, request.uri(), Asked { others: true, small: false }).await,
        Err(error) => Err(error),
    };
    answer.unwrap_or_else(|error| error_response(&error))
}

async fn thumbnail(
    State(state): State<ClientState>,
    params: RawPathParams,
    request: Request<Body>,
) -> Response {
    let answer = match session(&state, request).await {
        Ok((_, request)) => serve(&state, &params, request.uri(), Asked { others: true, small: true }).await,
        Err(error) => Err(error),
    };
    answer.unwrap_or_else(|error| error_response(&error))
}

/// Without a token, so only if the operator allows it; and only what is here already.
async fn legacy_download(
    State(state): State<ClientState>,
    params: RawPathParams,
    request: Request<Body>,
) -> Response {
    without_token(&state, &params, request, false).await
}

/// The same of thumbnails.
async fn legacy_thumbnail(
    State(state): State<ClientState>,
    params: RawPathParams,
    request: Request<Body>,
) -> Response {
    without_token(&state, &params, request, true).await
}

async fn without_token(
    state: &ClientState,
    params: &RawPathParams,
    request: Request<Body>,
    small: bool,
) -> Response {
    let allowed = state.settings.media.allow_legacy_download;
    let (head, _) = request.into_parts();
    let address = client_address(&head, state.settings.rate_limits.trust_forwarded_for);
    let answer = match state.rate_limits.admit_address(Class::Anonymous, address) {
        Err(error) => Err(error),
        Ok(()) if !allowed => Err(MatrixError::not_found("Media must be asked for with an access token")),
        Ok(()) => serve(state, params, &head.uri, Asked { others: false, small }).await,
    };
    answer.unwrap_or_else(|error| error_response(&error))
}

/// What is done for whoever asks.
#[derive(Clone, Copy)]
struct Asked {
    /// Other servers are asked, and a content that is to come is waited for.
    others: bool,
    /// Sends the thumbnail that the query asks for.
    small: bool,
}

/// Sends a file or its thumbnail.
async fn serve(
    state: &ClientState,
    params: &RawPathParams,
    uri: &Uri,
    asked: Asked,
) -> Result<Response, MatrixError> {
    let query = uri.query().unwrap_or_default();
    let wish = asked.small.then(|| Wish::parse(query)).transpose()?;
    let mut parts = params.iter().map(|(_, value)| value);
    let (server, media_id) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let asked_name = parts.next().map(ToOwned::to_owned);
    let server = ServerName::parse(server).map_err(|_| MatrixError::invalid_param("Invalid server name"))?;
    let mxc = format!("mxc://{server}/{media_id}");
    let mxc = <&MxcUri>::from(mxc.as_str());
    mxc.validate().map_err(|_| MatrixError::not_found("Media not found"))?;
    let media = if server == state.settings.server_name {
        let patience_ms = if asked.others { patience_ms(query)? } else { Some(0) };
        state.media.await_own(media_id, patience_ms).await?
    } else if asked.others {
        state.media.obtain(mxc, Vec::new(), Vec::new()).await?
    } else {
        let (state, media_id) = (state.clone(), media_id.to_owned());
        let found = blocking(move || state.media.find(&server, &media_id)).await?;
        found.ok_or_else(|| MatrixError::not_found("Media not found"))?
    };
    let small = match wish {
        Some(wish) => state.media.thumbnail(&media, wish).await?,
        None => None,
    };
    let (path, media) = match small {
        None => (state.media.path(&media), media),
        Some(Thumbnail { path, content_type, bytes }) => {
            let content_type = Some(content_type.to_owned());
            (path, Media { content_type, bytes, filename: None, ..media })
        }
    };
    let file = tokio::fs::File::open(path).await;
    let file = file.map_err(|error| MatrixError::internal(&error))?;
    let headers = headers(&media, asked_name);
    Ok((headers, Body::from_stream(ReaderStream::new(file))).into_response())
}

fn headers(media: &Media, asked_name: Option<String>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let content_type = media.content_type.as_deref().unwrap_or("application/octet-stream");
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let disposition = if INLINE_TYPES.contains(&essence.as_str()) { "inline" } else { "attachment" };
    let name = asked_name.or_else(|| media.filename.clone()).filter(|name| !name.is_empty());
    let disposition = match name {
        Some(name) => format!("{disposition}; filename*=utf-8''{}", encoded(&name)),
        None => disposition.to_owned(),
    };
    let fallback = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap_or(fallback));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(media.bytes));
    if let Ok(value) = HeaderValue::from_str(&disposition) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    let fixed = |text: &'static str| HeaderValue::from_static(text);
    headers.insert(header::CONTENT_SECURITY_POLICY, fixed(CONTENT_SECURITY_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    headers.insert("cross-origin-resource-policy", fixed("cross-origin"));
    headers.insert(header::CACHE_CONTROL, fixed("private, max-age=31536000, immutable"));
    headers
}

/// A file name as RFC 5987 writes it.
fn encoded(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let escape = format!("%{byte:02X}");
            encoded.push_str(&escape);
        }
    }
    encoded
}
