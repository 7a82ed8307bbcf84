//! Tenants: deploy, list, inspect, roll back, remove.

use super::App;
use super::audit::Note;
use super::body::{Asked, Named, Sent};
use super::error::ApiError;
use crate::deploy::Draft;
use crate::registry::Tenant;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use insula_model::api::{
    DeployRequest, DeployResponse, DurationRange, ErrorBody, RevisionInfo, RollbackRequest,
    TenantDetail, TenantSummary,
};
use insula_model::{Namespace, TenantName};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

/// Which tenants are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TenantQuery {
    /// Only those of this namespace. Default: all.
    #[param(value_type = Option<String>)]
    namespace: Option<Namespace>,
}

fn summary(app: &App, tenant: &Tenant) -> TenantSummary {
    TenantSummary {
        qos: tenant.entry.limits.resources.qos,
        name: tenant.entry.name.clone(),
        namespace: tenant.namespace.clone(),
        revision: tenant.entry.revision,
        kind: tenant.entry.kind,
        artifact: tenant.entry.digest,
        routes: tenant.entry.routes.clone(),
        deployed_at: tenant.deployed_at.clone(),
        stopped_at: tenant.stopped_at.clone(),
        counters: app.deployer.workers.counters_of(tenant),
        latency: app.deployer.workers.latency_of(tenant).quantiles(),
        breaker: app.deployer.workers.breaker(tenant.entry.slot),
        job: app.deployer.jobs.status(tenant.entry.slot),
        canary: app
            .deployer
            .registry
            .canary(&tenant.entry.name)
            .map(|canary| canary.status(&app.deployer.workers)),
    }
}

