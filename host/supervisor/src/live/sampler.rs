//! Looks at every tenant and says what has changed since the last look.

use super::rates::{Happened, Seen, per_second};
use crate::clock;
use crate::control::App;
use crate::registry::Tenant;
use bytes::Bytes;
use insula_ipc::memory::Kinds;
use insula_model::api::{Event, EventFigures, EventHost, EventTenant, LiveState, MemoryKinds};
use insula_model::breaker::BreakerState;
use std::sync::Arc;
use std::time::Instant;

/// A tenant, and what was last said of it.
struct Known {
    /// Of the registry: the same as long as the tenant is.
    version: u32,
    tenant: Arc<Tenant>,
    seen: Seen,
    told: EventFigures,
}

/// What all watchers know.
pub(super) struct Sampler {
    /// By slot.
    known: Vec<Option<Known>>,
    look: u64,
    looked: Instant,
    host: EventHost,
}

/// The sum over all tenants.
#[derive(Default)]
struct Total {
    happened: Happened,
    running: u64,
    live: u64,
    instances_bytes: u64,
}

impl Sampler {
    /// The tenants as they are now; rates start at nothing.
    pub(super) fn start(app: &App) -> Self {
        let host = host(app, &Total::default(), 1);
        let mut sampler = Self { known: Vec::new(), look: 0, looked: Instant::now(), host };
        sampler.look(app);
        sampler
    }

    /// All that is known, as a frame.
    pub(super) fn snapshot(&self) -> Bytes {
        let known = || self.known.iter().flatten();
        let told = known().map(|known| known.told);
        frame(
            "snapshot",
            &Event {
                at_ms: clock::now_ms(),
                tenants: known().map(|known| introduced(&known.tenant)).collect(),
                figures: told.filter(|told| *told != idle(told.slot)).collect(),
                gone: Vec::new(),
                host: self.host.clone(),
            },
        )
    }

    /// Looks, and gives what has changed as a frame.
    pub(super) fn changes(&mut self, app: &App) -> Bytes {
        frame("changes", &self.look(app))
    }

    fn look(&mut self, app: &App) -> Event {
        let elapsed_us = u64::try_from(self.looked.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.looked = Instant::now();
        self.look += 1;
        let mut total = Total::default();
        let (mut tenants, mut figures) = (Vec::new(), Vec::new());
        let mut before: Vec<Option<Known>> = std::mem::take(&mut self.known);
        for (slot, version) in app.deployer.registry.versions() {
            let was = before.get_mut(slot as usize).and_then(Option::take);
            let same = was.as_ref().filter(|known| known.version == version);
            let tenant = same.map(|known| known.tenant.clone());
            let Some(tenant) = tenant.or_else(|| app.deployer.registry.by_slot(slot)) else {
                continue;
            };
            let counters = app.deployer.workers.counters_of(&tenant);
            let latency = app.deployer.workers.latency_of(&tenant);
            let mut known = match was {
                Some(mut known) if known.tenant.entry.name == tenant.entry.name => {
                    if known.version != version {
                        tenants.push(introduced(&tenant));
                        (known.tenant, known.version) = (tenant, version);
                    }
                    known
                }
                _ => {
                    tenants.push(introduced(&tenant));
                    Known {
                        version,
                        tenant,
                        seen: Seen::first(counters, &latency),
                        told: idle(slot),
                    }
                }
            };
            let happened = known.seen.update(counters, &latency, self.look);
            let is_open = app.deployer.workers.breaker(slot) != BreakerState::Closed;
            let mut now = known.seen.figures((slot, is_open), &happened, (self.look, elapsed_us));
            if known.tenant.stopped_at.is_some() {
                now.state = LiveState::Stopped;
            }
            total.add(&happened, &now);
            if now != known.told {
                known.told = now;
                figures.push(now);
            }
            if self.known.len() <= slot as usize {
                self.known.resize_with(slot as usize + 1, || None);
            }
            self.known[slot as usize] = Some(known);
        }
        // A slot that another tenant has got meanwhile was introduced again above.
        let gone = before.into_iter().flatten().map(|known| known.tenant.entry.slot).collect();
        self.host = host(app, &total, elapsed_us);
        Event { at_ms: clock::now_ms(), tenants, figures, gone, host: self.host.clone() }
    }
}

impl Total {
    fn add(&mut self, happened: &Happened, now: &EventFigures) {
        self.happened.requests += happened.requests;
        self.happened.faults += happened.faults;
        self.happened.shed += happened.shed;
        self.happened.cpu_us += happened.cpu_us;
        self.happened.latency.add(&happened.latency);
        self.running += now.running;
        self.live += u64::from(now.memory_bytes > 0);
        self.instances_bytes += now.memory_bytes;
    }
}

fn idle(slot: u32) -> EventFigures {
    EventFigures { slot, state: LiveState::Idle, ..EventFigures::default() }
}

fn introduced(tenant: &Tenant) -> EventTenant {
    let entry = &tenant.entry;
    EventTenant {
        slot: entry.slot,
        name: entry.name.clone(),
        namespace: tenant.namespace.clone(),
        revision: entry.revision,
        qos: entry.limits.resources.qos,
        memory_limit_bytes: entry.limits.resources.memory_limit_bytes,
        cpu_limit_m: entry.limits.resources.cpu_limit_m,
    }
}

fn host(app: &App, total: &Total, elapsed_us: u64) -> EventHost {
    let workers = app.deployer.workers.infos();
    let own = Kinds::of(std::process::id());
    let files = workers.iter().filter_map(|worker| worker.pid).map(|pid| Kinds::of(pid).files);
    EventHost {
        requests: per_second(total.happened.requests, elapsed_us),
        faults: per_second(total.happened.faults, elapsed_us),
        shed: per_second(total.happened.shed, elapsed_us),
        cpu_m: total.happened.cpu_us.saturating_mul(1_000) / elapsed_us.max(1),
        running: total.running,
        latency: total.happened.latency.quantiles(),
        live: total.live,
        instances_bytes: total.instances_bytes,
        memory: app.deployer.workers.memory(),
        kinds: MemoryKinds {
            workers: workers.iter().map(|worker| worker.memory_bytes).sum(),
            supervisor: own.own,
            table: own.shared,
            files: files.max().unwrap_or(0),
        },
        workers,
    }
}

fn frame(name: &str, event: &Event) -> Bytes {
    // Of these types, none fails to be written.
    let json = serde_json::to_string(event).unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {json}\n\n"))
}
