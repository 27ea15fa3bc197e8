//! Files of this server, and copies of other servers' files that it holds
//! (server-server API, "Content repository"): `multipart/mixed` of metadata and
//! the file.
//!
//! - `GET …/v1/media/download/{mediaId}`, and `…/thumbnail/…`, which answers the
//!   whole file where no thumbnail can be made.
//! - `GET …/unstable/org.causeway/media/{origin}/{mediaId}`: a copy of a file
//!   whose origin is gone.
//!
//! Invariant: no file is held in memory; it is read as it is sent.

use std::{future::ready, io};

use axum::{
    Router,
    body::Body,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use causeway_service::{
    error::MatrixError,
    media::{Media, NOT_YET, Thumbnail, Wish, patience_ms},
};
use futures_util::{StreamExt, stream};
use http::{HeaderValue, header};
use ruma::OwnedServerName;
use tokio_util::io::ReaderStream;

use crate::{
    authenticated::Signed,
    client::escape,
    error::{Refusal, blocking},
    multipart,
    params::Path,
    state::FederationState,
};

pub(super) fn routes() -> Router<FederationState> {
    Router::new()
        .route("/_matrix/federation/v1/media/download/{media_id}", get(own))
        .route("/_matrix/federation/v1/media/thumbnail/{media_id}", get(small))
        .route("/_matrix/federation/unstable/org.causeway/media/{origin}/{media_id}", get(copy))
}

async fn own(
    State(state): State<FederationState>,
    Path(media_id): Path<String>,
    RawQuery(query): RawQuery,
    signed: Signed,
) -> Result<Response, Refusal> {
    let (media, _signed) = awaited(&state, &media_id, query.as_deref(), signed).await?;
    file(&state, media, None).await
}

async fn small(
    State(state): State<FederationState>,
    Path(media_id): Path<String>,
    RawQuery(query): RawQuery,
    signed: Signed,
) -> Result<Response, Refusal> {
    let wish = Wish::parse(query.as_deref().unwrap_or_default())?;
    let (media, _signed) = awaited(&state, &media_id, query.as_deref(), signed).await?;
    file(&state, media, Some(wish)).await
}

async fn copy(
    State(state): State<FederationState>,
    Path((origin, media_id)): Path<(String, String)>,
    signed: Signed,
) -> Result<Response, Refusal> {
    let server = OwnedServerName::try_from(origin)
        .map_err(|_| MatrixError::invalid_param("That is not a server name"))?;
    let services = state.services().clone();
    let found = blocking(move || {
        let media = services.media.find(&server, &media_id)?;
        media.ok_or_else(|| MatrixError::not_found("There is no such file"))
    });
    let response = file(&state, found.await?, None).await;
    drop(signed);
    response
}

/// A file of this server, perhaps one that is still to come: who waits for that does not keep
/// the origin's turn meanwhile.
async fn awaited(
    state: &FederationState,
    media_id: &str,
    query: Option<&str>,
    signed: Signed,
) -> Result<(Media, Option<Signed>), MatrixError> {
    let patience_ms = patience_ms(query.unwrap_or_default())?;
    let media = &state.services().media;
    match media.await_own(media_id, Some(0)).await {
        Err(error) if error.errcode == NOT_YET => {
            drop(signed);
            Ok((media.await_own(media_id, patience_ms).await?, None))
        }
        found => Ok((found?, Some(signed))),
    }
}

async fn file(state: &FederationState, mut media: Media, wish: Option<Wish>) -> Result<Response, Refusal> {
    let mut path = state.services().media.path(&media);
    if let Some(wish) = wish
        && let Some(small) = state.services().media.thumbnail(&media, wish).await?
    {
        let Thumbnail { path: place, content_type, bytes } = small;
        path = place;
        media = Media { content_type: Some(content_type.to_owned()), bytes, filename: None, ..media };
    }
    let content = tokio::fs::File::open(path).await.map_err(|error| MatrixError::internal(&error))?;
    let boundary = format!("{:032x}", rand::random::<u128>());
    let disposition = media.filename.as_deref().map_or_else(
        || "inline".to_owned(),
        // The encoded form has room for every name and no room for a line break.
        |name| format!("inline; filename*=utf-8''{}", escape(name)),
    );
    let kind = media.content_type.as_deref().filter(|kind| HeaderValue::from_str(kind).is_ok());
    let headers =
        [("Content-Type", kind.unwrap_or("application/octet-stream")), ("Content-Disposition", &disposition)];
    let metadata = multipart::begin_part(&boundary, &[("Content-Type", "application/json")]) + "{}";
    let begin = Bytes::from(metadata + &multipart::begin_part(&boundary, &headers));
    let end = Bytes::from(multipart::end(&boundary));
    let bytes = media.bytes + (begin.len() + end.len()) as u64;
    let piece = |piece| stream::once(ready(Ok::<_, io::Error>(piece)));
    let body = Body::from_stream(piece(begin).chain(ReaderStream::new(content)).chain(piece(end)));
    let content_type = format!("multipart/mixed; boundary={boundary}");
    let headers = [(header::CONTENT_TYPE, content_type), (header::CONTENT_LENGTH, bytes.to_string())];
    Ok((headers, body).into_response())
}
