//! Archives: tenants in a file, a tar that says itself whether it is whole.
//!
//! ```text
//! insula.json                     Preface: what this is, its version, how its secrets are sealed
//! namespaces.json                 [NamespaceFile]
//! artifacts/HEX.wasm              each once, before the first tenant that needs it
//! tenants/NAME/tenant.json        TenantFile
//! tenants/NAME/keyvalue.bin       see `insula_keyvalue::export`
//! tenants/NAME/scratch.tar        its scratch directory
//! tenants/NAME/secrets.json       [SecretFile], sealed
//! manifest.json                   ArchiveManifest: sizes and digests of all of the above
//! ```
//! The first member is first so that a newer version is told before anything else; the last is last so
//! that an archive is written in one pass. Readers take nothing on trust before all of it has been held
//! against the manifest. Nothing is extracted by the name it has in an archive.

mod read;
mod sealing;
mod write;

pub(crate) use read::Archive;
pub(crate) use sealing::{Sealing, SealingError, SealingKey};
pub(crate) use write::Writer;

use insula_model::api::{ARCHIVE_VERSION, GuestKind};
use insula_model::grants::secrets::SecretKey;
use insula_model::quota::Quota;
use insula_model::{Digest, Manifest, Namespace, TenantName};
use serde::{Deserialize, Serialize};
use std::io;

/// The first member.
pub(crate) const PREFACE: &str = "insula.json";
/// The namespaces.
pub(crate) const NAMESPACES: &str = "namespaces.json";
/// What an archive of ours says it is.
const FORMAT: &str = "insula-archive";
/// The largest member that is read into memory, but for the manifest: a tenant with all its revisions,
/// whose manifests are at most 64 KiB each, or all namespaces.
pub(crate) const JSON_BYTES_MAX: u64 = 16 << 20;

/// Why an archive is not one, or not a whole one. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// The first member is another.
    #[error("this is not an export of Insula: it does not begin with `{PREFACE}`")]
    Foreign,
    /// Written by a later Insula.
    #[error(
        "`{PREFACE}`: the archive has version {found}, this Insula reads up to {ARCHIVE_VERSION}"
    )]
    Newer {
        /// Its version.
        found: u32,
    },
    /// It ends too early.
    #[error("the archive is cut off {place}")]
    Truncated {
        /// Where.
        place: String,
    },
    /// A member has other bytes than it was written with.
    #[error("member `{0}` was changed: its bytes are not those that the archive's manifest lists")]
    Changed(String),
    /// A member that is not as it should be, although its bytes are those that were written.
    #[error("member `{name}` {what}")]
    Member {
        /// Which.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// The passphrase, or its absence.
    #[error(transparent)]
    Sealing(#[from] SealingError),
    /// Its secrets need a passphrase.
    #[error("the archive has secrets, and no passphrase was given")]
    NoPassphrase,
    /// Reading or writing failed.
    #[error("the archive cannot be {doing}: {source}")]
    Io {
        /// Read or written.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl ArchiveError {
    /// A member that is wrong.
    pub(crate) fn member(name: &str, what: impl Into<String>) -> Self {
        Self::Member { name: name.into(), what: what.into() }
    }
}

/// The first member.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Preface {
    format: String,
    pub(crate) version: u32,
    insula: String,
    created_at: String,
    /// How secrets are sealed, if there are any.
    pub(crate) sealing: Option<Sealing>,
}

impl Preface {
    pub(crate) fn new(sealing: Option<Sealing>) -> Self {
        Self {
            format: FORMAT.into(),
            version: ARCHIVE_VERSION,
            insula: env!("CARGO_PKG_VERSION").into(),
            created_at: crate::clock::now(),
            sealing,
        }
    }
}

/// What of [`Preface`] every version has.
#[derive(Deserialize)]
struct AnyPreface {
    format: String,
    version: u32,
}

/// A namespace.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NamespaceFile {
    pub(crate) name: Namespace,
    pub(crate) quota: Quota,
}

/// A tenant with all that is kept of its history.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TenantFile {
    pub(crate) name: TenantName,
    pub(crate) active: u32,
    pub(crate) previous: Option<u32>,
    pub(crate) last: u32,
    pub(crate) deployed_at: String,
    pub(crate) stopped_at: Option<String>,
    /// By number.
    pub(crate) revisions: Vec<RevisionFile>,
}

/// One revision.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevisionFile {
    pub(crate) number: u32,
    pub(crate) artifact: Digest,
    pub(crate) artifact_bytes: u64,
    pub(crate) kind: GuestKind,
    pub(crate) created_at: String,
    pub(crate) manifest: Manifest,
}

/// One secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretFile {
    pub(crate) key: SecretKey,
    pub(crate) set_at: String,
    /// Nonce, ciphertext and tag, in hexadecimal digits.
    pub(crate) sealed: String,
}

/// Where an artifact is in an archive.
pub(crate) fn artifact(digest: &Digest) -> String {
    format!("artifacts/{}.wasm", digest.hex())
}

/// Where a file of a tenant's is.
pub(crate) fn of_tenant(name: &TenantName, file: &str) -> String {
    format!("tenants/{name}/{file}")
}
