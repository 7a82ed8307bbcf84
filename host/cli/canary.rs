//! Canaries in words, for `ps`, `inspect` and `revisions`.

use crate::text;
use insula_model::DurationMs;
use insula_model::api::{ActiveStatus, CanaryStatus, RolloutInfo, RolloutState};

/// `r5: 5%`.
pub(crate) fn short(canary: &CanaryStatus) -> String {
    format!("r{}: {}", canary.revision, canary.rollout.share)
}

/// Everything about one that runs.
pub(crate) fn about(canary: &CanaryStatus) -> Vec<(&'static str, String)> {
    let rule = &canary.rollout;
    let mut lines = vec![
        ("revision", format!("{}, since {}", canary.revision, text::age(&canary.since))),
        ("artifact", canary.artifact.to_string()),
        ("requests", format!("{} of the tenant's; {} so far", rule.share, canary.requests)),
        ("errors", format!("{}; more than {} roll it back", canary.errors, rule.max_errors)),
    ];
    let p99 = canary.latency.p99_ms.map_or("not known yet".into(), |ms| format!("{ms:.1} ms"));
    let bound = rule.max_latency_ms.map(DurationMs);
    let bound = bound.map(|bound| format!("; more than {bound} rolls it back"));
    lines.push(("99% within", p99 + &bound.unwrap_or_default()));
    lines.push(("meanwhile", meanwhile(&canary.active)));
    if let Some(sticky) = &rule.sticky {
        lines.push(("sticky", sticky.to_string()));
    }
    let promoted = rule.for_ms.map_or("by `insula promote`".into(), |for_ms| {
        let tried = DurationMs(canary.tried_ms / 1_000 * 1_000);
        format!("when it has been well for {}; tried for {tried} so far", DurationMs(for_ms))
    });
    lines.push(("promoted", promoted));
    lines.push(("verdict", text::printable(&canary.verdict)));
    lines
}

/// What the active revision did since it began.
fn meanwhile(active: &ActiveStatus) -> String {
    let ActiveStatus { revision, requests, errors, latency } = active;
    let p99 = latency.p99_ms.map(|ms| format!(", 99% within {ms:.1} ms")).unwrap_or_default();
    let (of, failed) = (text::plural(*requests, "request"), text::plural(*errors, "error"));
    format!("revision {revision}: {requests} {of}, {errors} {failed}{p99}")
}

/// What became of a revision as a canary.
pub(crate) fn outcome(rollout: Option<&RolloutInfo>) -> String {
    let Some(rollout) = rollout else { return String::new() };
    let reason = rollout.reason.as_deref().map(text::printable).unwrap_or_default();
    match rollout.state {
        RolloutState::Running => {
            format!("canary: {}, since {}", rollout.share, text::age(&rollout.started_at))
        }
        RolloutState::Promoted => format!("promoted: {reason}"),
        RolloutState::RolledBack => format!("rolled back: {reason}"),
    }
}
