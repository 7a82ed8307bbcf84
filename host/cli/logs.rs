//! `insula logs`: what tenants' guests wrote, what the host has to say about them, and their access logs.
//!
//! The text is the guest's, a path the client's. Everything in them that could drive the user's terminal is
//! escaped, whether or not standard output is a terminal now: a file may be shown on one later.

use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::follow::{self, LogPlace, Wanted};
use crate::host_args::HostArgs;
use crate::moment::Moment;
use crate::out::{self, Paint};
use crate::text::{self, encoded, printable, printable_lines};
use anyhow::Result;
use clap::ValueEnum;
use insula_model::TenantName;
use insula_model::api::{AccessRecord, LogRecord, LogStream};
use tokio::task::JoinSet;

/// The longest record: a text of `wire::LOG_LINE_BYTES_MAX` bytes, each escaped as `\u0000`, and its
/// fields.
pub(crate) const RECORD_BYTES_MAX: usize = 64 << 10;
/// Tenants whose logs are shown together: a connection each.
const NAMES_MAX: usize = 64;

const EXAMPLES: &str = "\
Examples:
  insula logs hello
  insula logs hello -f -n 0                       only what comes from now on
  insula logs hello --since 10m --grep 'time(out|d out)' --stream stderr,host
  insula logs hello --request 5f0c3a5e9d1b7c2400000017
  insula logs shop blog -f                        both, with their names in front
  insula logs hello --access --since 1h           its requests, if it has an access log
  insula logs hello --json | jq -r 'select(.stream == \"host\") | .text'

A line is TIME STREAM TEXT. STREAM is stdout, stderr, or host: Insula about this tenant, such as a
trap or a limit that was reached. A line of the access log is TIME METHOD PATH STATUS DURATION OUTCOME
and who asked. Control characters are shown as \\x1b; --json has them as they are.";

/// Show what tenants' guests wrote, what the host says about them, or their access logs.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The tenants
    #[arg(required = true, value_name = "NAME")]
    names: Vec<TenantName>,
    /// Go on printing lines as they are written, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Start with this many of the newest lines that pass [default: all that are kept]
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<u32>,
    /// Show requests, one a line: the access log
    #[arg(long)]
    access: bool,
    /// Only from this time on: 10m, 1d, or RFC 3339
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Only before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// Only lines whose text matches this regular expression; with --access, whose JSON does
    #[arg(long, value_name = "REGEX")]
    grep: Option<String>,
    /// Only these streams, with commas between them
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "access")]
    stream: Vec<Stream>,
    /// Only lines of this request: its `x-request-id`
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Only lines of this revision
    #[arg(long, value_name = "N")]
    revision: Option<u32>,
    /// Print the API's records, one JSON object a line; of several tenants, with `tenant` in each
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Stream {
    Stdout,
    Stderr,
    Host,
}

/// How records are shown.
#[derive(Debug, Clone)]
struct Manner {
    json: bool,
    access: bool,
    /// Whose they are, where several tenants' are shown.
    name: Option<TenantName>,
    paint: Paint,
}

/// Prints the logs.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut names = args.names.clone();
    names.sort();
    names.dedup();
    if names.len() > NAMES_MAX {
        let message = format!("the logs of at most {NAMES_MAX} tenants are shown at once");
        return Err(Failure::new(Exit::Usage, message).into());
    }
    let query = query(&args);
    let (tail, follow) = (args.tail, args.follow);
    let client = args.host.client()?;
    let several = names.len() > 1;
    let mut shown = JoinSet::new();
    let paint = out::stdout_paint();
    for name in names {
        let path = format!("/v1/tenants/{name}/logs?{query}");
        let (json, access) = (args.json, args.access);
        let manner = Manner { json, access, name: several.then_some(name), paint };
        let client = client.clone();
        if several && !args.follow {
            // One after the other: what is there is not mixed.
            show(&client, &path, LogPlace::new(tail, follow), &manner).await?;
        } else {
            let place = LogPlace::new(tail, follow);
            shown.spawn(async move { show(&client, &path, place, &manner).await });
        }
    }
    while let Some(ended) = shown.join_next().await {
        ended??;
    }
    if args.follow {
        out::note("the log has ended: the tenant was removed, or the host shut down");
    }
    Ok(())
}

