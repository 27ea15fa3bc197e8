//! Trying one server after the other.

use std::{collections::HashSet, future::Future};

use causeway_service::error::MatrixError;
use ruma::{OwnedServerName, ServerName};

/// Servers that are tried for one request.
pub const CANDIDATES_MAX: usize = 10;

/// The servers to try: each once, without this one, in order.
pub fn candidates(
    own: &ServerName,
    servers: impl IntoIterator<Item = OwnedServerName>,
) -> Vec<OwnedServerName> {
    let mut seen = HashSet::new();
    servers
        .into_iter()
        .filter(|server| *server != *own && seen.insert(server.clone()))
        .take(CANDIDATES_MAX)
        .collect()
}

/// The first success, or the last failure, preferring one that says why.
pub async fn first<T, F: Future<Output = Result<T, MatrixError>>>(
    servers: &[OwnedServerName],
    mut attempt: impl FnMut(OwnedServerName) -> F,
) -> Result<T, MatrixError> {
    let mut failure: Option<MatrixError> = None;
    for server in servers {
        match attempt(server.clone()).await {
            Ok(done) => return Ok(done),
            Err(error) => {
                let says_why = error.status < 500;
                if says_why || failure.is_none() {
                    failure = Some(error);
                }
            }
        }
    }
    Err(failure
        .unwrap_or_else(|| MatrixError::new(404, "M_NOT_FOUND", "No server is known that could be asked")))
}

#[cfg(test)]
mod tests {
    use ruma::{owned_server_name, server_name};

    use super::*;

    #[tokio::test]
    async fn the_first_success_counts_and_a_reason_outlives_a_silence() {
        let servers = candidates(
            server_name!("me"),
            [
                owned_server_name!("a"),
                owned_server_name!("me"),
                owned_server_name!("a"),
                owned_server_name!("b"),
            ],
        );
        assert_eq!(servers, ["a", "b"]);
        let by_name = |answers: [Result<u8, u16>; 2]| {
            let servers = servers.clone();
            async move {
                first(&servers, |server| {
                    let answer = answers[usize::from(server == "b")];
                    std::future::ready(answer.map_err(|status| MatrixError::new(status, "M_UNKNOWN", "x")))
                })
                .await
                .map_err(|error| error.status)
            }
        };
        assert_eq!(by_name([Err(502), Ok(2)]).await, Ok(2));
        assert_eq!(by_name([Err(403), Err(502)]).await, Err(403));
        assert_eq!(by_name([Err(502), Err(404)]).await, Err(404));
        assert_eq!(
            first::<u8, std::future::Ready<_>>(&[], |_| unreachable!()).await.map_err(|e| e.status),
            Err(404)
        );
    }
}
