//! Tables in docker's manner: an upper-case header, aligned columns, no borders.
//!
//! On a terminal a row stays on one line: columns that say less are left out, then the column that
//! gives way is cut with `…`. Elsewhere nothing is left out or cut.

use crate::out;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Row, Table};

/// Blanks between two columns.
const GAP_COLUMNS: usize = 3;
/// The column that gives way keeps this width as long as another column can be left out instead.
const SHRINK_COLUMNS_MIN: usize = 20;

/// A column's header and manner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    header: &'static str,
    right: bool,
    shrinks: bool,
    spare: u8,
    optional: bool,
}

/// Text, left-aligned.
pub(crate) const fn text(header: &'static str) -> Column {
    Column { header, right: false, shrinks: false, spare: 0, optional: false }
}

/// Numbers, right-aligned.
pub(crate) const fn number(header: &'static str) -> Column {
    Column { right: true, ..text(header) }
}

/// Text that is cut where the terminal is too narrow.
pub(crate) const fn shrinks(header: &'static str) -> Column {
    Column { shrinks: true, ..text(header) }
}

impl Column {
    /// A column that a narrow terminal does without; that of the lowest `rank`, from 1, goes first.
    pub(crate) const fn spare(self, rank: u8) -> Self {
        Self { spare: rank, ..self }
    }

    /// A column that is left out if no row has anything in it.
    pub(crate) const fn optional(self) -> Self {
        Self { optional: true, ..self }
    }
}

/// The table as text, each line with its end. `columns` describe the cells of each row.
pub(crate) fn render<const N: usize>(columns: [Column; N], rows: Vec<[String; N]>) -> String {
    let terminal = terminal_columns();
    let widest = |i: usize, column: &Column| {
        rows.iter()
            .map(|row| row[i].chars().count())
            .chain([column.header.len()])
            .max()
            .unwrap_or(0)
    };
    let says =
        |i: usize, column: &Column| !column.optional || rows.iter().any(|row| !row[i].is_empty());
    let mut shown: Vec<(usize, usize, Column)> = columns
        .iter()
        .enumerate()
        .filter(|(i, column)| says(*i, column))
        .map(|(i, column)| (i, widest(i, column), *column))
        .collect();
    if let Some(width) = terminal {
        fit(&mut shown, width);
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(Row::from(shown.iter().map(|(_, _, column)| column.header)));
    for row in &rows {
        table.add_row(Row::from(shown.iter().map(|(i, room, _)| cut(&row[*i], *room))));
    }
    let gap = u16::try_from(GAP_COLUMNS).unwrap_or(1);
    for (column, (_, _, manner)) in table.column_iter_mut().zip(&shown) {
        column.set_padding((0, gap));
        if manner.right {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let paint = out::stdout_paint();
    let mut text = String::new();
    for (number, line) in table.lines().enumerate() {
        let line = cut(line.trim_end(), terminal.unwrap_or(usize::MAX));
        text.push_str(&if number == 0 { paint.bold(&line) } else { line });
        text.push('\n');
    }
    text
}

/// The terminal's width; none when standard output is not a terminal.
fn terminal_columns() -> Option<usize> {
    Table::new().width().map(usize::from).filter(|width| *width > 0)
}

/// Leaves out and narrows what does not fit: `(index, width, column)` of those that stay.
fn fit(shown: &mut Vec<(usize, usize, Column)>, width: usize) {
    let whole = |shown: &[(usize, usize, Column)], least: usize| {
        let wide = |(_, wide, column): &(usize, usize, Column)| {
            GAP_COLUMNS + if column.shrinks { (*wide).min(least) } else { *wide }
        };
        shown.iter().map(wide).sum::<usize>().saturating_sub(GAP_COLUMNS)
    };
    while whole(shown, SHRINK_COLUMNS_MIN) > width {
        let spares = shown.iter().enumerate().filter(|(_, (_, _, column))| column.spare > 0);
        let Some((spare, _)) = spares.min_by_key(|(_, (_, _, column))| column.spare) else { break };
        shown.remove(spare);
    }
    let too_much = whole(shown, usize::MAX).saturating_sub(width);
    if let Some((_, wide, column)) = shown.iter_mut().find(|(_, _, column)| column.shrinks) {
        *wide = wide.saturating_sub(too_much).max(column.header.len());
    }
}

fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars().take(room.saturating_sub(1)).chain(['…']).collect()
}
