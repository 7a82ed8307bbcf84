//! The control API: HTTP with JSON on the Unix socket `DATA/control.sock`.
//!
//! ```text
//! GET    /v1/host                          HostInfo
//! POST   /v1/host/upgrade                  UpgradeRequest → 202 UpgradePlan; then HostInfo.upgrade
//! GET    /v1/events                        Event, as server-sent events: a snapshot, then a change a second
//! GET    /metrics                          Prometheus' text format
//! GET    /v1/openapi.json                  the schema, generated from these types
//! HEAD   /v1/artifacts/{digest}            200 or 404: is the upload needed?
//! PUT    /v1/artifacts/{digest}            the bytes; 201 new, 200 already there
//! GET    /v1/tenants                       [TenantSummary], by name; ?namespace=NAME
//! GET    /v1/activity                      Activity; ?namespace=NAME
//! PUT    /v1/tenants/{name}                DeployRequest → DeployResponse
//! GET    /v1/tenants/{name}                TenantDetail
//! DELETE /v1/tenants/{name}                204
//! GET    /v1/tenants/{name}/revisions      [RevisionInfo], newest first
//! POST   /v1/tenants/{name}/rollback       RollbackRequest → DeployResponse
//! POST   /v1/tenants/{name}/promote        a canary gets all requests → DeployResponse
//! GET    /v1/tenants/{name}/secrets        [SecretInfo]; values are never returned
//! PUT    /v1/tenants/{name}/secrets/{key}  the value, as it is → 204
//! DELETE /v1/tenants/{name}/secrets/{key}  204
//! POST   /v1/tenants/{name}/stop           StopRequest → StopResponse; nothing of it runs any more
//! POST   /v1/tenants/{name}/start          StartResponse
//! POST   /v1/tenants/{name}/runs           run a job now → 202 JobRun
//! GET    /v1/tenants/{name}/runs           [JobRun], newest first
//! POST   /v1/repave                        RepaveRequest → RepaveResponse
//! POST   /v1/export                        ExportRequest → an archive, as it is written
//! POST   /v1/import                        an archive → ImportResponse; ?name=NEW&replace=true&probe=false
//! GET    /v1/tenants/{name}/logs           LogRecord (?access=true: AccessRecord), one JSON object a line; ?tail=N&follow=true&since=…
//! GET    /v1/namespaces                    [NamespaceInfo], by name
//! PUT    /v1/namespaces/{name}             QuotaSpec → NamespaceInfo; makes it, or changes its quota
//! GET    /v1/namespaces/{name}             NamespaceInfo
//! DELETE /v1/namespaces/{name}             204; only without tenants
//! GET    /v1/usage                         UsageReport; ?since=&until=&by=tenant|namespace&tenant=A,B
//! GET    /v1/audit                         AuditRecord, one JSON object a line; ?tenant=&since=&until=&action=&tail=N&follow=true
//! GET    /v1/audit/verify                  AuditCheck
//! ```
//! Every answer of 400 or above carries an [`ErrorBody`].

mod access;
mod activity;
mod audit;
mod counters;
mod errors;
mod events;
mod jobs;
mod memory;
mod moving;
mod namespaces;
mod operate;
mod rollouts;
mod upgrade;
mod usage;

pub use access::AccessRecord;
pub use activity::{Activity, TenantActivity};
pub use audit::{AuditActor, AuditCheck, AuditEvent, AuditRecord, AuditStage};
pub use counters::Counters;
pub use errors::{ErrorBody, ErrorCode};
pub use events::{
    Event, EventCanary, EventFigures, EventHost, EventTenant, LiveState, MemoryKinds,
};
pub use jobs::{JobCause, JobResult, JobRun, JobStatus};
pub use memory::{HostMemory, MemoryPressure};
pub use moving::{
    ARCHIVE_MANIFEST, ARCHIVE_MANIFEST_BYTES_MAX, ARCHIVE_VERSION, ArchiveManifest, ArchiveMember,
    ExportRequest, ExportedScratch, ExportedTenant, ImportResponse, ImportResult, ImportedTenant,
    PASSPHRASE_BYTES, PASSPHRASE_FIELD,
};
pub use namespaces::{NAMESPACES_MAX, NamespaceInfo};
pub use operate::{
    DRAIN_MS_DEFAULT, DRAIN_MS_MAX, RepaveRequest, RepaveResponse, StartResponse, StopRequest,
    StopResponse,
};
pub use rollouts::{ActiveStatus, CanaryChange, CanaryStatus, RolloutInfo, RolloutState};
pub use upgrade::{UpgradeInfo, UpgradePlan, UpgradeRequest};
pub use usage::{USAGE_DAYS_MAX, UsageBy, UsageReport, UsageRow};

