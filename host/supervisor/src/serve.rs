//! Wiring: what a host starts, in which order, and how it ends.
//!
//! ```text
//! data directory ─▶ port ─▶ state, store, logs ─▶ control socket ─▶ workers ─▶ ready
//!                                                                     │ SIGTERM, SIGINT
//! lock released ◀─ state closed ◀─ logs written ◀─ control ends ◀─ workers drained
//! ```
//! A host that is upgraded hands over instead of ending, and the one that goes on from it opens its control
//! socket last: see `upgrade`.
//!
//! What can be refused cheaply comes first. The end is bounded: a publish under way, the drain, and a
//! few seconds; a second signal ends the workers at once.

mod error;
mod opening;

use crate::compilers::Compilers;
use crate::control::{self, App, Socket};
use crate::data::{DataDir, control_socket};
use crate::deploy::{Deployer, EXPORTS_MAX, MountRules, repair};
use crate::jobs::{Board, Scheduler};
use crate::keeper::Keeper;
use crate::listen::listen_for_metrics;
use crate::live::Live;
use crate::logs::{Logs, Writing};
use crate::metrics::{Exporter, Metrics, MetricsOptions};
use crate::notify;
use crate::otlp::{self, OtlpOptions, Sender, Signal as OtlpSignal};
use crate::passed::Passed;
use crate::processes::{WorkerSetup, Workers};
use crate::rollouts;
use crate::traces::Traces;
use crate::upgrade::{self, Before, Origin, Plan, Taken, Upgrader};
use crate::vault::SecretsKey;
use crate::{clock, listen, upkeep};
use futures_util::future::join_all;
use insula_ipc::heap::take_small_pages;
use insula_ipc::memory::available_bytes;
use insula_ipc::table::Table;
use insula_model::access_log::Sample;
use insula_model::api::{HostInfo, JobRun};
use insula_model::config::CompilerLimits;
use insula_model::{Ceilings, TenantName};
use opening::{open, private};
use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

pub use error::ServeError;

/// What tenants keep, in the data directory.
const TENANTS: &str = "tenants";
/// Workers' requests for code that wait to be taken up; more wait in their sockets.
const CODE_NEEDED_MAX: usize = 1_024;
/// How long a shutdown waits for a publish under way, in milliseconds: longer than a stuck worker
/// holds one up.
pub(crate) const PUBLISH_MS_MAX: u64 = 15_000;
/// How long a shutdown waits until the last runs of jobs are recorded, in milliseconds.
pub(crate) const RECORD_MS_MAX: u64 = 5_000;

/// Of the memory that this machine or a cgroup above has, hundredths that workers may hold if nobody says
/// otherwise. The rest is for the supervisor, compilers and the kernel.
const MEMORY_PERCENT_DEFAULT: u64 = 80;

/// Everything a host is told.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Where tenants are served; port 0 takes any.
    pub listen: SocketAddr,
    /// Directory of state, artifacts, code, logs and the control socket.
    pub data: PathBuf,
    /// Worker processes.
    pub workers: u32,
    /// Live instances that each worker has room for, running and idle ones together.
    pub instances: u32,
    /// Milliseconds that running requests get to finish at shutdown.
    pub drain_ms: u64,
    /// The workers' log filter; the supervisor's own subscriber is the caller's.
    pub log: String,
    /// Bytes of memory that all workers may hold; none for 80% of what there is.
    pub memory_bytes: Option<u64>,
    /// Where traces and metrics are sent; none for nowhere.
    pub otlp: Option<OtlpOptions>,
    /// Where metrics are served, and how many.
    pub metrics: MetricsOptions,
    /// What manifests may ask for.
    pub ceilings: Ceilings,
    /// How hard compilers may work.
    pub compiler: CompilerLimits,
    /// Which requests the access log gets of tenants that do not say so themselves.
    pub access_log: Sample,
    /// Certificates (PEM) that outbound TLS trusts beside the public ones; may be empty.
    pub outbound_ca: String,
    /// The key that secrets are sealed with; none for the host's own, `DATA/secrets.key`.
    pub secrets_key: Option<SecretsKey>,
    /// How to start this host again, as another binary; none if it cannot be upgraded.
    pub origin: Option<Origin>,
    /// What this process got from a service manager, or from the host that it goes on from.
    pub passed: Passed,
}

/// What signals ask for.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// A host in a terminal ends with it; a service is asked for something by the same signal.
    hangup_stops: bool,
}

