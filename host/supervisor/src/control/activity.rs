//! What tenants do, for live views.

use super::App;
use super::body::Asked;
use super::error::ApiError;
use axum::Json;
use axum::extract::State;
use insula_model::Namespace;
use insula_model::api::{Activity, ErrorBody, TenantActivity};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use utoipa::IntoParams;

/// Which tenants are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ActivityQuery {
    /// Only those of this namespace. Default: all.
    #[param(value_type = Option<String>)]
    namespace: Option<Namespace>,
}

/// The host and every tenant that had a request since it started; rates are differences of two answers.
#[utoipa::path(
    get, path = "/v1/activity", tag = "tenants",
    params(ActivityQuery),
    responses(
        (status = 200, description = "Counters and latencies", body = Activity),
        (status = 400, description = "An unknown query, or not a namespace's name", body = ErrorBody),
    )
)]
pub(super) async fn activity(
    State(app): State<Arc<App>>,
    Asked(query): Asked<ActivityQuery>,
) -> Result<Json<Activity>, ApiError> {
    let (workers, registry) = (&app.deployer.workers, &app.deployer.registry);
    let of = |slot| {
        let tenant = registry.by_slot(slot)?;
        if query.namespace.as_ref().is_some_and(|one| tenant.namespace != *one) {
            return None;
        }
        Some(TenantActivity {
            name: tenant.entry.name.clone(),
            namespace: tenant.namespace.clone(),
            revision: tenant.entry.revision,
            memory_limit_bytes: tenant.entry.limits.resources.memory_limit_bytes,
            counters: workers.counters_of(tenant.entry.slot),
            latency: workers.latency_of(tenant.entry.slot),
            breaker: workers.breaker(slot),
        })
    };
    let slots = workers.active().into_iter().map(|slot| registry.counted_in(slot));
    let slots: BTreeSet<u32> = slots.collect();
    let tenants = slots.into_iter().filter_map(of).collect();
    let at_us = insula_sandbox::epoch::monotonic_ns() / 1_000;
    Ok(Json(Activity { at_us, host: app.host_info(), tenants }))
}
