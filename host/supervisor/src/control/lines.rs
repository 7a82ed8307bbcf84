//! An answer of JSON lines that may never end: of a tenant's log, or of the audit log.
//!
//! When the host ends, so does the answer. When it is upgraded, the answer breaks off in its midst, which tells
//! its client that there is more: a client that knows how far it came takes it up again with the next supervisor.

use super::App;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::io;

const NDJSON: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "application/x-ndjson")];

/// What `reading` holds, piece by piece; `next` gives a piece and the rest.
pub(super) fn answer<R, F>(app: &App, reading: R, next: fn(R) -> F) -> Response
where
    R: Send + 'static,
    F: Future<Output = io::Result<Option<(Vec<u8>, R)>>> + Send + 'static,
{
    let following = (reading, app.ending.clone(), app.upgrader.held());
    let lines = stream::try_unfold(following, move |(reading, mut ending, held)| async move {
        let piece = tokio::select! {
            piece = next(reading) => piece?,
            _ = ending.wait_for(|ending| *ending) => None,
        };
        match piece {
            Some((piece, reading)) => Ok(Some((piece, (reading, ending, held)))),
            None if *ending.borrow() && *held.borrow() => {
                Err(io::Error::other("the host is being upgraded"))
            }
            None => Ok(None),
        }
    });
    (NDJSON, Body::from_stream(lines)).into_response()
}
