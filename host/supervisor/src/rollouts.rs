//! The task that looks at canaries: what is not well is rolled back, what was well for long enough is
//! promoted.
//!
//! It looks every [`LOOK_MS`] while there is a canary, and sleeps while there is none. The rule is pure and
//! stands in `insula_model::rollout`; the figures are those of the canary's own slot, and those that hosts
//! before this one have counted ([`Counted`]). They are written down every [`WRITE_MS`], when the host ends and
//! when it is handed over, so that a canary goes on where it was. Ends with the host.
//!
//! A decision is recorded in the audit log before it is carried out and when it was, as what people ask for is;
//! one that cannot be recorded is not carried out.

use crate::audit::{Audit, by_host};
use crate::deploy::{DeployError, Deployer};
use crate::registry::{Canary, Done};
use crate::state::{Ended, StateError};
use insula_model::api::{AuditEvent, AuditStage};
use insula_model::rollout::Verdict;
use insula_model::{DurationMs, TenantName};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Milliseconds between two looks.
const LOOK_MS: u64 = 200;
/// After a canary could not be ended, the next look comes this much later, in milliseconds.
const RETRY_MS: u64 = 1_000;
/// Milliseconds between two times that what was counted is written down: what a host that is killed loses.
const WRITE_MS: u64 = 10_000;

/// What was counted of a canary up to some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// What it did.
    pub(crate) done: Done,
    /// Milliseconds for which it was tried: the time that no host ran does not count.
    pub(crate) tried_ms: u64,
}

/// What was counted of a tenant's canary, for the supervisor that goes on from this one and its table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HandedCanary {
    pub(crate) tenant: TenantName,
    pub(crate) revision: u32,
    /// Before the table that is handed over.
    pub(crate) before: Counted,
}

