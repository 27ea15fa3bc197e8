//! How a handler becomes a route.
//!
//! The paths (r0, v3, unstable aliases), the method and the authentication come
//! from the metadata of ruma's request type, so a file of handlers only says
//! which function serves which type:
//!
//! ```text
//! pub(crate) fn routes() -> Router<ClientState> {
//!     Router::new().endpoint(whoami).endpoint_async(sync)
//! }
//!
//! fn whoami(state: &ClientState, request: Ruma<whoami::v3::Request>) -> Result<whoami::v3::Response, MatrixError>
//! async fn sync(state: ClientState, request: Ruma<sync_events::v3::Request>) -> Result<…, MatrixError>
//! ```
//!
//! A plain endpoint runs on a blocking thread from authentication on, because
//! services are synchronous. An async one is for what waits: long polls and
//! other servers; it must hand synchronous work to [`blocking`].

use std::{cell::RefCell, pin::Pin};

use axum::{Router, body::Body, response::Response, routing::MethodFilter, routing::on};
use causeway_service::error::MatrixError;
use http::{Method, Request};
use ruma::{
    OwnedRoomId,
    api::{IncomingRequest, path_builder::PathBuilder},
};

use crate::{
    ClientState,
    auth::{Admin, ClientAuth},
    bodies::{self, JSON_BODY_BYTES_MAX, OPEN_BODY_BYTES_MAX},
    frame::{error_response, typed_response},
    guests::Guests,
    long_poll::looking,
    request::{Arrived, Custom, Ruma},
};

/// What a handler gives that need not wait for what it began.
pub enum Answer {
    /// The answer.
    Now(Response),
    /// What waits for it, without a thread.
    Later(Pin<Box<dyn Future<Output = Result<Response, MatrixError>> + Send>>),
}

/// What a request type needs to be served.
pub trait Served:
    IncomingRequest<Authentication: ClientAuth, OutgoingResponse: Send> + Send + 'static
{
}
impl<T> Served for T where
    T: IncomingRequest<Authentication: ClientAuth, OutgoingResponse: Send> + Send + 'static
{
}

/// Adds handlers as routes.
pub trait Endpoints: Sized {
    /// A synchronous handler of ruma's request type `T`.
    #[must_use]
    fn endpoint<T, F>(self, handler: F) -> Self
    where
        T: Served,
        F: Fn(&ClientState, Ruma<T>) -> Result<T::OutgoingResponse, MatrixError>
            + Clone
            + Send
            + Sync
            + 'static;

    /// The same, for an answer that ruma's response type can't carry.
    #[must_use]
    fn endpoint_raw<T, F>(self, handler: F) -> Self
    where
        T: Served,
        F: Fn(&ClientState, Ruma<T>) -> Result<Response, MatrixError> + Clone + Send + Sync + 'static;

