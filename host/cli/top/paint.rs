//! Lines of styled text on a terminal: the alternate screen, raw mode, and of each frame only the lines that
//! changed. What was changed about the terminal is taken back when this is dropped.
//!
//! crossterm is in the tree already, for tables; a whole toolkit would be for much more than lines.

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::style::{Attribute, Color, Print, SetAttribute, SetForegroundColor};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap,
    EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode, size,
};
use crossterm::{Command, queue};
use std::io::{self, Write};

/// How a piece of text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tint {
    Plain,
    Dim,
    Bold,
    /// The chosen row, titles.
    Reversed,
    /// The title that is sorted by.
    Strong,
    Warn,
    Bad,
}

/// One line, from left to right.
#[derive(Debug, Default)]
pub(super) struct Line(Vec<(String, Tint)>);

impl Line {
    pub(super) fn of(text: impl Into<String>, tint: Tint) -> Self {
        Self::default().with(text, tint)
    }

    pub(super) fn with(mut self, text: impl Into<String>, tint: Tint) -> Self {
        self.push(text, tint);
        self
    }

    pub(super) fn push(&mut self, text: impl Into<String>, tint: Tint) {
        self.0.push((text.into(), tint));
    }

    /// As the terminal gets it.
    fn encode(&self, width: usize, coloured: bool) -> String {
        let mut encoded = String::new();
        let mut room = width;
        for (text, tint) in &self.0 {
            let cut: String = text.chars().take(room).collect();
            room -= cut.chars().count();
            let attribute = match tint {
                Tint::Plain | Tint::Warn | Tint::Bad => None,
                Tint::Dim => Some(Attribute::Dim),
                Tint::Bold => Some(Attribute::Bold),
                Tint::Reversed | Tint::Strong => Some(Attribute::Reverse),
            };
            let colour = match tint {
                Tint::Warn => Some(Color::Yellow),
                Tint::Bad => Some(Color::Red),
                _ => None,
            };
            if let Some(attribute) = attribute {
                ansi(&mut encoded, SetAttribute(attribute));
            }
            if *tint == Tint::Strong {
                ansi(&mut encoded, SetAttribute(Attribute::Bold));
            }
            if let Some(colour) = colour.filter(|_| coloured) {
                ansi(&mut encoded, SetForegroundColor(colour));
            }
            encoded.push_str(&cut);
            if *tint != Tint::Plain {
                ansi(&mut encoded, SetAttribute(Attribute::Reset));
            }
        }
        encoded
    }
}

fn ansi(to: &mut String, command: impl Command) {
    // Writing to a string does not fail.
    let _ = command.write_ansi(to);
}

/// The terminal, for as long as this lives.
pub(super) struct Screen {
    /// Width, and the lines as they were sent last.
    last: (u16, Vec<String>),
    coloured: bool,
}

impl Screen {
    pub(super) fn open(coloured: bool) -> io::Result<Self> {
        enable_raw_mode()?;
        let screen = Self { last: (0, Vec::new()), coloured };
        queue!(io::stdout(), EnterAlternateScreen, DisableLineWrap, Hide)?;
        Ok(screen)
    }

    /// Columns and lines now.
    pub(super) fn size() -> (u16, u16) {
        // A terminal that does not say is taken as the oldest.
        match size() {
            Ok((columns, lines)) if columns > 0 && lines > 0 => (columns, lines),
            _ => (80, 24),
        }
    }

    /// Shows these lines, and nothing below them.
    pub(super) fn show(&mut self, lines: &[Line], (columns, height): (u16, u16)) -> io::Result<()> {
        let mut out = io::stdout().lock();
        queue!(out, BeginSynchronizedUpdate)?;
        if self.last.0 != columns || self.last.1.len() != usize::from(height) {
            queue!(out, Clear(ClearType::All))?;
            self.last = (columns, vec![String::new(); usize::from(height)]);
        }
        for (at, before) in (0..height).zip(&mut self.last.1) {
            let line = lines.get(usize::from(at));
            let now = line.map_or(String::new(), |l| l.encode(columns.into(), self.coloured));
            if *before != now {
                queue!(out, MoveTo(0, at), Clear(ClearType::CurrentLine), Print(&now))?;
                *before = now;
            }
        }
        queue!(out, EndSynchronizedUpdate)?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The terminal may be gone, and then nobody minds how it looks.
        let mut out = io::stdout();
        let _ = queue!(out, Show, EnableLineWrap, LeaveAlternateScreen);
        let _ = out.flush();
        let _ = disable_raw_mode();
    }
}
