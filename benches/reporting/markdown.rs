//! The report as Markdown, for terminals, reviews and diffs.

use super::headline;
use super::plot::Plot;
use super::tables::{self, Table};
use super::words;
use crate::results::{Bench, Results};
use std::fmt::Write as _;

/// The whole of it.
pub(super) fn report(results: &Results, plots: &[(usize, Vec<Plot>)]) -> String {
    let mut page = String::from("# Insula, measured beside others\n\n");
    if !results.complete {
        let _ = writeln!(page, "> **INCOMPLETE.** {}\n", super::INCOMPLETE);
    }
    for sentence in headline::sentences(results) {
        for (text, strong) in sentence {
            let text = words_of(&text);
            // Markdown wants its stars next to the words.
            let (lead, rest) = text.split_at(text.len() - text.trim_start().len());
            let (rest, tail) = rest.split_at(rest.trim_end().len());
            let star = if strong { "**" } else { "" };
            let _ = write!(page, "{lead}{star}{rest}{star}{tail}");
        }
        page.push_str("\n\n");
    }
    let _ = writeln!(page, "{}\n", tables::bars_said(results));
    let _ = writeln!(page, "{}\n", words_of(&super::run(results)));
    if tables::bars_held(results).1 > 0 {
        page.push_str("## Bars\n\n");
        table(&mut page, &tables::bars(results));
        for (note, held) in tables::bars_noted(results) {
            let _ = writeln!(
                page,
                "- {}: {}",
                if held { "held" } else { "**MISSED**" },
                words_of(&note)
            );
        }
        if !tables::bars_noted(results).is_empty() {
            page.push('\n');
        }
    }
    for (bench, (_, plots)) in results.benches.iter().zip(plots) {
        self::bench(&mut page, results, bench, plots);
    }
    page.push_str("## How it was measured\n\n");
    for paragraph in super::METHOD {
        let _ = writeln!(page, "{paragraph}\n");
    }
    page.push_str("## Who was measured\n\n");
    table(&mut page, &tables::subjects(results));
    missing(&mut page, results);
    page.push_str("## Machine\n\n");
    table(&mut page, &tables::pairs("The machine".into(), &results.machine));
    let _ = writeln!(page, "## The command\n\n{}", code(&results.command));
    page
}

fn bench(page: &mut String, results: &Results, bench: &Bench, plots: &[Plot]) {
    let _ = writeln!(page, "## {}\n", words_of(words::title(&bench.name)));
    let _ = writeln!(page, "{}\n", words_of(&words::Quiet::sentence(bench)));
    for plot in plots {
        let _ = writeln!(page, "![{}]({})\n", words_of(&plot.title), plot.file());
    }
    let _ = writeln!(page, "{}\n", words_of(&bench.method));
    let notes = tables::notes(bench);
    for note in &notes {
        let _ = writeln!(page, "- {}", words_of(note));
    }
    if !notes.is_empty() {
        page.push('\n');
    }
    for one in tables::of(results, bench) {
        table(page, &one);
    }
    let caption = format!(
        "{}: settings; it took {}",
        words::title(&bench.name),
        words::duration(bench.took_s)
    );
    table(page, &tables::pairs(caption, &bench.settings));
}

fn missing(page: &mut String, results: &Results) {
    page.push_str("## Not measured\n\n");
    let missing = tables::missing(results);
    for (name, why, mend) in &missing {
        let _ = writeln!(page, "**{}**: {}", words_of(name), words_of(why));
        match mend {
            Some(mend) => {
                let _ = writeln!(page, "\n{}", code(mend));
            }
            None => page.push_str("\nNo command is known that would add it.\n\n"),
        }
    }
    if missing.is_empty() {
        page.push_str("Every subject that was asked for was measured.\n\n");
    }
    if let Some(left) = super::benches_left(results) {
        let _ = writeln!(page, "{left}\n");
    }
}

fn table(page: &mut String, table: &Table) {
    if table.rows.is_empty() {
        return;
    }
    let _ = writeln!(page, "**{}**\n", words_of(&table.caption));
    let row = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell_of(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    page.push_str(&row(&table.head));
    let rule = |column| if column < table.words { "---" } else { "---:" };
    let rules: Vec<&str> = (0..table.head.len()).map(rule).collect();
    let _ = writeln!(page, "| {} |", rules.join(" | "));
    for cells in &table.rows {
        page.push_str(&row(cells));
    }
    page.push('\n');
}

/// Words that mean nothing to Markdown or HTML, in one line.
fn words_of(text: &str) -> String {
    let mut said = String::new();
    for letter in text.chars() {
        match letter {
            '&' => said.push_str("&amp;"),
            '<' => said.push_str("&lt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '~' => {
                said.push('\\');
                said.push(letter);
            }
            letter if letter.is_control() => said.push(' '),
            letter => said.push(letter),
        }
    }
    said
}

fn cell_of(text: &str) -> String {
    words_of(text).replace('|', "\\|")
}

/// A block of code, fenced by more backticks than it holds.
fn code(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}sh\n{text}\n{fence}\n")
}
