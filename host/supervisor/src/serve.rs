//! Wiring: what a host starts, in which order, and how it ends.
//!
//! ```text
//! data directory ─▶ port ─▶ state, store, logs ─▶ control socket ─▶ workers ─▶ ready
//!                                                                     │ SIGTERM, SIGINT
//! lock released ◀─ state closed ◀─ logs written ◀─ control ends ◀─ workers drained
//! ```
//! What can be refused cheaply comes first. The end is bounded: a publish under way, the drain, and a
//! few seconds; a second signal ends the workers at once.

use crate::audit::Audit;
use crate::compilers::Compilers;
use crate::control::{self, App, Socket, SocketError};
use crate::data::{DataDir, DataError, control_socket};
use crate::deploy::{DeployError, Deployer, EXPORTS_MAX, MountRules, adopt, repair};
use crate::jobs::{Board, Scheduler};
use crate::keeper::Keeper;
use crate::listen::listen_for_metrics;
use crate::live::Live;
use crate::logs::{Logs, Writing};
use crate::metrics::{Metrics, MetricsOptions};
use crate::processes::{WorkerSetup, Workers, WorkersFailed};
use crate::registry::Registry;
use crate::rollouts;
use crate::state::{State, StateError};
use crate::traces::{TraceOptions, Traces};
use crate::usage;
use crate::vault::{SecretsKey, Vault, VaultError};
use crate::{clock, data as data_dir, listen, logs, state, upkeep};
use insula_ipc::memory::available_bytes;
use insula_ipc::table::{Table, TableError};
use insula_model::access_log::Sample;
use insula_model::api::{HostInfo, JobRun};
use insula_model::config::CompilerLimits;
use insula_model::{Ceilings, TenantName};
use insula_sandbox::capabilities::directories;
use insula_sandbox::store::{ArtifactStore, StoreError};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

/// What tenants keep, in the data directory.
const TENANTS: &str = "tenants";
/// Workers' requests for code that wait to be taken up; more wait in their sockets.
const CODE_NEEDED_MAX: usize = 1_024;
/// How long a shutdown waits for a publish under way, in milliseconds: longer than a stuck worker
/// holds one up.
const PUBLISH_MS_MAX: u64 = 15_000;
/// How long a shutdown waits until the last runs of jobs are recorded, in milliseconds.
const RECORD_MS_MAX: u64 = 5_000;

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
    /// Milliseconds that running requests get to finish at shutdown.
    pub drain_ms: u64,
    /// The workers' log filter; the supervisor's own subscriber is the caller's.
    pub log: String,
    /// Bytes of memory that all workers may hold; none for 80% of what there is.
    pub memory_bytes: Option<u64>,
    /// Where traces are sent; none for nowhere.
    pub traces: Option<TraceOptions>,
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
}

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

/// The requests to stop.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs the host until SIGTERM or SIGINT. `on_ready` is called once, when every worker serves and the
/// control socket listens. Returns when nothing of the host runs any more.
pub async fn serve(config: HostConfig, on_ready: impl FnOnce(HostInfo)) -> Result<(), ServeError> {
    let mut stop = Stop::new()?;
    let data = DataDir::claim(&config.data)?;
    let listener = listen::listen(config.listen, data.unclean()).await?;
    let host = Host::start(&config, &data, listener).await?;
    let started = tokio::select! {
        started = host.app.deployer.workers.serving() => started.map(|()| true),
        () = stop.requested() => Ok(false),
    };
    match &started {
        Ok(true) => {
            host.app.ready.store(true, Ordering::SeqCst);
            on_ready(host.app.host_info());
            stop.requested().await;
        }
        Ok(false) => {}
        Err(_) => host.app.deployer.workers.kill(),
    }
    host.stop(config.drain_ms, &mut stop).await;
    data.release();
    started.map(drop).map_err(ServeError::from)
}

/// A host that runs.
struct Host {
    app: Arc<App>,
    writing: Writing,
    ending: watch::Sender<bool>,
    control: JoinHandle<io::Result<()>>,
    helpers: Vec<JoinHandle<()>>,
    scheduler: JoinHandle<()>,
}

