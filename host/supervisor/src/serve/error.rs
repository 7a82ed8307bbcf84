//! Why a host does not run.

use crate::control::SocketError;
use crate::data::DataError;
use crate::passed::PassedError;
use crate::processes::WorkersFailed;
use crate::state::StateError;
use crate::upgrade::HandoverError;
use crate::usage;
use crate::vault::VaultError;
use insula_ipc::table::TableError;
use insula_sandbox::store::StoreError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a host does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another program listens there.
    #[error(
        "{addr} is taken by another program; stop it, or listen elsewhere: `--listen 127.0.0.1:0` takes any free port"
    )]
    PortTaken {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}; name another address with `--listen`")]
    Listen {
        /// What was asked for.
        addr: SocketAddr,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Metrics cannot be served where they should.
    #[error("metrics cannot be served on {addr}: {source}; name another address with `--metrics`")]
    Metrics {
        /// What was asked for.
        addr: SocketAddr,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Another host runs on the same data directory.
    #[error(
        "another host (process {pid}) uses the data directory {}; stop it, or give this one its own with `--data`",
        dir.display()
    )]
    DataInUse {
        /// The directory.
        dir: PathBuf,
        /// The other host's process id; 0 if it does not say.
        pid: u32,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Data(DataError),
    /// The state database cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The key for secrets cannot be used.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The artifact store cannot be used.
    #[error("the artifact store cannot be opened: {0}")]
    Store(#[from] StoreError),
    /// The table shared with workers cannot be made.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The control socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Workers do not start.
    #[error(transparent)]
    Workers(#[from] WorkersFailed),
    /// What the service manager passed.
    #[error(transparent)]
    Passed(#[from] PassedError),
    /// A host that cannot be handed over, or gone on with.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// A new version whose workers are not there in time.
    #[error("its workers did not all serve within {0} s")]
    Late(u64),
    /// The audit log cannot be used.
    #[error("the audit log in the data directory's `audit` cannot be used: {0}")]
    Audit(io::Error),
    /// The usage database cannot be used.
    #[error(transparent)]
    Usage(#[from] usage::LedgerError),
    /// The directory of logs, a signal handler, or a thread.
    #[error("the host could not be set up: {0}")]
    Io(#[from] io::Error),
}

impl From<DataError> for ServeError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::InUse { dir, pid } => Self::DataInUse { dir, pid },
            other => Self::Data(other),
        }
    }
}
