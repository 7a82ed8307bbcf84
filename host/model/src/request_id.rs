//! The name of one request: in `X-Request-Id`, in the tenant's log, in the host's; and its trace, if it has one.

use crate::trace::TraceContext;
use std::fmt;

/// 24 characters: hexadecimal digits for a request, `run-` and its number for a run of a job. A plain
/// value, because every request has one and few ever use it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    text: [u8; 24],
    /// Goes wherever the name goes: to log lines, and to calls out that are made for the request.
    trace: Option<TraceContext>,
}

impl RequestId {
    /// From a start that is random per worker process, and that worker's count.
    pub fn new(start: u64, count: u32) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'0'; 24];
        for (i, digit) in text.iter_mut().enumerate() {
            let nibble =
                if i < 16 { start >> (60 - 4 * i) } else { u64::from(count) >> (92 - 4 * i) };
            *digit = DIGITS[(nibble & 15) as usize];
        }
        Self { text, trace: None }
    }

    /// Of a job's run: the same in every process, so that supervisor and worker name it alike.
    pub fn run(number: u64) -> Self {
        let mut text = *b"run-00000000000000000000";
        let mut rest = number;
        // 20 digits are enough for any `u64`.
        for digit in text[4..].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        Self { text, trace: None }
    }

    /// The same, as part of a trace.
    #[must_use]
    pub fn within(self, trace: Option<TraceContext>) -> Self {
        Self { trace, ..self }
    }

    /// The trace that it is part of, with its own span.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    /// The characters.
    pub fn as_str(&self) -> &str {
        // They are ASCII, so this never falls back.
        std::str::from_utf8(&self.text).unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_start_and_its_count() {
        let id = RequestId::new(0x0123_4567_89ab_cdef, 0xfedc_ba98);
        assert_eq!(id.as_str(), "0123456789abcdeffedcba98");
        assert_eq!(RequestId::new(0, 1).as_str(), "000000000000000000000001");
    }

    #[test]
    fn a_run_is_named_by_its_number() {
        assert_eq!(RequestId::run(7).as_str(), "run-00000000000000000007");
        assert_eq!(RequestId::run(u64::MAX).as_str(), "run-18446744073709551615");
    }
}