impl Host {
    async fn start(
        config: &HostConfig,
        owned: &DataDir,
        listener: TcpListener,
    ) -> Result<Self, ServeError> {
        let listen = listener.local_addr()?;
        let data = owned.path();
        let (store, state, registry, last_runs, audit, used) =
            open(data.to_path_buf(), config.secrets_key.clone(), owned.unclean()).await?;
        let (logs, writing) = Logs::open(data)?;
        let table = Arc::new(Table::create(config.workers)?);
        let available = || available_bytes().map(|bytes| bytes / 100 * MEMORY_PERCENT_DEFAULT);
        table.set_memory_budget(config.memory_bytes.or_else(available).unwrap_or(0));
        let socket = Socket::bind(&control_socket(data))?;
        let metrics_listener = config.metrics.listen.map(listen_for_metrics).transpose()?;
        let metrics = Arc::new(Metrics::new(Arc::clone(&table), &config.metrics));
        let (code_needed, needs) = mpsc::channel(CODE_NEEDED_MAX);
        let setup = WorkerSetup {
            listener,
            table,
            traces: Traces::start(config.traces.as_ref(), Arc::clone(&metrics.events.traces)),
            metrics: Arc::clone(&metrics),
            log: config.log.clone(),
            code_dir: store.code_dir().to_path_buf(),
            code_key: store.code_key(),
            tenants_dir: data.join(TENANTS),
            outbound_ca: config.outbound_ca.clone(),
            access_log: config.access_log,
        };
        let registry = Arc::new(registry);
        let jobs = Arc::new(Board::default());
        let (to_registry, to_jobs) = (Arc::clone(&registry), Arc::clone(&jobs));
        let workers = Workers::start(setup, to_registry, to_jobs, logs.clone(), code_needed);
        let usage = used.of(Arc::clone(&registry), workers.clone());
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
            publishing: Mutex::new(()),
            exports: Arc::new(Semaphore::new(EXPORTS_MAX)),
            importing: Mutex::new(()),
            draining: AtomicBool::new(false),
        });
        let (ending, end) = watch::channel(false);
        let app = Arc::new(App {
            deployer: Arc::clone(&deployer),
            audit,
            data: data.to_path_buf(),
            started_at: clock::now(),
            live: Live::default(),
            metrics,
            metrics_listen: metrics_listener.as_ref().and_then(|socket| socket.local_addr().ok()),
            ready: AtomicBool::new(false),
            ending: end,
        });
        if let Some(listener) = metrics_listener {
            let app = Arc::clone(&app);
            tokio::spawn(async move {
                if let Err(error) = control::serve_metrics(listener, app).await {
                    tracing::error!(%error, "metrics are not served any more");
                }
            });
        }
        Ok(Self {
            control: tokio::spawn(control::serve(socket, Arc::clone(&app))),
            helpers: vec![
                tokio::spawn(repair(Arc::clone(&deployer), needs)),
                tokio::spawn(rollouts::watch(Arc::clone(&deployer))),
                tokio::spawn(upkeep::sweep(Arc::clone(&deployer))),
                tokio::spawn(upkeep::look_after(deployer, data.to_path_buf())),
                tokio::spawn(usage.run()),
            ],
            scheduler: tokio::spawn(scheduler.run(last_runs)),
            app,
            writing,
            ending,
        })
    }

    /// Ends in order; see the top of this file.
    async fn stop(self, drain_ms: u64, stop: &mut Stop) {
        let deployer = &self.app.deployer;
        deployer.draining.store(true, Ordering::SeqCst);
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
            () = stop.requested() => {
                tracing::warn!("a second signal: ending at once");
                deployer.workers.kill();
                deployer.workers.reaped().await;
            }
        }
        self.ending.send_replace(true);
        match self.control.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the control API had failed"),
            Err(error) => tracing::error!(%error, "the control API had panicked"),
        }
        for helper in self.helpers {
            helper.abort();
        }
        let recorded = Duration::from_millis(RECORD_MS_MAX);
        if tokio::time::timeout(recorded, self.scheduler).await.is_err() {
            tracing::error!("the ends of some runs could not be recorded");
        }
        self.writing.close(&deployer.logs).await;
        deployer.usage.close().await;
        self.app.audit.close().await;
        if let Err(error) = deployer.state.close().await {
            tracing::warn!(%error, "the state database keeps its log; nothing is lost");
        }
        tracing::info!("stopped");
    }
}

