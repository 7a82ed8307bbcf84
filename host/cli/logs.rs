//! `insula logs`: what a tenant's guests wrote, and what the host has to say about them.
//!
//! The text is the guest's. Everything in it that could drive the user's terminal is escaped, whether
//! or not standard output is a terminal now: a file may be shown on one later.

use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::host_args::HostArgs;
use crate::out::{self, Paint};
use crate::text::{printable, printable_lines};
use anyhow::Result;
use http_body_util::BodyExt;
use insula_model::TenantName;
use insula_model::api::{LogRecord, LogStream};

/// The longest record: a text of `wire::LOG_LINE_BYTES_MAX` bytes, each escaped as `\u0000`, and its
/// fields.
pub(crate) const RECORD_BYTES_MAX: usize = 64 << 10;

const EXAMPLES: &str = "\
Examples:
  insula logs hello
  insula logs hello -f -n 0                       only what comes from now on
  insula logs hello --json | jq -r 'select(.stream == \"host\") | .text'

A line is TIME STREAM TEXT. STREAM is stdout, stderr, or host: Insula about this tenant, such as a
trap or a limit that was reached. Control characters are shown as \\x1b; --json has them as they are.";

/// Show what a tenant's guests wrote, and what the host says about them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The tenant
    name: TenantName,
    /// Go on printing lines as they are written, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Start with this many of the newest lines [default: all that are kept]
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<u32>,
    /// Print the API's records, one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Prints the log.
pub(crate) async fn run(args: Args) -> Result<()> {
    let client = args.host.client()?;
    let tail = args.tail.map_or(String::new(), |lines| format!("&tail={lines}"));
    let path = format!("/v1/tenants/{}/logs?follow={}{tail}", args.name, args.follow);
    show(&client, &path, args.json).await?;
    if args.follow {
        out::note("the log has ended: the tenant was removed, or the host shut down");
    }
    Ok(())
}

/// Prints what a tenant's log gets from now on, until it ends.
pub(crate) async fn follow(client: &Client, name: &TenantName) -> Result<()> {
    show(client, &format!("/v1/tenants/{name}/logs?follow=true&tail=0"), false).await
}

async fn show(client: &Client, path: &str, json: bool) -> Result<()> {
    let mut body = client.stream(path).await?;
    let paint = out::stdout_paint();
    let mut pending = Vec::new();
    // While following, silence is no error: only the user, or the end of the host, ends the wait.
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| client.lost("while it sent the log").caused_by(error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        pending.extend_from_slice(&data);
        let Some(end) = pending.iter().rposition(|byte| *byte == b'\n') else {
            if pending.len() > RECORD_BYTES_MAX {
                let message = "the host sent a log record without an end";
                return Err(Failure::new(Exit::Failure, message).into());
            }
            continue;
        };
        let rest = pending.split_off(end + 1);
        print(&pending, json, paint)?;
        pending = rest;
    }
    print(&pending, json, paint)
}

fn print(records: &[u8], json: bool, paint: Paint) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    if json {
        return out::write(records);
    }
    let mut lines = String::new();
    for record in records.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<LogRecord>(record) {
            Ok(record) => lines.push_str(&readable(&record, paint)),
            // A record of a newer host is still worth showing.
            Err(_) => lines.push_str(&printable(&String::from_utf8_lossy(record))),
        }
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
