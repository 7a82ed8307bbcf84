//! A tenant's log, as one JSON object a line.

use super::App;
use super::body::{Asked, Named};
use super::error::ApiError;
use super::lines;
use crate::clock;
use crate::logs::{Asked as Wanted, Cursor, Filter, Kind, Reading, pattern, read};
use axum::extract::State;
use axum::response::Response;
use insula_model::TenantName;
use insula_model::api::{ErrorBody, LogRecord, LogStream};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

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
    /// Whether the access log is wanted: AccessRecord, in place of LogRecord.
    #[serde(default)]
    access: bool,
    /// Only from this time on (RFC 3339).
    since: Option<String>,
    /// Only before this time (RFC 3339).
    until: Option<String>,
    /// Only lines whose text matches this regular expression; of the access log, whose JSON does.
    grep: Option<String>,
    /// Only these streams, with commas between them.
    stream: Option<String>,
    /// Only lines of this request.
    request: Option<String>,
    /// Only lines of this revision.
    revision: Option<u32>,
    /// Whether to say in between, in lines of their own, how far one has come: `{"cursor":"…"}`.
    #[serde(default)]
    cursors: bool,
    /// Only what follows this cursor, in place of `tail`.
    #[param(value_type = Option<String>)]
    after: Option<Cursor>,
}

impl LogQuery {
    fn filter(&self) -> Result<Filter, ApiError> {
        let time = |at: &Option<String>| match at {
            None => Ok(None),
            Some(at) => match clock::to_millis(at) {
                Some(ms) => Ok(Some(clock::from_millis(ms))),
                None => Err(ApiError::bad_request(format!("`{at}` is not a time (RFC 3339)"))),
            },
        };
        let stream = |word: &str| match word {
            "stdout" => Ok(LogStream::Stdout),
            "stderr" => Ok(LogStream::Stderr),
            "host" => Ok(LogStream::Host),
            _ => Err(ApiError::bad_request(format!("`{word}` is none of stdout, stderr, host"))),
        };
        let grep = self.grep.as_deref().map(pattern).transpose();
        Ok(Filter {
            since: time(&self.since)?,
            until: time(&self.until)?,
            grep: grep.map_err(|why| {
                ApiError::bad_request(why).hint("https://docs.rs/regex has the syntax")
            })?,
            streams: self
                .stream
                .iter()
                .flat_map(|all| all.split(','))
                .map(stream)
                .collect::<Result<_, _>>()?,
            request: self.request.clone(),
            revision: self.revision,
        })
    }
}

/// A tenant's log: the guest's output, and what the host has to say about it.
#[utoipa::path(
    get, path = "/v1/tenants/{name}/logs", tag = "tenants",
    params(("name" = String, Path, description = "The tenant"), LogQuery),
    responses(
        (status = 200, description = "One record a line, oldest first; an AccessRecord with `access`",
            body = LogRecord, content_type = "application/x-ndjson"),
        (status = 400, description = "Not a name, or an unknown query, a time, stream, pattern or cursor that is none", body = ErrorBody),
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
    let wanted = Wanted {
        kind: if query.access { Kind::Access } else { Kind::Lines },
        lines: query.tail,
        follow: query.follow,
        cursors: query.cursors,
        after: query.after,
        filter: query.filter()?,
    };
    let reading = read(&app.deployer.logs, name, wanted).await;
    let reading = reading.map_err(ApiError::internal)?;
    Ok(lines::answer(&app, reading, Reading::next))
}
