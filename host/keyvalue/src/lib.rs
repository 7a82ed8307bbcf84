//! Tenants' key-value stores: one SQLite database that every worker opens.
//!
//! ```text
//! guest's call ─ Space ─▶ bounded queue ─▶ one thread a process ─▶ group: reads, then one transaction
//!                   ◀──────────── answer, once what it wrote is on disk ◀────────┘
//! ```
//! Owns `DATA/tenants/keyvalue.db` together with the other processes that have it open. SQLite's lock
//! is what makes an increment in one worker and one in another two increments. The thread starts with
//! the first call, so a process whose tenants use no store has no thread and no open file.
//!
//! Bounds: the constants below. A [`Database`] ends with its last handle; a process that dies ends its
//! open transaction, and nothing that was acknowledged is in one.
#![forbid(unsafe_code)]

mod database;
mod entries;
mod error;
mod group;
mod moving;
mod removal;
mod schema;
mod space;
#[cfg(test)]
mod tests;

pub use database::Database;
pub use entries::{Delta, Page, Version};
pub use error::Error;
pub use moving::{adopt, export, stage};
pub use removal::{hide, hide_others, purge};
pub use space::Space;

use std::time::Duration;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1 << 10;
/// The largest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Keys in one call.
pub const BATCH_KEYS_MAX: usize = 1_000;
/// Bytes of keys and values in one call, and of the values in its answer.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Keys in one page of a listing.
pub const PAGE_KEYS_MAX: usize = 1_000;
/// What an entry counts against the quota beside its key and value, in bytes: about what the database
/// needs for it.
pub const ENTRY_BYTES: usize = 64;
/// Time from a call to its answer.
pub const CALL_MAX: Duration = Duration::from_secs(5);
/// Calls that wait for the thread.
const QUEUE_CALLS_MAX: usize = 1_024;
/// Work of one tenant's revision that waits or runs, in one process, so that no tenant fills the queue
/// alone: 64 small calls, or one of the largest. In units of [`UNIT_KEYS`] keys or [`UNIT_KIB`].
const SPACE_WORK_MAX: u32 = 64;
/// Keys in a unit of work.
const UNIT_KEYS: usize = 16;
/// KiB in a unit of work.
const UNIT_KIB: u32 = 64;
/// KiB of arguments and answers that are under way in one process; an answer counts with the most it
/// can be until it is there.
const UNDER_WAY_KIB_MAX: u32 = 64 << 10;
/// Calls in one group.
const GROUP_CALLS_MAX: usize = 256;
/// Units of work in one transaction, which is how long other processes wait for the lock.
const COMMIT_WORK_MAX: u32 = 256;