use crate::breaker::BreakerState;
use crate::grants::secrets::{SecretKey, SecretVia};
use crate::{
    Ceilings, Digest, Grants, LatencyQuantiles, Limits, Manifest, Namespace, Qos, Route, TenantName,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most recent revisions of a tenant that are kept for rollback; older ones are forgotten.
pub const REVISIONS_KEPT_MAX: u32 = 50;
/// The most recent runs of a job that are remembered.
pub const RUNS_KEPT_MAX: u32 = 20;

/// What this host is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HostInfo {
    /// Insula's version.
    pub version: String,
    /// The supervisor's process id.
    pub pid: u32,
    /// The address that tenants are served on, with the real port.
    pub listen: String,
    /// The address that `/metrics` is served on besides this socket, with the real port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// The data directory.
    pub data: String,
    /// When the host started (RFC 3339); upgrades do not change it.
    pub started_at: String,
    /// Deployed tenants.
    pub tenants: u64,
    /// The workers, by index.
    pub workers: Vec<WorkerInfo>,
    /// What a manifest may ask for.
    pub ceilings: Ceilings,
    /// What all workers hold, and may hold, of the machine's memory.
    pub memory: HostMemory,
    /// Workers from before the last upgrade that still finish what runs in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retiring: Vec<WorkerInfo>,
    /// How the last upgrade went; none since the host was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeInfo>,
}

/// One worker process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerInfo {
    /// 0 to workers - 1.
    pub index: u32,
    /// Its process id, if it runs.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Open client connections.
    pub connections: u64,
    /// Requests running.
    pub running: u64,
    /// Tenants whose code is loaded.
    pub loaded: u64,
    /// Bytes of memory that it alone holds.
    pub memory_bytes: u64,
    /// Times it died and was replaced.
    pub restarts: u64,
    /// How it last died.
    pub last_death: Option<WorkerDeath>,
}

/// A worker's life: starting → serving → (dead → backing-off →) starting …
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerState {
    /// Started, taking in tenants and routes.
    Starting,
    /// Accepting connections.
    Serving,
    /// Died too often in a short time; it is started again after a pause.
    BackingOff,
    /// Finishing what runs.
    Draining,
}

/// How a worker died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerDeath {
    /// When (RFC 3339).
    pub at: String,
    /// `killed by signal 9`, `exit status 1` …
    pub cause: String,
    /// The tenant whose guest was running at that moment, if one was.
    pub tenant: Option<String>,
}

/// One row of `insula ps`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TenantSummary {
    /// The tenant's name.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// Its namespace.
    #[schema(value_type = String)]
    pub namespace: Namespace,
    /// The active revision.
    pub revision: u32,
    /// What the artifact is.
    pub kind: GuestKind,
    /// Its class of service.
    pub qos: Qos,
    /// The artifact's digest.
    #[schema(value_type = String)]
    pub artifact: Digest,
    /// Where it answers.
    #[schema(value_type = Vec<String>)]
    pub routes: Vec<Route>,
    /// When the active revision was published (RFC 3339).
    pub deployed_at: String,
    /// When it was stopped (RFC 3339); none while it may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<String>,
    /// What it has done since the host started.
    pub counters: Counters,
    /// How long its requests took since the host started, from the head's arrival to the body's end.
    #[serde(default)]
    pub latency: LatencyQuantiles,
    /// What its circuit breaker says now.
    pub breaker: BreakerState,
    /// How it fares as a job, if it has a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobStatus>,
    /// The revision that gets a part of its requests, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryStatus>,
}

/// One secret of a tenant, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretInfo {
    /// Its name.
    #[schema(value_type = String)]
    pub key: SecretKey,
    /// When its value was last set (RFC 3339).
    pub set_at: String,
    /// How the active revision gets it; none if it does not.
    pub via: Option<SecretVia>,
}

/// What kind of guest an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum GuestKind {
    /// A component that exports `wasi:http/incoming-handler@0.2.x`.
    #[serde(rename = "http-0.2")]
    Http02,
    /// A component that exports `wasi:http/handler@0.3.x`.
    #[serde(rename = "http-0.3")]
    Http03,
    /// A component that exports `wasi:cli/run@0.2.x`: served as CGI, run as a job, or once.
    #[serde(rename = "command")]
    Command,
    /// A component that exports `wasi:cli/run@0.3.x`; the same.
    #[serde(rename = "command-0.3")]
    Command03,
    /// A core module of WASI preview 1 with a `_start`; the same.
    #[serde(rename = "wasi-p1")]
    Preview1,
}

