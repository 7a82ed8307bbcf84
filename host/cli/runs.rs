//! `insula runs`: what a job did; and the words for jobs that several verbs share.

use crate::host_args::HostArgs;
use crate::table::{self, number, text as words};
use crate::{out, text};
use anyhow::Result;
use insula_model::TenantName;
use insula_model::api::{JobRun, JobStatus};
use jiff::Timestamp;

const EXAMPLES: &str = "\
Examples:
  insula runs backup
  insula runs backup --json | jq '.[0].result'
  insula logs backup --json | jq 'select(.request == \"run-00000000000000000007\")'

RESULT is the program's exit code, or why it was ended: a word as in `insula-fault`, `worker-died`, or
`host-died`. The newest 20 runs are remembered.";

/// List what a job did, newest run first.
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

/// Prints the table.
pub(crate) async fn run(args: Args) -> Result<()> {
    let client = args.host.client()?;
    let answer = client.get(&format!("/v1/tenants/{}/runs", args.name)).await?;
    if args.json {
        return out::json(answer.json());
    }
    let runs: Vec<JobRun> = answer.read()?;
    let columns = [
        number("RUN"),
        number("REV").spare(1),
        words("CAUSE").spare(2),
        words("STARTED"),
        number("TOOK"),
        words("RESULT"),
    ];
    let row = |run: &JobRun| {
        [
            run.run.to_string(),
            run.revision.to_string(),
            run.cause.as_str().to_owned(),
            text::age(&run.started_at),
            took(run).unwrap_or_else(|| "-".into()),
            result(run),
        ]
    };
    out::write(table::render(columns, runs.iter().map(row).collect()).as_bytes())?;
    if runs.is_empty() {
        out::note("it has not run yet; run it now with: insula trigger NAME");
    }
    Ok(())
}

/// `exit 3`, `deadline`, `running`.
pub(crate) fn result(run: &JobRun) -> String {
    let result = run.result.as_ref().map(|result| text::printable(&result.to_string()));
    result.unwrap_or_else(|| "running".into())
}

fn took(run: &JobRun) -> Option<String> {
    let millis = |at: &str| at.parse::<Timestamp>().ok().map(Timestamp::as_millisecond);
    let took = millis(run.ended_at.as_deref()?)? - millis(&run.started_at)?;
    Some(text::milliseconds(u64::try_from(took).unwrap_or(0)))
}

/// `*/5 * * * *, next at 2026-01-01T00:05:00Z`.
pub(crate) fn when(job: &JobStatus) -> String {
    match &job.next_at {
        Some(at) => format!("{}, next at {}", job.schedule, text::printable(at)),
        None => format!("{}, which names no time to come", job.schedule),
    }
}

/// `in 3m`.
pub(crate) fn next(job: &JobStatus) -> String {
    job.next_at.as_ref().map_or("never".into(), |at| format!("in {}", text::distance(at)))
}

/// `exit 0, 2m ago`; `running, 5s`.
pub(crate) fn last(job: &JobStatus) -> String {
    if let Some(run) = &job.running {
        return format!("running, {}", text::distance(&run.started_at));
    }
    let Some(run) = &job.last else { return "none yet".into() };
    let at = run.ended_at.as_ref().unwrap_or(&run.started_at);
    format!("{}, {} ago", result(run), text::distance(at))
}

/// Everything about a job, for a page.
pub(crate) fn about(job: &JobStatus) -> Vec<(&'static str, String)> {
    let told = |run: &JobRun| {
        let cause = run.cause.as_str();
        let at = text::age(&run.started_at);
        let took = took(run).map(|took| format!(", took {took}")).unwrap_or_default();
        format!("run {} ({cause}): {}, started {at}{took}", run.run, result(run))
    };
    let mut lines = vec![
        ("schedule", format!("{} (UTC)", job.schedule)),
        ("next", job.next_at.as_ref().map_or("never".into(), |at| text::printable(at))),
    ];
    lines.extend(job.running.iter().map(|run| ("running", told(run))));
    lines.push(("last", job.last.as_ref().map_or("none yet".into(), told)));
    lines
}
