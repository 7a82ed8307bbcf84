//! `insula trigger`: a job, now.

use crate::client::{ANSWER_MS_MAX, Client, no_body};
use crate::follow::{LogPlace, Place, again, patiently};
use crate::host_args::HostArgs;
use crate::logs::{RECORD_BYTES_MAX, readable};
use crate::{out, runs};
use anyhow::{Context, Result};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use insula_model::api::{JobResult, JobRun, LogRecord, LogStream};
use insula_model::{RequestId, TenantName};
use std::process::ExitCode;
use std::time::Duration;

/// How often the run is looked up while its log is silent: its last line may have been dropped.
const LOOK: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Examples:
  insula trigger backup
  insula trigger backup --wait && echo done

With --wait, exits as the program does, or with 1 if it was ended. A job runs once at a time: while a
run goes on, another is refused (exit code 3).";

/// Run a job now, beside its schedule.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The tenant
    name: TenantName,
    /// Show what it writes until it ends, and exit as it does
    #[arg(short, long)]
    wait: bool,
    /// Print the API's JSON: the run
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Starts a run.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let client = args.host.client()?;
    let name = &args.name;
    // Before the run, so that none of its lines is missed.
    let log_path = format!("/v1/tenants/{name}/logs?access=false");
    let place = LogPlace::new(Some(0), true);
    let log = match args.wait {
        true => Some(client.stream(&format!("{log_path}{}", place.query())).await?),
        false => None,
    };
    let path = format!("/v1/tenants/{name}/runs");
    let answer = client.send(Method::POST, &path, None, no_body(), ANSWER_MS_MAX).await;
    let answer = answer.with_context(|| format!("cannot run `{name}`"))?;
    let started: JobRun = answer.read()?;
    let Some(log) = log else {
        if args.json {
            out::json(answer.json())?;
        } else {
            out::line(&format!("started run {} of {name}", started.run))?;
            out::note(&format!(
                "what it writes: insula logs {name} -f; how it ends: insula runs {name}"
            ));
        }
        return Ok(ExitCode::SUCCESS);
    };
    let followed = Followed {
        client: &client,
        path: &path,
        log_path: &log_path,
        number: started.run,
        show: !args.json,
    };
    let ended = followed.to_the_end(log, place).await?;
    if args.json {
        let json = serde_json::to_vec(&ended).context("cannot write the run as JSON")?;
        out::json(&json)?;
    }
    Ok(match ended.result {
        Some(JobResult::Exited { code }) => code.into(),
        _ => {
            let warning = out::stderr_paint().error("error:");
            out::note(&format!("{warning} run {} was ended: {}", ended.run, runs::result(&ended)));
            ExitCode::FAILURE
        }
    })
}

/// A run whose log is shown.
struct Followed<'a> {
    client: &'a Client,
    path: &'a str,
    log_path: &'a str,
    number: u64,
    show: bool,
}

impl Followed<'_> {
    async fn to_the_end(&self, mut log: Incoming, mut place: LogPlace) -> Result<JobRun> {
        let mut pending = Vec::new();
        loop {
            let frame = tokio::time::timeout(LOOK, log.frame()).await;
            let look = match frame {
                Err(_) => true,
                Ok(None) => return Err(self.client.lost("before the run ended").into()),
                Ok(Some(Err(error))) => {
                    let lost = self.client.lost("while it sent the log").caused_by(error);
                    place.broke_off();
                    pending.clear();
                    log = again(self.client, self.log_path, &place, lost).await?;
                    true
                }
                Ok(Some(Ok(frame))) => {
                    pending.extend_from_slice(&frame.into_data().unwrap_or_default());
                    self.print(&mut pending, &mut place)?
                }
            };
            if look && let Some(ended) = self.ended().await? {
                return Ok(ended);
            }
            if pending.len() > RECORD_BYTES_MAX {
                pending.clear();
            }
        }
    }

    /// Prints the whole records of this run; whether the host said something about it.
    fn print(&self, pending: &mut Vec<u8>, place: &mut LogPlace) -> Result<bool> {
        let Some(end) = pending.iter().rposition(|byte| *byte == b'\n') else { return Ok(false) };
        let rest = pending.split_off(end + 1);
        let records = std::mem::replace(pending, rest);
        let id = RequestId::run(self.number).to_string();
        let records = records.split(|byte| *byte == b'\n');
        let records = records.filter(|line| !line.is_empty() && place.takes(line));
        let mut told = false;
        for record in records.filter_map(|line| serde_json::from_slice::<LogRecord>(line).ok()) {
            if record.request == id {
                told |= record.stream == LogStream::Host;
                if self.show {
                    out::line(&readable(&record, out::stdout_paint()))?;
                }
            }
        }
        Ok(told)
    }

    async fn ended(&self) -> Result<Option<JobRun>> {
        let all = patiently(None, || self.client.get(self.path)).await?;
        let all: Vec<JobRun> = all.read()?;
        let run = all.into_iter().find(|run| run.run == self.number);
        Ok(run.filter(|run| run.result.is_some()))
    }
}
