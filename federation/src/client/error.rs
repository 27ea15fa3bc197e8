//! Why another server's answer can't be had or used, and whose fault that is.

use http::StatusCode;
use ruma::OwnedServerName;

use crate::discovery::DiscoveryError;

/// Why there is no answer, or none that is of use.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's place is unknown.
    #[error("can't find {0}")]
    Discovery(OwnedServerName, #[source] DiscoveryError),
    /// The path is not one, or the body is not canonical JSON.
    #[error("can't make the request")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Who spoke for it does so no longer, as far as can be seen.
    #[error("nobody speaks for {0} any more")]
    Unspoken(OwnedServerName),
    /// This server asked itself.
    #[error("a server doesn't ask itself")]
    Oneself,
    /// No connection, or it broke, or it took too long.
    #[error("no answer from {0}")]
    Transport(OwnedServerName, #[source] reqwest::Error),
    /// The answer is longer than was asked for.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
    /// The answer is an error response.
    #[error("{server} answered {status} {errcode}")]
    Status {
        /// Who answered.
        server: OwnedServerName,
        /// HTTP status.
        status: StatusCode,
        /// `errcode`, empty if there is none.
        errcode: String,
        /// `error`, cut to 256 characters.
        message: String,
        /// How long to wait before asking again, if it says so.
        retry_after_ms: Option<u64>,
    },
    /// The answer is not what it should be.
    #[error("the answer of {0} can't be used: {1}")]
    Answer(OwnedServerName, String),
}

impl ClientError {
    /// Whether the server was not reached or could not serve, as opposed to
    /// having refused.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Discovery(..) | Self::Transport(..) | Self::Unspoken(_) => true,
            Self::Status { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Request(_) | Self::Oneself | Self::TooLarge(_) | Self::Answer(..) => false,
        }
    }

    /// Whether what was sent was refused, or could not be sent, for what it is.
    /// The statuses left out say something of this server or of the endpoint:
    /// not authenticated, not wanted, not there, too slow, too often.
    pub fn is_about_content(&self) -> bool {
        match self {
            Self::Request(_) => true,
            Self::Status { status, .. } => {
                status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 404 | 405 | 408 | 429)
            }
            _ => false,
        }
    }
}
