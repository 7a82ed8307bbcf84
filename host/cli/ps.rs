//! `insula ps`: what is deployed, and how it fares; the workers.

use crate::host_args::HostArgs;
use crate::table::{self, number, shrinks, text as words};
use crate::{canary, out, runs, text};
use anyhow::Result;
use insula_model::Namespace;
use insula_model::api::{HostInfo, MemoryPressure, TenantSummary, WorkerInfo, WorkerState};
use insula_model::breaker::BreakerState;

const EXAMPLES: &str = "\
Examples:
  insula ps
  insula ps --workers
  insula ps -n team-a
  insula ps -q | xargs insula rm
  insula ps --json | jq -r '.[] | select(.counters.guest_faults > 0) | .name'

A job's schedule (in UTC) stands among the ROUTES; NEXT and LAST RUN are of jobs alone.
REQUESTS counts since the host started. QOS is the class of service, by
Kubernetes' rule. STATE is there while a tenant is stopped, CIRCUIT while it is refused because it keeps failing,
CANARY while another revision gets that part of its requests. FAULTS are requests that the guest, the client or the host failed; SHED were refused before anything ran. PEAK is the most memory that one instance held.
A narrow terminal shows fewer columns; a pipe shows all of them.";

/// List the tenants, or the workers.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// List the workers instead of the tenants
    #[arg(long)]
    workers: bool,
    /// Only the tenants of this namespace
    #[arg(short, long, value_name = "NAME", conflicts_with = "workers")]
    namespace: Option<Namespace>,
    /// Print only the tenants' names
    #[arg(short, long, conflicts_with_all = ["workers", "json"])]
    quiet: bool,
    /// Print the API's JSON: an array of tenants; with --workers, the host
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Prints one table. Workers that do not serve are told of in any case.
pub(crate) async fn run(args: Args) -> Result<()> {
    let client = args.host.client()?;
    let listed = match &args.namespace {
        Some(namespace) => format!("/v1/tenants?namespace={namespace}"),
        None => "/v1/tenants".to_owned(),
    };
    if args.json {
        let path = if args.workers { "/v1/host" } else { listed.as_str() };
        return out::json(client.get(path).await?.json());
    }
    if args.workers {
        let host: HostInfo = client.get("/v1/host").await?.read()?;
        out::write(workers(&host).as_bytes())?;
        warn_of_workers(&host);
        return Ok(());
    }
    let all: Vec<TenantSummary> = client.get(&listed).await?.read()?;
    if args.quiet {
        let names: String = all.iter().map(|tenant| format!("{}\n", tenant.name)).collect();
        return out::write(names.as_bytes());
    }
    let host: HostInfo = client.get("/v1/host").await?.read()?;
    out::write(tenants(&all).as_bytes())?;
    if let (true, Some(namespace)) = (all.is_empty(), &args.namespace) {
        out::note(&format!("namespace {namespace} has no tenants"));
    } else if all.is_empty() {
        out::note("nothing is deployed yet; deploy with: insula deploy NAME FILE.wasm");
    }
    warn_of_workers(&host);
    Ok(())
}

fn tenants(all: &[TenantSummary]) -> String {
    // Where all are in one, its name says little.
    let several = all.windows(2).any(|pair| pair[0].namespace != pair[1].namespace);
    let columns = [
        words("NAME"),
        words("NAMESPACE").spare(if several { 9 } else { 1 }),
        number("REV"),
        words("KIND").spare(2),
        words("QOS").spare(1),
        words("STATE").optional(),
        words("CIRCUIT").optional(),
        words("CANARY").optional(),
        shrinks("ROUTES"),
        number("RUNNING").spare(5),
        number("REQUESTS"),
        number("FAULTS"),
        number("SHED").spare(3),
        number("PEAK").spare(4),
        words("DEPLOYED").spare(6),
        words("NEXT").spare(7).optional(),
        words("LAST RUN").spare(8).optional(),
    ];
    let row = |tenant: &TenantSummary| {
        let job = tenant.job.as_ref();
        let counters = &tenant.counters;
        let faults = [counters.client_faults, counters.guest_faults, counters.host_faults];
        [
            tenant.name.to_string(),
            tenant.namespace.to_string(),
            tenant.revision.to_string(),
            tenant.kind.as_str().to_owned(),
            tenant.qos.as_str().to_owned(),
            if tenant.stopped_at.is_some() { "stopped".into() } else { String::new() },
            circuit(tenant.breaker),
            tenant.canary.as_ref().map(canary::short).unwrap_or_default(),
            places(tenant),
            counters.running.to_string(),
            counters.requests.to_string(),
            faults.iter().fold(0, |sum: u64, n| sum.saturating_add(*n)).to_string(),
            counters.shed.to_string(),
            peak(counters.memory_peak_bytes),
            text::age(&tenant.deployed_at),
            job.map(runs::next).unwrap_or_default(),
            job.map(runs::last).unwrap_or_default(),
        ]
    };
    table::render(columns, all.iter().map(row).collect())
}

