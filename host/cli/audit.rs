//! `insula audit`: who changed or read what through the control API, when, from where.

use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::follow::{self, AuditPlace, Wanted};
use crate::host_args::HostArgs;
use crate::moment::Moment;
use crate::out::{self, Paint};
use crate::text::printable;
use anyhow::Result;
use insula_model::TenantName;
use insula_model::api::{AuditActor, AuditCheck, AuditEvent, AuditRecord};

const EXAMPLES: &str = "\
Examples:
  insula audit                                    everything that is kept
  insula audit shop --since 1d --action deploy,rollback,secret
  insula audit -f --json                          for a collector; every record has its hash
  insula audit --verify                           has anything been changed or taken out?

A line is TIME USER ACTION WHAT CHANGE RESULT PROCESS. CHANGE is the active revision before and after,
and the artifact. RESULT is ok, or the code of the error. Reads of what is sensitive (inspect, logs,
secret-list, export, audit) are there as well; values of secrets never are. What the host did by itself,
such as promoting a canary or rolling it back, is the user `host`'s, and the line ends with the reason.";

/// Show who changed or read what, when, from where.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only what is about this tenant, deployed or gone
    name: Option<TenantName>,
    /// Only from this time on: 10m, 1d, or RFC 3339
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Only before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// Only these actions, with commas between them; `secret` is all that begin with `secret-`
    #[arg(long, value_name = "ACTION", value_delimiter = ',')]
    action: Vec<String>,
    /// Go on printing records as they are written, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Start with this many of the newest records [default: all that are kept]
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<u32>,
    /// Check that every record is as it was written, and none is missing; exit 1 if not
    #[arg(long, conflicts_with_all = ["name", "since", "until", "action", "follow", "tail"])]
    verify: bool,
    /// Print the API's records, one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Prints the records, or whether they are whole.
pub(crate) async fn run(args: Args) -> Result<()> {
    if args.verify {
        return verify(args).await;
    }
    let mut query = String::from("begins=false");
    let mut ask = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            query.push_str(&format!("&{key}={value}"));
        }
    };
    ask("tenant", args.name.map(|name| name.to_string()));
    ask("since", args.since.map(Moment::text));
    ask("until", args.until.map(Moment::text));
    let plain = |action: &String| action.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if let Some(odd) = args.action.iter().find(|action| !plain(action)) {
        let message = format!("`{odd}` is no action");
        return Err(Failure::new(Exit::Usage, message)
            .hint("actions are words such as deploy, rollback, remove, secret-set, inspect")
            .into());
    }
    ask("action", Some(args.action.join(",")).filter(|all| !all.is_empty()));
    let client = args.host.client()?;
    let paint = out::stdout_paint();
    // Which records are still to come is known by the number of the last one, whether it passes or not.
    let after = match args.tail {
        Some(0) if args.follow => last_number(&client).await?,
        _ => None,
    };
    let mut place = AuditPlace::new(args.tail, args.follow, after);
    let path = format!("/v1/audit?{query}");
    let wanted = Wanted { path: &path, follow: args.follow, what: "the records" };
    follow::records(&client, wanted, &mut place, |records| print(records, args.json, paint))
        .await?;
    if args.follow {
        out::note("the records have ended: the host shut down");
    }
    Ok(())
}

async fn last_number(client: &Client) -> Result<Option<u64>> {
    let answer = client.get("/v1/audit?begins=true&tail=1").await?;
    Ok(AuditPlace::number(answer.json()))
}

fn print(records: &[u8], json: bool, paint: Paint) -> Result<()> {
    if json {
        return out::write(records);
    }
    let mut lines = String::new();
    for record in records.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<AuditRecord>(record) {
            Ok(record) => lines.push_str(&readable(&record, paint)),
            Err(_) => lines.push_str(&printable(&String::from_utf8_lossy(record))),
        }
        lines.push('\n');
    }
    out::write(lines.as_bytes())
}

fn readable(record: &AuditRecord, paint: Paint) -> String {
    let AuditEvent { action, tenant, namespace, target, actor, .. } = &record.event;
    let what =
        [tenant.as_deref(), namespace.as_deref().filter(|_| tenant.is_none()), target.as_deref()];
    let what: Vec<String> = what.into_iter().flatten().map(|name| printable(short(name))).collect();
    let what = if what.is_empty() { "-".into() } else { what.join("/") };
    let result = printable(record.event.result.as_deref().unwrap_or("began"));
    let result = format!("{result:<10}");
    let result = if result.trim() == "ok" { result } else { paint.warn(&result) };
    let reason = record.event.reason.as_deref().map(|why| format!(": {}", printable(why)));
    format!(
        "{} {:<10} {:<13} {what:<20} {:<24} {result} {}{}",
        paint.dim(&printable(&record.at)),
        user(actor),
        printable(action),
        change(&record.event),
        process(actor),
        reason.unwrap_or_default(),
    )
    .trim_end()
    .to_owned()
}

/// Of a digest, what tells it from others.
fn short(name: &str) -> &str {
    match name.strip_prefix("sha256:") {
        Some(hex) => hex.get(..12).unwrap_or(hex),
        None => name,
    }
}

fn user(actor: &AuditActor) -> String {
    let user = match (&actor.user, actor.uid) {
        (Some(user), _) => user.clone(),
        (None, Some(uid)) => uid.to_string(),
        (None, None) => actor.from.clone(),
    };
    match &actor.login {
        Some(login) => printable(&format!("{login}→{user}")),
        None => printable(&user),
    }
}

fn change(event: &AuditEvent) -> String {
    let artifact = event.artifact.as_deref().map(|digest| format!(" {}", printable(short(digest))));
    let revisions = match (event.revision_before, event.revision_after) {
        (Some(before), Some(after)) if before != after => format!("{before} → {after}"),
        (_, Some(after)) if event.revision_before.is_none() => format!("→ {after}"),
        (Some(before), None) if event.action == "remove" => format!("{before} → none"),
        _ => String::new(),
    };
    format!("{revisions}{}", artifact.unwrap_or_default()).trim().to_owned()
}

fn process(actor: &AuditActor) -> String {
    let command = printable(actor.command.as_deref().unwrap_or("-"));
    actor.pid.map_or(command.clone(), |pid| format!("{command}[{pid}]"))
}

async fn verify(args: Args) -> Result<()> {
    let answer = args.host.client()?.get("/v1/audit/verify").await?;
    let check: AuditCheck = answer.read()?;
    if args.json {
        out::json(answer.json())?;
    }
    if let Some(problem) = &check.problem {
        let message = format!("the audit log is not as it was written: {}", printable(problem));
        return Err(Failure::new(Exit::Failure, message)
            .hint("keep DATA/audit as it is for whoever looks into this; records before that one are sound")
            .into());
    }
    if args.json {
        return Ok(());
    }
    out::line(&format!(
        "{} records, {} to {}, are as they were written; the last one's hash is {}",
        check.records,
        check.first,
        check.last,
        printable(&check.hash)
    ))
}
