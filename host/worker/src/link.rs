//! The line to the supervisor, and the worker's life along it.
//!
//! ```text
//! Hello → engines, epoch, state → Sleep*, Publish* → Start → serving → Drain, or end of stream → drained
//! ```
//! A supervisor that is gone is a `Drain`: nothing more is accepted, what runs may finish, then the
//! worker exits. While it drains a worker still does what it is told: clients that have connections to it
//! get answers, and those must come from the revisions that are in force.

use crate::codes::Codes;
use crate::long::Long;
use crate::outbound::{self, LOOKUPS_MAX, Outbound};
use crate::outbox::Outbox;
use crate::share::Idle;
use crate::tenant_log::LINES_QUEUED_MAX;
use crate::tracer::Tracer;
use crate::turns::Turns;
use crate::worker::Worker;
use crate::{job, listener, probe};
use insula_ipc::channel::{self, ChannelError};
use insula_ipc::fds::{InheritError, inherited};
use insula_ipc::heap::give_back;
use insula_ipc::table::{Table, TableError};
use insula_keyvalue::Database;
use insula_model::wire::{FromWorker, ToWorker, WIRE_VERSION};
use insula_sandbox::Engines;
use insula_sandbox::capabilities::directories;
use insula_sandbox::code::Loader;
use insula_sandbox::engine::EngineError;
use insula_sandbox::epoch::Epoch;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// How long an orphaned worker lets its requests finish, in milliseconds.
const ORPHAN_DRAIN_MS: u64 = 10_000;
/// How long it answers clients whose connections were idle, in milliseconds.
const ORPHAN_IDLE_MS: u64 = 1_000;
/// Threads for what blocks, of all tenants together: more wait for one of these.
const BLOCKING_THREADS_MAX: usize = 16;
/// How long a worker that ends may take to write its last messages.
const FLUSH_MAX: Duration = Duration::from_millis(500);
/// So long after a tenant was published, what that left free goes back.
const PUBLISHED_REST: Duration = Duration::from_secs(1);
/// How often a draining worker looks whether it is done.
const DRAIN_CHECK: Duration = Duration::from_millis(5);

/// Why a worker ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    #[error(transparent)]
    Inherit(#[from] InheritError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(
        "the supervisor speaks version {0} of the protocol, this worker {WIRE_VERSION}; restart the host"
    )]
    Version(u32),
    #[error("the supervisor's first message is not a greeting")]
    Greeting,
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

pub(crate) fn run() -> Result<(), WorkerError> {
    let inherited = inherited()?;
    let table = Table::attach(inherited.table)?;
    raise_descriptor_limit();
    introduce();
    let idle = Arc::new(Idle::default());
    let sleeps = idle.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || sleeps.event_loop_sleeps())
        // Loading large code, looking names up, and what guests do with files; they go when they are not
        // needed.
        .max_blocking_threads(BLOCKING_THREADS_MAX + LOOKUPS_MAX)
        .thread_keep_alive(Duration::from_secs(5))
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(live(inherited.socket, inherited.listener, table, idle))
}

/// For people and for the kernel: a name in `ps` and `top`, and the word that, when memory runs out,
/// a worker is to be killed before the supervisor that would replace it. Neither is worth failing for.
fn introduce() {
    let _ = std::fs::write("/proc/self/comm", "insula-worker");
    let _ = std::fs::write("/proc/self/oom_score_adj", "300");
}

/// Every client connection is a descriptor; the hard limit is the operator's.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Ctrl-C in a terminal and a service manager's SIGTERM reach every process of the host; a worker
/// ends when the supervisor says so, after its requests.
fn hold_signals() -> std::io::Result<[Signal; 2]> {
    Ok([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?])
}

async fn live(
    socket: std::os::unix::net::UnixStream,
    listener: TcpListener,
    table: Table,
    idle: Arc<Idle>,
) -> Result<(), WorkerError> {
    let _held = hold_signals()?;
    socket.set_nonblocking(true)?;
    let (mut from, to) = UnixStream::from_std(socket)?.into_split();
    let config = match channel::receive(&mut from).await? {
        Some(ToWorker::Hello { version, config }) if version == WIRE_VERSION => config,
        Some(ToWorker::Hello { version, .. }) => return Err(WorkerError::Version(version)),
        None => return Ok(()),
        Some(_) => return Err(WorkerError::Greeting),
    };
    let engines = Arc::new(Engines::new(config.instances)?);
    let loader = Loader::new(engines.clone(), Path::new(&config.code_dir), config.code_key);
    let (sender, outgoing) = mpsc::channel(LINES_QUEUED_MAX);
    let codes = Codes::new(loader, sender.clone());
    let epoch = Epoch::start(engines)?;
    let table = Arc::new(table);
    let (outbound, calls) = Outbound::new(config.outbound_ca.clone(), table.clone(), config.index);
    let tenants_dir = PathBuf::from(&config.tenants_dir);
    let stores = Database::new(&tenants_dir);
    let long = Long::start(table, config.index, epoch, idle)?;
    let tracer = Tracer::new(config.sampled_ppm);
    let worker = Worker::new(long, codes, outbound, stores, sender, tracer, &config);
    tokio::task::spawn_blocking(move || directories::sweep(&tenants_dir));
    let worker = Rc::new(worker);
    tokio::task::spawn_local(outbound::inside::serve(worker.clone(), calls));
    tokio::task::spawn_local(Turns::give(worker.clone()));
    tokio::task::spawn_local(Outbox::empty(worker.clone()));
    let (last, is_last) = oneshot::channel();
    let writing = tokio::task::spawn_local(write(to, outgoing, is_last));
    let mut listener = Some(listener);
    let drained = obey(&worker, &mut from, &mut listener).await;
    drain(&worker, drained, &mut from).await;
    // How the last runs ended, and what the last guests wrote, is still to be said.
    let _ = last.send(());
    let _ = tokio::time::timeout(FLUSH_MAX, writing).await;
    Ok(())
}