fn query(args: &Args) -> String {
    let word = |stream: &Stream| match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
        Stream::Host => "host",
    };
    let streams: Vec<&str> = args.stream.iter().map(word).collect();
    let mut query = format!("access={}", args.access);
    let asked = [
        ("since", args.since.map(Moment::text)),
        ("until", args.until.map(Moment::text)),
        ("grep", args.grep.clone()),
        ("stream", Some(streams.join(",")).filter(|streams| !streams.is_empty())),
        ("request", args.request.clone()),
        ("revision", args.revision.map(|revision| revision.to_string())),
    ];
    for (key, value) in asked {
        if let Some(value) = value {
            query.push_str(&format!("&{key}={}", encoded(&value)));
        }
    }
    query
}

/// Prints what a tenant's log gets from now on, until it ends.
pub(crate) async fn follow_on(client: &Client, name: &TenantName) -> Result<()> {
    let path = format!("/v1/tenants/{name}/logs?access=false");
    let paint = out::stdout_paint();
    show(
        client,
        &path,
        LogPlace::new(Some(0), true),
        &Manner { json: false, access: false, name: None, paint },
    )
    .await
}

async fn show(client: &Client, path: &str, mut place: LogPlace, manner: &Manner) -> Result<()> {
    let wanted = Wanted { path, follow: place.follows(), what: "the log" };
    follow::records(client, wanted, &mut place, |records| print(records, manner)).await
}

fn print(records: &[u8], manner: &Manner) -> Result<()> {
    if manner.json && (manner.name.is_none() || manner.access) {
        return out::write(records);
    }
    let mut lines = String::new();
    for record in records.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match (&manner.name, manner.json) {
            (Some(name), true) => {
                let rest = record.strip_prefix(b"{").unwrap_or(record);
                lines.push_str(&format!(
                    "{{\"tenant\":\"{name}\",{}",
                    String::from_utf8_lossy(rest)
                ));
                lines.push('\n');
                continue;
            }
            (Some(name), false) => lines.push_str(&manner.paint.bold(&format!("{name} "))),
            (None, _) => {}
        }
        let shown = match manner.access {
            true => serde_json::from_slice(record).map(|record| request(&record, manner.paint)),
            false => serde_json::from_slice(record).map(|record| readable(&record, manner.paint)),
        };
        // A record of a newer host is still worth showing.
        lines.push_str(&shown.unwrap_or_else(|_| printable(&String::from_utf8_lossy(record))));
        lines.push('\n');
    }
    out::write(lines.as_bytes())
}

pub(crate) fn readable(record: &LogRecord, paint: Paint) -> String {
    let at = paint.dim(&printable(&record.at));
    let text = match record.stream {
        LogStream::Stdout | LogStream::Stderr => printable(&record.text),
        // The host's own words may take several lines; indented, none can pass for a record.
        LogStream::Host => printable_lines(record.text.trim_end()).replace('\n', "\n    "),
    };
    match record.stream {
        LogStream::Stdout => format!("{at} stdout {text}"),
        LogStream::Stderr => format!("{at} {}", paint.warn(&format!("stderr {text}"))),
        LogStream::Host => format!("{at} {}", paint.error(&format!("host   {text}"))),
    }
}

/// One request.
fn request(record: &AccessRecord, paint: Paint) -> String {
    let status = record.status.map_or("-".into(), |status| status.to_string());
    let ended = match &record.fault {
        Some(fault) => paint.error(&format!("{} {}", printable(&record.outcome), printable(fault))),
        None => printable(&record.outcome),
    };
    let ms = format!("{}.{:03} ms", record.duration_us / 1_000, record.duration_us % 1_000);
    let dropped = match record.dropped {
        0 => String::new(),
        dropped => paint.warn(&format!(" ({dropped} before it were dropped)")),
    };
    format!(
        "{} {} {} {status} {ms} {} {ended} {} {} r{} {}{dropped}",
        paint.dim(&printable(&record.at)),
        printable(&record.method),
        printable(&record.path),
        text::bytes(record.bytes_out),
        printable(record.peer.as_deref().unwrap_or("another-tenant")),
        printable(&record.protocol),
        record.revision,
        paint.dim(&printable(&record.request)),
    )
}
