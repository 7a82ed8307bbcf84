//! The families of the host as a whole, of its workers, and of the supervisor's own process.

use super::events::Events;
use super::page::{Kind, Labels, Page};
use super::process::{Process, descriptors};
use crate::sync::lock;
use insula_ipc::memory::Resident;
use insula_ipc::table::{Table, WorkerCell};
use insula_model::api::{HostMemory, MemoryPressure, WorkerInfo, WorkerState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is known outside of the table.
pub(super) struct Host<'a> {
    pub(super) tenants: u64,
    pub(super) workers: &'a [WorkerInfo],
    pub(super) instances: u32,
    pub(super) memory: HostMemory,
    pub(super) events: &'a Events,
    /// Series of tenants or namespaces that this page has.
    pub(super) series: usize,
}

const STATES: [(WorkerState, (&str, &str)); 4] = [
    (WorkerState::Starting, ("state", "starting")),
    (WorkerState::Serving, ("state", "serving")),
    (WorkerState::BackingOff, ("state", "backing-off")),
    (WorkerState::Draining, ("state", "draining")),
];

const PRESSURES: [MemoryPressure; 6] = [
    MemoryPressure::None,
    MemoryPressure::Evict,
    MemoryPressure::BestEffort,
    MemoryPressure::Burstable,
    MemoryPressure::Running,
    MemoryPressure::All,
];