/// Writes messages; once told that the last has been queued, those, and then ends.
async fn write(
    mut to: OwnedWriteHalf,
    mut outgoing: mpsc::Receiver<FromWorker>,
    mut is_last: oneshot::Receiver<()>,
) {
    loop {
        let message = tokio::select! {
            biased;
            message = outgoing.recv() => message,
            _ = &mut is_last, if !outgoing.is_closed() => {
                outgoing.close();
                continue;
            }
        };
        let Some(message) = message else { return };
        if channel::send(&mut to, &message).await.is_err() {
            // The reading side notices the same end and drains.
            return;
        }
    }
}

/// How a worker is to end.
#[derive(Clone, Copy)]
struct Drain {
    within: Duration,
    idle: Duration,
}

impl Drain {
    const ORPHAN: Self = Self {
        within: Duration::from_millis(ORPHAN_DRAIN_MS),
        idle: Duration::from_millis(ORPHAN_IDLE_MS),
    };
}

/// Does what the supervisor says until it says `Drain` or is gone.
async fn obey(
    worker: &Rc<Worker>,
    from: &mut OwnedReadHalf,
    listener: &mut Option<TcpListener>,
) -> Drain {
    loop {
        match channel::receive(from).await {
            Ok(Some(ToWorker::Publish { seq, tenants, removed })) => {
                for entry in tenants {
                    worker.publish(entry);
                }
                for slot in removed {
                    worker.remove(slot);
                }
                say(worker, FromWorker::Ack { seq }).await;
                listener::rest(worker, PUBLISHED_REST);
            }
            Ok(Some(ToWorker::Sleep { commons, tenants })) => {
                worker.put_sleepers(&commons, tenants);
            }
            Ok(Some(ToWorker::Repave { seq, slots })) => {
                let retired = worker.repave(&slots).await;
                say(worker, FromWorker::Repaved { seq, retired }).await;
            }
            Ok(Some(ToWorker::Start)) => {
                if let Some(listener) = listener.take() {
                    let accepting = listener::run(worker.clone(), listener);
                    tokio::task::spawn_local(async move {
                        if let Err(error) = accepting.await {
                            tracing::error!("the listening socket cannot be used: {error}");
                        }
                    });
                }
                say(worker, FromWorker::Serving).await;
                // What tenants came in.
                give_back();
            }
            Ok(Some(ToWorker::CodeReady { code })) => worker.codes.ready(&code),
            Ok(Some(ToWorker::RunJob { slot, run })) => {
                tokio::task::spawn_local(job::run(worker.clone(), slot, run));
            }
            Ok(Some(ToWorker::Probe { id, entry, path, timeout_ms })) => {
                let asked = probe::Asked { id, path, timeout_ms };
                tokio::task::spawn_local(probe::run(worker.clone(), *entry, asked));
            }
            Ok(Some(ToWorker::Drain { within_ms, idle_ms })) => {
                let (within, idle) =
                    (Duration::from_millis(within_ms), Duration::from_millis(idle_ms));
                return Drain { within, idle };
            }
            Ok(Some(ToWorker::Hello { .. })) => {}
            Ok(None) => return Drain::ORPHAN,
            Err(error) => {
                tracing::error!("{error}");
                return Drain::ORPHAN;
            }
        }
    }
}

/// Acknowledgements are never dropped: the queue's bound makes them wait behind log lines instead.
async fn say(worker: &Worker, message: FromWorker) {
    let _ = worker.to_supervisor.send(message).await;
}

/// Lets what runs finish and clients go, within the time that it has.
async fn drain(worker: &Rc<Worker>, drain: Drain, from: &mut OwnedReadHalf) {
    worker.draining.set(true);
    worker.drain.notify_waiters();
    let done = async {
        while worker.connections.get() > 0 || worker.running.get() > 0 || worker.jobs.get() > 0 {
            tokio::time::sleep(DRAIN_CHECK).await;
        }
    };
    let closing = async {
        tokio::time::sleep(drain.idle).await;
        worker.closing.set(true);
        worker.close.notify_waiters();
        std::future::pending::<()>().await;
    };
    let obeying = async {
        obey(worker, from, &mut None).await;
        // Its time is set; a supervisor that is gone by now changes nothing.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = done => {}
        () = closing => {}
        () = obeying => {}
        () = tokio::time::sleep(drain.within) => {}
    }
    worker.tracer.send(worker);
    worker.cell().set_serving(false);
}
