//! The flags that set a tenant's limits and routes: the manifest, one flag a field. What it may reach is in
//! `grant_flags`.

use crate::grant_flags::GrantFlags;
use crate::rollout_flags::RolloutFlags;
use anyhow::{Context, Result};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use insula_model::access_log::Sample;
use insula_model::manifest::{Manifest, RequestLimits, ReuseSpec};
use insula_model::resources::RateSpec;
use insula_model::{ByteSize, Count, DurationMs, Metering, MilliCpu, Route};

/// What `insula run` can be told too.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct GuestLimits {
    /// Memory of one instance, all linear memories and tables together [default: 64Mi]
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Fuel: about one unit for each executed instruction [default: 1G]
    #[arg(long, value_name = "COUNT")]
    fuel: Option<Count>,
    /// What computing is measured by: `fuel`, or `time` alone, where nothing is counted, computing is
    /// cheaper, and --timeout bounds it [default: fuel]
    #[arg(long, value_name = "BY", value_parser = metering())]
    metering: Option<Metering>,
    /// Wall-clock time, from the start to the last byte of the answer [default: 10s]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<DurationMs>,
}

fn metering() -> impl TypedValueParser<Value = Metering> {
    let words = Metering::ALL.map(Metering::as_str);
    PossibleValuesParser::new(words).try_map(|word| word.parse())
}

impl GuestLimits {
    /// Writes what was given over `manifest`.
    pub(crate) fn apply(self, manifest: &mut Manifest) {
        if self.memory.is_some() {
            manifest.memory.get_or_insert_default().instance = self.memory;
        }
        manifest.fuel = self.fuel.or(manifest.fuel);
        manifest.metering = self.metering.or(manifest.metering);
        manifest.timeout = self.timeout.or(manifest.timeout);
    }
}