/// Why a canary could not be ended.
#[derive(Debug, thiserror::Error)]
enum UndecidedError {
    #[error("the decision cannot be recorded in the audit log: {0}")]
    Unrecorded(#[source] io::Error),
    #[error(transparent)]
    Deploy(#[from] DeployError),
    #[error("the task was lost; the host's log has more")]
    Lost,
}

/// A decision that is in the audit log, and that could not be carried out yet.
struct Pending {
    revision: u32,
    /// Its record.
    of: u64,
    event: AuditEvent,
}

/// A decision about a canary.
struct Decision {
    canary: Arc<Canary>,
    ended: Ended,
    reason: String,
    /// The same that failed before.
    again: Option<Pending>,
}

/// Looks at canaries until the host ends.
pub(crate) async fn watch(deployer: Arc<Deployer>, audit: Audit) {
    let mut pending: HashMap<TenantName, Pending> = HashMap::new();
    let mut written: HashMap<(TenantName, u32), Counted> = HashMap::new();
    let mut write_at = Instant::now();
    loop {
        let canaries = deployer.registry.canaries();
        if canaries.is_empty() {
            (pending, written) = Default::default();
            deployer.canary_begun.notified().await;
            write_at = Instant::now() + Duration::from_millis(WRITE_MS);
            continue;
        }
        let mut pause_ms = LOOK_MS;
        for canary in &canaries {
            if let Err(error) = look(&deployer, &audit, canary, &mut pending).await {
                let tenant = &canary.tenant.entry.name;
                tracing::error!(%tenant, %error, "a canary cannot be ended; tried again");
                pause_ms = RETRY_MS;
            }
        }
        if Instant::now() >= write_at {
            if let Err(error) = deployer.write_counts(Some(&mut written)).await {
                tracing::warn!(%error, "what was counted of canaries could not be written down; tried again");
            }
            write_at = Instant::now() + Duration::from_millis(WRITE_MS);
        }
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

async fn look(
    deployer: &Arc<Deployer>,
    audit: &Audit,
    canary: &Arc<Canary>,
    pending: &mut HashMap<TenantName, Pending>,
) -> Result<(), UndecidedError> {
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
    let name = &canary.tenant.entry.name;
    let again = pending.remove(name);
    let again = again.filter(|before| before.revision == canary.tenant.entry.revision);
    let decision = Decision { canary: Arc::clone(canary), ended, reason, again };
    // To its end, even if the host ends meanwhile: it has the publish step, which that waits for.
    let deciding = tokio::spawn(decide(Arc::clone(deployer), audit.clone(), decision));
    match deciding.await.map_err(|_| UndecidedError::Lost)? {
        Ok(()) => Ok(()),
        Err((error, tried)) => {
            pending.extend(tried.map(|tried| (name.clone(), tried)));
            Err(error)
        }
    }
}

/// Carries a decision out, unless the canary has ended already, or the host does.
async fn decide(
    deployer: Arc<Deployer>,
    audit: Audit,
    decision: Decision,
) -> Result<(), (UndecidedError, Option<Pending>)> {
    let Decision { canary, ended, reason, again } = decision;
    let name = canary.tenant.entry.name.clone();
    let revision = canary.tenant.entry.revision;
    let _alone = deployer.publishing.lock().await;
    let there = deployer.registry.canary(&name);
    if deployer.open().is_err() || there.is_none_or(|there| there.tenant.entry.revision != revision)
    {
        return Ok(());
    }
    let is_first = again.is_none();
    let (of, event) = match again {
        // Tried again and again, it is recorded once.
        Some(Pending { of, event, .. }) => (of, event),
        None => {
            let event = decided(&deployer, &canary, ended, &reason);
            let began = audit.began(move || event).await;
            began.map_err(|error| (UndecidedError::Unrecorded(error), None))?
        }
    };
    let done = deployer.end_judged(name.clone(), ended, reason).await;
    if done.is_ok() || is_first {
        let result = done.as_ref().err().map_or("ok", |error| error.code().as_str());
        let active = deployer.registry.get(&name).map(|tenant| tenant.entry.revision);
        let end = AuditEvent {
            stage: AuditStage::Ended,
            revision_after: active,
            result: Some(result.into()),
            of: Some(of),
            ..event.clone()
        };
        if let Err(error) = audit.ended(end).await {
            tracing::error!(tenant = %name, %error, "the end of a canary could not be recorded in the audit log");
        }
    }
    match done {
        Ok(()) => Ok(()),
        Err(error) => Err((error.into(), Some(Pending { revision, of, event }))),
    }
}

/// What the audit log says of a decision: who, what, of which revision, why.
fn decided(deployer: &Deployer, canary: &Canary, ended: Ended, reason: &str) -> AuditEvent {
    let entry = &canary.tenant.entry;
    let active = deployer.registry.get(&entry.name);
    AuditEvent {
        tenant: Some(entry.name.to_string()),
        namespace: Some(canary.tenant.namespace.to_string()),
        revision_before: active.map(|tenant| tenant.entry.revision),
        artifact: Some(entry.digest.to_string()),
        reason: Some(format!("canary revision {}: {reason}", entry.revision)),
        ..by_host(match ended {
            Ended::Promoted => "promote",
            Ended::RolledBack => "rollback",
        })
    }
}

impl Deployer {
    /// Writes down what was counted of every canary: of those alone for which it has changed since `written`,
    /// or for which time counts, if that is given.
    pub(crate) async fn write_counts(
        &self,
        written: Option<&mut HashMap<(TenantName, u32), Counted>>,
    ) -> Result<(), StateError> {
        let canaries = self.registry.canaries();
        let key =
            |canary: &Canary| (canary.tenant.entry.name.clone(), canary.tenant.entry.revision);
        let mut changed = HashMap::new();
        for canary in &canaries {
            let (key, now) = (key(canary), canary.counted(&self.workers));
            let before = written.as_ref().and_then(|written| written.get(&key));
            let same =
                before.is_some_and(|before| Counted { tried_ms: now.tried_ms, ..*before } == now);
            // Its time passes while nobody asks for anything.
            if !same || canary.rollout.for_ms.is_some_and(|for_ms| now.tried_ms < for_ms) {
                changed.insert(key, now);
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        self.state.count_canaries(changed.clone()).await?;
        if let Some(written) = written {
            written.retain(|known, _| canaries.iter().any(|canary| key(canary) == *known));
            written.extend(changed);
        }
        Ok(())
    }

    /// What was counted of every canary before this host's table began.
    pub(crate) fn handed_canaries(&self) -> Vec<HandedCanary> {
        let handed = |canary: &Arc<Canary>| HandedCanary {
            tenant: canary.tenant.entry.name.clone(),
            revision: canary.tenant.entry.revision,
            before: Counted { tried_ms: canary.tried_ms(), ..canary.before },
        };
        self.registry.canaries().iter().map(handed).collect()
    }
}
