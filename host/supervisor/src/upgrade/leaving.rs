//! The old supervisor's part: ending everything that is not to be noticed, and becoming the new one.

use super::Plan;
use super::guard::Guard;
use super::handover::{FORMAT, HandoverError, Message, Watcher, Worker, exec, exec_with, open};
use crate::clock;
use crate::data::DataDir;
use crate::serve::{Host, PUBLISH_MS_MAX, RECORD_MS_MAX};
use crate::state::COPY;
use insula_ipc::fds::keep_open;
use insula_model::api::UpgradeInfo;
use insula_model::wire::WIRE_VERSION;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long connections to the control socket that were taken up already have to bring their request, in
/// milliseconds; then those that are idle end.
const LAST_REQUESTS_MS: u64 = 100;

impl Host {
    /// Hands the host over to the binary of the plan. Returns only if neither that nor this binary can go
    /// on, which is the end of the host.
    pub(crate) async fn hand_over(self, data: DataDir, plan: Plan) -> HandoverError {
        let lost = |why: &str, error: &dyn std::fmt::Display| HandoverError::Lost {
            why: why.to_owned(),
            error: error.to_string(),
        };
        let Some(origin) = self.app.upgrader.origin().cloned() else {
            return lost("it cannot be upgraded", &"nobody knows how it was started");
        };
        tracing::info!(binary = plan.plan.binary, to = plan.plan.to, "handing over");
        self.app.upgrader.notify().reloading();
        let at = clock::now();
        let deployer = std::sync::Arc::clone(&self.app.deployer);
        // Nobody is refused: who comes from now on waits in the socket for the next supervisor.
        self.app.upgrader.hold();
        tokio::time::sleep(Duration::from_millis(LAST_REQUESTS_MS)).await;
        // Its counters go on with the next supervisor, which exports what they are by then.
        if let Some(exporting) = self.exporting {
            exporting.abort();
        }
        self.ending.send_replace(true);
        for serving in [self.control, self.metrics].into_iter().flatten() {
            let _ = serving.await;
        }
        let publish = Duration::from_millis(PUBLISH_MS_MAX);
        let _alone = tokio::time::timeout(publish, deployer.publishing.lock()).await;
        for helper in self.helpers {
            helper.abort();
        }
        deployer.compilers.close().await;
        deployer.jobs.freeze();
        if let Some(scheduler) = self.scheduler {
            let record = Duration::from_millis(RECORD_MS_MAX);
            let _ = tokio::time::timeout(record, scheduler).await;
        }
        let workers = deployer.workers.hand_over().await;
        let ends = deployer.jobs.take_ended();
        if let Err(error) = deployer.state.record_runs(ends, Vec::new()).await {
            tracing::error!(%error, "the ends of some runs could not be recorded");
        }
        self.writing.close(&deployer.logs).await;
        deployer.usage.close().await;
        if let Err(error) = deployer.write_counts(None).await {
            tracing::error!(%error, "what was counted of canaries could not be written down");
        }
        self.app.audit.close().await;
        if let Err(error) = deployer.state.close().await {
            tracing::warn!(%error, "the state database keeps its log; nothing is lost");
        }
        let copy = plan.plan.migrates.then(|| copy(data.path())).and_then(|copied| {
            copied
                .inspect_err(|error| tracing::error!(%error, "no copy of the state database"))
                .ok()
        });
        let binary = match own_binary() {
            Ok(binary) => binary,
            Err(error) => return lost("its own binary is gone", &error),
        };
        let table = deployer.workers.table_fd();
        let upgrade = UpgradeInfo {
            number: plan.plan.number,
            at,
            from: plan.plan.from,
            to: plan.plan.to,
            binary: plan.plan.binary,
            error: None,
        };
        let old = |worker: &crate::processes::HandedWorker| Worker {
            index: worker.index,
            pid: worker.pid,
            life: worker.life,
            socket: worker.socket.as_raw_fd(),
        };
        let mut message = Message {
            format: FORMAT,
            wire: WIRE_VERSION,
            lock: data.lock().as_raw_fd(),
            listener: deployer.workers.listener_fd().as_raw_fd(),
            control: self.socket.fd().as_raw_fd(),
            metrics: self.metrics_listener.as_ref().map(AsRawFd::as_raw_fd),
            control_has_file: self.socket.has_file(),
            table: table.as_raw_fd(),
            old_binary: binary.as_raw_fd(),
            old_program: origin.program.clone(),
            old_arguments: origin.arguments.clone(),
            started_at: self.app.started_at.clone(),
            lives: deployer.workers.lives(),
            workers: workers.iter().map(old).collect(),
            jobs: deployer.jobs.handed(),
            billed: deployer.usage.billed().await,
            canaries: deployer.handed_canaries(),
            upgrade,
            copy,
            guard: None,
        };
        let all = || {
            let one = [data.lock().as_fd(), deployer.workers.listener_fd(), self.socket.fd()];
            let more = [table, binary.as_fd()];
            let more = more.into_iter().chain(self.metrics_listener.as_ref().map(AsFd::as_fd));
            let sockets = workers.iter().map(|worker| worker.socket.as_fd());
            one.into_iter().chain(more).chain(sockets)
        };
        let mut guard = None;
        let error = match open(all()) {
            Err(error) => error,
            Ok(memory) => {
                let started = Guard::start(&origin, memory.as_raw_fd()).and_then(|guard| {
                    keep_open(&guard.socket)?;
                    Ok(guard)
                });
                guard = started
                    .inspect_err(|error| tracing::warn!(%error, "nobody watches over the upgrade"))
                    .ok();
                message.guard = guard
                    .as_ref()
                    .map(|guard| Watcher { pid: guard.pid, socket: guard.socket.as_raw_fd() });
                exec_with(&plan.binary, &plan.binary, &origin, &message, &memory)
            }
        };
        let why = format!("{} cannot be run: {error}", plan.binary.display());
        tracing::error!(why, "the upgrade failed; this version goes on");
        message.upgrade.error = Some(why.clone());
        // The other half of what was ended above is in the way that a host begins.
        let error = exec(Path::new("/proc/self/exe"), &origin.program, &origin, &message, all());
        drop(guard);
        // Without a supervisor they finish what runs in them.
        std::mem::forget(workers);
        lost(&why, &error)
    }
}

/// This binary, whatever has become of its file.
fn own_binary() -> io::Result<OwnedFd> {
    File::open("/proc/self/exe").map(OwnedFd::from)
}

/// Keeps the state database as it is now, should the new version fail after it has changed it. Its log is
/// folded in, and nobody writes.
fn copy(data: &Path) -> io::Result<PathBuf> {
    let copy = data.join(COPY);
    std::fs::copy(data.join("state.db"), &copy)?;
    File::open(&copy)?.sync_all()?;
    Ok(copy)
}
