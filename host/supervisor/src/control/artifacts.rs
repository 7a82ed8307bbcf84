//! Artifacts: is the upload needed, and the upload.

use super::App;
use super::body::{Bounded, Named};
use super::error::ApiError;
use crate::deploy::{store_code, store_mend};
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use insula_model::Digest;
use insula_model::api::{ErrorBody, ErrorCode};
use insula_sandbox::store::{StoreError, Upload};
use std::sync::Arc;

/// Bytes gathered before they are written: fewer, larger trips to the blocking threads.
const BUFFER_BYTES: usize = 1 << 20;

/// Whether an artifact is on this host.
#[utoipa::path(
    head, path = "/v1/artifacts/{digest}", tag = "artifacts",
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits")),
    responses(
        (status = 200, description = "It is here"),
        (status = 400, description = "Not a digest"),
        (status = 404, description = "It is not here: upload it"),
    )
)]
pub(super) async fn look(
    State(app): State<Arc<App>>,
    Named(digest): Named<Digest>,
) -> Result<StatusCode, ApiError> {
    let store = app.deployer.store.clone();
    let there = blocking(move || Ok(store.has_artifact(&digest))).await?;
    if there {
        return Ok(StatusCode::OK);
    }
    Err(ApiError::new(ErrorCode::NotFound, format!("artifact {digest} is not on this host"))
        .hint("upload it with PUT"))
}

/// Uploads an artifact: its bytes, under the digest they have.
#[utoipa::path(
    put, path = "/v1/artifacts/{digest}", tag = "artifacts",
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits")),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses(
        (status = 200, description = "It was here already"),
        (status = 201, description = "It is here now"),
        (status = 400, description = "Not a digest, or the body broke off", body = ErrorBody),
        (status = 413, description = "More than the `artifact` ceiling", body = ErrorBody),
        (status = 422, description = "The bytes have another digest", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn upload(
    State(app): State<Arc<App>>,
    Named(digest): Named<Digest>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let ceiling = app.deployer.ceilings.artifact.0;
    let mut body = Bounded::new(body, ceiling);
    match store(&app, digest, &mut body).await {
        Ok(true) => Ok(StatusCode::CREATED),
        Ok(false) => Ok(StatusCode::OK),
        Err(error) => {
            body.discard().await;
            Err(error)
        }
    }
}

/// Streams a body to disk; whether the artifact is new.
async fn store(app: &App, digest: Digest, body: &mut Bounded) -> Result<bool, ApiError> {
    app.deployer.open()?;
    // If the same artifact is being forgotten at this moment, it stays.
    let _pin = app.deployer.keeper.pin(digest);
    let store = app.deployer.store.clone();
    let mut upload = blocking(move || store.upload()).await?;
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    while let Some(chunk) = body.next("the artifact").await.map_err(ceiling_hint)? {
        buffer.extend_from_slice(&chunk);
        if buffer.len() >= BUFFER_BYTES {
            (upload, buffer) = blocking(move || append(upload, buffer)).await?;
        }
    }
    blocking(move || append(upload, buffer)?.0.finish(&digest)).await
}

fn append(mut upload: Upload, mut buffer: Vec<u8>) -> Result<(Upload, Vec<u8>), StoreError> {
    upload.write(&buffer)?;
    buffer.clear();
    Ok((upload, buffer))
}

/// A too large artifact has a mend of its own.
fn ceiling_hint(error: ApiError) -> ApiError {
    match error.code() {
        ErrorCode::TooLarge => error.hint(
            "strip it (`wasm-tools strip`, `opt-level = \"s\"`), or have the operator raise `ceilings.artifact`",
        ),
        _ => error,
    }
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ApiError> {
    let result = tokio::task::spawn_blocking(call).await.map_err(ApiError::internal)?;
    result.map_err(|error| match &error {
        StoreError::DigestMismatch { actual, .. } => {
            let hint = format!(
                "send the same bytes to /v1/artifacts/{actual}, or find out who changed them"
            );
            ApiError::new(store_code(&error), error.to_string()).hint(hint)
        }
        StoreError::Io { .. } => ApiError::new(store_code(&error), error.to_string())
            .hint(store_mend(&error).unwrap_or_default()),
        _ => ApiError::new(store_code(&error), error.to_string())
            .hint("free some space on the disk of the data directory; nothing was stored"),
    })
}
