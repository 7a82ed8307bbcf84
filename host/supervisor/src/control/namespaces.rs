//! Namespaces: set, list, show, remove.

use super::App;
use super::body::{Named, Sent};
use super::error::ApiError;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use insula_model::Namespace;
use insula_model::api::{ErrorBody, NamespaceInfo};
use insula_model::quota::QuotaSpec;
use std::sync::Arc;

/// Every namespace, by name: its quota, and what its tenants have of it.
#[utoipa::path(
    get, path = "/v1/namespaces", tag = "namespaces",
    responses(
        (status = 200, description = "All of them", body = Vec<NamespaceInfo>),
        (status = 500, description = "A fault of the host", body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
) -> Result<Json<Vec<NamespaceInfo>>, ApiError> {
    Ok(Json(app.deployer.namespaces().await?))
}

/// One namespace.
#[utoipa::path(
    get, path = "/v1/namespaces/{name}", tag = "namespaces",
    params(("name" = String, Path, description = "The namespace")),
    responses(
        (status = 200, description = "Its quota, and what its tenants have of it", body = NamespaceInfo),
        (status = 400, description = "Not a name", body = ErrorBody),
        (status = 404, description = "No such namespace", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
    )
)]
pub(super) async fn inspect(
    State(app): State<Arc<App>>,
    Named(name): Named<Namespace>,
) -> Result<Json<NamespaceInfo>, ApiError> {
    Ok(Json(app.deployer.namespace(name).await?))
}

/// Makes a namespace, or gives one another quota: what is left out has no bound. A quota may be below
/// what the tenants have already; then it refuses what would add to it.
#[utoipa::path(
    put, path = "/v1/namespaces/{name}", tag = "namespaces",
    params(("name" = String, Path, description = "1 to 63 lower-case letters, digits and hyphens")),
    request_body = QuotaSpec,
    responses(
        (status = 200, description = "It is so from now on", body = NamespaceInfo),
        (status = 400, description = "Not a name, or the quota cannot be read", body = ErrorBody),
        (status = 413, description = "The request, or the number of namespaces, is above a bound", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn set(
    State(app): State<Arc<App>>,
    Named(name): Named<Namespace>,
    Sent(quota): Sent<QuotaSpec>,
) -> Result<Json<NamespaceInfo>, ApiError> {
    Ok(Json(Arc::clone(&app.deployer).set_namespace(name, quota.into()).await?))
}

/// Removes a namespace that has no tenants; never `default`.
#[utoipa::path(
    delete, path = "/v1/namespaces/{name}", tag = "namespaces",
    params(("name" = String, Path, description = "The namespace")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, description = "Not a name", body = ErrorBody),
        (status = 404, description = "No such namespace", body = ErrorBody),
        (status = 409, description = "It has tenants, or is `default`", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Named(name): Named<Namespace>,
) -> Result<StatusCode, ApiError> {
    Arc::clone(&app.deployer).remove_namespace(name).await?;
    Ok(StatusCode::NO_CONTENT)
}
