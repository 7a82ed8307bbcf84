//! Messages between the supervisor and a worker, in both directions over one socket pair.
//!
//! `ipc` frames them: a length, then postcard. Both ends are the same binary, so the version is
//! checked once, in [`ToWorker::Hello`], and a mismatch ends the worker.

use crate::access_log::Sample;
use crate::api::{GuestKind, JobResult, LogStream};
use crate::grants::secrets::{SecretKey, SecretValue};
use crate::rollout::{Percent, Sticky};
use crate::trace::TraceRecord;
use crate::{CodeId, Digest, Grants, Limits, Outcome, Route, TenantName, Usage};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Changes with every change of these types.
pub const WIRE_VERSION: u32 = 9;
/// The largest message, in bytes; a longer one ends the connection.
pub const MESSAGE_BYTES_MAX: u32 = 4 << 20;
/// Tenants in one [`ToWorker::Publish`] at most, so that it stays under [`MESSAGE_BYTES_MAX`]:
/// 64 routes of 512 bytes make 32 KiB a tenant.
pub const PUBLISH_TENANTS_MAX: usize = 100;
/// Tenants in one [`ToWorker::Sleep`] at most.
pub const SLEEPERS_MAX: usize = 4_096;
/// Tenants in one [`ToWorker::Repave`]: the worker's requests have turns in between, and the supervisor's
/// next message comes after the answer.
pub const REPAVE_SLOTS_MAX: usize = 1_024;
/// The longest text of one log line, in bytes; longer lines are cut into several.
pub const LOG_LINE_BYTES_MAX: usize = 4 << 10;
/// The last lines of a probe's log that its report holds.
pub const PROBE_LINES_MAX: usize = 20;
/// The longest of those lines, in bytes; longer ones are cut.
pub const PROBE_LINE_BYTES_MAX: usize = 500;

/// Bytes of a path in the access log; the rest is cut.
pub const ACCESS_PATH_BYTES_MAX: usize = 2 << 10;

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
    /// New state of some tenants, then slots that are free again. Applied between two requests, as
    /// one; answered by [`FromWorker::Ack`]. A canary comes after the tenant that it is one of.
    Publish {
        /// Echoed in the acknowledgement.
        seq: u64,
        /// Tenants that are new or have changed.
        tenants: Vec<TenantEntry>,
        /// Slots of removed tenants.
        removed: Vec<u32>,
    },
    /// Tenants of whom the worker knows nothing yet, as they are kept while nobody asks for them: see
    /// [`crate::packed`]. Only before [`ToWorker::Start`]; not answered.
    Sleep {
        /// Each [`crate::packed::Common`] of those below, once.
        commons: Vec<Vec<u8>>,
        /// The tenants, at most [`SLEEPERS_MAX`].
        tenants: Vec<Sleeper>,
    },
    /// Retire every instance of these tenants, and load their code anew when it is needed next. What
    /// runs finishes where it is. Answered by [`FromWorker::Repaved`].
    Repave {
        /// Echoed in the answer.
        seq: u64,
        /// The tenants' slots, at most [`REPAVE_SLOTS_MAX`].
        slots: Vec<u32>,
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
    /// Try a revision that is not in force; answered by [`FromWorker::Probed`].
    Probe {
        /// Echoed in the answer.
        id: u64,
        /// The revision, in a slot that nobody else has.
        entry: Box<TenantEntry>,
        /// What to ask it with GET; none to make sure only that it can be loaded, and instantiated if it is
        /// a handler.
        path: Option<String>,
        /// Milliseconds that this may take.
        timeout_ms: u64,
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

/// One of [`ToWorker::Sleep`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sleeper {
    /// The tenant's slot.
    pub slot: u32,
    /// Which of the message's commons is its.
    pub common: u32,
    /// [`crate::packed::Packed::bare`].
    pub own: Vec<u8>,
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
    /// A [`ToWorker::Repave`] is done: no request from now on sees anything that was there before.
    Repaved {
        /// Of that message.
        seq: u64,
        /// What it did.
        retired: Retired,
    },
    /// A line for a tenant's log.
    Log(LogLine),
    /// A request for its access log.
    Access(Box<AccessLine>),
    /// Compiled code is missing, foreign or damaged; please compile the artifact again. Requests for
    /// it get 503 until [`ToWorker::CodeReady`].
    CodeNeeded {
        /// Which code.
        code: CodeId,
        /// What was wrong, for the operator.
        reason: String,
    },
    /// Requests whose traces are recorded, at most once a second.
    Traces {
        /// Those that have ended.
        records: Vec<TraceRecord>,
        /// Spans for which there was no room.
        dropped: u64,
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
    /// A [`ToWorker::Probe`] has ended.
    Probed {
        /// Of that message.
        id: u64,
        /// How.
        report: ProbeReport,
    },
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// How it ended.
    pub end: ProbeEnd,
    /// The last of what guest and host wrote to its log meanwhile: at most [`PROBE_LINES_MAX`] lines.
    pub log: Vec<String>,
}

/// How a probe ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeEnd {
    /// Nothing was asked, and nothing was wrong.
    Sound,
    /// It answered with this status, to the last byte.
    Answered(u16),
    /// It did not answer, or could not be loaded or instantiated.
    Failed {
        /// As in the `insula-fault` field.
        fault: String,
        /// What is known about it; may be empty.
        detail: String,
        /// Whether it was the host's doing and says nothing about the revision.
        is_hosts: bool,
    },
}

/// What a repave took out of service in one worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Instances that were kept for further requests, shared ones among them.
    pub instances: u64,
    /// Pieces of compiled code that were mapped.
    pub code: u64,
}

