//! Export and import: tenants on their way from one host to another, or to a backup.

use super::ErrorBody;
use crate::grants::secrets::SecretValue;
use crate::{Namespace, TenantName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The version of archives that this Insula writes, and the latest that it reads.
pub const ARCHIVE_VERSION: u32 = 1;
/// The last member of an archive, an [`ArchiveManifest`].
pub const ARCHIVE_MANIFEST: &str = "manifest.json";
/// The largest [`ARCHIVE_MANIFEST`], in bytes: 131,072 tenants with four members each.
pub const ARCHIVE_MANIFEST_BYTES_MAX: u64 = 128 << 20;
/// The field of a request that carries the passphrase of an import, in hexadecimal digits of its UTF-8.
pub const PASSPHRASE_FIELD: &str = "insula-passphrase";
/// The shortest and the longest passphrase, in bytes.
pub const PASSPHRASE_BYTES: std::ops::RangeInclusive<usize> = 8..=1_024;

/// `POST /v1/export`: which tenants. Exactly one of the first three.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportRequest {
    /// These.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub tenants: Vec<TenantName>,
    /// All of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub namespace: Option<Namespace>,
    /// All of the host, and all of its namespaces.
    #[serde(default)]
    pub all: bool,
    /// Secrets too, encrypted under this. Without it, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub passphrase: Option<SecretValue>,
}

/// The last member of an archive: what it holds, and how to tell that it is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArchiveManifest {
    /// [`ARCHIVE_VERSION`].
    pub version: u32,
    /// The Insula that wrote it.
    pub insula: String,
    /// When (RFC 3339).
    pub created_at: String,
    /// Every member before this one, in order.
    pub members: Vec<ArchiveMember>,
    /// The tenants.
    pub tenants: Vec<ExportedTenant>,
}

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArchiveMember {
    /// Its path in the archive.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// The SHA-256 of them, in hexadecimal digits.
    pub sha256: String,
}

/// What an archive has of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExportedTenant {
    /// Its name.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// How many revisions.
    pub revisions: u32,
    /// How many entries of key-value stores; none if it never stored any.
    pub keyvalue: Option<u64>,
    /// Its scratch directory.
    pub scratch: ExportedScratch,
    /// How many secrets; none if they were not asked for.
    pub secrets: Option<u32>,
}

/// What becomes of a scratch directory in an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExportedScratch {
    /// It has none that lasts.
    None,
    /// It is in the archive.
    Included,
    /// The tenant runs, so its files may change while they are read: they were left out.
    LeftOut,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportResponse {
    /// Namespaces that were made, with the quotas they had.
    #[schema(value_type = Vec<String>)]
    pub namespaces: Vec<Namespace>,
    /// Every tenant of the archive.
    pub tenants: Vec<ImportedTenant>,
}

/// What became of one tenant of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportedTenant {
    /// Its name here.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// What was done.
    pub result: ImportResult,
    /// The revision that is active, if it was imported.
    pub revision: Option<u32>,
    /// How many revisions it has in the archive.
    pub revisions: u32,
    /// Whether it is stopped.
    pub stopped: bool,
    /// How many entries of key-value stores were imported.
    pub keyvalue: u64,
    /// Whether a scratch directory was.
    pub scratch: bool,
    /// How many secrets were.
    pub secrets: u32,
    /// Why nothing was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// What an import did with a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImportResult {
    /// It was not there, and is.
    Imported,
    /// It was there, and is as the archive has it.
    Replaced,
    /// It was there already with these revisions; nothing was changed.
    Unchanged,
    /// It was not imported; nothing of it was changed.
    Refused,
}

impl ImportResult {
    /// The word that CLI and API show.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Imported => "imported",
            Self::Replaced => "replaced",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
        }
    }
}
