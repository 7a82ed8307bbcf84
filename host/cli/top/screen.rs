//! Drawing: the host on two lines, then the tenants or one of them. Only what is seen is formatted.

use super::columns::{Column, bytes, ms, short};
use super::paint::{Line, Tint};
use super::sample::{Row, State, as_f64};
use super::view::View;
use crate::text::{age, printable};
use insula_model::api::{LogStream, MemoryPressure, WorkerState};
use insula_model::{DurationMs, MilliCpu};

/// Blanks between two columns.
const GAP: u16 = 1;
/// Cells of a bar that shows how much of a limit is used.
const BAR_CELLS: usize = 20;

/// Lines below one another, as far as there is room.
struct Pen {
    lines: Vec<Line>,
    width: u16,
    height: usize,
}

impl Pen {
    fn line(&mut self, line: Line) {
        if self.room() > 0 {
            self.lines.push(line);
        }
    }

    /// A line over the whole width.
    fn bar(&mut self, text: &str) {
        let width = usize::from(self.width);
        let text: String = text.chars().chain(std::iter::repeat(' ')).take(width).collect();
        self.line(Line::of(text, Tint::Reversed));
    }

    fn room(&self) -> usize {
        self.height.saturating_sub(self.lines.len())
    }
}

/// What the whole screen shows.
pub(super) fn draw(view: &mut View, (width, height): (u16, u16)) -> Vec<Line> {
    let mut pen = Pen { lines: Vec::new(), width, height: height.into() };
    host(&mut pen, view);
    if view.shown.is_some() {
        one(&mut pen, view);
        return pen.lines;
    }
    // The last line is for keys and the filter.
    pen.height -= 1;
    tenants(&mut pen, view);
    pen.lines.resize_with(pen.height, Line::default);
    pen.lines.push(foot(view));
    pen.lines
}

fn host(pen: &mut Pen, view: &View) {
    let host = &view.now.host;
    let serving = host.workers.iter().filter(|w| w.state == WorkerState::Serving).count();
    let connections: u64 = host.workers.iter().map(|worker| worker.connections).sum();
    let restarts: u64 = host.workers.iter().map(|worker| worker.restarts).sum();
    let sum = |of: fn(&Row) -> f64| view.sample.sum(of);
    let up = crate::text::distance(&host.started_at);
    let mut first =
        Line::of("insula", Tint::Bold).with(format!(" {}  up {up}", host.version), Tint::Plain);
    let workers = format!("  workers {serving}/{}", host.workers.len());
    let all_serve = serving == host.workers.len();
    first.push(workers, if all_serve { Tint::Plain } else { Tint::Warn });
    if restarts > 0 {
        first.push(format!(" ({restarts} died)"), Tint::Warn);
    }
    let active = view.sample.rows.iter().filter(|row| row.state != State::Idle).count();
    let tenants = host.tenants;
    first.push(
        format!("  connections {connections}  tenants {tenants}, {active} active"),
        Tint::Plain,
    );
    pen.line(first);
    let memory = &host.memory;
    let budget = memory.budget_bytes.map_or(String::new(), |most| format!("/{}", bytes(most)));
    let mut second = Line::of(
        format!(
            "CPU {:.2}/{} cores  memory {}{budget}",
            sum(|row| row.cpu_percent) / 100.0,
            host.workers.len(),
            bytes(memory.used_bytes),
        ),
        Tint::Plain,
    );
    if memory.pressure != MemoryPressure::None {
        second.push(format!(" ({})", memory.pressure.as_str()), Tint::Warn);
    }
    second.push(format!("  {} req/s", short(sum(|row| row.requests_per_s))), Tint::Plain);
    for (what, rate) in [("errors", sum(|r| r.errors_per_s)), ("shed", sum(|r| r.shed_per_s))] {
        let tint = if rate > 0.0 { Tint::Warn } else { Tint::Plain };
        second.push(format!("  {} {what}/s", short(rate)), tint);
    }
    pen.line(second);
    if let Some(trouble) = &view.trouble {
        pen.line(Line::of(printable(trouble), Tint::Bad));
    }
}

fn tenants(pen: &mut Pen, view: &mut View) {
    let name_width = name_width(pen.width);
    let mut header = Line::default();
    for column in Column::ALL {
        let tint = if column == view.sort { Tint::Strong } else { Tint::Reversed };
        header.push(pad(column.title(), column_width(column, name_width), column.is_text()), tint);
        // The mark has the place between two columns.
        let mark = match (column == view.sort, view.reversed) {
            (true, false) => "▼",
            (true, true) => "▲",
            (false, _) => " ",
        };
        header.push(mark, tint);
    }
    pen.line(header);
    view.height = pen.room();
    view.scroll();
    for (at, index) in view.rows.iter().enumerate().skip(view.top).take(view.height) {
        let Some(row) = view.sample.rows.get(*index) else { continue };
        let chosen = at == view.cursor;
        let mut line = Line::default();
        for column in Column::ALL {
            let text = pad(&column.cell(row), column_width(column, name_width), column.is_text());
            line.push(text, if chosen { Tint::Reversed } else { tint(column, row) });
            line.push(" ", if chosen { Tint::Reversed } else { Tint::Plain });
        }
        pen.line(line);
    }
    if view.rows.is_empty() {
        pen.line(Line::of(nothing(view), Tint::Dim));
    }
}

fn nothing(view: &View) -> String {
    if !view.filter.is_empty() {
        format!("no tenant that had a request is called like `{}`", view.filter)
    } else {
        "no tenant has had a request yet".into()
    }
}

fn name_width(width: u16) -> u16 {
    let others: u16 = Column::ALL.iter().map(|column| column.width() + GAP).sum();
    width.saturating_sub(others).max(8)
}

