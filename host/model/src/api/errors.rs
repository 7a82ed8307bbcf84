//! How the control API says no.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The one shape of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// A stable word for programs.
    pub code: ErrorCode,
    /// The cause, for people.
    pub message: String,
    /// The mend, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Stable error words. Each belongs to one HTTP status and one exit code of the CLI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request cannot be read: 400.
    BadRequest,
    /// The manifest is wrong, or asks for more than a ceiling: 422.
    InvalidManifest,
    /// The artifact cannot be served: not wasm, truncated, wrong kind, missing import, no handler: 422.
    InvalidArtifact,
    /// The artifact took more than a compiler may use: 422.
    CompileLimit,
    /// The archive is not one of ours, not whole, changed, or of a later version: 422.
    InvalidArchive,
    /// The new revision did not pass its probe: 422.
    Probe,
    /// The bytes do not have the digest they were sent under: 422.
    DigestMismatch,
    /// Another tenant has this route: 409.
    RouteTaken,
    /// A secret that the manifest names was never set, or one to be removed is in use: 409.
    Secret,
    /// What was asked for does not fit what is there: a run of what is not a job, or runs already: 409.
    Conflict,
    /// The sums of the tenant's namespace would pass its quota: 403.
    Quota,
    /// No such tenant, namespace, revision, artifact or path: 404.
    NotFound,
    /// More than a ceiling or bound: 413.
    TooLarge,
    /// Too many deploys are waiting: 429.
    Busy,
    /// The disk is full or cannot be written: 507.
    Storage,
    /// The host is shutting down: 503.
    Draining,
    /// A bug or broken machine on the host's side; its log has the details: 500.
    Internal,
}

impl ErrorCode {
    /// The word itself.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::InvalidManifest => "invalid-manifest",
            Self::InvalidArtifact => "invalid-artifact",
            Self::CompileLimit => "compile-limit",
            Self::InvalidArchive => "invalid-archive",
            Self::DigestMismatch => "digest-mismatch",
            Self::RouteTaken => "route-taken",
            Self::Secret => "secret",
            Self::Probe => "probe",
            Self::Conflict => "conflict",
            Self::Quota => "quota",
            Self::NotFound => "not-found",
            Self::TooLarge => "too-large",
            Self::Busy => "busy",
            Self::Storage => "storage",
            Self::Draining => "draining",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status that goes with this code.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::InvalidManifest
            | Self::InvalidArtifact
            | Self::CompileLimit
            | Self::InvalidArchive
            | Self::Probe
            | Self::DigestMismatch => 422,
            Self::RouteTaken | Self::Secret | Self::Conflict => 409,
            Self::Quota => 403,
            Self::NotFound => 404,
            Self::TooLarge => 413,
            Self::Busy => 429,
            Self::Storage => 507,
            Self::Draining => 503,
            Self::Internal => 500,
        }
    }
}
