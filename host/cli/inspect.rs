//! `insula inspect`: everything about one tenant.

use crate::host_args::HostArgs;
use crate::{canary, granted, out, ps, runs, text};
use anyhow::Result;
use insula_model::api::{TenantDetail, TenantSummary};
use insula_model::{ByteSize, Count, DurationMs, LatencyQuantiles, Limits, MilliCpu, TenantName};

const EXAMPLES: &str = "\
Examples:
  insula inspect hello
  insula inspect hello --json | jq .grants";

/// Show everything about one tenant: routes, what it may reach, limits, artifact, counters.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The tenant
    name: TenantName,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Prints the tenant.
pub(crate) async fn run(args: Args) -> Result<()> {
    let client = args.host.client()?;
    let answer = client.get(&format!("/v1/tenants/{}", args.name)).await?;
    if args.json {
        return out::json(answer.json());
    }
    let detail: TenantDetail = answer.read()?;
    let paint = out::stdout_paint();
    let mut page = String::new();
    let mut section = |title: &str, lines: Vec<(&str, String)>| {
        let blank = if page.is_empty() { "" } else { "\n" };
        page.push_str(&format!("{blank}{}\n", paint.bold(title)));
        for (key, value) in lines {
            page.push_str(&format!("  {key:<17}{value}\n"));
        }
    };
    section(detail.summary.name.as_str(), about(&detail));
    if let Some(job) = &detail.summary.job {
        section("job", runs::about(job));
    }
    if let Some(running) = &detail.summary.canary {
        section("canary", canary::about(running));
    }
    section("reaches", granted::lines(&detail));
    section("limits", limits(&detail.limits));
    section("since the host started", counters(&detail.summary));
    out::write(page.as_bytes())
}

fn about(detail: &TenantDetail) -> Vec<(&'static str, String)> {
    let summary = &detail.summary;
    let code = detail.code_bytes.map_or("not on disk".into(), text::bytes);
    let routes = match summary.routes.as_slice() {
        [] => "none".into(),
        routes => ps::routes(routes),
    };
    let mut lines = vec![
        ("namespace", summary.namespace.to_string()),
        ("revision", format!("{}, deployed {}", summary.revision, text::age(&summary.deployed_at))),
        ("kind", summary.kind.as_str().to_owned()),
        ("routes", routes),
        ("artifact", summary.artifact.to_string()),
        ("size", format!("{}; compiled code: {code}", text::bytes(detail.artifact_bytes))),
    ];
    if let Some(at) = &summary.stopped_at {
        lines
            .push(("state", format!("stopped {}: `insula start {}`", text::age(at), summary.name)));
    }
    let circuit = ps::circuit(summary.breaker);
    if !circuit.is_empty() {
        lines.push(("circuit", format!("{circuit}: it keeps failing; see `insula logs`")));
    }
    if let Some(schedule) = &detail.manifest.schedule {
        lines.push(("schedule", format!("{schedule} (UTC)")));
    }
    lines.extend(detail.urls.iter().map(|url| ("url", text::printable(url))));
    lines
}

fn limits(limits: &Limits) -> Vec<(&'static str, String)> {
    let reuse = limits.reuse.map_or("off: a fresh instance for every request".into(), |reuse| {
        let (requests, idle) = (Count(reuse.requests.into()), DurationMs(reuse.idle_ms));
        format!("{requests} requests an instance, retired after {idle} without one")
    });
    let max_age = limits.max_age_ms.map_or("none".into(), |ms| DurationMs(ms).to_string());
    let header = ByteSize(limits.request_header_bytes.into());
    let r = &limits.resources;
    let cpu_limit = r.cpu_limit_m.map_or("the machine".into(), |limit| MilliCpu(limit).to_string());
    let rate = r.rate.map_or("as many as come".into(), |rate| {
        format!("{} requests a second, {} at once", rate.requests, rate.burst)
    });
    let b = r.breaker;
    let (window, open) = (DurationMs(b.window_ms), DurationMs(b.open_ms));
    let breaker = format!("{} faults within {window} in one worker open it for {open}", b.faults);
    vec![
        ("class", r.qos.as_str().to_owned()),
        ("cpu", format!("request {}, limit {}", MilliCpu(r.cpu_request_m), cpu_limit)),
        ("memory", format!("{} an instance", ByteSize(limits.memory_bytes))),
        (
            "memory, all",
            format!(
                "request {}, limit {}",
                ByteSize(r.memory_request_bytes),
                ByteSize(r.memory_limit_bytes)
            ),
        ),
        ("rate", rate),
        ("breaker", breaker),
        ("metering", limits.metering.as_str().to_owned()),
        (
            "fuel",
            limits.fuel_counted().map_or("not counted".into(), |fuel| Count(fuel).to_string()),
        ),
        ("timeout", DurationMs(limits.timeout_ms).to_string()),
        ("concurrency", limits.concurrency.to_string()),
        ("queue", format!("{} in each worker", limits.queue)),
        ("queue_wait", DurationMs(limits.queue_wait_ms).to_string()),
        ("request.body", ByteSize(limits.request_body_bytes).to_string()),
        ("request.header", header.to_string()),
        ("response.body", ByteSize(limits.response_body_bytes).to_string()),
        ("reuse", reuse),
        ("max_age", max_age),
    ]
}

/// `p50 0.2 ms, p90 …`; nothing without requests.
fn latency(latency: &LatencyQuantiles) -> String {
    let one = |name: &str, ms: Option<f64>| ms.map(|ms| format!("{name} {}", text::short_ms(ms)));
    let all = [one("p50", latency.p50_ms), one("p90", latency.p90_ms), one("p99", latency.p99_ms)];
    let all: Vec<String> = all.into_iter().flatten().collect();
    if all.is_empty() { "-".into() } else { all.join(", ") }
}

fn counters(summary: &TenantSummary) -> Vec<(&'static str, String)> {
    let counters = &summary.counters;
    vec![
        ("latency", latency(&summary.latency)),
        (
            "answers",
            format!(
                "{} 2xx, {} 3xx, {} 4xx, {} 5xx",
                counters.status_2xx, counters.status_3xx, counters.status_4xx, counters.status_5xx
            ),
        ),
        ("queue", format!("{} now, {} have waited", counters.queued, counters.waited)),
        ("cold loads", counters.cold_loads.to_string()),
        ("running", counters.running.to_string()),
        ("requests", counters.requests.to_string()),
        ("responses", counters.responses.to_string()),
        ("client faults", counters.client_faults.to_string()),
        ("guest faults", counters.guest_faults.to_string()),
        ("host faults", counters.host_faults.to_string()),
        ("shed", counters.shed.to_string()),
        ("fuel", text::count(counters.fuel)),
        ("CPU", text::milliseconds(counters.cpu_us / 1_000)),
        (
            "memory now",
            format!(
                "{}, of it {} held by the host",
                text::bytes(counters.memory_bytes),
                text::bytes(counters.memory_host_bytes)
            ),
        ),
        ("memory peak", text::bytes(counters.memory_peak_bytes)),
        (
            "bytes in, out",
            format!("{}, {}", text::bytes(counters.bytes_in), text::bytes(counters.bytes_out)),
        ),
        ("outbound", text::bytes(counters.bytes_outbound)),
    ]
}
