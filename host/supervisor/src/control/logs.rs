//! A tenant's log, as one JSON object a line.

use super::App;
use super::body::{Asked, Named};
use super::error::ApiError;
use crate::logs::{Reading, read};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use insula_model::TenantName;
use insula_model::api::{ErrorBody, LogRecord};
use serde::Deserialize;
use std::sync::Arc;
use tokio::sync::watch;
use utoipa::IntoParams;

const NDJSON: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "application/x-ndjson")];

/// What of a log is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// Only so many of the last lines. Default: everything that is kept.
    tail: Option<usize>,
    /// Whether to go on with the lines to come, until the client closes or the tenant is removed.
    #[serde(default)]
    follow: bool,
}

/// A tenant's log: the guest's output, and what the host has to say about it.
#[utoipa::path(
    get, path = "/v1/tenants/{name}/logs", tag = "tenants",
    params(("name" = String, Path, description = "The tenant"), LogQuery),
    responses(
        (status = 200, description = "One record a line, oldest first",
            body = LogRecord, content_type = "application/x-ndjson"),
        (status = 400, description = "Not a name, or an unknown query", body = ErrorBody),
        (status = 404, description = "No such tenant", body = ErrorBody),
        (status = 500, description = "The log cannot be read", body = ErrorBody),
    )
)]
pub(super) async fn logs(
    State(app): State<Arc<App>>,
    Named(name): Named<TenantName>,
    Asked(query): Asked<LogQuery>,
) -> Result<Response, ApiError> {
    if app.deployer.registry.get(&name).is_none() {
        return Err(ApiError::no_tenant(&name));
    }
    let reading = read(&app.deployer.logs, name, query.tail, query.follow).await;
    let reading = reading.map_err(ApiError::internal)?;
    let lines = stream::try_unfold((reading, app.ending.clone()), next);
    Ok((NDJSON, Body::from_stream(lines)).into_response())
}

type Following = (Reading, watch::Receiver<bool>);

/// The next chunk, or the end when the host ends.
async fn next((reading, mut ending): Following) -> std::io::Result<Option<(Vec<u8>, Following)>> {
    let next = tokio::select! {
        next = reading.next() => next?,
        _ = ending.wait_for(|ending| *ending) => None,
    };
    Ok(next.map(|(chunk, reading)| (chunk, (reading, ending))))
}
