//! What was done through the control API, by whom: the audit log's records.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One line of the audit log. Its `hash` is SHA-256, in hexadecimal, of the line without `,"hash":"…"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditRecord {
    /// 1, 2, 3 … without a gap.
    pub seq: u64,
    /// When it was written (RFC 3339, milliseconds).
    pub at: String,
    /// The hash of the record before; 64 zeros in the first one.
    pub prev: String,
    /// What was recorded.
    #[serde(flatten)]
    pub event: AuditEvent,
    /// Of everything above.
    pub hash: String,
}

/// What was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEvent {
    /// Whether this says that a call began or how it ended.
    pub stage: AuditStage,
    /// `deploy`, `rollback`, `remove`, `secret-set` …
    pub action: String,
    /// The call, as the API's schema has it: `PUT /v1/tenants/{name}`; `-` for the host's own doing.
    pub call: String,
    /// The tenant it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The namespace it was about, or that the tenant is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What else the path names: the key of a secret, the digest of an upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The tenant's active revision when the call began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_before: Option<u32>,
    /// The tenant's active revision when it had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_after: Option<u32>,
    /// The artifact that was to be deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<String>,
    /// `ok`, or why not: an error's code, `client-gone`, `host-died`. None in what has only begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// Why, in words, where the host decided by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The record of this call's begin, in that of its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// Who asked for it; the host itself for what it decided.
    pub actor: AuditActor,
}

/// What a record says of its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditStage {
    /// A change is about to be tried.
    Began,
    /// It was made, or was refused.
    Ended,
    /// Something that is nobody else's business was read.
    Read,
}

/// Who: what the kernel says of the other end of the control socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditActor {
    /// The user's number; none for the host itself, or where there is no telling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The user's name on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Who logged in, where that is another user: `sudo` and `su` do not change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// The group's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// The process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its name, without arguments: those may be anybody's secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Where it came in: `control.sock`, or `host` for the host's own doing.
    pub from: String,
}

/// Whether the audit log is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditCheck {
    /// Records that are kept and as they were written.
    pub records: u64,
    /// The first of them; later than 1 where older ones were dropped to keep the bound.
    pub first: u64,
    /// The last of them.
    pub last: u64,
    /// Its hash. Kept elsewhere, it shows later that nothing before it was changed.
    pub hash: String,
    /// The first thing that is wrong, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
