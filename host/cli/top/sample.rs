//! Two answers of the host, and what happened in between.

use insula_model::api::{Activity, Counters, TenantActivity};
use insula_model::breaker::BreakerState;
use insula_model::{Latency, Namespace, TenantName};
use serde::Serialize;
use std::collections::HashMap;

/// What a tenant is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Refused, because it keeps failing.
    Circuit,
    /// Requests wait in its queue.
    Queued,
    /// Requests run, or ran in the interval.
    Active,
    /// None did.
    Idle,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Circuit => "circuit",
            Self::Queued => "queued",
            Self::Active => "active",
            Self::Idle => "idle",
        }
    }
}

/// One tenant in one interval.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) name: TenantName,
    pub(crate) namespace: Namespace,
    pub(crate) revision: u32,
    pub(crate) requests_per_s: f64,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) cpu_percent: f64,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_limit_bytes: u64,
    pub(crate) fuel_per_s: f64,
    pub(crate) errors_per_s: f64,
    pub(crate) shed_per_s: f64,
    pub(crate) running: u64,
    pub(crate) queued: u64,
    pub(crate) state: State,
    #[serde(skip)]
    pub(crate) latency: Latency,
}

/// All tenants in one interval.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    /// Seconds between the two answers; none if there was but one.
    pub(crate) interval_s: Option<f64>,
    pub(crate) rows: Vec<Row>,
}

impl Sample {
    /// Without an answer before, all rates are zero.
    pub(crate) fn between(before: Option<&Activity>, now: &Activity) -> Self {
        // Another host's clock, and figures, begin anew.
        let before = before
            .filter(|before| before.host.pid == now.host.pid && before.at_us < now.at_us)
            .filter(|before| before.host.started_at == now.host.started_at);
        let interval_s = before.map(|before| seconds(now.at_us - before.at_us));
        let known: HashMap<&str, &TenantActivity> = before
            .iter()
            .flat_map(|before| &before.tenants)
            .map(|tenant| (tenant.name.as_str(), tenant))
            .collect();
        let row = |tenant: &TenantActivity| {
            Row::of(known.get(tenant.name.as_str()).copied(), tenant, interval_s)
        };
        Self { interval_s, rows: now.tenants.iter().map(row).collect() }
    }

    /// A sum over all rows.
    pub(crate) fn sum(&self, of: impl Fn(&Row) -> f64) -> f64 {
        self.rows.iter().map(of).sum()
    }
}

impl Row {
    fn of(before: Option<&TenantActivity>, now: &TenantActivity, interval_s: Option<f64>) -> Self {
        let none = Counters::default();
        let (c, b) = (&now.counters, before.map_or(&none, |before| &before.counters));
        // One that is new in this interval did all of it in there; without an interval nothing is known.
        let rate = |now: u64, before: u64| {
            interval_s.map_or(0.0, |interval_s| as_f64(now.saturating_sub(before)) / interval_s)
        };
        let latency = match (before, interval_s) {
            (Some(before), Some(_)) => now.latency.since(&before.latency),
            (None, Some(_)) => now.latency,
            (_, None) => Latency::default(),
        };
        let quantiles = latency.quantiles();
        let failed = |c: &Counters| {
            c.responses_5xx.saturating_add(c.guest_faults).saturating_add(c.host_faults)
        };
        let requests_per_s = rate(c.requests, b.requests);
        let state = if now.breaker != BreakerState::Closed {
            State::Circuit
        } else if c.queued > 0 {
            State::Queued
        } else if c.running > 0 || requests_per_s > 0.0 || c.shed > b.shed {
            State::Active
        } else {
            State::Idle
        };
        Self {
            name: now.name.clone(),
            namespace: now.namespace.clone(),
            revision: now.revision,
            requests_per_s,
            p50_ms: quantiles.p50_ms,
            p99_ms: quantiles.p99_ms,
            cpu_percent: rate(c.cpu_us, b.cpu_us) / 10_000.0,
            memory_bytes: c.memory_bytes,
            memory_limit_bytes: now.memory_limit_bytes,
            fuel_per_s: rate(c.fuel, b.fuel),
            errors_per_s: rate(failed(c), failed(b)),
            shed_per_s: rate(c.shed, b.shed),
            running: c.running,
            queued: c.queued,
            state,
            latency,
        }
    }
}

fn seconds(us: u64) -> f64 {
    as_f64(us) / 1_000_000.0
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub(crate) fn as_f64(n: u64) -> f64 {
    n as f64
}