/// Every tenant, by name.
#[utoipa::path(
    get, path = "/v1/tenants", tag = "tenants",
    params(TenantQuery),
    responses(
        (status = 200, description = "All that were asked for", body = Vec<TenantSummary>),
        (status = 400, description = "An unknown query, or not a namespace's name", body = ErrorBody),
        (status = 404, description = "No such namespace", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Asked(query): Asked<TenantQuery>,
) -> Result<Json<Vec<TenantSummary>>, ApiError> {
    if let Some(namespace) = &query.namespace {
        // A name that was mistyped is not a namespace without tenants.
        app.deployer.namespace(namespace.clone()).await?;
    }
    let tenants = app.deployer.registry.all();
    let tenants = tenants
        .filter(|tenant| query.namespace.as_ref().is_none_or(|one| tenant.namespace == *one));
    Ok(Json(tenants.map(|tenant| summary(&app, &tenant)).collect()))
}

/// Deploys a tenant, or a new revision of it, which it probes first. When this answers, every worker
/// serves it, or gives it its part of the requests as a canary.
#[utoipa::path(
    put, path = "/v1/tenants/{name}", tag = "tenants",
    params(("name" = String, Path, description = "As in the manifest")),
    request_body = DeployRequest,
    responses(
        (status = 200, description = "In force on every worker", body = DeployResponse),
        (status = 400, description = "The request cannot be read, or its names differ", body = ErrorBody),
        (status = 403, description = "The namespace's quota would be passed", body = ErrorBody),
        (status = 404, description = "The artifact was not uploaded, or there is no such namespace", body = ErrorBody),
        (status = 409, description = "Another tenant has a route, a granted secret was never set, a canary runs, or the tenant is in another namespace", body = ErrorBody),
        (status = 413, description = "The request, or the number of tenants, is above a bound", body = ErrorBody),
        (status = 422, description = "Manifest or artifact are refused, or the probe failed", body = ErrorBody),
        (status = 429, description = "Too many deploys wait", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn deploy(
    State(app): State<Arc<App>>,
    Named(name): Named<TenantName>,
    Extension(note): Extension<Arc<Note>>,
    Sent(request): Sent<DeployRequest>,
) -> Result<Json<DeployResponse>, ApiError> {
    note.artifact(request.artifact);
    let deployed = Arc::clone(&app.deployer).deploy(Draft { name, request }).await;
    app.metrics.events.deployed(deployed.as_ref().ok().map(|deployed| deployed.changed));
    let deployed = deployed?;
    note.revision(deployed.revision);
    Ok(Json(deployed))
}

/// Everything about one tenant.
#[utoipa::path(
    get, path = "/v1/tenants/{name}", tag = "tenants",
    params(("name" = String, Path, description = "The tenant")),
    responses(
        (status = 200, description = "The tenant", body = TenantDetail),
        (status = 400, description = "Not a name", body = ErrorBody),
        (status = 404, description = "No such tenant", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
    )
)]
pub(super) async fn inspect(
    State(app): State<Arc<App>>,
    Named(name): Named<TenantName>,
) -> Result<Json<TenantDetail>, ApiError> {
    let deployer = &app.deployer;
    let no_tenant = ApiError::no_tenant(&name);
    let Some(revision) = deployer.state.active(name.clone()).await? else {
        return Err(no_tenant);
    };
    // Looked up second: a deploy in between shows its new figures with the manifest before, for one
    // answer; a removal in between is one.
    let Some(tenant) = deployer.registry.get(&name) else { return Err(no_tenant) };
    let (store, code) = (deployer.store.clone(), tenant.entry.code());
    let code_bytes = tokio::task::spawn_blocking(move || store.code_bytes(&code))
        .await
        .map_err(ApiError::internal)?;
    Ok(Json(TenantDetail {
        summary: summary(&app, &tenant),
        urls: deployer.urls(&tenant.entry.routes),
        limits: tenant.entry.limits.clone(),
        grants: tenant.entry.grants.as_deref().cloned().unwrap_or_default(),
        manifest: revision.manifest,
        artifact_bytes: revision.artifact_bytes,
        code_bytes,
        durations: DurationRange::all(&app.deployer.workers.latency(tenant.entry.slot)),
    }))
}

/// Removes a tenant, its revisions, its secrets and its log. When this answers, no worker serves it.
#[utoipa::path(
    delete, path = "/v1/tenants/{name}", tag = "tenants",
    params(("name" = String, Path, description = "The tenant")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, description = "Not a name", body = ErrorBody),
        (status = 404, description = "No such tenant", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Named(name): Named<TenantName>,
) -> Result<StatusCode, ApiError> {
    Arc::clone(&app.deployer).remove(name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The revisions of a tenant that are kept, newest first.
#[utoipa::path(
    get, path = "/v1/tenants/{name}/revisions", tag = "tenants",
    params(("name" = String, Path, description = "The tenant")),
    responses(
        (status = 200, description = "Newest first", body = Vec<RevisionInfo>),
        (status = 400, description = "Not a name", body = ErrorBody),
        (status = 404, description = "No such tenant", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
    )
)]
pub(super) async fn revisions(
    State(app): State<Arc<App>>,
    Named(name): Named<TenantName>,
) -> Result<Json<Vec<RevisionInfo>>, ApiError> {
    Ok(Json(app.deployer.state.revisions(name).await?))
}

/// Gives a tenant's canary all requests. When this answers, every worker does.
#[utoipa::path(
    post, path = "/v1/tenants/{name}/promote", tag = "tenants",
    params(("name" = String, Path, description = "The tenant")),
    responses(
        (status = 200, description = "In force on every worker", body = DeployResponse),
        (status = 400, description = "Not a name", body = ErrorBody),
        (status = 403, description = "The namespace's quota would be passed", body = ErrorBody),
        (status = 404, description = "No such tenant", body = ErrorBody),
        (status = 409, description = "It has no canary", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn promote(
    State(app): State<Arc<App>>,
    Named(name): Named<TenantName>,
    Extension(note): Extension<Arc<Note>>,
) -> Result<Json<DeployResponse>, ApiError> {
    let promoted = Arc::clone(&app.deployer).promote(name).await?;
    note.revision(promoted.revision);
    Ok(Json(promoted))
}

/// Puts an older revision in force, or ends the canary, if there is one. When this answers, every worker
/// has it so.
#[utoipa::path(
    post, path = "/v1/tenants/{name}/rollback", tag = "tenants",
    params(("name" = String, Path, description = "The tenant")),
    request_body = RollbackRequest,
    responses(
        (status = 200, description = "In force on every worker", body = DeployResponse),
        (status = 400, description = "The request cannot be read", body = ErrorBody),
        (status = 403, description = "The namespace's quota would be passed", body = ErrorBody),
        (status = 404, description = "No such tenant or revision", body = ErrorBody),
        (status = 409, description = "Another tenant has taken a route since, or a secret is gone", body = ErrorBody),
        (status = 422, description = "The artifact cannot be compiled any more, a directory is gone, or the probe failed", body = ErrorBody),
        (status = 429, description = "Too many deploys wait", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn roll_back(
    State(app): State<Arc<App>>,
    Named(name): Named<TenantName>,
    Extension(note): Extension<Arc<Note>>,
    Sent(request): Sent<RollbackRequest>,
) -> Result<Json<DeployResponse>, ApiError> {
    let deployed = Arc::clone(&app.deployer).roll_back(name, request.revision).await;
    app.metrics.events.deployed(deployed.as_ref().ok().map(|deployed| deployed.changed));
    let deployed = deployed?;
    note.revision(deployed.revision);
    Ok(Json(deployed))
}
