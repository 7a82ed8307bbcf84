//! The report as one page that needs nothing else: no script, no font, no request.

use super::headline;
use super::plot::{self, Plot};
use super::tables::{self, Table};
use super::words::{self, Quiet};
use crate::results::{Bench, Results};
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("page.css");

/// The whole of it.
pub(super) fn page(results: &Results, plots: &[(usize, Vec<Plot>)]) -> String {
    let benches = || results.benches.iter().zip(plots.iter().map(|(_, plots)| plots));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Insula, measured beside others" }
                style { (PreEscaped(STYLE)) (PreEscaped(plot::dark())) }
            }
            body {
                header {
                    p.kicker { "insula bench" }
                    h1 { "Insula, measured beside others" }
                    @if !results.complete {
                        p.banner role="alert" { strong { "Incomplete. " } (super::INCOMPLETE) }
                    }
                    p.run { (super::run(results)) }
                }
                main {
                    section.summary aria-labelledby="summary" {
                        h2 #summary { "In three sentences" }
                        @for sentence in headline::sentences(results) {
                            p { @for (text, strong) in sentence {
                                @if strong { strong { (text) } } @else { (text) }
                            } }
                        }
                        p.bars { (tables::bars_said(results)) " " @if tables::bars_held(results).1 > 0 {
                            a href="#bars" { "The bars, one by one" } "."
                        } }
                    }
                    nav aria-label="Sections" {
                        @for (index, bench) in results.benches.iter().enumerate() {
                            a href={ "#bench-" (index) } { (words::title(&bench.name)) }
                        }
                        @for (id, title) in [("tables", "Tables"), ("method", "Method"), ("subjects", "Who was measured"),
                            ("missing", "Not measured"), ("machine", "Machine"), ("command", "Command")] {
                            a href={ "#" (id) } { (title) }
                        }
                    }
                    @for (index, (bench, plots)) in benches().enumerate() { (self::bench(index, bench, plots)) }
                    (all_tables(results))
                    (method(results))
                    (who(results))
                    (missing(results))
                    section aria-labelledby="machine" {
                        h2 #machine { "Machine" }
                        (table(&tables::pairs("The machine".into(), &results.machine)))
                    }
                    section aria-labelledby="command" {
                        h2 #command { "The command" }
                        p { "What was run, as it was given:" }
                        pre { code { (results.command) } }
                        p { "Everything on this page comes from " code { "results.json" } ", which stands beside it. To make the page again from it:" }
                        pre { code { "insula bench report DIR" } }
                    }
                }
            }
        }
    }
    .into_string()
}

fn bench(index: usize, bench: &Bench, plots: &[Plot]) -> Markup {
    html! {
        section aria-labelledby={ "bench-" (index) } {
            h2 id={ "bench-" (index) } { (words::title(&bench.name)) }
            p.control.noisy[Quiet::of(bench) == Quiet::No] { (Quiet::sentence(bench)) }
            div.plots { @for plot in plots { figure { (PreEscaped(plot.inline())) } } }
            @if plots.is_empty() { p { "Nothing was measured." } }
            @let notes = tables::notes(bench);
            @if !notes.is_empty() { ul.notes { @for note in notes { li { (note) } } } }
        }
    }
}

fn all_tables(results: &Results) -> Markup {
    html! {
        section aria-labelledby="tables" {
            h2 #tables { "Tables" }
            @if tables::bars_held(results).1 > 0 {
                h3 #bars { "Bars" }
                (table(&tables::bars(results)))
                (bars_noted(results))
            }
            @for bench in &results.benches {
                details open {
                    summary { h3 { (words::title(&bench.name)) } }
                    @for one in tables::of(results, bench) { (table(&one)) }
                }
            }
        }
    }
}

fn bars_noted(results: &Results) -> Markup {
    let noted = tables::bars_noted(results);
    html! {
        @if !noted.is_empty() {
            p { "Bars that are no ratios:" }
            ul.notes { @for (note, held) in noted { li {
                @if held { "held" } @else { strong.missed { "MISSED" } } ": " (note)
            } } }
        }
    }
}

fn method(results: &Results) -> Markup {
    html! {
        section aria-labelledby="method" {
            h2 #method { "How it was measured" }
            @for paragraph in super::METHOD { p { (paragraph) } }
            @for bench in &results.benches {
                h3 { (words::title(&bench.name)) }
                p { (bench.method) }
                p { "It took " (words::duration(bench.took_s)) "." }
                (table(&tables::pairs(format!("{}: settings", words::title(&bench.name)), &bench.settings)))
            }
        }
    }
}

fn who(results: &Results) -> Markup {
    html! {
        section aria-labelledby="subjects" {
            h2 #subjects { "Who was measured" }
            (table(&tables::subjects(results)))
        }
    }
}

fn missing(results: &Results) -> Markup {
    let missing = tables::missing(results);
    html! {
        section aria-labelledby="missing" {
            h2 #missing { "Not measured" }
            @if missing.is_empty() {
                p { "Every subject that was asked for was measured." }
            } @else {
                p { "What could not be measured here is not guessed. Each with the reason, and the command that would add it." }
                dl { @for (name, why, mend) in missing {
                    dt { (name) }
                    dd { p { (why) } @match mend {
                        Some(mend) => pre { code { (mend) } },
                        None => p { "No command is known that would add it." },
                    } }
                } }
            }
            @if let Some(left) = super::benches_left(results) { p { (left) } }
        }
    }
}

fn table(table: &Table) -> Markup {
    html! {
        @if !table.rows.is_empty() {
            div.wide tabindex="0" role="region" aria-label=(table.caption) {
                table {
                    caption { (table.caption) }
                    thead { tr { @for (column, title) in table.head.iter().enumerate() {
                        th scope="col" .figure[column >= table.words] { (title) }
                    } } }
                    tbody { @for row in &table.rows { tr {
                        @for (column, cell) in row.iter().enumerate() {
                            @if column == 0 { th scope="row" { (cell) } }
                            @else { td .figure[column >= table.words] { (marked(cell)) } }
                        }
                    } } }
                }
            }
        }
    }
}

/// A verdict is heavy where it is bad, and says so in words.
fn marked(cell: &str) -> Markup {
    html! {
        @if cell.contains("MISSED") { strong.missed { (cell) } } @else { (cell) }
    }
}