impl GuestKind {
    /// The word that CLI and API show.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http02 => "http-0.2",
            Self::Http03 => "http-0.3",
            Self::Command => "command",
            Self::Command03 => "command-0.3",
            Self::Preview1 => "wasi-p1",
        }
    }

    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Http02, Self::Http03, Self::Command, Self::Command03, Self::Preview1];

    /// Whether it is a program with a start and an end: served as CGI, and able to be a job.
    pub fn is_command(self) -> bool {
        matches!(self, Self::Command | Self::Command03 | Self::Preview1)
    }
}

/// Everything about one tenant: `insula inspect`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TenantDetail {
    /// The row that `insula ps` shows.
    #[serde(flatten)]
    pub summary: TenantSummary,
    /// URLs that reach it through this host.
    pub urls: Vec<String>,
    /// The limits in force, defaults filled in.
    pub limits: Limits,
    /// Everything it may reach; values of secrets are not part of it.
    pub grants: Grants,
    /// What was written.
    pub manifest: Manifest,
    /// Bytes of the artifact.
    pub artifact_bytes: u64,
    /// Bytes of the compiled code, if it is on disk.
    pub code_bytes: Option<u64>,
    /// How long its requests took since the host started, shortest first.
    #[serde(default)]
    pub durations: Vec<DurationRange>,
}

/// Requests that took longer than the range before it says, and no longer than this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DurationRange {
    /// The longest in this range, in microseconds; none in the last one.
    pub up_to_us: Option<u64>,
    /// How many there were.
    pub requests: u64,
}

impl DurationRange {
    /// The ranges of a histogram.
    pub fn all(latency: &crate::Latency) -> Vec<Self> {
        let bounds = crate::latency::BOUNDS_US.into_iter().map(Some).chain([None]);
        let ranges = bounds.zip(latency.buckets);
        ranges.map(|(up_to_us, requests)| Self { up_to_us, requests }).collect()
    }
}

/// One row of `insula revisions`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RevisionInfo {
    /// 1, 2, 3 …
    pub revision: u32,
    /// Whether requests go to it now.
    pub active: bool,
    /// The artifact's digest.
    #[schema(value_type = String)]
    pub artifact: Digest,
    /// When it was first published (RFC 3339).
    pub created_at: String,
    /// Where it answers.
    #[schema(value_type = Vec<String>)]
    pub routes: Vec<Route>,
    /// Its limits.
    pub limits: Limits,
    /// What it may reach.
    pub grants: Grants,
    /// What became of it as a canary, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutInfo>,
}

/// `PUT /v1/tenants/{name}`. The artifact must have been uploaded before.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// What the tenant is.
    pub manifest: Manifest,
    /// The artifact's digest.
    #[schema(value_type = String)]
    pub artifact: Digest,
}

/// The result of a deploy, rollback or promotion: it is so in every worker now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeployResponse {
    /// The tenant's name.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// The revision that is active now.
    pub revision: u32,
    /// False if this very revision was active already: nothing changed.
    pub changed: bool,
    /// What the artifact is.
    pub kind: GuestKind,
    /// Where it answers.
    pub urls: Vec<String>,
    /// Milliseconds the compiler took; none if the code was there already.
    pub compile_ms: Option<u64>,
    /// Whether the tenant is stopped: the revision is in force, and runs once the tenant is started.
    #[serde(default)]
    pub stopped: bool,
    /// When it runs, if it has a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobStatus>,
    /// The canary that this began or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryChange>,
    /// What the caller might not expect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// `POST /v1/tenants/{name}/rollback`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The revision to go back to; without it, the one that was active before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u32>,
}

/// One line of a tenant's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogRecord {
    /// When the worker took it from the guest (RFC 3339, milliseconds).
    pub at: String,
    /// Whose words these are.
    pub stream: LogStream,
    /// The revision that ran.
    pub revision: u32,
    /// The request, as in `X-Request-Id`.
    pub request: String,
    /// The trace that the request is part of, if there is one: 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// One line, without its end. Not trusted: it may hold control characters.
    pub text: String,
}

/// Whose words a log line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// The guest's standard output.
    Stdout,
    /// The guest's standard error.
    Stderr,
    /// Insula, about this tenant: traps, exhausted limits, dropped lines.
    Host,
}