impl Signals {
    fn new(movable: bool) -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        let hangup_stops = !movable || io::stdin().is_terminal();
        Ok(Self { terminate, interrupt, hangup, hangup_stops })
    }

    /// Whether to stop, or else to upgrade.
    async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => true,
            _ = self.interrupt.recv() => true,
            _ = self.hangup.recv() => self.hangup_stops,
        }
    }

    /// To stop.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs the host until SIGTERM or SIGINT. `on_ready` is called once, when every worker serves and the
/// control socket listens. Returns when nothing of the host runs any more; not at all if it is upgraded,
/// since the process is another program then.
pub async fn serve(config: HostConfig, on_ready: impl FnOnce(HostInfo)) -> Result<(), ServeError> {
    take_small_pages();
    let mut signals = Signals::new(config.origin.is_some())?;
    let (data, mut host) = match config.passed.handover {
        Some(number) => upgrade::resume(&config, Taken::receive(number)?).await?,
        None => {
            let (data, host) = begin(&config).await?;
            let started = tokio::select! {
                started = host.app.deployer.workers.serving() => started.map(|()| true),
                () = signals.stop() => Ok(false),
            };
            if !matches!(started, Ok(true)) {
                if started.is_err() {
                    host.app.deployer.workers.kill();
                }
                host.stop(config.drain_ms, &mut signals).await;
                data.release();
                return started.map(drop).map_err(ServeError::from);
            }
            (data, host)
        }
    };
    host.app.ready.store(true, Ordering::SeqCst);
    host.app.upgrader.ready(host.app.deployer.listen);
    on_ready(host.app.host_info());
    let mut asked = Vec::new();
    let plan = loop {
        tokio::select! {
            stop = signals.next() => match stop {
                true => break None,
                false => {
                    asked.retain(|asked: &JoinHandle<()>| !asked.is_finished());
                    asked.push(host.app.upgrader.by_signal(&host.app.audit));
                }
            },
            plan = host.plans.recv() => break plan,
        }
    };
    if let Some(plan) = plan {
        // It only has to be written yet who asked.
        let _ = tokio::time::timeout(Duration::from_millis(RECORD_MS_MAX), join_all(asked)).await;
        return Err(host.hand_over(data, plan).await.into());
    }
    host.stop(config.drain_ms, &mut signals).await;
    data.release();
    Ok(())
}

/// Starts a host that goes on from none.
async fn begin(config: &HostConfig) -> Result<(DataDir, Host), ServeError> {
    let sockets = config.passed.sockets()?;
    let data = DataDir::claim(&config.data)?;
    let listener = match sockets.http {
        Some(listener) => listener,
        None => listen::listen(config.listen, data.unclean()).await?,
    };
    let socket = match sockets.control {
        Some(listening) => Socket::adopt(listening)?,
        None => Socket::bind(&control_socket(data.path()))?,
    };
    let mut host = Host::start(config, &data, listener, socket, None).await?;
    host.open()?;
    Ok((data, host))
}

