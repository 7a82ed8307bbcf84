//! Export and import.

use super::App;
use super::body::{Asked, Bounded, Sent};
use super::error::ApiError;
use super::operate::chosen;
use crate::deploy::Importing;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use insula_model::TenantName;
use insula_model::api::{
    ErrorBody, ErrorCode, ExportRequest, ImportResponse, PASSPHRASE_BYTES, PASSPHRASE_FIELD,
};
use insula_model::grants::secrets::SecretValue;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use tokio::task::spawn_blocking;
use utoipa::IntoParams;

const TAR: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "application/x-tar")];
/// The largest archive that is taken, in bytes; it lies on the disk of the data directory while it is read.
const ARCHIVE_BYTES_MAX: u64 = 256 << 30;
/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// How an archive is taken.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ImportQuery {
    /// The name that its one tenant gets. Default: the one it has.
    #[param(value_type = Option<String>)]
    name: Option<TenantName>,
    /// Whether tenants that are there are made as the archive has them.
    #[serde(default)]
    replace: bool,
    /// Whether tenants are probed first, as by a deploy, and refused if they fail. Default: they are.
    #[serde(default = "yes")]
    probe: bool,
}

fn yes() -> bool {
    true
}

/// A passphrase within its bounds.
fn check_passphrase(passphrase: SecretValue) -> Result<SecretValue, ApiError> {
    if PASSPHRASE_BYTES.contains(&passphrase.reveal().len()) {
        return Ok(passphrase);
    }
    let (least, most) = (PASSPHRASE_BYTES.start(), PASSPHRASE_BYTES.end());
    Err(ApiError::bad_request(format!("a passphrase has {least} to {most} bytes")))
}

/// Tenants as an archive (tar), while they run: revisions, artifacts, stores, and namespaces. The last
/// member is `manifest.json`; an answer that ends without it is not whole.
#[utoipa::path(
    post, path = "/v1/export", tag = "moving",
    request_body = ExportRequest,
    responses(
        (status = 200, description = "The archive, as it is written", body = Vec<u8>, content_type = "application/x-tar"),
        (status = 400, description = "The request cannot be read", body = ErrorBody),
        (status = 404, description = "No such tenant or namespace", body = ErrorBody),
        (status = 429, description = "Too many exports are under way", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
    )
)]
pub(super) async fn export(
    State(app): State<Arc<App>>,
    Sent(request): Sent<ExportRequest>,
) -> Result<Response, ApiError> {
    let chosen = chosen(request.tenants, request.namespace, request.all)?;
    let passphrase = request.passphrase.map(check_passphrase).transpose()?;
    let pieces = Arc::clone(&app.deployer).export(chosen, passphrase).await?;
    let pieces = stream::unfold(pieces, async |mut pieces| Some((pieces.recv().await?, pieces)));
    Ok((TAR, Body::from_stream(pieces)).into_response())
}

/// Takes the tenants of an archive. One that is not whole, was changed or is of a later version changes
/// nothing. Each tenant is imported whole, or refused, such as for a failing probe; the answer says which.
/// Secrets need the field `insula-passphrase`: the passphrase's bytes in hexadecimal digits.
#[utoipa::path(
    post, path = "/v1/import", tag = "moving",
    params(ImportQuery),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses(
        (status = 200, description = "What became of each tenant", body = ImportResponse),
        (status = 400, description = "The request cannot be read", body = ErrorBody),
        (status = 409, description = "The passphrase is missing or wrong", body = ErrorBody),
        (status = 413, description = "The archive is above a bound", body = ErrorBody),
        (status = 422, description = "The archive is not one, not whole, or was changed", body = ErrorBody),
        (status = 429, description = "Another import is under way", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn import(
    State(app): State<Arc<App>>,
    Asked(query): Asked<ImportQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ImportResponse>, ApiError> {
    let passphrase = passphrase(&headers)?;
    let mut body = Bounded::new(body, ARCHIVE_BYTES_MAX);
    let file = match spool(&app, &mut body).await {
        Ok(file) => file,
        Err(error) => {
            body.discard().await;
            return Err(error);
        }
    };
    let ImportQuery { name, replace, probe } = query;
    let importing = Importing { name, replace, unprobed: !probe, passphrase };
    Ok(Json(Arc::clone(&app.deployer).import(file, importing).await?))
}

fn passphrase(headers: &HeaderMap) -> Result<Option<SecretValue>, ApiError> {
    let Some(field) = headers.get(PASSPHRASE_FIELD) else { return Ok(None) };
    let digits = field.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.map(byte).collect();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.ok_or_else(|| {
        ApiError::bad_request(format!("`{PASSPHRASE_FIELD}` is not hexadecimal digits of UTF-8"))
    })?;
    check_passphrase(SecretValue::new(text)).map(Some)
}

/// Writes an archive to a file without a name.
async fn spool(app: &App, body: &mut Bounded) -> Result<File, ApiError> {
    app.deployer.open()?;
    let dir = app.deployer.tenants_dir.clone();
    let made = move || std::fs::create_dir_all(&dir).and_then(|()| tempfile::tempfile_in(&dir));
    let mut file = blocking(made).await?;
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    while let Some(chunk) = body.next("the archive").await? {
        buffer.extend_from_slice(&chunk);
        if buffer.len() >= BUFFER_BYTES {
            (file, buffer) = blocking(move || append(file, buffer)).await?;
        }
    }
    Ok(blocking(move || append(file, buffer)).await?.0)
}

fn append(mut file: File, mut buffer: Vec<u8>) -> io::Result<(File, Vec<u8>)> {
    file.write_all(&buffer)?;
    buffer.clear();
    Ok((file, buffer))
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    spawn_blocking(call).await.map_err(ApiError::internal)?.map_err(|error| {
        ApiError::new(ErrorCode::Storage, format!("the archive cannot be kept: {error}"))
            .hint("free some space on the disk of the data directory; nothing was changed")
    })
}
