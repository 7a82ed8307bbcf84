//! Where plots are drawn: the colours for light and dark, and the few shapes that are needed.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Write as _;

/// Coordinates are whole numbers to plotters; ours are tenths of what a browser calls a pixel.
const FINE: f64 = 10.0;
/// plotters divides the size that it is given by this.
const FONT: f64 = 1.24;

/// A colour: what the file says, which every viewer shows, and what stands for it in the dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ink(u32, u32);

/// Words and medians.
pub(super) const INK: Ink = Ink(0x001B_1F24, 0x00E8_EAED);
/// What is less important than words.
pub(super) const MUTED: Ink = Ink(0x0057_606A, 0x00A6_AFB9);
/// Lines to read values by.
pub(super) const GRID: Ink = Ink(0x00D5_DAE0, 0x003A_414A);
/// What it is drawn on.
pub(super) const PAPER: Ink = Ink(0x00FF_FFFF, 0x0016_1B20);
/// Ourselves first, always the same; then six that people with any kind of colour vision can tell
/// apart, dark enough on white and light enough on black for words (at least 4.5 to 1).
const SUBJECTS: [Ink; 7] = [
    Ink(0x00C2_410C, 0x00FF_9254),
    Ink(0x0000_67A8, 0x005D_B4F0),
    Ink(0x0000_785A, 0x003C_CFA4),
    Ink(0x00A8_327E, 0x00EB_9BD0),
    Ink(0x007D_5F00, 0x00E8_C04A),
    Ink(0x005B_4BB5, 0x00B3_A7FF),
    Ink(0x0055_606E, 0x00A9_B4C2),
];

impl Ink {
    /// That of a subject: 0 is ourselves; the others begin again when they have run out.
    pub(super) fn subject(index: usize) -> Self {
        let others = SUBJECTS.len() - 1;
        let place = if index == 0 { 0 } else { 1 + (index - 1) % others };
        SUBJECTS.get(place).copied().unwrap_or(INK)
    }

    fn rgb(self) -> RGBColor {
        let [_, red, green, blue] = self.0.to_be_bytes();
        RGBColor(red, green, blue)
    }
}

/// Rules that turn the colours for a dark page, wherever plots stand within it.
pub(in crate::report) fn dark() -> String {
    let mut rules = String::from("@media (prefers-color-scheme: dark) {\n");
    for Ink(light, dark) in [INK, MUTED, GRID, PAPER].into_iter().chain(SUBJECTS) {
        for what in ["fill", "stroke"] {
            let _ = writeln!(rules, ".plot [{what}=\"#{light:06X}\"] {{ {what}: #{dark:06X} }}");
        }
    }
    rules + "}\n"
}

/// How a mark is drawn, so that lines differ by more than their colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Filled.
    Disc,
    /// Filled.
    Square,
    /// Filled.
    Triangle,
    /// Empty within.
    Ring,
}

impl Mark {
    /// That of a subject's nth line in one plot.
    pub(super) fn nth(index: usize) -> Self {
        [Self::Disc, Self::Square, Self::Triangle, Self::Ring]
            .get(index % 4)
            .copied()
            .unwrap_or(Self::Disc)
    }
}

/// Which end of a text its place is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Align {
    /// Its left end.
    Left,
    /// Its middle.
    Middle,
    /// Its right end.
    Right,
}

/// A drawing in the making.
pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

impl std::fmt::Debug for Canvas<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Canvas").finish_non_exhaustive()
    }
}

type At = (f64, f64);

fn fine((x, y): At) -> (i32, i32) {
    ((x * FINE).round() as i32, (y * FINE).round() as i32)
}

fn wide(width: f64) -> u32 {
    (width * FINE).round() as u32
}

