//! `insula top`: what tenants do now, as `docker stats` and `htop` show it.
//!
//! ```text
//! fetcher (a task) ── Activity, every interval ──▶ loop ──▶ view ──▶ screen
//! keys (a thread)  ── keys, resizes ─────────────▶
//! ```
//! Rates are differences of two answers of the host, so nothing is kept there. Bounded by what the host lists:
//! tenants that had a request; only the rows that are seen are formatted. Ends with `q`, or after `-n` tables.

mod columns;
mod detail;
mod paint;
mod plain;
mod sample;
mod screen;
mod view;

use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::host_args::HostArgs;
use crate::out;
use anyhow::{Context, Result};
use columns::Column;
use crossterm::event::{self, Event};
use detail::Detail;
use insula_model::api::Activity;
use insula_model::{DurationMs, Namespace, TenantName};
use paint::Screen;
use sample::Sample;
use std::io::IsTerminal;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use view::{Step, View};

/// Between two looks at the host, if nobody says otherwise.
const INTERVAL_MS_DEFAULT: u64 = 2_000;
/// Shorter ones would measure little but themselves.
const INTERVAL_MS_MIN: u64 = 100;
/// Until the first rates can be shown.
const FIRST_MS: u64 = 500;
/// Keys that were pressed and not acted on; more wait in the terminal.
const KEYS_MAX: usize = 64;

const EXAMPLES: &str = "\
Examples:
  insula top
  insula top --sort cpu -n team-a
  insula top --no-stream | head
  insula top --json --count 3 | jq '.tenants[] | select(.errors_per_s > 0)'

Keys: arrows, PgUp, PgDn choose a tenant, Enter shows it, Esc goes back; / filters by name, Esc shows all;
n r 5 9 c m f e s t sort by NAME, REQ/S, P50, P99, CPU%, MEM, FUEL/S, ERR/S, SHED/S, STATE, once more
reverses, < and > go to the next column; q ends.

Rates and percentiles are of the last interval. CPU% is of one core. Latencies are in milliseconds. ERR/S
counts guests' answers of 5xx, and requests that guest or host failed; SHED/S requests that were refused before
anything ran. Only tenants that had a request since the host started are listed.";

/// Show what tenants do now.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only the tenants of this namespace
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<Namespace>,
    /// Order by this column
    #[arg(long, value_name = "COLUMN", default_value = "rate")]
    sort: Column,
    /// Time between two looks at the host [default: 2s]
    #[arg(short = 'd', long, value_name = "DURATION", value_parser = parse_interval)]
    interval: Option<DurationMs>,
    /// Print one table and end
    #[arg(long, conflicts_with = "count")]
    no_stream: bool,
    /// Print so many tables, one each interval, and end
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// At most so many tenants in a table
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print one JSON object a line in place of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

fn parse_interval(text: &str) -> Result<DurationMs, String> {
    let interval: DurationMs =
        text.parse().map_err(|error: insula_model::quantity::QuantityError| error.to_string())?;
    if interval.0 < INTERVAL_MS_MIN {
        return Err(format!("{interval} is too short; at least {}", DurationMs(INTERVAL_MS_MIN)));
    }
    Ok(interval)
}

/// Shows tables, or the live view on a terminal.
pub(crate) async fn run(args: Args) -> Result<()> {
    let client = args.host.client()?;
    let path = match &args.namespace {
        Some(namespace) => format!("/v1/activity?namespace={namespace}"),
        None => "/v1/activity".to_owned(),
    };
    let interval = Duration::from_millis(args.interval.map_or(INTERVAL_MS_DEFAULT, |i| i.0));
    let count = args.count.or(args.no_stream.then_some(1));
    let is_live = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if count.is_some() || args.json || !is_live {
        let tables = plain::Tables { sort: args.sort, limit: args.limit, json: args.json };
        return tables.print(&client, &path, interval, count).await;
    }
    if std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb") {
        return Err(Failure::new(Exit::Usage, "this terminal cannot show a live view")
            .hint("set TERM, or print tables with --no-stream")
            .into());
    }
    // A host that is not there is told of before the screen changes.
    let first = client.get(&path).await?.read()?;
    let screen = Screen::open(out::stdout_paint().is_on());
    let screen = screen.context("the terminal cannot be set up")?;
    live(screen, View::new(args.sort, first), client, path, interval).await
}

/// What the loop hears of.
enum Heard {
    Activity(Result<Box<Activity>>),
    Detail(Result<Box<Detail>>),
}

async fn live(
    mut screen: Screen,
    mut view: View,
    client: Client,
    path: String,
    interval: Duration,
) -> Result<()> {
    let (chosen, choice) = watch::channel(None);
    let (to_loop, mut heard) = mpsc::channel(2);
    tokio::spawn(fetch(client, path, interval, choice, to_loop));
    let (pressed, mut keys) = mpsc::channel(KEYS_MAX);
    // Blocked in a read when the program ends, which ends it.
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if pressed.blocking_send(event).is_err() {
                return;
            }
        }
    });
    loop {
        let size = Screen::size();
        let lines = screen::draw(&mut view, size);
        screen.show(&lines, size).context("the terminal is gone")?;
        tokio::select! {
            key = keys.recv() => match key {
                Some(Event::Key(key)) if key.is_press() => match view.press(key) {
                    Step::Quit => return Ok(()),
                    Step::Show(tenant) => drop(chosen.send_replace(tenant)),
                    Step::Stay => {}
                },
                // A resize: drawn anew.
                Some(_) => {}
                None => return Ok(()),
            },
            heard = heard.recv() => match heard {
                Some(Heard::Activity(activity)) => view.update(activity.map(|activity| *activity)),
                Some(Heard::Detail(detail)) => view.detail(detail),
                None => return Ok(()),
            },
        }
    }
}

/// Asks the host, again and again: for all tenants, and for more about the one that is chosen.
async fn fetch(
    client: Client,
    path: String,
    interval: Duration,
    mut choice: watch::Receiver<Option<TenantName>>,
    to: mpsc::Sender<Heard>,
) {
    let mut pause = Duration::from_millis(FIRST_MS).min(interval);
    loop {
        let changed = tokio::select! {
            () = tokio::time::sleep(pause) => false,
            changed = choice.changed() => changed.is_ok(),
        };
        let chosen = choice.borrow_and_update().clone();
        if let Some(name) = chosen {
            let detail = Detail::fetch(&client, &name).await.map(Box::new);
            if to.send(Heard::Detail(detail)).await.is_err() {
                return;
            }
        }
        if changed {
            continue;
        }
        pause = interval;
        let activity = match client.get(&path).await {
            Ok(answer) => answer.read(),
            Err(error) => Err(error),
        };
        if to.send(Heard::Activity(activity.map(Box::new))).await.is_err() {
            return;
        }
    }
}

/// What became of two answers.
fn sample(before: Option<&Activity>, now: &Activity) -> Sample {
    Sample::between(before, now)
}