type Opened = (ArtifactStore, State, Registry, HashMap<TenantName, JobRun>, Audit, usage::Opened);

/// What no tenant may see, wherever links lead: the data directory, which is absolute already, and the
/// key for secrets.
fn private(data: &Path, secrets_key: Option<&SecretsKey>) -> Vec<PathBuf> {
    let key = secrets_key.and_then(SecretsKey::file);
    let key = key.map(|key| std::fs::canonicalize(key).unwrap_or_else(|_| key.to_path_buf()));
    [data.to_path_buf()].into_iter().chain(key).collect()
}

/// Opens what is on disk; blocks elsewhere.
async fn open(
    data: PathBuf,
    secrets_key: Option<SecretsKey>,
    unclean: bool,
) -> Result<Opened, ServeError> {
    let opened = tokio::task::spawn_blocking(move || {
        let log = state::database_path(&data).with_extension("db-wal");
        if unclean && !log.exists() && state::database_path(&data).exists() {
            tracing::warn!(
                file = %log.display(),
                "the last host was killed, and the log of its database is not there: what it \
                 acknowledged last may be lost; look who removed it"
            );
        }
        if data_dir::use_reserve(&data) {
            tracing::error!(
                "the disk of the data directory is full; free some space: this host starts with what \
                 it kept in reserve, and changes may be refused"
            );
        }
        let store = ArtifactStore::open(&data)?;
        // What a crash left behind; this directory's lock is held, so nobody else writes there.
        store.sweep();
        let state = State::open(&data, Vault::open(&data, secrets_key)?)?;
        let registry = Registry::load(state.load()?, state.load_canaries()?);
        finish_imports(&data.join(TENANTS), &state)?;
        forget_stores(&data.join(TENANTS), &registry);
        directories::forget_all_but(&data.join(TENANTS), |name| registry.get(name).is_some());
        logs::forget_all_but(&data, |name| registry.get(name).is_some());
        let last_runs = state.recover_runs()?;
        let audit = Audit::open(&data, unclean).map_err(ServeError::Audit)?;
        let used = usage::Opened::open(&data)?;
        Ok((store, state, registry, last_runs, audit, used))
    });
    opened.await.map_err(io::Error::other)?
}

/// Gives tenants whose import a crash cut short what was staged for them. A failure is no reason not to
/// serve the others, and the note stays for the next start: but what is staged must not be taken for
/// something that nobody owns, so the host does not start with it.
fn finish_imports(dir: &Path, state: &State) -> Result<(), ServeError> {
    let finished = state.recover_imports(|name, staged| {
        tracing::info!(tenant = %name, "an import that was cut short is finished");
        adopt(dir, staged, name)
    })?;
    finished.map_err(|error: DeployError| ServeError::Io(io::Error::other(error.to_string())))
}

/// Hides the stores of tenants whose removal a crash cut short, and has them erased. A host whose
/// stores cannot be opened serves all the same: guests that use them are told.
fn forget_stores(dir: &Path, registry: &Registry) {
    let tenants = registry.all();
    let names = tenants.iter().map(|tenant| tenant.entry.name.as_str()).collect();
    if let Err(error) = insula_keyvalue::hide_others(dir, &names) {
        tracing::error!(?error, "removed tenants' stores could not be looked for: {error}");
        return;
    }
    let dir = dir.to_path_buf();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = insula_keyvalue::purge(&dir) {
            tracing::warn!(?error, "removed stores are erased by the next start: {error}");
        }
    });
}