/// Empty while requests pass.
pub(crate) fn circuit(breaker: BreakerState) -> String {
    match breaker {
        BreakerState::Closed => String::new(),
        BreakerState::Open { retry_ms: 0 } => "open".into(),
        BreakerState::Open { retry_ms } => format!("open, {}s", retry_ms.div_ceil(1_000)),
        BreakerState::HalfOpen => "half-open".into(),
    }
}

/// Where it answers and when it runs.
fn places(tenant: &TenantSummary) -> String {
    let schedule = tenant.job.iter().map(|job| job.schedule.to_string());
    let routes = (!tenant.routes.is_empty()).then(|| routes(&tenant.routes));
    schedule.chain(routes).collect::<Vec<_>>().join(", ")
}

/// Nothing has run yet, or how much it held.
fn peak(bytes: u64) -> String {
    if bytes == 0 { "-".into() } else { text::bytes(bytes) }
}

/// Routes on one line.
pub(crate) fn routes(routes: &[insula_model::Route]) -> String {
    routes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn workers(host: &HostInfo) -> String {
    let columns = [
        number("WORKER"),
        number("PID"),
        words("STATE"),
        number("CONNECTIONS").spare(3),
        number("RUNNING").spare(4),
        number("LOADED").spare(1),
        number("MEMORY").spare(2),
        number("RESTARTS"),
        shrinks("LAST DEATH"),
    ];
    let row = |worker: &WorkerInfo| {
        [
            worker.index.to_string(),
            worker.pid.map_or("-".into(), |pid| pid.to_string()),
            state(worker.state).to_owned(),
            worker.connections.to_string(),
            worker.running.to_string(),
            worker.loaded.to_string(),
            text::bytes(worker.memory_bytes),
            worker.restarts.to_string(),
            death(worker).unwrap_or_else(|| "-".into()),
        ]
    };
    let mut rows: Vec<_> = host.workers.iter().map(row).collect();
    for old in &host.retiring {
        let mut row = row(old);
        row[2] = "retiring".into();
        rows.push(row);
    }
    table::render(columns, rows)
}

fn state(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Starting => "starting",
        WorkerState::Serving => "serving",
        WorkerState::BackingOff => "backing-off",
        WorkerState::Draining => "draining",
    }
}

/// `killed by signal 9 3 seconds ago, while it ran hello`.
fn death(worker: &WorkerInfo) -> Option<String> {
    let death = worker.last_death.as_ref()?;
    let mut told = format!("{}, {}", text::printable(&death.cause), text::age(&death.at));
    if let Some(tenant) = &death.tenant {
        told.push_str(&format!(", while it ran {}", text::printable(tenant)));
    }
    Some(told)
}

fn warn_of_workers(host: &HostInfo) {
    let paint = out::stderr_paint();
    let memory = host.memory;
    let refused = match memory.pressure {
        MemoryPressure::None | MemoryPressure::Evict => None,
        MemoryPressure::BestEffort => Some("best-effort tenants are"),
        MemoryPressure::Burstable | MemoryPressure::Running => {
            Some("best-effort and burstable tenants are")
        }
        MemoryPressure::All => Some("all requests are"),
    };
    if let (Some(refused), Some(budget)) = (refused, memory.budget_bytes) {
        let (used, budget) = (text::bytes(memory.used_bytes), text::bytes(budget));
        out::note(&format!(
            "{} memory runs low: workers hold {used} of {budget}, and {refused} refused",
            paint.warn("warning:")
        ));
    }
    if let Some(upgrade) = &host.upgrade
        && let Some(why) = &upgrade.error
    {
        let (warning, why) = (paint.warn("warning:"), text::printable(why));
        out::note(&format!("{warning} the last upgrade failed, {}: {why}", text::age(&upgrade.at)));
    }
    for worker in &host.workers {
        let index = worker.index;
        let what = match worker.state {
            WorkerState::Serving => continue,
            WorkerState::Starting => "is starting".to_owned(),
            WorkerState::Draining => "is draining: the host is shutting down".to_owned(),
            WorkerState::BackingOff => format!(
                "is backing off: it died {} {} and waits before it is started again; last death: {}",
                worker.restarts,
                text::plural(worker.restarts, "time"),
                death(worker).unwrap_or_else(|| "unknown".into()),
            ),
        };
        out::note(&format!("{} worker {index} {what}", paint.warn("warning:")));
    }
}
