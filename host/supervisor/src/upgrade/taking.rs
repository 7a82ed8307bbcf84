//! The new supervisor's part: going on where the old one left off, or giving everything back.

use super::handover::Taken;
use crate::clock;
use crate::control::Socket;
use crate::data::{DataDir, control_socket};
use crate::jobs::HandedJobs;
use crate::processes::{OldWorker, OldWorkers};
use crate::rollouts::HandedCanary;
use crate::serve::{Host, HostConfig, ServeError};
use crate::usage::Billed;
use insula_ipc::table::Table;
use insula_model::TenantName;
use insula_model::api::UpgradeInfo;
use insula_model::wire::WIRE_VERSION;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

/// How long the new workers may take until all serve, in milliseconds; then the old version comes back.
const SERVE_MS_MAX: u64 = 60_000;

/// What a host that goes on from another has to know of it when it starts.
pub(crate) struct Before {
    pub(crate) table: Option<Table>,
    pub(crate) started_at: String,
    pub(crate) lives: u64,
    pub(crate) jobs: HandedJobs,
    /// What was written of the usage of its tenants.
    pub(crate) billed: Vec<Billed>,
    /// What was counted of canaries before that table.
    pub(crate) canaries: Vec<HandedCanary>,
    /// Whether the old workers speak this version of the protocol.
    pub(crate) speaks: bool,
    pub(crate) upgrade: UpgradeInfo,
    /// Where metrics were served besides the control socket.
    pub(crate) metrics: Option<TcpListener>,
}

impl Before {
    /// Since when its figures were counted, in milliseconds since 1970; none if they begin anew.
    pub(crate) fn counted_unix_ms(&self) -> Option<u64> {
        self.table.as_ref().and_then(|_| clock::to_millis(&self.started_at))
    }

    /// Runs that go on in old workers.
    pub(crate) fn runs(&self) -> HashSet<(TenantName, u64)> {
        self.jobs.running.iter().map(|run| (run.name.clone(), run.run.run)).collect()
    }
}

/// Goes on with the host that was handed over; returns when it serves, and the old workers have been told to
/// leave. If it cannot, this process becomes the version before again, and this does not return.
pub(crate) async fn resume(
    config: &HostConfig,
    taken: Taken,
) -> Result<(DataDir, Host), ServeError> {
    match start(config, &taken).await {
        Ok((data, mut host, old)) => {
            let upgrade = &taken.message.upgrade;
            match &upgrade.error {
                None => tracing::info!(from = upgrade.from, to = upgrade.to, "upgraded"),
                Some(why) => tracing::error!(why, "not upgraded: {} serves on", upgrade.from),
            }
            if taken.message.control_has_file {
                host.socket.own(&control_socket(data.path()));
            }
            host.app.deployer.workers.retire(old, config.drain_ms);
            host.app.deployer.quarantine_left();
            host.open()?;
            if let Some(guard) = taken.guard() {
                guard.serves();
            }
            Ok((data, host))
        }
        Err(error) => Err(taken.give_back(error.to_string()).into()),
    }
}

async fn start(
    config: &HostConfig,
    taken: &Taken,
) -> Result<(DataDir, Host, OldWorkers), ServeError> {
    let message = &taken.message;
    let data = DataDir::adopt(&config.data, File::from(taken.descriptor(message.lock)?))?;
    if message.upgrade.error.is_some()
        && let Some(copy) = &message.copy
    {
        restore(data.path(), copy)?;
    }
    let listener = TcpListener::from(taken.descriptor(message.listener)?);
    let address = listener.local_addr()?;
    if config.listen.port() != 0 && config.listen != address {
        tracing::warn!(%address, configured = %config.listen, "an upgrade keeps the address; restart the host to change it");
    }
    let socket = Socket::adopt(taken.descriptor(message.control)?)?;
    // A table of another layout is no reason to fail: only what it counted is lost.
    let table = || Ok::<_, io::Error>(Table::attach(taken.descriptor(message.table)?).ok());
    let speaks = message.wire == WIRE_VERSION;
    let before = Before {
        table: table()?,
        started_at: message.started_at.clone(),
        lives: message.lives,
        jobs: message.jobs.clone(),
        billed: message.billed.clone(),
        canaries: message.canaries.clone(),
        speaks,
        upgrade: message.upgrade.clone(),
        metrics: match message.metrics {
            Some(number) => Some(TcpListener::from(taken.descriptor(number)?)),
            None => None,
        },
    };
    let host = Host::start(config, &data, listener, socket, Some(before)).await?;
    let old = message.workers.iter().map(|worker| {
        Ok(OldWorker {
            index: worker.index,
            pid: worker.pid,
            life: worker.life,
            socket: taken.descriptor(worker.socket)?,
        })
    });
    let old = old.collect::<io::Result<_>>()?;
    let workers = &host.app.deployer.workers;
    let serving = tokio::time::timeout(Duration::from_millis(SERVE_MS_MAX), workers.serving());
    match serving.await {
        Ok(Ok(())) => Ok((data, host, OldWorkers { table: table()?, workers: old, speaks })),
        late_or_dead => {
            workers.kill();
            workers.reaped().await;
            Err(match late_or_dead {
                Ok(Err(error)) => error.into(),
                _ => ServeError::Late(SERVE_MS_MAX / 1_000),
            })
        }
    }
}

/// Puts the state database back as it was before the version that failed.
fn restore(data: &Path, copy: &Path) -> io::Result<()> {
    for log in ["state.db-wal", "state.db-shm"] {
        match std::fs::remove_file(data.join(log)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::copy(copy, data.join("state.db"))?;
    File::open(data.join("state.db"))?.sync_all()
}