    /// A handler that waits; it runs on an async thread.
    #[must_use]
    fn endpoint_async<T, F, A>(self, handler: F) -> Self
    where
        T: Served,
        F: Fn(ClientState, Ruma<T>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<T::OutgoingResponse, MatrixError>> + Send + 'static;

    /// A handler that waits, with an answer that ruma's response type can't carry.
    #[must_use]
    fn endpoint_async_raw<T, F, A>(self, handler: F) -> Self
    where
        T: Served,
        F: Fn(ClientState, Ruma<T>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<Response, MatrixError>> + Send + 'static;

    /// A synchronous handler of paths that ruma doesn't know; needs an access
    /// token. Parameters in `paths` are written `{name}`. Each request counts
    /// against its user's rate limit.
    #[must_use]
    fn custom<F>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(&ClientState, Custom) -> Result<Response, MatrixError> + Clone + Send + Sync + 'static;

    /// The same without a limit: only for what the specification says is not
    /// rate-limited.
    #[must_use]
    fn custom_unlimited<F>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(&ClientState, Custom) -> Result<Response, MatrixError> + Clone + Send + Sync + 'static;

    /// As [`Self::custom_unlimited`], for a handler that may leave the answer to
    /// what it queued.
    #[must_use]
    fn custom_queued_unlimited<F>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(&ClientState, Custom) -> Result<Answer, MatrixError> + Clone + Send + Sync + 'static;

    /// As [`Self::custom_unlimited`], for administrators only.
    #[must_use]
    fn admin<F>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(&ClientState, Custom<Admin>) -> Result<Response, MatrixError> + Clone + Send + Sync + 'static;

    /// As [`Self::admin`], for a handler that waits.
    #[must_use]
    fn admin_async<F, A>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(ClientState, Custom<Admin>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<Response, MatrixError>> + Send + 'static;

    /// As [`Self::custom`], for a path that needs no access token.
    #[must_use]
    fn open<F>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(&ClientState, Custom<()>) -> Result<Response, MatrixError> + Clone + Send + Sync + 'static;

    /// As [`Self::open`], for a handler that waits.
    #[must_use]
    fn open_async<F, A>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(ClientState, Custom<()>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<Response, MatrixError>> + Send + 'static;

    /// As [`Self::custom`], for a handler that waits.
    #[must_use]
    fn custom_async<F, A>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(ClientState, Custom) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<Response, MatrixError>> + Send + 'static;

    /// As [`Self::custom_unlimited`], for a handler that waits.
    #[must_use]
    fn custom_async_unlimited<F, A>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(ClientState, Custom) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<Response, MatrixError>> + Send + 'static;
}

impl Endpoints for Router<ClientState> {
    fn endpoint<T, F>(self, handler: F) -> Self
    where
        T: Served,
        F: Fn(&ClientState, Ruma<T>) -> Result<T::OutgoingResponse, MatrixError>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.endpoint_raw(move |state, request| handler(state, request).map(typed_response))
    }

    fn endpoint_raw<T, F>(self, handler: F) -> Self
    where
        T: Served,
        F: Fn(&ClientState, Ruma<T>) -> Result<Response, MatrixError> + Clone + Send + Sync + 'static,
    {
        let bytes_max = if T::Authentication::OPEN { OPEN_BODY_BYTES_MAX } else { JSON_BODY_BYTES_MAX };
        add(self, bytes_max, &T::METHOD, T::PATH_BUILDER.all_paths(), move |state: ClientState, arrived| {
            let handler = handler.clone();
            let (room, admitting) = (arrived.written_room(), state.clone());
            let admit = move || arrived.typed::<T>(&admitting);
            admitted_in_turn(state.clone(), room, admit, move |request| handler(&state, request))
        })
    }

    fn endpoint_async<T, F, A>(self, handler: F) -> Self
    where
        T: Served,
        F: Fn(ClientState, Ruma<T>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<T::OutgoingResponse, MatrixError>> + Send + 'static,
    {
        self.endpoint_async_raw(move |state, request| {
            let answer = handler(state, request);
            async move { answer.await.map(typed_response) }
        })
    }

    fn endpoint_async_raw<T, F, A>(self, handler: F) -> Self
    where
        T: Served,
        F: Fn(ClientState, Ruma<T>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<Response, MatrixError>> + Send + 'static,
    {
        let bytes_max = if T::Authentication::OPEN { OPEN_BODY_BYTES_MAX } else { JSON_BODY_BYTES_MAX };
        add(self, bytes_max, &T::METHOD, T::PATH_BUILDER.all_paths(), move |state: ClientState, arrived| {
            let handler = handler.clone();
            async move {
                let admitting = state.clone();
                let request = blocking(move || arrived.typed::<T>(&admitting)).await?;
                handler(state, request).await
            }
        })
    }

    fn custom<F>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(&ClientState, Custom) -> Result<Response, MatrixError> + Clone + Send + Sync + 'static,
    {
        add_custom(self, &method, paths, Arrived::counted, handler)
    }

    fn custom_unlimited<F>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(&ClientState, Custom) -> Result<Response, MatrixError> + Clone + Send + Sync + 'static,
    {
        add_custom(self, &method, paths, Arrived::custom, handler)
    }

    fn custom_queued_unlimited<F>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(&ClientState, Custom) -> Result<Answer, MatrixError> + Clone + Send + Sync + 'static,
    {
        add(self, JSON_BODY_BYTES_MAX, &method, paths.iter().copied(), move |state: ClientState, arrived| {
            let handler = handler.clone();
            async move {
                let (room, admitting) = (arrived.written_room(), state.clone());
                let admit = move || arrived.custom(&admitting);
                let answer =
                    admitted_in_turn(state.clone(), room, admit, move |request| handler(&state, request));
                match answer.await? {
                    Answer::Now(response) => Ok(response),
                    Answer::Later(response) => response.await,
                }
            }
        })
    }

    fn admin<F>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(&ClientState, Custom<Admin>) -> Result<Response, MatrixError> + Clone + Send + Sync + 'static,
    {
        add(self, JSON_BODY_BYTES_MAX, &method, paths.iter().copied(), move |state: ClientState, arrived| {
            let handler = handler.clone();
            blocking(move || {
                let request = arrived.admin(&state)?;
                handler(&state, request)
            })
        })
    }

    fn admin_async<F, A>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(ClientState, Custom<Admin>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<Response, MatrixError>> + Send + 'static,
    {
        add(self, JSON_BODY_BYTES_MAX, &method, paths.iter().copied(), move |state: ClientState, arrived| {
            let handler = handler.clone();
            async move {
                let admitting = state.clone();
                let request = blocking(move || arrived.admin(&admitting)).await?;
                handler(state, request).await
            }
        })
    }

    fn open<F>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(&ClientState, Custom<()>) -> Result<Response, MatrixError> + Clone + Send + Sync + 'static,
    {
        add(self, OPEN_BODY_BYTES_MAX, &method, paths.iter().copied(), move |state: ClientState, arrived| {
            let handler = handler.clone();
            blocking(move || {
                let request = arrived.open(&state)?;
                handler(&state, request)
            })
        })
    }

    fn open_async<F, A>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(ClientState, Custom<()>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<Response, MatrixError>> + Send + 'static,
    {
        add(self, OPEN_BODY_BYTES_MAX, &method, paths.iter().copied(), move |state: ClientState, arrived| {
            let handler = handler.clone();
            async move { handler(state.clone(), arrived.open(&state)?).await }
        })
    }

    fn custom_async<F, A>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(ClientState, Custom) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<Response, MatrixError>> + Send + 'static,
    {
        add(self, JSON_BODY_BYTES_MAX, &method, paths.iter().copied(), move |state: ClientState, arrived| {
            let handler = handler.clone();
            async move {
                let admitting = state.clone();
                let request = blocking(move || arrived.counted(&admitting)).await?;
                handler(state, request).await
            }
        })
    }

    fn custom_async_unlimited<F, A>(self, method: Method, paths: &[&str], handler: F) -> Self
    where
        F: Fn(ClientState, Custom) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<Response, MatrixError>> + Send + 'static,
    {
        add(self, JSON_BODY_BYTES_MAX, &method, paths.iter().copied(), move |state: ClientState, arrived| {
            let handler = handler.clone();
            async move {
                let admitting = state.clone();
                // What polls comes in bursts: see there.
                let request = looking(move || arrived.custom(&admitting)).await?;
                handler(state, request).await
            }
        })
    }
}

/// From what arrived to what a custom handler takes.
type Admit = fn(Arrived, &ClientState) -> Result<Custom, MatrixError>;

fn add_custom<F>(
    router: Router<ClientState>,
    method: &Method,
    paths: &[&str],
    admit: Admit,
    handler: F,
) -> Router<ClientState>
where
    F: Fn(&ClientState, Custom) -> Result<Response, MatrixError> + Clone + Send + Sync + 'static,
{
    add(router, JSON_BODY_BYTES_MAX, method, paths.iter().copied(), move |state: ClientState, arrived| {
        let handler = handler.clone();
        let (room, admitting) = (arrived.written_room(), state.clone());
        let admit = move || admit(arrived, &admitting);
        admitted_in_turn(state.clone(), room, admit, move |request| handler(&state, request))
    })
}

/// Runs synchronous work on a blocking thread; a panic in it is a 500.
pub async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, MatrixError> + Send + 'static,
) -> Result<R, MatrixError> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(error) => Err(MatrixError::internal(&error)),
    }
}

/// When who finds too many waiting for a room may ask again.
const RETRY_AFTER_MS: u64 = 2_000;

/// The same for work that writes to a room, if it does: when it is the room's turn.
pub(crate) async fn in_turn<R: Send + 'static>(
    state: ClientState,
    room: Option<OwnedRoomId>,
    work: impl FnOnce() -> Result<R, MatrixError> + Send + 'static,
) -> Result<R, MatrixError> {
    admitted_in_turn(state, room, || Ok(()), move |()| work()).await
}

/// The same, of what is to be admitted first: nobody waits for a room who is not known, or asks too often.
async fn admitted_in_turn<A: Send + 'static, R: Send + 'static>(
    state: ClientState,
    room: Option<OwnedRoomId>,
    admit: impl FnOnce() -> Result<A, MatrixError> + Send + 'static,
    work: impl FnOnce(A) -> Result<R, MatrixError> + Send + 'static,
) -> Result<R, MatrixError> {
    let Some(room) = room else { return blocking(move || work(admit()?)).await };
    // Who asked may be gone before the work is done.
    if let Some(turn) = state.rooms.turn_now(&room) {
        return blocking(move || {
            let _turn = turn;
            work(admit()?)
        })
        .await;
    }
    let admitted = blocking(admit).await?;
    let Some(turn) = state.rooms.client_turn(&room).await else {
        let refused = MatrixError::new(429, "M_LIMIT_EXCEEDED", "Too many wait to write to this room");
        return Err(refused.with("retry_after_ms", RETRY_AFTER_MS));
    };
    blocking(move || {
        let _turn = turn;
        work(admitted)
    })
    .await
}

thread_local! {
    /// Where [`add`] notes what it serves, while somebody asks.
    static SERVED: RefCell<Option<Vec<(Method, String)>>> = const { RefCell::new(None) };
}

/// What `routes` serves: each method and path, parameters as `{name}`.
pub(crate) fn served(routes: impl FnOnce() -> Router<ClientState>) -> Vec<(Method, String)> {
    SERVED.replace(Some(Vec::new()));
    let _routes = routes();
    SERVED.take().unwrap_or_default()
}

/// Notes for [`served`] what is served by other means than these.
pub(crate) fn note(method: &Method, path: &str) {
    SERVED.with_borrow_mut(|served| {
        if let Some(served) = served {
            served.push((method.clone(), path.to_owned()));
        }
    });
}

fn add<'a, F, A>(
    mut router: Router<ClientState>,
    bytes_max: usize,
    method: &Method,
    paths: impl Iterator<Item = &'a str>,
    serve: F,
) -> Router<ClientState>
where
    F: Fn(ClientState, Arrived) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<Response, MatrixError>> + Send,
{
    let filter = MethodFilter::try_from(method.clone()).expect("the Matrix API uses common methods only");
    for path in paths {
        note(method, path);
        let serve = serve.clone();
        let guests = Guests::of(method, &positional(path));
        let bytes_max = bodies::bytes_max(method, &positional(path), bytes_max);
        let handler = move |state: axum::extract::State<ClientState>, request: Request<Body>| async move {
            let axum::extract::State(state) = state;
            let trust = state.settings.rate_limits.trust_forwarded_for;
            let result = match Arrived::read(request, bytes_max, trust, guests).await {
                Ok(arrived) => serve(state, arrived).await,
                Err(error) => Err(error),
            };
            result.unwrap_or_else(|error| error_response(&error))
        };
        router = router.route(&positional(path), on(filter, handler));
    }
    router
}

/// Renames `{anything}` to its place, because the router refuses two names for
/// the same place and ruma's types don't always agree on one.
pub(crate) fn positional(path: &str) -> String {
    let mut place = 0;
    let segments = path.split('/').map(|segment| {
        if segment.starts_with('{') {
            place += 1;
            format!("{{p{place}}}")
        } else {
            segment.to_owned()
        }
    });
    segments.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_named_by_their_place() {
        assert_eq!(positional("/a/{room_id}/b/{type}/"), "/a/{p1}/b/{p2}/");
        assert_eq!(positional("/versions"), "/versions");
    }
}
