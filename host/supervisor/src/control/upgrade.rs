//! Upgrades in place.

use super::App;
use super::body::Sent;
use super::error::ApiError;
use crate::upgrade::UpgradeError;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use insula_model::api::{ErrorBody, UpgradePlan, UpgradeRequest};
use std::path::Path;
use std::sync::Arc;

impl From<UpgradeError> for ApiError {
    fn from(error: UpgradeError) -> Self {
        let hint = match &error {
            UpgradeError::Relative(_) => "name it from the root on",
            UpgradeError::UnderWay => "`insula ps --workers` shows when it is over",
            UpgradeError::Unmovable => "start the host with `insula serve` to upgrade it in place",
            UpgradeError::Retiring(_) => {
                "`insula ps --workers` shows them; they end with what runs in them, or after the host's \
                 `--drain`"
            }
            UpgradeError::Draining => "start the new version when it is gone",
            UpgradeError::Unsound { .. } => "nothing was changed: this version serves on",
        };
        Self::new(error.code(), error.to_string()).hint(hint)
    }
}

/// Has another binary take the host over, while it serves. It is tried first; when this answers, the trial
/// went well, and the host is handed over next.
#[utoipa::path(
    post, path = "/v1/host/upgrade", tag = "host",
    request_body = UpgradeRequest,
    responses(
        (status = 202, description = "It goes ahead", body = UpgradePlan),
        (status = 400, description = "Not a path", body = ErrorBody),
        (status = 409, description = "An upgrade is under way, or this host cannot be upgraded", body = ErrorBody),
        (status = 422, description = "The binary is not sound, or not for this host", body = ErrorBody),
        (status = 429, description = "Workers from the upgrade before still run", body = ErrorBody),
        (status = 503, description = "The host is shutting down", body = ErrorBody),
    )
)]
pub(super) async fn upgrade(
    State(app): State<Arc<App>>,
    Sent(request): Sent<UpgradeRequest>,
) -> Result<(StatusCode, Json<UpgradePlan>), ApiError> {
    app.deployer.open()?;
    let binary = request.binary.as_deref().map(Path::new);
    Ok((StatusCode::ACCEPTED, Json(app.upgrader.prepare(binary).await?)))
}