impl std::ops::AddAssign for Retired {
    fn add_assign(&mut self, more: Self) {
        self.instances += more.instances;
        self.code += more.code;
    }
}

/// What a worker is told at its start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerConfig {
    /// 0 to workers - 1: its column in the shared table.
    pub index: u32,
    /// Workers of this host.
    pub workers: u32,
    /// Live instances that it has room for.
    pub instances: u32,
    /// Directory of compiled code.
    pub code_dir: String,
    /// The key that authenticates compiled code.
    pub code_key: [u8; 32],
    /// Directory of what tenants keep: key-value stores and scratch directories.
    pub tenants_dir: String,
    /// Certificates (PEM) that outbound TLS trusts beside the public ones; empty for none.
    pub outbound_ca: String,
    /// Of a million traces that begin here, so many are recorded; none if nothing is.
    pub sampled_ppm: Option<u32>,
    /// Which requests the access log gets of tenants that do not say so themselves.
    pub access_log: Sample,
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
    /// Whether it was stopped: nothing of it runs, and its requests are refused.
    pub stopped: bool,
    /// Which of its requests the access log gets; none leaves it to the host.
    pub access_log: Option<Sample>,
    /// If it is a canary: of whom. It then has no routes of its own.
    pub canary: Option<Box<CanaryOf>>,
}

/// What makes a revision a canary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryOf {
    /// The slot of the tenant, whose requests it gets a part of.
    pub slot: u32,
    /// Which part.
    pub share: Percent,
    /// By what requests stick.
    pub sticky: Option<Sticky>,
    /// The key of the hash that decides for those.
    pub key: [u8; 32],
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
    /// The trace that the request is part of; 0 for none.
    pub trace: u128,
    /// At most [`LOG_LINE_BYTES_MAX`] bytes.
    pub text: String,
}

/// A request on its way to the access log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccessLine {
    /// The tenant's slot.
    pub slot: u32,
    /// The tenant's name, since the slot may have a new owner when the line arrives.
    pub name: TenantName,
    /// The revision that it was for.
    pub revision: u32,
    /// When its head had come: Unix time in milliseconds.
    pub at_ms: u64,
    /// Its id.
    pub request: String,
    /// Its method.
    pub method: String,
    /// Its path without the query, at most [`ACCESS_PATH_BYTES_MAX`] bytes.
    pub path: String,
    /// `HTTP/1.1` …
    pub protocol: String,
    /// The client; none of a call from another tenant.
    pub peer: Option<SocketAddr>,
    /// What went out.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// What it cost.
    pub usage: Usage,
    /// Lines before this one that were dropped for want of room.
    pub dropped: u64,
}
