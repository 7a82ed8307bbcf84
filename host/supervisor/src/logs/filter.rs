//! Which lines of a log are wanted. Blocks for as long as it reads lines: a regular expression takes time in
//! proportion to the line, whatever it is.

use insula_model::api::LogStream;
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use std::borrow::Cow;

/// Bytes of a regular expression.
pub(crate) const PATTERN_BYTES_MAX: usize = 1 << 10;
/// Bytes that it may take when it is compiled, and while it matches.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// Which lines are wanted; those for which all of it holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Not before this (RFC 3339 with milliseconds, UTC, as lines have it).
    pub(crate) since: Option<String>,
    /// Before this.
    pub(crate) until: Option<String>,
    /// In the text of a guest's line, or anywhere in a line of the access log.
    pub(crate) grep: Option<Regex>,
    /// Of these; all, if there is none.
    pub(crate) streams: Vec<LogStream>,
    /// Of this request.
    pub(crate) request: Option<String>,
    /// Of this revision.
    pub(crate) revision: Option<u32>,
}

/// What is looked at in a line of either log.
#[derive(Deserialize)]
struct Line<'a> {
    at: Cow<'a, str>,
    revision: u32,
    request: Cow<'a, str>,
    stream: Option<LogStream>,
    text: Option<Cow<'a, str>>,
}

/// A regular expression, within its bounds; or why not.
pub(crate) fn pattern(text: &str) -> Result<Regex, String> {
    if text.len() > PATTERN_BYTES_MAX {
        return Err(format!("the pattern has more than {PATTERN_BYTES_MAX} bytes"));
    }
    let mut builder = RegexBuilder::new(text);
    let built = builder.size_limit(COMPILED_BYTES_MAX).dfa_size_limit(COMPILED_BYTES_MAX).build();
    built.map_err(|error| format!("the pattern cannot be used: {error}"))
}

impl Filter {
    /// Whether every line passes.
    pub(crate) fn is_all(&self) -> bool {
        let Self { since, until, grep, streams, request, revision } = self;
        let more = since.is_none() && until.is_none() && grep.is_none() && request.is_none();
        more && streams.is_empty() && revision.is_none()
    }

    /// Whether one line does.
    pub(super) fn passes(&self, bytes: &[u8]) -> bool {
        // What a crash cut short is shown to those who ask for everything.
        let Ok(line) = serde_json::from_slice::<Line<'_>>(bytes) else { return false };
        self.since.as_ref().is_none_or(|since| *line.at >= **since)
            && self.until.as_ref().is_none_or(|until| *line.at < **until)
            && self.revision.is_none_or(|revision| line.revision == revision)
            && self.request.as_ref().is_none_or(|request| line.request == *request)
            && (self.streams.is_empty()
                || line.stream.is_some_and(|stream| self.streams.contains(&stream)))
            && self.grep.as_ref().is_none_or(|grep| match &line.text {
                Some(text) => grep.is_match(text),
                None => grep.is_match(&String::from_utf8_lossy(bytes)),
            })
    }

    /// What passes of the whole lines, of these the last `lines`, and the part that follows them.
    pub(super) fn split(&self, bytes: &[u8], lines: Option<usize>) -> (Vec<u8>, Vec<u8>) {
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let all = bytes[..whole].split_inclusive(|byte| *byte == b'\n');
        let passing: Vec<&[u8]> = all.filter(|line| self.passes(line)).collect();
        let from = lines.map_or(0, |lines| passing.len().saturating_sub(lines));
        (passing[from..].concat(), bytes[whole..].to_vec())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(minute: u32, stream: &str, revision: u32, text: &str) -> String {
        format!(
            r#"{{"at":"2026-01-01T00:{minute:02}:00.000Z","stream":"{stream}","revision":{revision},"request":"r{minute}","text":"{text}"}}"#
        ) + "\n"
    }

    #[test]
    fn lines_pass_for_which_all_of_it_holds() {
        let log = line(1, "stdout", 1, "one")
            + &line(2, "stderr", 1, "two")
            + &line(3, "host", 2, "three");
        let passing = |filter: Filter, lines| {
            assert!(!filter.is_all());
            let (passing, rest) = filter.split((log.clone() + "{\"at").as_bytes(), lines);
            assert_eq!(rest, b"{\"at");
            String::from_utf8(passing).unwrap().matches("\"text\"").count()
        };
        let at = |minute: u32| Some(format!("2026-01-01T00:{minute:02}:00.000Z"));
        assert_eq!(passing(Filter { since: at(2), ..Filter::default() }, None), 2);
        assert_eq!(passing(Filter { until: at(2), ..Filter::default() }, None), 1);
        let two = vec![LogStream::Stdout, LogStream::Stderr];
        assert_eq!(passing(Filter { streams: two.clone(), ..Filter::default() }, None), 2);
        assert_eq!(passing(Filter { streams: two, ..Filter::default() }, Some(1)), 1);
        assert_eq!(passing(Filter { revision: Some(2), ..Filter::default() }, None), 1);
        assert_eq!(passing(Filter { request: Some("r1".into()), ..Filter::default() }, None), 1);
        let grep = Some(pattern("^t").unwrap());
        assert_eq!(passing(Filter { grep: grep.clone(), ..Filter::default() }, None), 2);
        assert_eq!(passing(Filter { grep, revision: Some(1), ..Filter::default() }, None), 1);
    }

    #[test]
    fn a_pattern_has_its_bounds() {
        assert!(pattern("(").unwrap_err().contains("cannot be used"));
        assert!(pattern(&"a".repeat(2_000)).unwrap_err().contains("bytes"));
        assert!(pattern("((((a{100}){100}){100}){100})").is_err());
    }
}