fn column_width(column: Column, name_width: u16) -> usize {
    usize::from(if column == Column::Name { name_width } else { column.width() })
}

fn pad(text: &str, width: usize, left: bool) -> String {
    let text = if text.chars().count() > width {
        text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
    } else {
        text.to_owned()
    };
    if left { format!("{text:<width$}") } else { format!("{text:>width$}") }
}

fn tint(column: Column, row: &Row) -> Tint {
    match column {
        _ if row.state == State::Idle => Tint::Dim,
        Column::Errors if row.errors_per_s > 0.0 => Tint::Bad,
        Column::State if row.state == State::Circuit => Tint::Bad,
        Column::Shed if row.shed_per_s > 0.0 => Tint::Warn,
        Column::State if row.state == State::Queued => Tint::Warn,
        Column::Memory if nearly_full(row) => Tint::Warn,
        _ => Tint::Plain,
    }
}

fn nearly_full(row: &Row) -> bool {
    as_f64(row.memory_bytes) > 0.9 * as_f64(row.memory_limit_bytes)
}

fn foot(view: &View) -> Line {
    if view.typing {
        return Line::of("/", Tint::Bold).with(format!("{}█", view.filter), Tint::Plain);
    }
    let mut line = Line::default();
    if !view.filter.is_empty() {
        let (found, all) = (view.rows.len(), view.sample.rows.len());
        line.push(format!("/{}: {found} of {all}  ", view.filter), Tint::Bold);
    }
    line.with("↑↓ choose  Enter show  / filter  < > sort  q quit", Tint::Dim)
}

fn pair(pen: &mut Pen, key: &str, value: String) {
    pen.line(Line::of(format!("{key:<11}"), Tint::Dim).with(value, Tint::Plain));
}

fn one(pen: &mut Pen, view: &View) {
    let Some(name) = &view.shown else { return };
    pen.bar(&format!("{name}  (Esc goes back, q ends)"));
    let Some(row) = view.row_shown() else {
        pen.line(Line::of("it is not there any more", Tint::Dim));
        return;
    };
    pair(
        pen,
        "requests",
        format!(
            "{}/s  {} running  {} queued  {} errors/s  {} shed/s",
            short(row.requests_per_s),
            row.running,
            row.queued,
            short(row.errors_per_s),
            short(row.shed_per_s)
        ),
    );
    let quantiles = row.latency.quantiles();
    pair(
        pen,
        "latency ms",
        format!(
            "p50 {}  p90 {}  p99 {}",
            ms(quantiles.p50_ms),
            ms(quantiles.p90_ms),
            ms(quantiles.p99_ms)
        ),
    );
    let limits = view.detail.as_ref().map(|detail| &detail.tenant.limits);
    let cpu = limits.and_then(|limits| limits.resources.cpu_limit_m);
    let cpu_part = cpu.map(|most| row.cpu_percent * 10.0 / f64::from(most.max(1)));
    let most = cpu.map_or("the machine".into(), |most| MilliCpu(most).to_string());
    pair(pen, "CPU", format!("{}{:.1}% of one core, limit {most}", bar(cpu_part), row.cpu_percent));
    let part = as_f64(row.memory_bytes) / as_f64(row.memory_limit_bytes.max(1));
    let (held, limit) = (bytes(row.memory_bytes), bytes(row.memory_limit_bytes));
    pair(pen, "memory", format!("{}{held} of {limit}", bar(Some(part))));
    if let Some(limits) = limits {
        let part = as_f64(row.running) / f64::from(limits.concurrency.max(1));
        pair(
            pen,
            "places",
            format!("{}{} of {}", bar(Some(part)), row.running, limits.concurrency),
        );
        let fuel = limits.fuel_counted().map_or("not counted".into(), |fuel| short(as_f64(fuel)));
        pair(
            pen,
            "fuel",
            format!(
                "{}/s, {fuel} a request; timeout {}; {}",
                short(row.fuel_per_s),
                DurationMs(limits.timeout_ms),
                limits.resources.qos.as_str()
            ),
        );
    }
    let Some(detail) = &view.detail else {
        pen.line(Line::of("asking the host …", Tint::Dim));
        return;
    };
    let routes = crate::ps::routes(&detail.tenant.summary.routes);
    pair(pen, "routes", if routes.is_empty() { "none".into() } else { routes });
    for (at, revision) in detail.revisions.iter().take(3).enumerate() {
        let active = if revision.active { ", active" } else { "" };
        let (number, made) = (revision.revision, age(&revision.created_at));
        let told = format!("{number}, deployed {made}{active}, {}", revision.artifact.short());
        pair(pen, if at == 0 { "revisions" } else { "" }, told);
    }
    pen.bar("log");
    let skipped = detail.log.len().saturating_sub(pen.room());
    for record in detail.log.iter().skip(skipped) {
        let tint = match record.stream {
            LogStream::Stdout => Tint::Plain,
            LogStream::Stderr => Tint::Warn,
            LogStream::Host => Tint::Bad,
        };
        let at = record.at.get(11..19).unwrap_or("");
        let text = printable(record.text.lines().next().unwrap_or(""));
        pen.line(Line::of(format!("{at} "), Tint::Dim).with(text, tint));
    }
    if detail.log.is_empty() {
        pen.line(Line::of("nothing yet", Tint::Dim));
    }
}

/// How much of a limit is used; nothing without one.
fn bar(part: Option<f64>) -> String {
    let Some(part) = part else { return String::new() };
    let full =
        (1..=BAR_CELLS).filter(|n| as_f64(*n as u64) <= part * as_f64(BAR_CELLS as u64)).count();
    format!("[{}{}] ", "|".repeat(full), " ".repeat(BAR_CELLS - full))
}
