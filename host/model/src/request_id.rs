//! The name of one request: in `X-Request-Id`, in the tenant's log, in the host's.

use std::fmt;

/// 24 hexadecimal digits. A plain value, because every request has one and few ever use it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; 24]);

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
        Self(text)
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        // Digits are ASCII, so this never falls back.
        std::str::from_utf8(&self.0).unwrap_or_default()
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
}
