//! The host itself: what it is, whether it lives, whether it serves.

use super::App;
use super::error::ApiError;
use axum::Json;
use axum::extract::State;
use insula_model::api::{ErrorBody, ErrorCode, HostInfo};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl App {
    /// The host as it is now.
    pub(crate) fn host_info(&self) -> HostInfo {
        HostInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            metrics: self.metrics_listen.map(|at| at.to_string()),
            listen: self.deployer.listen.to_string(),
            data: self.data.to_string_lossy().into_owned(),
            started_at: self.started_at.clone(),
            tenants: self.deployer.registry.len(),
            workers: self.deployer.workers.infos(),
            ceilings: self.deployer.ceilings.clone(),
            memory: self.deployer.workers.memory(),
            retiring: self.deployer.workers.retiring(),
            upgrade: self.upgrader.last(),
        }
    }
}

/// What this host is.
#[utoipa::path(
    get, path = "/v1/host", tag = "host",
    responses((status = 200, description = "Host and workers", body = HostInfo))
)]
pub(super) async fn host(State(app): State<Arc<App>>) -> Json<HostInfo> {
    Json(app.host_info())
}

/// Whether the supervisor answers at all.
#[utoipa::path(
    get, path = "/healthz", tag = "host",
    responses((status = 200, description = "It does", body = String, content_type = "text/plain"))
)]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether tenants are served: every worker has started, one serves, and no shutdown has begun.
#[utoipa::path(
    get, path = "/readyz", tag = "host",
    responses(
        (status = 200, description = "They are", body = String, content_type = "text/plain"),
        (status = 503, description = "Not yet, or not any more", body = ErrorBody),
    )
)]
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, ApiError> {
    app.deployer.open()?;
    if !app.ready.load(Ordering::SeqCst) || !app.deployer.workers.any_serving() {
        return Err(ApiError::new(ErrorCode::Draining, "no worker serves yet")
            .hint("`insula ps` and the host's log say how the workers are"));
    }
    Ok("ready\n")
}
