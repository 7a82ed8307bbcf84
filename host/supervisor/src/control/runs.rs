//! Runs of jobs: start one now, list them.

use super::App;
use super::body::Named;
use super::error::ApiError;
use crate::jobs::Refused;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use insula_model::TenantName;
use insula_model::api::{ErrorBody, ErrorCode, JobRun};
use std::sync::Arc;

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        let (code, hint) = match refused {
            Refused::NoJob(_) => (
                ErrorCode::Conflict,
                "give it a `schedule`, or send it a request; `insula ps` shows which tenants are jobs",
            ),
            Refused::Runs(..) | Refused::Waits(_) => (
                ErrorCode::Conflict,
                "a job runs once at a time; `insula runs NAME` shows when it has ended",
            ),
            Refused::Busy(_) => (ErrorCode::Busy, "try again when other jobs have ended"),
            Refused::Gone(_) => (ErrorCode::NotFound, "`insula ps` lists the tenants"),
            Refused::Draining => (ErrorCode::Draining, "try again when the host is back"),
            Refused::State(_) => (
                ErrorCode::Storage,
                "free some space on the disk of the data directory; nothing was started",
            ),
        };
        Self::new(code, message).hint(hint)
    }
}

/// Runs a job now, beside its schedule. When this answers, it has started.
#[utoipa::path(
    post, path = "/v1/tenants/{name}/runs", tag = "tenants",
    params(("name" = String, Path, description = "The tenant")),
    responses(
        (status = 202, description = "It runs", body = JobRun),
        (status = 400, description = "Not a name", body = ErrorBody),
        (status = 404, description = "No such tenant", body = ErrorBody),
        (status = 409, description = "It runs already, or is no job", body = ErrorBody),
        (status = 429, description = "No worker has room", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn start(
    State(app): State<Arc<App>>,
    Named(name): Named<TenantName>,
) -> Result<(StatusCode, Json<JobRun>), ApiError> {
    app.deployer.open()?;
    let tenant = app.deployer.registry.get(&name).ok_or_else(|| ApiError::no_tenant(&name))?;
    if tenant.entry.stopped {
        return Err(ApiError::new(ErrorCode::Conflict, format!("`{name}` is stopped"))
            .hint(format!("`insula start {name}` has it run again")));
    }
    let answer = app.deployer.jobs.ask(&tenant)?;
    // Lost only with the board, and so with the host.
    let run = answer.await.unwrap_or(Err(Refused::Draining))?;
    Ok((StatusCode::ACCEPTED, Json(run)))
}

/// The runs of a tenant that are remembered, newest first.
#[utoipa::path(
    get, path = "/v1/tenants/{name}/runs", tag = "tenants",
    params(("name" = String, Path, description = "The tenant")),
    responses(
        (status = 200, description = "Newest first", body = Vec<JobRun>),
        (status = 400, description = "Not a name", body = ErrorBody),
        (status = 404, description = "No such tenant", body = ErrorBody),
        (status = 500, description = "A fault of the host", body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Named(name): Named<TenantName>,
) -> Result<Json<Vec<JobRun>>, ApiError> {
    let deployer = &app.deployer;
    let mut runs = deployer.state.runs(name.clone()).await?;
    // The board knows of an end before it is written.
    let tenant = deployer.registry.get(&name);
    let status = tenant.and_then(|tenant| deployer.jobs.status(tenant.entry.slot));
    if let (Some(newest), Some(last)) = (runs.first_mut(), status.and_then(|status| status.last))
        && newest.run == last.run
    {
        *newest = last;
    }
    Ok(Json(runs))
}
