//! What stands in a request's path and query, for the handlers of this door.
//!
//! The framework's own extractors answer what they can't read with plain text;
//! these answer with the errors that the specification names. A query is read
//! where a handler asks for it, so after the signature was checked.

use axum::extract::{FromRequestParts, Query};
use causeway_service::error::MatrixError;
use http::{Uri, request::Parts};
use serde::de::DeserializeOwned;

use crate::error::Refusal;

/// The path's parameters, decoded.
#[derive(Clone, Debug)]
pub struct Path<T>(pub T);

impl<T, S> FromRequestParts<S> for Path<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(path)) => Ok(Self(path)),
            Err(_) => Err(MatrixError::invalid_param("The path is not UTF-8").into()),
        }
    }
}

/// The query of `uri` as `T`.
///
/// # Errors
/// `M_MISSING_PARAM` or `M_INVALID_PARAM`.
pub fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, MatrixError> {
    let parsed = Query::try_from_uri(uri).map(|Query(query)| query);
    parsed.map_err(|error| {
        let text = error.body_text();
        if text.contains("missing field") {
            MatrixError::new(400, "M_MISSING_PARAM", text)
        } else {
            MatrixError::invalid_param(text)
        }
    })
}
