//! Names of secrets, and their values on the way between our own processes.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// Bytes of one secret's value.
pub const SECRET_BYTES_MAX: usize = 32 << 10;
/// Secrets of one tenant.
pub const SECRETS_MAX: usize = 64;
/// Bytes of all of one tenant's values together: they travel to workers in one message.
pub const SECRETS_BYTES_MAX: usize = 256 << 10;

/// How a secret reaches its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SecretVia {
    /// As an environment variable of that name.
    Env,
    /// As a key of `wasi:config/store`.
    Config,
}

/// The name of a secret: a valid name of an environment variable, at most 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretKey(String);

/// Not the name of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not the name of a secret: write at most 128 letters, digits and underscores, not starting with a digit"
)]
pub struct SecretKeyError(String);

impl SecretKey {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `name` can name a variable or secret.
pub(crate) fn is_variable_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 128
        && bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl FromStr for SecretKey {
    type Err = SecretKeyError;
    fn from_str(text: &str) -> Result<Self, SecretKeyError> {
        match is_variable_name(text) {
            true => Ok(Self(text.into())),
            false => Err(SecretKeyError(text.chars().take(140).collect())),
        }
    }
}

impl TryFrom<String> for SecretKey {
    type Error = SecretKeyError;
    fn try_from(text: String) -> Result<Self, SecretKeyError> {
        text.parse()
    }
}

impl From<SecretKey> for String {
    fn from(key: SecretKey) -> Self {
        key.0
    }
}

impl fmt::Display for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A secret's value. It cannot be printed, and is wiped when dropped as far as one owner can do that.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretValue(String);

impl SecretValue {
    /// Takes a value into custody.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself; whoever calls this answers for where it goes.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Drop for SecretValue {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_does_not_print() {
        let value = SecretValue::new("hunter2".into());
        assert!(!format!("{value:?}").contains("hunter2"));
    }

    #[test]
    fn names_are_those_of_variables() {
        assert!("API_KEY2".parse::<SecretKey>().is_ok());
        for bad in ["", "2A", "A-B", "A B", "A=B", "\u{e4}"] {
            assert!(bad.parse::<SecretKey>().is_err(), "{bad}");
        }
    }
}
