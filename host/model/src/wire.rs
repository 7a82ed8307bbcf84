//! Messages between the supervisor and a worker, in both directions over one socket pair.
//!
//! `ipc` frames them: a length, then postcard. Both ends are the same binary, so the version is
//! checked once, in [`ToWorker::Hello`], and a mismatch ends the worker.

use crate::api::{GuestKind, JobResult, LogStream};
use crate::grants::secrets::{SecretKey, SecretValue};
use crate::{CodeId, Digest, Grants, Limits, Route, TenantName};
use serde::{Deserialize, Serialize};

/// Changes with every change of these types.
pub const WIRE_VERSION: u32 = 4;
/// The largest message, in bytes; a longer one ends the connection.
pub const MESSAGE_BYTES_MAX: u32 = 4 << 20;
/// Tenants in one [`ToWorker::Publish`] at most, so that it stays under [`MESSAGE_BYTES_MAX`]:
/// 64 routes of 512 bytes make 32 KiB a tenant.
pub const PUBLISH_TENANTS_MAX: usize = 100;
/// The longest text of one log line, in bytes; longer lines are cut into several.
pub const LOG_LINE_BYTES_MAX: usize = 4 << 10;

/// From the supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToWorker {
    /// The first message.
    Hello {
        /// [`WIRE_VERSION`] of the supervisor.
        version: u32,
        /// Everything the worker is told.
        config: WorkerConfig,
    },
    /// New state of some tenants, and slots that are free again. Applied between two requests, as
    /// one; answered by [`FromWorker::Ack`].
    Publish {
        /// Echoed in the acknowledgement.
        seq: u64,
        /// Tenants that are new or have changed.
        tenants: Vec<TenantEntry>,
        /// Slots of removed tenants.
        removed: Vec<u32>,
    },
    /// Accept connections now: all tenants have been published.
    Start,
    /// Compiled code that a worker asked for is on disk.
    CodeReady {
        /// Which code.
        code: CodeId,
    },
    /// Run a tenant's program once, now; answered by [`FromWorker::JobEnded`].
    RunJob {
        /// The tenant's slot.
        slot: u32,
        /// Its number; echoed in the answer, and in the tenant's log as [`crate::RequestId::run`].
        run: u64,
    },
    /// Accept nothing more, finish what runs, then exit.
    Drain {
        /// Milliseconds from now, after which what still runs is cut.
        within_ms: u64,
        /// Milliseconds from now for which clients with idle connections are still answered, and told
        /// to leave; then idle connections are closed.
        idle_ms: u64,
    },
}

/// From a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromWorker {
    /// It accepts connections.
    Serving,
    /// A [`ToWorker::Publish`] is in force for every request from now on.
    Ack {
        /// Of that message.
        seq: u64,
    },
    /// A line for a tenant's log.
    Log(LogLine),
    /// Compiled code is missing, foreign or damaged; please compile the artifact again. Requests for
    /// it get 503 until [`ToWorker::CodeReady`].
    CodeNeeded {
        /// Which code.
        code: CodeId,
        /// What was wrong, for the operator.
        reason: String,
    },
    /// A run has ended, or could not be started.
    JobEnded {
        /// The tenant's slot.
        slot: u32,
        /// Which run.
        run: u64,
        /// How.
        result: JobResult,
    },
}

/// What a worker is told at its start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerConfig {
    /// 0 to workers - 1: its column in the shared table.
    pub index: u32,
    /// Workers of this host.
    pub workers: u32,
    /// Directory of compiled code.
    pub code_dir: String,
    /// The key that authenticates compiled code.
    pub code_key: [u8; 32],
    /// Directory of what tenants keep: key-value stores and scratch directories.
    pub tenants_dir: String,
    /// Certificates (PEM) that outbound TLS trusts beside the public ones; empty for none.
    pub outbound_ca: String,
}

/// One tenant, as the data plane sees it: its active revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantEntry {
    /// Its row in the shared table, its own for as long as it is deployed.
    pub slot: u32,
    /// Its name.
    pub name: TenantName,
    /// The active revision.
    pub revision: u32,
    /// The artifact.
    pub digest: Digest,
    /// How to call it.
    pub kind: GuestKind,
    /// Where it answers.
    pub routes: Vec<Route>,
    /// Its limits.
    pub limits: Limits,
    /// What it may reach; none for nothing, which costs a deployed tenant nothing.
    pub grants: Option<Box<Grants>>,
    /// The secrets that it is granted, with their values.
    pub secrets: Vec<(SecretKey, SecretValue)>,
    /// Whether it runs as a job and is not served.
    pub job: bool,
}

impl TenantEntry {
    /// The code that it runs.
    pub fn code(&self) -> CodeId {
        CodeId { artifact: self.digest, metering: self.limits.metering }
    }
}

/// A line on its way to a tenant's log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogLine {
    /// The tenant's slot.
    pub slot: u32,
    /// The tenant's name, since the slot may have a new owner when the line arrives.
    pub name: TenantName,
    /// The revision that ran.
    pub revision: u32,
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// Whose words.
    pub stream: LogStream,
    /// The request's id.
    pub request: String,
    /// At most [`LOG_LINE_BYTES_MAX`] bytes.
    pub text: String,
}
