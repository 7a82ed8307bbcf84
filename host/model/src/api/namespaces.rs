//! Namespaces as the control API shows them.

use crate::Namespace;
use crate::quota::{Quota, Used};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Namespaces that a host may have.
pub const NAMESPACES_MAX: u32 = 10_000;

/// One namespace: what its tenants have, and may have, together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamespaceInfo {
    /// Its name.
    #[schema(value_type = String)]
    pub name: Namespace,
    /// The most that its tenants may have.
    pub quota: Quota,
    /// What their active revisions have.
    pub used: Used,
    /// When it was made (RFC 3339).
    pub created_at: String,
}
