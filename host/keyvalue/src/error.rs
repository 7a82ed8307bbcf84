//! Why a call was refused or failed, in words for the guest's author.

use crate::{BATCH_BYTES_MAX, BATCH_KEYS_MAX, CALL_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use rusqlite::ErrorCode;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A key is too long.
    #[error("the key has {0} bytes and may have {KEY_BYTES_MAX}; store a hash of it instead")]
    KeyTooLong(usize),
    /// A value is too large.
    #[error("the value has {0} bytes and may have {VALUE_BYTES_MAX}; split it over several keys")]
    ValueTooLarge(usize),
    /// Too much in one call.
    #[error(
        "one call may name {BATCH_KEYS_MAX} keys and carry {BATCH_BYTES_MAX} bytes; make several calls"
    )]
    BatchTooLarge,
    /// No room within the tenant's quota. Nothing was written.
    #[error(
        "the tenant's stores would hold {would} bytes and their quota is {quota}; delete keys, or \
         deploy with a larger `keyvalue.quota`"
    )]
    Quota {
        /// Bytes after the call.
        would: u64,
        /// What they may be.
        quota: u64,
    },
    /// The value cannot be incremented. Nothing was written.
    #[error("the value is not a whole number in decimal digits; delete the key, or use another")]
    NotANumber,
    /// The sum is out of range. Nothing was written.
    #[error("the sum does not fit into 64 bits; nothing was changed")]
    Overflow,
    /// There is no room on the host's disk. Nothing was written.
    #[error("the host's disk is full, nothing was written; tell its operator")]
    DiskFull,
    /// Too much is under way.
    #[error("the host's key-value store has too much to do; try again later")]
    Busy,
    /// The answer did not come in time.
    #[error(
        "the host's key-value store did not answer within {} s; a write may have happened or not",
        CALL_MAX.as_secs()
    )]
    Late,
    /// The tenant was removed, and its stores with it.
    #[error("the tenant was removed, and its stores with it")]
    Removed,
    /// Written by a later Insula.
    #[error(
        "the key-value database has version {found}, this Insula knows up to {known}; start the \
         newer version that wrote it"
    )]
    Newer {
        /// `PRAGMA user_version` of the file.
        found: u32,
        /// The latest version this binary can read.
        known: u32,
    },
    /// The database failed; details are in the host's log.
    #[error("the host's key-value store failed; its operator finds the cause in the host's log")]
    Failed(String),
    /// The thread is gone: a bug.
    #[error("the host's key-value store has stopped; tell its operator")]
    Lost,
}

impl Error {
    /// What an operator should know of.
    pub fn is_the_hosts(&self) -> bool {
        matches!(self, Self::DiskFull | Self::Newer { .. } | Self::Failed(_) | Self::Lost)
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            _ => Self::Failed(error.to_string()),
        }
    }
}