/// A host that runs.
pub(crate) struct Host {
    pub(crate) app: Arc<App>,
    pub(crate) writing: Writing,
    pub(crate) ending: watch::Sender<bool>,
    pub(crate) socket: Socket,
    pub(crate) plans: mpsc::Receiver<Plan>,
    pub(crate) control: Option<JoinHandle<()>>,
    pub(crate) helpers: Vec<JoinHandle<()>>,
    pub(crate) scheduler: Option<JoinHandle<()>>,
    /// Until it is opened.
    resting: Option<(Scheduler, HashMap<TenantName, JobRun>)>,
    exporter: Option<Exporter>,
    /// Where metrics are served besides the control socket; kept for the host that goes on from this one.
    pub(crate) metrics_listener: Option<TcpListener>,
    pub(crate) metrics: Option<JoinHandle<()>>,
    pub(crate) exporting: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts everything but what acts on its own: see [`Host::open`].
    pub(crate) async fn start(
        config: &HostConfig,
        owned: &DataDir,
        listener: TcpListener,
        socket: Socket,
        mut before: Option<Before>,
    ) -> Result<Self, ServeError> {
        let listen = listener.local_addr()?;
        let data = owned.path();
        let go_on = before.as_ref().map(Before::runs).unwrap_or_default();
        let (store, state, registry, last_runs, audit, used) =
            open(data.to_path_buf(), config.secrets_key.clone(), owned.unclean(), go_on).await?;
        let (logs, writing) = Logs::open(data)?;
        let table = Arc::new(Table::create(config.workers)?);
        let available = || available_bytes().map(|bytes| bytes / 100 * MEMORY_PERCENT_DEFAULT);
        table.set_memory_budget(config.memory_bytes.or_else(available).unwrap_or(0));
        let handed = before.as_mut().and_then(|before| before.metrics.take());
        let listen_for = |addr| listen_for_metrics(addr, handed);
        let metrics_listener = config.metrics.listen.map(listen_for).transpose()?;
        let counted_ms = before.as_ref().and_then(Before::counted_unix_ms);
        let counted_ms = counted_ms.unwrap_or_else(clock::now_ms);
        let metrics = Arc::new(Metrics::new(Arc::clone(&table), &config.metrics, counted_ms));
        let resource = otlp::resource(listen);
        let traces = &metrics.events.traces;
        let (code_needed, needs) = mpsc::channel(CODE_NEEDED_MAX);
        let setup = WorkerSetup {
            listener,
            table: Arc::clone(&table),
            traces: Traces::start(config.otlp.as_ref(), resource.clone(), Arc::clone(traces)),
            metrics: Arc::clone(&metrics),
            log: config.log.clone(),
            code_dir: store.code_dir().to_path_buf(),
            code_key: store.code_key(),
            tenants_dir: data.join(TENANTS),
            outbound_ca: config.outbound_ca.clone(),
            access_log: config.access_log,
            instances: config.instances,
        };
        let registry = Arc::new(registry);
        let jobs = Arc::new(Board::default());
        let (mut lives, mut upgrade, mut started_at) = (0, None, clock::now());
        let mut billed = Vec::new();
        if let Some(before) = before {
            // Without the table, all figures begin anew.
            if let Some(earlier) = &before.table {
                table.continue_from(earlier);
                billed = before.billed;
                registry.go_on_from(before.canaries);
            }
            jobs.go_on_from(before.jobs, before.speaks);
            (lives, upgrade, started_at) = (before.lives, Some(before.upgrade), before.started_at);
        }
        let (to_registry, to_jobs) = (Arc::clone(&registry), Arc::clone(&jobs));
        let workers = Workers::start(setup, to_registry, to_jobs, logs.clone(), code_needed, lives);
        let exporter = config.otlp.as_ref().and_then(|options| {
            Some(Exporter {
                sender: Sender::new(options.collector.clone(), OtlpSignal::Metrics),
                interval: Duration::from_millis(options.metrics_ms?),
                resource,
                metrics: Arc::clone(&metrics),
                workers: workers.clone(),
                registry: Arc::clone(&registry),
            })
        });
        let usage = used.of(Arc::clone(&registry), workers.clone(), billed);
        let scheduler = Scheduler {
            board: Arc::clone(&jobs),
            state: state.clone(),
            registry: Arc::clone(&registry),
            workers: workers.clone(),
            logs: logs.clone(),
        };
        let deployer = Arc::new(Deployer {
            keeper: Keeper::new(store.clone()),
            compilers: Compilers::new(
                store.clone(),
                config.compiler.clone(),
                Arc::clone(&metrics.events),
            ),
            store,
            state,
            registry,
            workers,
            jobs,
            usage: usage.clone(),
            logs,
            ceilings: config.ceilings.clone(),
            mount_rules: MountRules {
                allowed: config.ceilings.mounts.clone(),
                private: private(data, config.secrets_key.as_ref()),
            },
            tenants_dir: data.join(TENANTS),
            listen,
            canary_begun: Notify::new(),
            changed: Notify::new(),
            publishing: Mutex::new(()),
            exports: Arc::new(Semaphore::new(EXPORTS_MAX)),
            importing: Mutex::new(()),
            draining: AtomicBool::new(false),
        });
        let (ending, end) = watch::channel(false);
        let compile_ms_max = config.compiler.timeout.0;
        let (upgrader, plans) = Upgrader::new(
            config.origin.clone(),
            upgrade,
            compile_ms_max,
            deployer.workers.clone(),
            notify::Notify::new(&config.passed),
        );
        let app = Arc::new(App {
            deployer: Arc::clone(&deployer),
            audit,
            data: data.to_path_buf(),
            started_at,
            live: Live::default(),
            metrics,
            metrics_listen: metrics_listener.as_ref().and_then(|socket| socket.local_addr().ok()),
            ready: AtomicBool::new(false),
            ending: end,
            upgrader: Arc::new(upgrader),
        });
        Ok(Self {
            control: None,
            helpers: vec![
                tokio::spawn(repair(Arc::clone(&deployer), needs)),
                tokio::spawn(upkeep::sweep(deployer)),
            ],
            scheduler: None,
            resting: Some((scheduler, last_runs)),
            exporter,
            metrics_listener,
            metrics: None,
            exporting: None,
            app,
            writing,
            ending,
            socket,
            plans,
        })
    }

