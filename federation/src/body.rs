//! Reading answers of other servers without taking more than was asked for.

use bytes::Bytes;

/// Why a body was not read to its end.
#[derive(Debug)]
pub enum ReadError {
    /// It is longer than allowed.
    TooLarge,
    /// The connection broke.
    Transport(reqwest::Error),
}

/// Reads at most `bytes_max`; what a server announces is refused before it is read.
pub async fn read_bounded(mut response: reqwest::Response, bytes_max: usize) -> Result<Bytes, ReadError> {
    let announced = response.content_length().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if announced.is_some_and(|length| length > bytes_max) {
        return Err(ReadError::TooLarge);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(ReadError::Transport)? {
        if body.len() + chunk.len() > bytes_max {
            return Err(ReadError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}
