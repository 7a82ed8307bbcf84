//! The control plane: the process that owns state and decides.
//!
//! ```text
//! control ──▶ deploy ──▶ compilers ──▶ compiler children
//!                │ publish: one transaction, then every worker
//!                ├──▶ state      what is durable (SQLite)
//!                ├──▶ registry   what is in force (memory)
//!                ├──▶ processes  the workers: started, told, buried, replaced
//!                │        └──▶ logs   guests' lines, on their way to disk
//!                ├──▶ usage      what tenants have used, by the hour
//!                ├──▶ jobs       what runs by a schedule: when, and where it is sent
//!                ├──▶ audit      who changed or read what, before anybody is told that it is done
//!                └──▶ rollouts   which canaries are well: promoted, or rolled back
//! control ──▶ live    what happens at this moment, while somebody watches
//! metrics, traces ──▶ otlp   what a collector gets
//! ```
//! It never touches a tenant's request and never runs or compiles guest code: compiling happens in
//! children, running in workers. Everything that may wait for a disk runs on a blocking thread, so the
//! event loop stays free to replace a dead worker at once.
#![forbid(unsafe_code)]

mod archive;
mod audit;
mod clock;
pub mod compile;
mod compilers;
mod control;
mod data;
mod deploy;
mod jobs;
mod keeper;
mod listen;
mod live;
mod logs;
mod metrics;
mod notify;
mod otlp;
mod passed;
mod processes;
mod registry;
mod rollouts;
mod serve;
mod state;
pub mod survey;
mod sync;
mod traces;
mod upgrade;
mod upkeep;
mod usage;
mod vault;

pub use compile::{CompileError, Compiled, compile};
pub use control::SocketError;
pub use data::{DataError, RestoreError, control_socket, holder, restore};
pub use metrics::MetricsOptions;
pub use otlp::{Collector, CollectorError, OtlpOptions};
pub use passed::{Passed, PassedError};
pub use processes::WorkersFailed;
pub use serve::{HostConfig, ServeError, serve};
pub use state::StateError;
pub use upgrade::{HANDOVER_VARIABLE, HandoverError, Origin, Said, Watch, guard, preflight};
pub use usage::LedgerError;
pub use vault::{KEY_FILE_BYTES_MAX, SecretsKey, SecretsKeyError, VaultError};
