//! A report in a directory of its own, and ways to read it.

use insula_benches::report;
use insula_benches::results::Results;
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

/// A written report: its directory, and every file of it.
pub(crate) struct Written {
    pub(crate) dir: TempDir,
    pub(crate) files: BTreeMap<String, String>,
}

impl Written {
    pub(crate) fn of(results: &Results) -> Self {
        let dir = tempfile::tempdir().unwrap();
        report::write(results, dir.path()).unwrap();
        let files = files(dir.path());
        Self { dir, files }
    }

    pub(crate) fn page(&self) -> &str {
        &self.files["index.html"]
    }

    pub(crate) fn markdown(&self) -> &str {
        &self.files["report.md"]
    }

    /// The words of the page, without its plots and its marks.
    pub(crate) fn read(&self) -> String {
        let mut page = self.page().to_owned();
        for (from, to) in [("<style>", "</style>"), ("<svg", "</svg>"), ("<", ">")] {
            while let Some(start) = page.find(from) {
                let end = start + page[start..].find(to).unwrap() + to.len();
                page.replace_range(start..end, if from == "<" { "\u{1}" } else { "" });
            }
        }
        let page = page.replace('\u{1}', "").replace("&lt;", "<").replace("&gt;", ">");
        page.replace("&quot;", "\"").replace("&amp;", "&")
    }

    pub(crate) fn plots(&self) -> impl Iterator<Item = (&String, &String)> {
        self.files.iter().filter(|(name, _)| name.ends_with(".svg"))
    }
}

pub(crate) fn files(dir: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), text)
        })
        .collect()
}

pub(crate) fn says(text: &str, words: &str) {
    assert!(text.contains(words), "{words:?} is not in:\n{text}");
}

pub(crate) fn says_not(text: &str, words: &str) {
    assert!(!text.contains(words), "{words:?} is in:\n{text}");
}

/// How far two colours are apart, as WCAG 2 has it, from 1 to 21.
pub(crate) fn contrast(one: &str, other: &str) -> f64 {
    let light = |colour: &str| {
        let channel = |at: usize| {
            let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.03928 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(0) + 0.7152 * channel(2) + 0.0722 * channel(4) + 0.05
    };
    let ratio = light(one) / light(other);
    ratio.max(1.0 / ratio)
}
