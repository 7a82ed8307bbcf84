//! What tenants have used.

use super::App;
use super::body::Asked;
use super::error::ApiError;
use crate::clock;
use crate::usage::{HOUR_MS, LedgerError, Query};
use axum::Json;
use axum::extract::State;
use insula_model::TenantName;
use insula_model::api::{ErrorBody, ErrorCode, UsageBy, UsageReport};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

/// Tenants that one query may name.
const TENANTS_MAX: usize = 1_000;

/// Which usage is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageQuery {
    /// Only from this time on (RFC 3339), down to its hour. Default: all that is kept.
    since: Option<String>,
    /// Only before this time (RFC 3339), up to a whole hour. Default: up to now.
    until: Option<String>,
    /// What makes a row. Default: a tenant.
    #[serde(default)]
    by: UsageBy,
    /// Only these tenants, with commas between them; they may be gone.
    tenant: Option<String>,
}

impl From<LedgerError> for ApiError {
    fn from(error: LedgerError) -> Self {
        Self::new(ErrorCode::Storage, error.to_string())
            .hint("look after the disk of the data directory; what is not written yet is kept")
    }
}

fn hour(at: &str) -> Result<u64, ApiError> {
    let ms = clock::to_millis(at);
    ms.ok_or_else(|| ApiError::bad_request(format!("`{at}` is not a time (RFC 3339)")))
}

/// What tenants used, from their first request to this moment: whole hours, exact to the request.
#[utoipa::path(
    get, path = "/v1/usage", tag = "tenants",
    params(UsageQuery),
    responses(
        (status = 200, description = "Sums, by name", body = UsageReport),
        (status = 400, description = "An unknown query, a time that is none, or not a name", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn usage(
    State(app): State<Arc<App>>,
    Asked(query): Asked<UsageQuery>,
) -> Result<Json<UsageReport>, ApiError> {
    let usage = &app.deployer.usage;
    let until = query.until.as_deref().map(hour).transpose()?;
    let until = until.map_or(clock::now_ms() / HOUR_MS + 1, |ms| ms.div_ceil(HOUR_MS));
    let names = query.tenant.iter().flat_map(|all| all.split(','));
    let tenants: Vec<TenantName> = names
        .map(|name| {
            name.parse().map_err(|_| ApiError::bad_request(format!("`{name}` is not a name")))
        })
        .collect::<Result<_, _>>()?;
    if tenants.len() > TENANTS_MAX {
        let message = format!("more than {TENANTS_MAX} tenants are named");
        return Err(ApiError::bad_request(message));
    }
    let since = query.since.as_deref().map(hour).transpose()?.map(|ms| ms / HOUR_MS);
    let by = query.by;
    let rows = usage.report(Query { from: since.unwrap_or(0), until, by, tenants }).await?;
    let from = match since {
        Some(since) => since,
        None => usage.first_hour().await?.unwrap_or(until.saturating_sub(1)),
    };
    Ok(Json(UsageReport {
        since: clock::from_seconds_of(from.saturating_mul(HOUR_MS)),
        until: clock::from_seconds_of(until.saturating_mul(HOUR_MS)),
        rows,
    }))
}
