//! Directories: `mounts` and `scratch`.

use crate::quantity::ByteSize;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Mounts that a manifest may have.
pub const MOUNTS_MAX: usize = 16;
/// The longest path, in bytes.
pub const PATH_BYTES_MAX: usize = 1_024;

/// `mounts = [{ host = "/srv/data", guest = "/data", access = "ro" }]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MountSpec {
    /// A directory of the host. Relative paths are relative to the manifest; the CLI makes them
    /// absolute before they are sent.
    pub host: String,
    /// Where the guest sees it: an absolute path.
    pub guest: String,
    /// Default: `ro`.
    #[serde(default)]
    pub access: Access,
    /// Bytes that all files in it may have together, for `rw`. Default: none but the disk's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub quota: Option<ByteSize>,
}

/// What a guest may do in a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read.
    #[default]
    Ro,
    /// Read and write.
    Rw,
}

/// `scratch = { guest = "/tmp", per = "request", quota = "64Mi" }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScratchSpec {
    /// Where the guest sees it. Default: `/tmp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// Default: `request`.
    #[serde(default)]
    pub per: ScratchPer,
    /// Bytes that all files in it may have together. Default 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub quota: Option<ByteSize>,
}

/// How long a scratch directory lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScratchPer {
    /// As long as one instance: empty for each request that gets a fresh one.
    #[default]
    Request,
    /// As long as the tenant: shared by its instances, kept over redeploys and restarts.
    Tenant,
}

/// A directory of the host, granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mount {
    /// Absolute path on the host.
    pub host: String,
    /// Absolute path in the guest.
    pub guest: String,
    /// What may be done there.
    pub access: Access,
    /// Bytes of all files together.
    pub quota_bytes: Option<u64>,
}

/// A private directory, granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Scratch {
    /// Absolute path in the guest.
    pub guest: String,
    /// How long it lives.
    pub per: ScratchPer,
    /// Bytes of all files together.
    pub quota_bytes: u64,
}

/// Whether `path` is absolute and without `.`, `..`, empty segments and control characters.
pub fn is_clean_path(path: &str) -> bool {
    path.len() <= PATH_BYTES_MAX
        && !path.chars().any(char::is_control)
        && path.strip_prefix('/').is_some_and(|rest| {
            rest.is_empty() || rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
        })
}

#[cfg(test)]
mod tests {
    use super::is_clean_path;

    #[test]
    fn only_clean_absolute_paths_pass() {
        for path in ["/", "/data", "/srv/a b/c.d", "/..a/b.."] {
            assert!(is_clean_path(path), "{path}");
        }
        for path in ["", "data", "./data", "/a/../b", "/a//b", "/a/", "/a/.", "/a\n", "/\0"] {
            assert!(!is_clean_path(path), "{path:?}");
        }
    }
}