/// Draws on paper of a size and gives what stands within the `svg` element, and the size in `viewBox`'s
/// words.
pub(super) fn draw(
    (width, height): At,
    with: impl FnOnce(&Canvas<'_>) -> Result<()>,
) -> Result<(String, String)> {
    let mut text = String::new();
    {
        let area =
            SVGBackend::with_string(&mut text, (wide(width), wide(height))).into_drawing_area();
        let canvas = Canvas { area };
        canvas.rectangle((0.0, 0.0), (width, height), PAPER, 1.0)?;
        with(&canvas)?;
        canvas.area.present()?;
    }
    let within = text.split_once('>').map_or("", |(_, rest)| rest).trim();
    let within = within.strip_suffix("</svg>").unwrap_or(within).trim().to_owned();
    Ok((within, format!("0 0 {} {}", wide(width), wide(height))))
}

impl Canvas<'_> {
    /// A straight line.
    pub(super) fn line(&self, from: At, to: At, ink: Ink, width: f64) -> Result<()> {
        self.path(&[from, to], ink, width)
    }

    /// Lines from point to point.
    pub(super) fn path(&self, points: &[At], ink: Ink, width: f64) -> Result<()> {
        let points: Vec<_> = points.iter().copied().map(fine).collect();
        self.area.draw(&PathElement::new(points, ink.rgb().stroke_width(wide(width))))?;
        Ok(())
    }

    /// The same, dashed.
    pub(super) fn dashes(&self, points: &[At], ink: Ink, width: f64) -> Result<()> {
        let points: Vec<_> = points.iter().copied().map(fine).collect();
        let style = ink.rgb().stroke_width(wide(width));
        self.area.draw(&DashedPathElement::new(points, wide(5.0), wide(3.0), style))?;
        Ok(())
    }

    /// A filled shape that others shine through.
    pub(super) fn shape(&self, points: &[At], ink: Ink, opacity: f64) -> Result<()> {
        let points: Vec<_> = points.iter().copied().map(fine).collect();
        self.area.draw(&Polygon::new(points, ink.rgb().mix(opacity).filled()))?;
        Ok(())
    }

    /// A filled rectangle.
    pub(super) fn rectangle(&self, from: At, to: At, ink: Ink, opacity: f64) -> Result<()> {
        let style = ink.rgb().mix(opacity).filled();
        self.area.draw(&Rectangle::new([fine(from), fine(to)], style))?;
        Ok(())
    }

    /// A dot that others shine through.
    pub(super) fn dot(&self, at: At, radius: f64, ink: Ink, opacity: f64) -> Result<()> {
        self.area.draw(&Circle::new(fine(at), wide(radius), ink.rgb().mix(opacity).filled()))?;
        Ok(())
    }

    /// A mark on a line.
    pub(super) fn mark(&self, mark: Mark, (x, y): At, ink: Ink) -> Result<()> {
        match mark {
            Mark::Disc => self.dot((x, y), 3.6, ink, 1.0),
            Mark::Square => self.rectangle((x - 3.2, y - 3.2), (x + 3.2, y + 3.2), ink, 1.0),
            Mark::Triangle => {
                self.shape(&[(x, y - 4.4), (x + 4.2, y + 3.2), (x - 4.2, y + 3.2)], ink, 1.0)
            }
            Mark::Ring => {
                self.dot((x, y), 4.0, ink, 1.0)?;
                self.dot((x, y), 2.2, PAPER, 1.0)
            }
        }
    }

    /// Words; their place is the middle of their height.
    pub(super) fn text(
        &self,
        at: At,
        text: &str,
        font: Font,
        ink: Ink,
        align: Align,
    ) -> Result<()> {
        let across = match align {
            Align::Left => HPos::Left,
            Align::Middle => HPos::Center,
            Align::Right => HPos::Right,
        };
        let style = if font.bold { FontStyle::Bold } else { FontStyle::Normal };
        let font = FontDesc::new(FontFamily::SansSerif, font.size * FINE * FONT, style);
        let colour = ink.rgb();
        let style = TextStyle::from(font).color(&colour).pos(Pos::new(across, VPos::Center));
        // XML has no way to write most control characters, not even escaped.
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.area.draw(&Text::new(text, fine(at), style))?;
        Ok(())
    }
}

/// How words are set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Font {
    /// Height, in pixels.
    pub(super) size: f64,
    /// Whether they are heavy.
    pub(super) bold: bool,
}

impl Font {
    /// The width of some words in pixels: a guess, since only the viewer knows its fonts, and rather too
    /// wide than too narrow.
    pub(super) fn width(self, text: &str) -> f64 {
        let em: f64 = text
            .chars()
            .map(|letter| match letter {
                'i' | 'j' | 'l' | '.' | ',' | ':' | '\'' | '|' | '!' => 0.29,
                'f' | 'r' | 't' | ' ' | '(' | ')' | '/' | '-' => 0.37,
                'm' | 'w' | 'M' | 'W' | '%' => 0.89,
                'A'..='Z' => 0.70,
                _ => 0.585,
            })
            .sum();
        em * self.size * if self.bold { 1.12 } else { 1.0 }
    }

    /// The words in lines that are at most this wide; a single word may be wider.
    pub(super) fn wrap(self, text: &str, width: f64) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            match lines.last_mut() {
                Some(line) if self.width(&format!("{line} {word}")) <= width => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
        lines
    }
}
