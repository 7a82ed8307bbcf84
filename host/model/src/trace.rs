//! W3C trace context: which trace a request is part of, and what is told about it.
//!
//! <https://www.w3.org/TR/trace-context-2/>: `traceparent` is `00-TRACE-SPAN-FLAGS` in lower-case hexadecimal.

use crate::{Outcome, TenantName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The header that holds the context.
pub const TRACEPARENT: &str = "traceparent";
/// The header that goes with it: what other vendors need, passed on unread.
pub const TRACESTATE: &str = "tracestate";
/// Characters of a `traceparent` of version 00.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;
/// Of the flags, those that the standard defines: sampled, random trace id.
const KNOWN: u8 = 3;

/// One span of one trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace: u128,
    /// The span; never 0.
    pub span: u64,
    /// Whether somebody above records the trace, and bits that are passed on.
    pub flags: u8,
}

/// Not a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent")]
pub struct NotATraceparent;

impl TraceContext {
    /// A trace that begins here.
    pub fn root(trace: u128, span: u64, sampled: bool) -> Self {
        Self { trace: trace.max(1), span: span.max(1), flags: u8::from(sampled) * SAMPLED }
    }

    /// A span below this one.
    #[must_use]
    pub fn child(self, span: u64) -> Self {
        Self { span: span.max(1), ..self }
    }

    /// Whether somebody records the trace.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl FromStr for TraceContext {
    type Err = NotATraceparent;

    fn from_str(text: &str) -> Result<Self, NotATraceparent> {
        let hex = |part: &str| {
            let is_hex = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            is_hex.then(|| u128::from_str_radix(part, 16).ok()).flatten()
        };
        let read = || {
            let head = text.get(..LENGTH)?;
            let mut parts = head.split('-');
            let mut next = |length| parts.next().filter(|part| part.len() == length).and_then(hex);
            let (version, trace) = (next(2)?, next(32)?);
            let (span, flags) = (next(16)?, next(2)?);
            // Later versions may have more behind these four parts, set off by a hyphen.
            let rest = &text[LENGTH..];
            let fits = if version == 0 {
                rest.is_empty()
            } else {
                rest.is_empty() || rest.starts_with('-')
            };
            let span = u64::try_from(span).ok()?;
            let flags = u8::try_from(flags).ok()? & KNOWN;
            let valid = fits && version != 0xff && trace != 0 && span != 0;
            valid.then_some(Self { trace, span, flags })
        };
        read().ok_or(NotATraceparent)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// What happened to one request that is recorded: one span, and one below it for each stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRecord {
    /// Its own span.
    pub context: TraceContext,
    /// The span above it, if the client named one.
    pub parent: Option<u64>,
    /// The tenant.
    pub tenant: TenantName,
    /// The revision that ran.
    pub revision: u32,
    /// As in `X-Request-Id`.
    pub request: String,
    /// A method of HTTP, or `_OTHER`.
    pub method: String,
    /// The answer's status, if there was an answer.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: Outcome,
    /// When its head was there, in nanoseconds since 1970.
    pub start_unix_ns: u64,
    /// Nanoseconds from there until each stage had ended; 0 for one that was not reached.
    pub stages_ns: [u64; Stage::ALL.len()],
    /// Nanoseconds from there to its end.
    pub end_ns: u64,
}

/// A stage of a request's way; each begins when the one before has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Routed and admitted; waiting in the queue is within.
    Admit,
    /// The code was there, or has been loaded.
    Load,
    /// An instance was made, or one was ready that was kept or is shared.
    Instantiate,
    /// The guest set the head of its answer.
    Run,
    /// The answer went out.
    Respond,
}

impl Stage {
    /// In their order.
    pub const ALL: [Self; 5] =
        [Self::Admit, Self::Load, Self::Instantiate, Self::Run, Self::Respond];

    /// What its span is called.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Load => "load",
            Self::Instantiate => "instantiate",
            Self::Run => "run",
            Self::Respond => "respond",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_standards_own_example_reads_and_writes() {
        let context: TraceContext = GOOD.parse().unwrap();
        assert_eq!((context.span, context.is_sampled()), (0x00f0_67aa_0ba9_02b7, true));
        assert_eq!(context.to_string(), GOOD);
        assert_eq!(
            context.child(7).to_string(),
            GOOD.replace("00f067aa0ba902b7", "0000000000000007")
        );
        let later = format!("{}-more", GOOD.replacen("00", "cc", 1));
        assert_eq!(later.parse::<TraceContext>().unwrap().to_string(), GOOD);
    }

    #[test]
    fn what_the_standard_forbids_is_refused() {
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &GOOD.to_uppercase(),
            &format!("{GOOD}-more"),
            &format!("{GOOD} "),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "cc", 1).replace("-01", "-01.x"),
            &format!("{}x", GOOD.replacen("00", "cc", 1)),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace('f', "g"),
            &GOOD.replace("-01", "--1"),
        ] {
            assert!(bad.parse::<TraceContext>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*|[0-9a-f-]{50,60}") {
            let _ = text.parse::<TraceContext>();
        }

        #[test]
        fn what_is_written_reads_back(trace in 1u128.., span in 1u64.., flags in 0u8..4) {
            let context = TraceContext { trace, span, flags };
            prop_assert_eq!(context.to_string().parse(), Ok(context));
        }
    }
}
