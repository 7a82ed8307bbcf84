//! Secrets of a tenant's name: set, list, remove. Values come in and never go out.

use super::App;
use super::body::{Bounded, Named, NamedSecret};
use super::error::ApiError;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use insula_model::TenantName;
use insula_model::api::{ErrorBody, SecretInfo};
use insula_model::grants::secrets::{SECRET_BYTES_MAX, SecretValue};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The secrets that were set for a tenant's name, deployed or not. Values are never returned.
#[utoipa::path(
    get, path = "/v1/tenants/{name}/secrets", tag = "secrets",
    params(("name" = String, Path, description = "The tenant")),
    responses(
        (status = 200, description = "By key", body = Vec<SecretInfo>),
        (status = 400, description = "Not a name", body = ErrorBody),
        (status = 404, description = "Neither a tenant nor a secret has this name", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Named(name): Named<TenantName>,
) -> Result<Json<Vec<SecretInfo>>, ApiError> {
    Ok(Json(app.deployer.secrets(name).await?))
}

/// Sets a secret, before or after the tenant's first deploy. When this answers, every instance that
/// starts afterwards gets the new value, if its revision is granted it.
#[utoipa::path(
    put, path = "/v1/tenants/{name}/secrets/{key}", tag = "secrets",
    params(
        ("name" = String, Path, description = "The tenant"),
        ("key" = String, Path, description = "The secret: letters, digits and underscores"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream",
        description = "The value, as it is: UTF-8 without NUL, 1 byte to 32 KiB"),
    responses(
        (status = 204, description = "It is set, and in force"),
        (status = 400, description = "Not a name, or not a value", body = ErrorBody),
        (status = 413, description = "The value, or the tenant's secrets, are above a bound", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn set(
    State(app): State<Arc<App>>,
    NamedSecret(name, key): NamedSecret,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let value = value(body).await?;
    Arc::clone(&app.deployer).set_secret(name, key, value).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads a value. Whatever is wrong with it, no part of it is in the answer.
async fn value(body: Body) -> Result<SecretValue, ApiError> {
    let wrong = |what: &str, mend: &str| Err(ApiError::bad_request(what).hint(mend));
    let mut body = Bounded::new(body, SECRET_BYTES_MAX as u64);
    // As large as it can get, so that no copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX));
    while let Some(chunk) = body.next("the secret").await? {
        bytes.extend_from_slice(&chunk);
    }
    if bytes.is_empty() {
        return wrong("the secret is empty", "send its value as the body");
    }
    if bytes.contains(&0) {
        return wrong("the secret holds a NUL byte", "encode it, in base64 for one");
    }
    match str::from_utf8(&bytes) {
        Ok(text) => Ok(SecretValue::new(text.to_owned())),
        Err(_) => wrong("the secret is not UTF-8", "encode it, in base64 for one"),
    }
}

/// Removes a secret that the tenant's active revision does not get.
#[utoipa::path(
    delete, path = "/v1/tenants/{name}/secrets/{key}", tag = "secrets",
    params(
        ("name" = String, Path, description = "The tenant"),
        ("key" = String, Path, description = "The secret"),
    ),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, description = "Not a name", body = ErrorBody),
        (status = 404, description = "No such secret", body = ErrorBody),
        (status = 409, description = "The active revision gets it", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    NamedSecret(name, key): NamedSecret,
) -> Result<StatusCode, ApiError> {
    Arc::clone(&app.deployer).remove_secret(name, key).await?;
    Ok(StatusCode::NO_CONTENT)
}
