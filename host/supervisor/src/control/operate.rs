//! Repave, stop and start.

use super::App;
use super::body::{Named, Sent};
use super::error::ApiError;
use crate::deploy::Chosen;
use axum::Json;
use axum::extract::State;
use insula_model::api::{
    DRAIN_MS_DEFAULT, DRAIN_MS_MAX, ErrorBody, RepaveRequest, RepaveResponse, StartResponse,
    StopRequest, StopResponse,
};
use insula_model::{Namespace, TenantName};
use std::sync::Arc;
use std::time::Duration;

/// Which tenants a request means.
pub(super) fn chosen(
    tenants: Vec<TenantName>,
    namespace: Option<Namespace>,
    all: bool,
) -> Result<Chosen, ApiError> {
    match (tenants, namespace, all) {
        (tenants, None, false) if !tenants.is_empty() => Ok(Chosen::Names(tenants)),
        (tenants, Some(namespace), false) if tenants.is_empty() => Ok(Chosen::Of(namespace)),
        (tenants, None, true) if tenants.is_empty() => Ok(Chosen::All),
        _ => Err(ApiError::bad_request(
            "which tenants is to be said once: `tenants`, or `namespace`, or `all`",
        )),
    }
}

/// Retires every instance of these tenants and has their code read anew. When this answers, every worker
/// has done so; no request fails for it.
#[utoipa::path(
    post, path = "/v1/repave", tag = "tenants",
    request_body = RepaveRequest,
    responses(
        (status = 200, description = "No request from now on sees what was there before", body = RepaveResponse),
        (status = 400, description = "The request cannot be read", body = ErrorBody),
        (status = 404, description = "No such tenant or namespace; nothing was retired", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
    )
)]
pub(super) async fn repave(
    State(app): State<Arc<App>>,
    Sent(request): Sent<RepaveRequest>,
) -> Result<Json<RepaveResponse>, ApiError> {
    let chosen = chosen(request.tenants, request.namespace, request.all)?;
    Ok(Json(Arc::clone(&app.deployer).repave(chosen).await?))
}

/// Stops a tenant, until it is started: its requests get 503, its schedule does not run, what runs may
/// finish, nothing that is durable goes.
#[utoipa::path(
    post, path = "/v1/tenants/{name}/stop", tag = "tenants",
    params(("name" = String, Path, description = "The tenant")),
    request_body = StopRequest,
    responses(
        (status = 200, description = "No worker runs anything new of it", body = StopResponse),
        (status = 400, description = "The request cannot be read", body = ErrorBody),
        (status = 404, description = "No such tenant", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn stop(
    State(app): State<Arc<App>>,
    Named(name): Named<TenantName>,
    Sent(request): Sent<StopRequest>,
) -> Result<Json<StopResponse>, ApiError> {
    let drain_ms = request.drain_ms.unwrap_or(DRAIN_MS_DEFAULT);
    if drain_ms > DRAIN_MS_MAX {
        let what = format!("`drain_ms` is {drain_ms}, more than {DRAIN_MS_MAX}");
        return Err(ApiError::bad_request(what));
    }
    let drain = Duration::from_millis(drain_ms);
    Ok(Json(Arc::clone(&app.deployer).stop(name, drain).await?))
}

/// Has a stopped tenant served again. When this answers, every worker serves it.
#[utoipa::path(
    post, path = "/v1/tenants/{name}/start", tag = "tenants",
    params(("name" = String, Path, description = "The tenant")),
    responses(
        (status = 200, description = "Every worker serves it", body = StartResponse),
        (status = 400, description = "Not a name", body = ErrorBody),
        (status = 404, description = "No such tenant", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn start(
    State(app): State<Arc<App>>,
    Named(name): Named<TenantName>,
) -> Result<Json<StartResponse>, ApiError> {
    Ok(Json(Arc::clone(&app.deployer).start(name).await?))
}