/// Everything that a manifest can say, except name and component.
#[derive(Debug, Clone, Args)]
pub(crate) struct TenantFlags {
    #[command(flatten)]
    guest: GuestLimits,
    #[command(flatten)]
    requests: RequestFlags,
    #[command(flatten)]
    reuse: ReuseFlags,
    #[command(flatten)]
    grants: GrantFlags,
    #[command(flatten)]
    rollout: RolloutFlags,
    /// Answer here: `host[/prefix]`; repeatable [default: NAME.localhost]
    #[arg(long = "route", value_name = "ROUTE", help_heading = "Routes")]
    routes: Vec<Route>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
struct RequestFlags {
    /// Share of a full machine, such as 250m or 0.5 [default: what others leave]
    #[arg(long, value_name = "CPU")]
    cpu_request: Option<MilliCpu>,
    /// CPU that it never passes, over all workers [default: the whole machine]
    #[arg(long, value_name = "CPU")]
    cpu_limit: Option<MilliCpu>,
    /// Memory that it asks for over all of its instances [default: --memory-limit]
    #[arg(long, value_name = "SIZE")]
    memory_request: Option<ByteSize>,
    /// Memory of all of its instances together, all linear memories and tables [default: 1Gi]
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<ByteSize>,
    /// Requests in a second, over all workers; more get 429 [default: as many as come]
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Requests that may come at once after a pause [default: --rate]
    #[arg(long, value_name = "N", requires = "rate")]
    rate_burst: Option<u32>,
    /// Failed requests in one worker that have all be refused for a while [default: 100]
    #[arg(long, value_name = "N")]
    breaker_faults: Option<u32>,
    /// In which they are counted [default: 10s]
    #[arg(long, value_name = "DURATION")]
    breaker_window: Option<DurationMs>,
    /// How long requests are refused at first [default: 1s]
    #[arg(long, value_name = "DURATION")]
    breaker_open: Option<DurationMs>,
    /// Requests running at once, over all workers [default: 100]
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Requests waiting for a place, in each worker [default: 100]
    #[arg(long, value_name = "N")]
    queue: Option<u32>,
    /// How long a request waits for a place before it gets 503 [default: 1s]
    #[arg(long, value_name = "DURATION")]
    queue_wait: Option<DurationMs>,
    /// Requests that the access log gets: all, or a share such as 1%; `--access-log=false` for none
    /// [default: the host's]
    #[arg(long, value_name = "SHARE")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    access_log: Option<Sample>,
    /// Largest request body [default: 10Mi]
    #[arg(long, value_name = "SIZE")]
    request_body: Option<ByteSize>,
    /// Largest request head: target, field names and values [default: 32Ki]
    #[arg(long, value_name = "SIZE")]
    request_header: Option<ByteSize>,
    /// Largest response body [default: 10Mi]
    #[arg(long, value_name = "SIZE")]
    response_body: Option<ByteSize>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Reuse (off: every request gets a fresh instance)")]
struct ReuseFlags {
    /// Let one instance serve this many requests [default when reuse is on: 1k]
    #[arg(long, value_name = "COUNT")]
    reuse_requests: Option<Count>,
    /// Retire an instance after this long without a request [default when reuse is on: 30s]
    #[arg(long, value_name = "DURATION")]
    reuse_idle: Option<DurationMs>,
    /// Let one instance serve this many requests at the same time: WASI 0.3 only [default: 1]
    #[arg(long, value_name = "N")]
    reuse_concurrent: Option<u32>,
    /// Retire instances and load code anew at this age, from 1s [default: never]
    #[arg(long, value_name = "DURATION")]
    max_age: Option<DurationMs>,
}

impl TenantFlags {
    /// Writes what was given over `manifest`.
    pub(crate) fn apply(self, manifest: &mut Manifest) -> Result<()> {
        self.guest.apply(manifest);
        if !self.routes.is_empty() {
            manifest.routes = Some(self.routes);
        }
        let RequestFlags {
            cpu_request,
            cpu_limit,
            memory_request,
            memory_limit,
            rate,
            rate_burst,
            breaker_faults,
            breaker_window,
            breaker_open,
            concurrency,
            queue,
            queue_wait,
            access_log,
            request_body,
            request_header,
            response_body,
        } = self.requests;
        if cpu_request.is_some() || cpu_limit.is_some() {
            let cpu = manifest.cpu.get_or_insert_default();
            cpu.request = cpu_request.or(cpu.request);
            cpu.limit = cpu_limit.or(cpu.limit);
        }
        if memory_request.is_some() || memory_limit.is_some() {
            let memory = manifest.memory.get_or_insert_default();
            memory.request = memory_request.or(memory.request);
            memory.limit = memory_limit.or(memory.limit);
        }
        if let Some(requests) = rate {
            manifest.rate = Some(RateSpec { requests, burst: rate_burst });
        }
        if breaker_faults.is_some() || breaker_window.is_some() || breaker_open.is_some() {
            let breaker = manifest.breaker.get_or_insert_default();
            breaker.faults = breaker_faults.or(breaker.faults);
            breaker.window = breaker_window.or(breaker.window);
            breaker.open = breaker_open.or(breaker.open);
        }
        manifest.concurrency = concurrency.or(manifest.concurrency);
        manifest.queue = queue.or(manifest.queue);
        manifest.queue_wait = queue_wait.or(manifest.queue_wait);
        manifest.access_log = access_log.or(manifest.access_log);
        if request_body.is_some() || request_header.is_some() {
            let RequestLimits { body, header } = manifest.request.take().unwrap_or_default();
            let body = request_body.or(body);
            let header = request_header.or(header);
            manifest.request = Some(RequestLimits { body, header });
        }
        if response_body.is_some() {
            manifest.response.get_or_insert_default().body = response_body;
        }
        self.grants.apply(manifest);
        self.rollout.apply(manifest)?;
        let ReuseFlags { reuse_requests, reuse_idle, reuse_concurrent, max_age } = self.reuse;
        manifest.max_age = max_age.or(manifest.max_age);
        if reuse_requests.is_some() || reuse_idle.is_some() || reuse_concurrent.is_some() {
            let before = match manifest.reuse.take() {
                Some(reuse) => reuse,
                // The defaults of `reuse = {}` are the model's.
                None => serde_json::from_str::<ReuseSpec>("{}").context("reuse has no defaults")?,
            };
            manifest.reuse = Some(ReuseSpec {
                requests: reuse_requests.unwrap_or(before.requests),
                idle: reuse_idle.unwrap_or(before.idle),
                concurrent: reuse_concurrent.unwrap_or(before.concurrent),
            });
        }
        Ok(())
    }
}