/// A family of one number for each worker, from its own cell of the table.
type OfWorker = (Kind, &'static str, &'static str, fn(&WorkerCell<'_>) -> u64);

const OF_WORKERS: [OfWorker; 9] = [
    (Kind::Gauge, "insula_worker_connections", "Open client connections.", |w| w.connections()),
    (
        Kind::Counter,
        "insula_worker_connections_accepted_total",
        "Client connections that were ever taken.",
        |w| w.accepted(),
    ),
    (Kind::Gauge, "insula_worker_running_requests", "Requests that run now.", |w| w.running()),
    (
        Kind::Gauge,
        "insula_worker_idle_instances",
        "Instances kept for the next request of their tenant.",
        |w| w.idle(),
    ),
    (
        Kind::Gauge,
        "insula_worker_computing_guests",
        "Guests on the second thread: those that compute for longer than a slice.",
        |w| w.computing(),
    ),
    (
        Kind::Gauge,
        "insula_worker_waiting_guests",
        "Of the computing guests, those that wait for their turn.",
        |w| w.waiting(),
    ),
    (Kind::Gauge, "insula_worker_loaded_components", "Compiled components in memory.", |w| {
        w.loaded()
    }),
    (
        Kind::Counter,
        "insula_worker_component_loads_total",
        "Compiled components that were ever loaded.",
        |w| w.loads(),
    ),
    (
        Kind::Counter,
        "insula_worker_unrouted_requests_total",
        "Requests for which there is no tenant.",
        |w| w.unrouted(),
    ),
];

/// Writes all of them.
pub(super) fn write(page: &mut Page, table: &Table, host: &Host<'_>) {
    build(page);
    page.one(Kind::Gauge, "insula_tenants", "Deployed tenants.", host.tenants);
    page.one(
        Kind::Gauge,
        "insula_tenants_active",
        "Tenants that had a request since the host started.",
        table.active().count(),
    );
    page.one(
        Kind::Gauge,
        "insula_worker_instance_slots",
        "Instances that each worker has room for, running and idle ones together.",
        host.instances,
    );
    page.one(
        Kind::Gauge,
        "insula_metrics_series",
        "Tenants or namespaces that have series of their own, with the one for all others.",
        host.series,
    );
    events(page, host.events);
    memory(page, host);
    workers(page, table, host.workers);
    own(page);
}

fn build(page: &mut Page) {
    let labels = page.labels(&[("version", env!("CARGO_PKG_VERSION"))]);
    page.family(Kind::Gauge, "insula_build_info", "The version that runs.").sample(&labels, 1u64);
}

fn events(page: &mut Page, events: &Events) {
    let none = Labels::default();
    let count = |counter: &AtomicU64| counter.load(Relaxed);
    let mut deploys = page.family(
        Kind::Counter,
        "insula_deploys_total",
        "Deploys and rollbacks that were asked for, by result.",
    );
    deploys.labelled(&none, ("result", "changed"), count(&events.deployed));
    deploys.labelled(&none, ("result", "unchanged"), count(&events.unchanged));
    deploys.labelled(&none, ("result", "failed"), count(&events.refused));
    let mut compiled =
        page.family(Kind::Counter, "insula_compilations_total", "Compilers that ran, by result.");
    compiled.labelled(&none, ("result", "succeeded"), count(&events.compiled));
    compiled.labelled(&none, ("result", "failed"), count(&events.uncompiled));
    let times = *lock(&events.compile_times);
    page.family(Kind::Histogram, "insula_compile_duration_seconds", "How long compilers took.")
        .durations(&none, &times);
    page.one(
        Kind::Counter,
        "insula_trace_spans_exported_total",
        "Spans that the collector has taken.",
        count(&events.traces.exported),
    );
    page.one(
        Kind::Counter,
        "insula_trace_spans_dropped_total",
        "Spans for which there was no room, or that the collector did not take.",
        count(&events.traces.dropped),
    );
    let mut exports = page.family(
        Kind::Counter,
        "insula_metrics_exports_total",
        "How often these figures were sent to the collector, by result.",
    );
    exports.labelled(&none, ("result", "succeeded"), count(&events.exported));
    exports.labelled(&none, ("result", "failed"), count(&events.unexported));
    page.one(
        Kind::Counter,
        "insula_metrics_scrapes_total",
        "How often this page was asked for.",
        count(&events.scrapes),
    );
}

fn memory(page: &mut Page, host: &Host<'_>) {
    let none = Labels::default();
    let own = Resident::own().map_or(0, |own| own.bytes());
    let mut held = page.family(
        Kind::Gauge,
        "insula_host_memory_bytes",
        "Memory that processes of the host alone hold; pages of files do not count.",
    );
    held.labelled(&none, ("kind", "workers"), host.memory.used_bytes);
    held.labelled(&none, ("kind", "supervisor"), own);
    page.one(
        Kind::Gauge,
        "insula_host_memory_budget_bytes",
        "What all workers may hold; 0 for no bound.",
        host.memory.budget_bytes.unwrap_or(0),
    );
    let mut pressure = page.family(
        Kind::Gauge,
        "insula_host_memory_pressure",
        "What is given up because memory runs low: 1 for the step in force.",
    );
    for step in PRESSURES {
        let is_in_force = u64::from(step == host.memory.pressure);
        pressure.labelled(&none, ("step", step.as_str()), is_in_force);
    }
}

fn workers(page: &mut Page, table: &Table, workers: &[WorkerInfo]) {
    let none = Labels::default();
    let mut states = page.family(Kind::Gauge, "insula_workers", "Workers, by state.");
    for (state, label) in STATES {
        states.labelled(&none, label, workers.iter().filter(|w| w.state == state).count());
    }
    let processes: Vec<Process> = workers
        .iter()
        .map(|worker| worker.pid.map(|pid| Process::read(&pid.to_string())).unwrap_or_default())
        .collect();
    let named = |worker: &WorkerInfo| {
        let index = worker.index.to_string();
        page.labels(&[("worker", index.as_str())])
    };
    let names: Vec<Labels> = workers.iter().map(named).collect();
    // What a worker counts goes with its process.
    let labels: Vec<Labels> = names
        .iter()
        .zip(&processes)
        .map(|(name, process)| match process.started_unix_ns() {
            Some(started) => name.clone().since(started),
            None => name.clone(),
        })
        .collect();
    let each = || labels.iter().zip(workers);
    let mut restarts = page.family(
        Kind::Counter,
        "insula_worker_restarts_total",
        "Times that a worker died and was replaced.",
    );
    for (name, worker) in names.iter().zip(workers) {
        restarts.sample(name, worker.restarts);
    }
    let mut memory =
        page.family(Kind::Gauge, "insula_worker_memory_bytes", "Memory that a worker alone holds.");
    for (labels, worker) in each() {
        memory.sample(labels, worker.memory_bytes);
    }
    let mut cpu = page.family(
        Kind::Counter,
        "insula_worker_cpu_seconds_total",
        "CPU time of the worker's process; begins anew when it is replaced.",
    );
    for (labels, process) in labels.iter().zip(&processes) {
        cpu.sample(labels, process.cpu_s);
    }
    for (kind, name, help, of) in OF_WORKERS {
        let mut family = page.family(kind, name, help);
        for (labels, worker) in each() {
            family.sample(labels, of(&table.worker(worker.index)));
        }
    }
}

/// What Prometheus' own clients tell about a process, under the names that they use.
fn own(page: &mut Page) {
    let process = Process::read("self");
    let (open, most) = descriptors();
    let started = process.started_unix_ns().unwrap_or(0);
    page.family(Kind::Counter, "process_cpu_seconds_total", "CPU time of the supervisor.")
        .sample(&Labels::default().since(started), process.cpu_s);
    page.one(
        Kind::Gauge,
        "process_resident_memory_bytes",
        "Resident memory of the supervisor.",
        process.resident_bytes,
    );
    page.one(
        Kind::Gauge,
        "process_virtual_memory_bytes",
        "Address space of the supervisor; the shared table is most of it.",
        process.virtual_bytes,
    );
    page.one(
        Kind::Gauge,
        "process_start_time_seconds",
        "When the supervisor started, in seconds since 1970.",
        process.started_s,
    );
    page.one(Kind::Gauge, "process_open_fds", "Descriptors that the supervisor has open.", open);
    page.one(Kind::Gauge, "process_max_fds", "Descriptors that the supervisor may open.", most);
}
