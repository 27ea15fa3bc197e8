//! Files from other servers: from their origin, or from whoever holds a copy.
//!
//! The answer is `multipart/mixed`: metadata, then the file or where it is
//! (server-server API, "Content repository").

use causeway_service::{
    error::MatrixError,
    remote::{ExpectedContent, RemoteMedia},
};
use http::{HeaderMap, Method, header};
use ruma::{MxcUri, OwnedServerName, ServerName};

use super::{
    answer,
    candidates::{candidates, first},
};
use crate::{
    client::{ClientError, Request, Response, escape},
    error::blocking,
    multipart::{self, Part},
    state::FederationState,
};

/// What the parts around a file may add to it, in bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024;

pub(super) async fn media(
    state: &FederationState,
    mxc: &MxcUri,
    holders: Vec<OwnedServerName>,
    expected: &[ExpectedContent],
    bytes_max: u64,
) -> Result<RemoteMedia, MatrixError> {
    let (origin, media_id) =
        mxc.parts().map_err(|_| MatrixError::invalid_param("That is not the address of a file"))?;
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    // Its own server is right about a file, whatever an item says.
    let from_origin = download(state, origin, origin, media_id, bytes_max).await;
    let failure = match from_origin {
        Ok(media) => return Ok(media),
        Err(error) => answer(&error),
    };
    let servers = candidates(state.server_name(), holders.into_iter().filter(|holder| holder != origin));
    // A holder could give anything in the origin's name.
    if servers.is_empty() || expected.is_empty() {
        return Err(failure);
    }
    first(&servers, |server| async move {
        let media = download(state, &server, origin, media_id, bytes_max).await;
        let media = media.map_err(|error| answer(&error))?;
        let (content, expected) = (media.content.clone(), expected.to_vec());
        if blocking(move || Ok(expected.iter().any(|one| one.is(&content)))).await? {
            return Ok(media);
        }
        tracing::warn!(%server, file = %mxc, "a server gave another file than an item says");
        Err(MatrixError::new(502, "M_UNKNOWN", "Another server gave another file than was expected"))
    })
    .await
}

async fn download(
    state: &FederationState,
    server: &ServerName,
    origin: &ServerName,
    media_id: &str,
    bytes_max: usize,
) -> Result<RemoteMedia, ClientError> {
    // A file's origin is asked as the specification has it; a holder has no
    // such endpoint for others' files, so ours is asked of it.
    let path = if server == origin {
        format!("/_matrix/federation/v1/media/download/{}", escape(media_id))
    } else {
        format!("/_matrix/federation/unstable/org.causeway/media/{}/{}", escape(origin), escape(media_id))
    };
    let mut request = Request::new(server, Method::GET, &path);
    request.response_bytes_max = bytes_max.saturating_add(FRAME_BYTES_MAX);
    let response = state.client().send_ok(request).await?;
    let unusable = |what: &str| ClientError::Answer(server.to_owned(), what.to_owned());
    let boundary = content_type(&response.headers).and_then(multipart::boundary);
    let boundary = boundary.ok_or_else(|| unusable("not multipart/mixed"))?;
    let parts = multipart::parse(&response.body, &boundary).ok_or_else(|| unusable("broken multipart"))?;
    let file = parts.into_iter().nth(1).ok_or_else(|| unusable("no file in it"))?;
    if file.body.len() > bytes_max {
        return Err(ClientError::TooLarge(bytes_max));
    }
    match file.header("location") {
        Some(location) => redirected(state, server, &location, bytes_max).await,
        None => Ok(from_part(&file)),
    }
}

async fn redirected(
    state: &FederationState,
    server: &ServerName,
    location: &str,
    bytes_max: usize,
) -> Result<RemoteMedia, ClientError> {
    let Response { status, headers, body } =
        state.client().fetch_unsigned(server, location, bytes_max).await?;
    if !status.is_success() {
        return Err(ClientError::Answer(server.to_owned(), format!("the file's place answered {status}")));
    }
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    Ok(RemoteMedia {
        content_type: text(header::CONTENT_TYPE).map(ToOwned::to_owned),
        content_disposition: text(header::CONTENT_DISPOSITION).map(ToOwned::to_owned),
        content: body,
    })
}

fn from_part(part: &Part) -> RemoteMedia {
    RemoteMedia {
        content_type: part.header("content-type"),
        content_disposition: part.header("content-disposition"),
        content: part.body.clone(),
    }
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
}
