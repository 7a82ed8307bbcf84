//! Namespaces: groups of tenants that one owner has, within one quota.
//!
//! They group what is counted and nothing else: tenants' names and routes are the whole host's.

use crate::name::is_label;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The namespace of tenants that name none. It always exists.
pub const NAMESPACE_DEFAULT: &str = "default";

/// A namespace's name: an RFC 1123 label, like a tenant's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Namespace(String);

/// A name that is not a DNS label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a namespace: use 1 to 63 lower-case letters, digits and hyphens, \
     starting and ending with a letter or digit"
)]
pub struct NamespaceError(String);

impl Namespace {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is that of tenants that name none.
    pub fn is_default(&self) -> bool {
        self.0 == NAMESPACE_DEFAULT
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self(NAMESPACE_DEFAULT.into())
    }
}

impl FromStr for Namespace {
    type Err = NamespaceError;
    fn from_str(text: &str) -> Result<Self, NamespaceError> {
        if is_label(text) {
            Ok(Self(text.into()))
        } else {
            Err(NamespaceError(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for Namespace {
    type Error = NamespaceError;
    fn try_from(text: String) -> Result<Self, NamespaceError> {
        text.parse()
    }
}

impl From<Namespace> for String {
    fn from(name: Namespace) -> String {
        name.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
