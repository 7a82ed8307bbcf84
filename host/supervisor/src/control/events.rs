//! What happens at this moment, as server-sent events.

use super::App;
use super::error::ApiError;
use crate::live::{Watcher, watch};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use insula_model::api::{ErrorBody, ErrorCode, Event};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::watch::Receiver;

const EVENTS: [(HeaderName, &str); 2] =
    [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];

/// All tenants, then once a second what has changed, until the client closes or the host ends.
#[utoipa::path(
    get, path = "/v1/events", tag = "host",
    responses(
        (status = 200, description = "An event `snapshot`, then events `changes`; data is JSON",
            body = Event, content_type = "text/event-stream"),
        (status = 429, description = "Too many watch already", body = ErrorBody),
    )
)]
pub(super) async fn events(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let Some(watcher) = watch(&app).await else {
        return Err(ApiError::new(ErrorCode::Busy, "too many clients watch this host already")
            .hint("close a dashboard, or another client of /v1/events"));
    };
    let frames = stream::unfold((watcher, app.ending.clone()), next);
    Ok((EVENTS, Body::from_stream(frames)).into_response())
}

type Watching = (Watcher, Receiver<bool>);

/// The next frame, or the end when the host ends.
async fn next(
    (mut watcher, mut ending): Watching,
) -> Option<(Result<Bytes, Infallible>, Watching)> {
    let frame = tokio::select! {
        frame = watcher.next() => frame?,
        _ = ending.wait_for(|ending| *ending) => return None,
    };
    Some((Ok(frame), (watcher, ending)))
}
