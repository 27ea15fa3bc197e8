//! Files of this server, and copies of other servers' files that it holds
//! (server-server API, "Content repository"): `multipart/mixed` of metadata and
//! the file.
//!
//! - `GET …/v1/media/download/{mediaId}`, and `…/thumbnail/…`, which answers the
//!   whole file: who asks can scale it.
//! - `GET …/unstable/org.causeway/media/{origin}/{mediaId}`: a copy of a file
//!   whose origin is gone.

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use causeway_service::error::MatrixError;
use http::{HeaderValue, header};
use ruma::OwnedServerName;

use crate::{
    authenticated::Signed,
    client::escape,
    error::{Refusal, blocking},
    multipart::{self, Part},
    params::Path,
    state::FederationState,
};

pub(super) fn routes() -> Router<FederationState> {
    Router::new()
        .route("/_matrix/federation/v1/media/download/{media_id}", get(own))
        .route("/_matrix/federation/v1/media/thumbnail/{media_id}", get(own))
        .route("/_matrix/federation/unstable/org.causeway/media/{origin}/{media_id}", get(copy))
}

async fn own(
    State(state): State<FederationState>,
    Path(media_id): Path<String>,
    signed: Signed,
) -> Result<Response, Refusal> {
    let server = state.server_name().to_owned();
    let response = file(&state, server, media_id).await;
    drop(signed);
    response
}

async fn copy(
    State(state): State<FederationState>,
    Path((origin, media_id)): Path<(String, String)>,
    signed: Signed,
) -> Result<Response, Refusal> {
    let server = OwnedServerName::try_from(origin)
        .map_err(|_| MatrixError::invalid_param("That is not a server name"))?;
    let response = file(&state, server, media_id).await;
    drop(signed);
    response
}

async fn file(
    state: &FederationState,
    server: OwnedServerName,
    media_id: String,
) -> Result<Response, Refusal> {
    let services = state.services().clone();
    let found = blocking(move || {
        let media = services.media.find(&server, &media_id)?;
        let media = media.ok_or_else(|| MatrixError::not_found("There is no such file"))?;
        let content = services.media.read(&media)?;
        Ok((media, Bytes::from(content)))
    });
    let (media, content) = found.await?;
    let boundary = format!("{:032x}", rand::random::<u128>());
    let disposition = media.filename.as_deref().map_or_else(
        || "inline".to_owned(),
        // The encoded form has room for every name and no room for a line break.
        |name| format!("inline; filename*=utf-8''{}", escape(name)),
    );
    let kind = media.content_type.as_deref().filter(|kind| HeaderValue::from_str(kind).is_ok());
    let parts = [
        Part::new(&[("Content-Type", "application/json")], Bytes::from_static(b"{}")),
        Part::new(
            &[
                ("Content-Type", kind.unwrap_or("application/octet-stream")),
                ("Content-Disposition", &disposition),
            ],
            content,
        ),
    ];
    let body = multipart::write(&parts, &boundary);
    let content_type = format!("multipart/mixed; boundary={boundary}");
    Ok(([(header::CONTENT_TYPE, content_type)], body).into_response())
}