    /// Takes requests on the control socket, and starts jobs, from now on.
    pub(crate) fn open(&mut self) -> io::Result<()> {
        self.control = Some(control::start(&self.socket, Arc::clone(&self.app))?);
        if let Some((scheduler, last_runs)) = self.resting.take() {
            self.scheduler = Some(tokio::spawn(scheduler.run(last_runs)));
        }
        if let Some(listener) = &self.metrics_listener {
            let (listener, app) = (listener.try_clone()?, Arc::clone(&self.app));
            self.metrics = Some(tokio::spawn(async move {
                if let Err(error) = control::serve_metrics(listener, app).await {
                    tracing::error!(%error, "metrics are not served any more");
                }
            }));
        }
        let exporter = self.exporter.take();
        let ending = || self.app.ending.clone();
        self.exporting = exporter.map(|exporter| tokio::spawn(exporter.run(ending())));
        let deployer = Arc::clone(&self.app.deployer);
        self.helpers.push(tokio::spawn(deployer.usage.clone().run()));
        let audit = self.app.audit.clone();
        self.helpers.push(tokio::spawn(rollouts::watch(Arc::clone(&deployer), audit)));
        self.helpers.push(tokio::spawn(upkeep::rest(Arc::clone(&deployer))));
        self.helpers.push(tokio::spawn(upkeep::look_after(deployer, self.app.data.clone())));
        // Not before: a host that goes on from another may still have to give everything back.
        self.helpers.push(tokio::spawn(upkeep::sweep_engines(Arc::clone(&self.app.deployer))));
        self.helpers.extend(self.app.upgrader.notify().watchdog());
        Ok(())
    }

    /// Ends in order; see the top of this file.
    async fn stop(self, drain_ms: u64, signals: &mut Signals) {
        let deployer = &self.app.deployer;
        deployer.draining.store(true, Ordering::SeqCst);
        self.app.upgrader.notify().say("STOPPING=1\nSTATUS=stopping: running requests finish");
        deployer.jobs.close();
        tracing::info!(drain_ms, "stopping: no new connections, running requests finish");
        let draining = async {
            // A publish under way is finished first, so that its client hears how it ended.
            let published = Duration::from_millis(PUBLISH_MS_MAX);
            let _alone = tokio::time::timeout(published, deployer.publishing.lock()).await;
            deployer.workers.stop(drain_ms).await;
        };
        tokio::pin!(draining);
        tokio::select! {
            () = &mut draining => {}
            () = signals.stop() => {
                tracing::warn!("a second signal: ending at once");
                deployer.workers.kill();
                deployer.workers.reaped().await;
            }
        }
        self.ending.send_replace(true);
        if let Some(control) = self.control
            && let Err(error) = control.await
        {
            tracing::error!(%error, "the control API had panicked");
        }
        drop((self.socket, self.metrics_listener));
        // Bounded by itself.
        if let Some(exporting) = self.exporting
            && let Err(error) = exporting.await
        {
            tracing::error!(%error, "the export of metrics had panicked");
        }
        for helper in self.helpers {
            helper.abort();
        }
        let recorded = Duration::from_millis(RECORD_MS_MAX);
        if let Some(scheduler) = self.scheduler
            && tokio::time::timeout(recorded, scheduler).await.is_err()
        {
            tracing::error!("the ends of some runs could not be recorded");
        }
        self.writing.close(&deployer.logs).await;
        deployer.usage.close().await;
        if let Err(error) = deployer.write_counts(None).await {
            tracing::error!(%error, "what was counted of canaries since the last write is lost");
        }
        self.app.audit.close().await;
        if let Err(error) = deployer.state.close().await {
            tracing::warn!(%error, "the state database keeps its log; nothing is lost");
        }
        tracing::info!("stopped");
    }
}
