//! The task that looks at canaries: what is not well is rolled back, what was well for long enough is
//! promoted.
//!
//! It looks every [`LOOK_MS`] while there is a canary, and sleeps while there is none. The rule is pure and
//! stands in `insula_model::rollout`; the figures are those of the canary's own slot. Ends with the host.

use crate::deploy::{DeployError, Deployer};
use crate::registry::Canary;
use crate::state::Ended;
use insula_model::DurationMs;
use insula_model::rollout::Verdict;
use std::sync::Arc;
use std::time::Duration;

/// Milliseconds between two looks.
const LOOK_MS: u64 = 200;
/// After a canary could not be ended, the next look comes this much later, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// Looks at canaries until the host ends.
pub(crate) async fn watch(deployer: Arc<Deployer>) {
    loop {
        let canaries = deployer.registry.canaries();
        if canaries.is_empty() {
            deployer.canary_begun.notified().await;
            continue;
        }
        let mut pause_ms = LOOK_MS;
        for canary in canaries {
            if let Err(error) = look(&deployer, &canary).await {
                let tenant = &canary.tenant.entry.name;
                tracing::error!(%tenant, %error, "a canary cannot be ended; tried again");
                pause_ms = RETRY_MS;
            }
        }
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

async fn look(deployer: &Arc<Deployer>, canary: &Arc<Canary>) -> Result<(), DeployError> {
    let seen = canary.seen(&deployer.workers);
    let (ended, reason) = match canary.rollout.judge(&seen) {
        Verdict::TooFew(_) | Verdict::Well => return Ok(()),
        Verdict::Promote => {
            let time = DurationMs(canary.rollout.for_ms.unwrap_or_default());
            let reason = format!(
                "{} of {} requests failed in {time}, no more than {}",
                seen.errors, seen.requests, canary.rollout.max_errors
            );
            (Ended::Promoted, reason)
        }
        Verdict::RollBack(why) => (Ended::RolledBack, why),
    };
    let ending = Arc::clone(deployer).end_judged(Arc::clone(canary), ended, reason);
    match ending.await {
        // Somebody was quicker, or the host ends.
        Err(error) if error.is_over() => Ok(()),
        decided => decided,
    }
}
