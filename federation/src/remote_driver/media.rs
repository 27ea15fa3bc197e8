//! Files from other servers: from their origin, or from whoever holds a copy.
//!
//! The answer is `multipart/mixed`: metadata, then the file or where it is
//! (server-server API, "Content repository"). Invariant: a file goes to disk as it
//! comes; no more of it is held in memory than [`PIECE_BYTES`] and what the
//! connection gives at once, and no more is taken than was asked for.

use bytes::{Bytes, BytesMut};
use causeway_service::{
    error::MatrixError,
    media::Upload,
    remote::{ExpectedContent, RemoteMedia},
};
use http::{HeaderMap, Method, header};
use ruma::{MxcUri, OwnedServerName, ServerName};

use super::{
    answer,
    candidates::{candidates, first},
};
use crate::{
    client::{ClientError, Coming, Request, escape},
    error::blocking,
    multipart::{self, Found, Reader},
    state::FederationState,
};

/// What the parts around a file may add to it, in bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024;
/// How much of a file is gathered before it is written.
const PIECE_BYTES: usize = 256 * 1024;
/// Which part the file is.
const FILE_PART: usize = 2;

pub(super) async fn media(
    state: &FederationState,
    mxc: &MxcUri,
    holders: Vec<OwnedServerName>,
    expected: &[ExpectedContent],
    bytes_max: u64,
) -> Result<RemoteMedia, MatrixError> {
    let (origin, media_id) =
        mxc.parts().map_err(|_| MatrixError::invalid_param("That is not the address of a file"))?;
    let wanted = Wanted { origin, media_id, bytes_max };
    // Its own server is right about a file, whatever an item says.
    let failure = match download(state, origin, wanted).await {
        Ok(media) => return Ok(media),
        Err(error) => error,
    };
    let servers = candidates(state.server_name(), holders.into_iter().filter(|holder| holder != origin));
    // A holder could give anything in the origin's name.
    if servers.is_empty() || expected.is_empty() {
        return Err(failure);
    }
    first(&servers, |server| async move {
        let media = download(state, &server, wanted).await?;
        if expected.iter().any(|one| one.is(&media.content)) {
            return Ok(media);
        }
        tracing::warn!(%server, file = %mxc, "a server gave another file than an item says");
        Err(MatrixError::new(502, "M_UNKNOWN", "Another server gave another file than was expected"))
    })
    .await
}

/// Which file, and how large it may be.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    origin: &'a ServerName,
    media_id: &'a str,
    bytes_max: u64,
}

async fn download(
    state: &FederationState,
    server: &ServerName,
    wanted: Wanted<'_>,
) -> Result<RemoteMedia, MatrixError> {
    let Wanted { origin, media_id, bytes_max } = wanted;
    // A file's origin is asked as the specification has it; a holder has no
    // such endpoint for others' files, so ours is asked of it.
    let path = if server == origin {
        format!("/_matrix/federation/v1/media/download/{}", escape(media_id))
    } else {
        format!("/_matrix/federation/unstable/org.causeway/media/{}/{}", escape(origin), escape(media_id))
    };
    let mut request = Request::new(server, Method::GET, &path);
    request.response_bytes_max = whole(bytes_max).saturating_add(FRAME_BYTES_MAX);
    let mut coming = state.client().stream_ok(request).await.map_err(|error| answer(&error))?;
    let unusable = |what: &str| answer(&ClientError::Answer(server.to_owned(), what.to_owned()));
    let boundary = text(&coming.headers, header::CONTENT_TYPE);
    let boundary = boundary.as_deref().and_then(multipart::boundary);
    let mut reader = Reader::new(&boundary.ok_or_else(|| unusable("not multipart/mixed"))?);
    let (mut parts, mut file) = (0, None);
    while let Some(piece) = coming.piece().await.map_err(|error| answer(&error))? {
        reader.feed(&piece);
        while let Some(found) = reader.read().map_err(|_| unusable("broken multipart"))? {
            match (found, file.as_mut()) {
                (Found::Part(headers), _) => {
                    parts += 1;
                    if parts == FILE_PART {
                        if let Some(location) = headers.value("location") {
                            return redirected(state, server, &location, bytes_max).await;
                        }
                        let labels = ["content-type", "content-disposition"].map(|name| headers.value(name));
                        file = Some(File::begin(state, labels, bytes_max).await?);
                    }
                }
                (Found::Content(content), Some(file)) => file.write(&content).await?,
                (Found::Content(_), None) => {}
                (Found::PartEnd, _) => {
                    if let Some(file) = file.take() {
                        return file.finish().await;
                    }
                }
                (Found::End, _) => return Err(unusable("no file in it")),
            }
        }
    }
    Err(unusable("it breaks off"))
}

async fn redirected(
    state: &FederationState,
    server: &ServerName,
    location: &str,
    bytes_max: u64,
) -> Result<RemoteMedia, MatrixError> {
    let coming = state.client().stream_unsigned(server, location, whole(bytes_max)).await;
    let mut coming: Coming = coming.map_err(|error| answer(&error))?;
    let labels = [header::CONTENT_TYPE, header::CONTENT_DISPOSITION].map(|name| text(&coming.headers, name));
    let mut file = File::begin(state, labels, bytes_max).await?;
    while let Some(piece) = coming.piece().await.map_err(|error| answer(&error))? {
        file.write(&piece).await?;
    }
    file.finish().await
}

/// A file that is being written.
struct File {
    /// Moves to a blocking thread and back.
    upload: Option<Upload>,
    gathered: BytesMut,
    content_type: Option<String>,
    content_disposition: Option<String>,
}

impl File {
    /// Of this type and disposition.
    async fn begin(
        state: &FederationState,
        [content_type, content_disposition]: [Option<String>; 2],
        bytes_max: u64,
    ) -> Result<Self, MatrixError> {
        let services = state.services().clone();
        let upload = blocking(move || services.media.begin_up_to(bytes_max)).await?;
        Ok(Self { upload: Some(upload), gathered: BytesMut::new(), content_type, content_disposition })
    }

    async fn write(&mut self, piece: &[u8]) -> Result<(), MatrixError> {
        self.gathered.extend_from_slice(piece);
        if self.gathered.len() >= PIECE_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), MatrixError> {
        let piece: Bytes = self.gathered.split().freeze();
        if let Some(mut upload) = self.upload.take() {
            self.upload = Some(blocking(move || upload.write(&piece).map(|()| upload)).await?);
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<RemoteMedia, MatrixError> {
        self.flush().await?;
        let Self { upload, content_type, content_disposition, .. } = self;
        // Only a write that failed keeps it, and that ended the download.
        let content = upload.ok_or_else(|| MatrixError::new(502, "M_UNKNOWN", "The file can't be kept"))?;
        Ok(RemoteMedia { content_type, content_disposition, content })
    }
}

fn whole(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned)
}
