//! Looks at every tenant and says what has changed since the last look.

use super::rates::{Happened, Seen, per_second};
use crate::clock;
use crate::control::App;
use crate::processes::Workers;
use crate::registry::{Canary, Tenant};
use bytes::Bytes;
use insula_ipc::memory::Kinds;
use insula_model::api::{
    Event, EventCanary, EventFigures, EventHost, EventTenant, LiveState, MemoryKinds,
};
use insula_model::breaker::BreakerState;
use std::time::Instant;

/// A tenant, and what was last said of it.
struct Known {
    /// Of the registry: the same as long as the tenant is.
    version: u32,
    /// The look at which it was last there.
    look: u64,
    shown: EventTenant,
    is_stopped: bool,
    /// Of a tenant that has had a request; most have not.
    seen: Option<Box<Seen>>,
    told: EventFigures,
}

/// What all watchers know.
pub(super) struct Sampler {
    /// By slot. Changed in place: of 100,000 tenants most do nothing, and moving what is known of them would
    /// be most of a look's work.
    known: Vec<Option<Known>>,
    canaries: Vec<EventCanary>,
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
        let looked = Instant::now();
        let mut sampler = Self { known: Vec::new(), canaries: Vec::new(), look: 0, looked, host };
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
                tenants: known().map(|known| known.shown.clone()).collect(),
                figures: told.filter(|told| *told != idle(told.slot)).collect(),
                canaries: Some(self.canaries.clone()),
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
        let (registry, workers) = (&app.deployer.registry, &app.deployer.workers);
        let parted = registry.parted();
        for (slot, version) in registry.versions() {
            // What had no request has figures of nothing, and is not asked for them.
            let is_active = workers.is_active(slot) || parted.contains(&slot);
            if self.known.len() <= slot as usize {
                self.known.resize_with(slot as usize + 1, || None);
            }
            let place = &mut self.known[slot as usize];
            if place.as_ref().is_none_or(|known| known.version != version) {
                let Some(tenant) = registry.by_slot(slot) else { continue };
                let (shown, is_stopped) = (introduced(&tenant), tenant.stopped_at.is_some());
                tenants.push(shown.clone());
                let before = place.take().filter(|known| known.shown.name == shown.name);
                let (seen, told) = match before {
                    Some(known) => (known.seen, known.told),
                    // What was counted before is no news.
                    None => (is_active.then(|| Box::new(first(workers, slot))), idle(slot)),
                };
                *place = Some(Known { version, look: self.look, shown, is_stopped, seen, told });
            }
            let Some(known) = place else { continue };
            known.look = self.look;
            let (mut now, mut happened) = (idle(slot), Happened::default());
            if is_active {
                let seen = known.seen.get_or_insert_default();
                let latency = workers.latency_of(slot);
                happened = seen.update(workers.counters_of(slot), &latency, self.look);
                let is_open = workers.breaker(slot) != BreakerState::Closed;
                now = seen.figures((slot, is_open), &happened, (self.look, elapsed_us));
            }
            if known.is_stopped {
                now.state = LiveState::Stopped;
            }
            total.add(&happened, &now);
            if now != known.told {
                known.told = now;
                figures.push(now);
            }
        }
        // A slot that another tenant has got meanwhile was introduced again above.
        let is_gone = |known: &mut Known| known.look != self.look;
        let gone = self.known.iter_mut().filter_map(|place| place.take_if(is_gone));
        let gone = gone.map(|known| known.shown.slot).collect();
        // After the tenants: a canary is of one that has been introduced.
        let canaries = self.changed_canaries(app);
        self.host = host(app, &total, elapsed_us);
        Event { at_ms: clock::now_ms(), tenants, figures, canaries, gone, host: self.host.clone() }
    }

    /// All canaries, if they are others than at the last look.
    fn changed_canaries(&mut self, app: &App) -> Option<Vec<EventCanary>> {
        let running = app.deployer.registry.canaries();
        let now: Vec<EventCanary> =
            running.iter().filter_map(|canary| introduced_canary(canary)).collect();
        if now == self.canaries {
            return None;
        }
        self.canaries.clone_from(&now);
        Some(now)
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

fn introduced_canary(canary: &Canary) -> Option<EventCanary> {
    let entry = &canary.tenant.entry;
    let slot = entry.canary.as_ref()?.slot;
    Some(EventCanary { slot, revision: entry.revision, share: canary.rollout.share })
}

fn idle(slot: u32) -> EventFigures {
    EventFigures { slot, state: LiveState::Idle, ..EventFigures::default() }
}

fn first(workers: &Workers, slot: u32) -> Seen {
    Seen::first(workers.counters_of(slot), &workers.latency_of(slot))
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
