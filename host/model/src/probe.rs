//! Whether a revision may be published: one request of the host's own, before any client's.

use crate::manifest::ManifestError;
use crate::quantity::DurationMs;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// How long a probe may take if nobody says otherwise, in milliseconds.
pub const PROBE_TIMEOUT_MS_DEFAULT: u64 = 5_000;
/// The longest that a probe may take, in milliseconds: a deploy waits for it.
pub const PROBE_TIMEOUT_MS_MAX: u64 = 60_000;
/// The longest path of a probe, in bytes.
pub const PROBE_PATH_BYTES_MAX: usize = 1_024;

/// `probe = { path = "/healthz", expect = 200, timeout = "5s" }`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbeSpec {
    /// The path, and query if any, that is asked for with GET. Default `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The status that the answer must have: `200`, `"2xx"` or `"200-399"`. Default `200-399`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub expect: Option<Expect>,
    /// From the request to the last byte of the answer. Default 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub timeout: Option<DurationMs>,
}

/// The same with its defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Path and query.
    pub path: String,
    /// What the status must be.
    pub expect: Expect,
    /// Milliseconds from the request to the last byte of the answer.
    pub timeout_ms: u64,
}

/// Statuses that are as they should be: one, or a range of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expect {
    from: u16,
    to: u16,
}

impl Expect {
    /// What Kubernetes takes for a success, too.
    pub const DEFAULT: Self = Self { from: 200, to: 399 };

    /// Whether this status is as it should be.
    pub fn takes(self, status: u16) -> bool {
        (self.from..=self.to).contains(&status)
    }
}

/// Why a status or range could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no status that an answer can have: write one, such as `200`, a class, such as `2xx`, or a range, such as `200-399`"
)]
pub struct NotAStatus(String);

impl FromStr for Expect {
    type Err = NotAStatus;

    fn from_str(text: &str) -> Result<Self, NotAStatus> {
        let wrong = || NotAStatus(text.into());
        let status = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            let status = text.parse().ok().filter(|_| digits);
            status.filter(|status| (200..600).contains(status)).ok_or_else(wrong)
        };
        let (from, to) = match (text.strip_suffix("xx"), text.split_once('-')) {
            (Some(class), _) => (status(&format!("{class}00"))?, status(&format!("{class}99"))?),
            (None, Some((from, to))) => (status(from)?, status(to)?),
            (None, None) => (status(text)?, status(text)?),
        };
        if from <= to { Ok(Self { from, to }) } else { Err(wrong()) }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.from, self.to) {
            (from, to) if from == to => write!(f, "{from}"),
            (from, to) if from % 100 == 0 && to == from + 99 => write!(f, "{}xx", from / 100),
            (from, to) => write!(f, "{from}-{to}"),
        }
    }
}

impl Serialize for Expect {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.from == self.to { to.serialize_u16(self.from) } else { to.collect_str(self) }
    }
}

/// By hand, since what `untagged` derives would forget why a status could not be read.
impl<'de> Deserialize<'de> for Expect {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl serde::de::Visitor<'_> for Either {
            type Value = Expect;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status, such as 200, \"2xx\" or \"200-399\"")
            }

            fn visit_u64<E: serde::de::Error>(self, status: u64) -> Result<Expect, E> {
                status.to_string().parse().map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, status: i64) -> Result<Expect, E> {
                status.to_string().parse().map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Expect, E> {
                text.parse().map_err(E::custom)
            }
        }
        from.deserialize_any(Either)
    }
}

impl ProbeSpec {
    /// Fills in the defaults.
    ///
    /// # Errors
    /// [`ManifestError::Grant`]: a path that cannot be asked for, or a timeout beyond what a deploy waits.
    pub(crate) fn resolve(&self) -> Result<Probe, ManifestError> {
        let path = self.path.clone().unwrap_or_else(|| "/".into());
        let wrong = |field, why| Err(ManifestError::Grant { field, why });
        if !is_path(&path) {
            let why = format!(
                "`{path}` cannot be asked for: write a path, such as `/healthz`, of at most {PROBE_PATH_BYTES_MAX} bytes, with anything unusual in it percent-encoded"
            );
            return wrong("probe.path", why);
        }
        let timeout = self.timeout.unwrap_or(DurationMs(PROBE_TIMEOUT_MS_DEFAULT));
        if !(1..=PROBE_TIMEOUT_MS_MAX).contains(&timeout.0) {
            let most = DurationMs(PROBE_TIMEOUT_MS_MAX);
            let why = format!("{timeout}: a deploy waits for its probe for 1ms to {most}");
            return wrong("probe.timeout", why);
        }
        Ok(Probe { path, expect: self.expect.unwrap_or(Expect::DEFAULT), timeout_ms: timeout.0 })
    }
}

/// Whether this is a path, and a query if any, in the form in which it is sent.
fn is_path(text: &str) -> bool {
    let sent = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/?".contains(&byte);
    text.starts_with('/') && text.len() <= PROBE_PATH_BYTES_MAX && text.bytes().all(sent)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Ceilings, Manifest};

    fn probe(text: &str) -> Result<Probe, String> {
        let manifest = Manifest::from_toml(&format!("name = 'a'\nprobe = {text}"));
        let resolved = manifest.map_err(|error| error.to_string())?.resolve(&Ceilings::default());
        Ok(resolved.map_err(|error| error.to_string())?.probe.unwrap())
    }

    #[test]
    fn what_is_left_out_is_what_kubernetes_would_take() {
        let probe = probe("{}").unwrap();
        assert_eq!((probe.path.as_str(), probe.timeout_ms), ("/", 5_000));
        let taken: Vec<u16> =
            [199, 200, 204, 399, 400, 500].into_iter().filter(|s| probe.expect.takes(*s)).collect();
        assert_eq!(taken, [200, 204, 399]);
    }

    #[test]
    fn statuses_are_written_one_by_one_by_class_or_by_range() {
        for (text, from, to) in [
            ("200", 200, 200),
            ("'200'", 200, 200),
            ("'2xx'", 200, 299),
            ("'200-399'", 200, 399),
            ("'204-204'", 204, 204),
        ] {
            let probe = probe(&format!("{{ expect = {text} }}")).unwrap();
            assert_eq!(probe.expect, Expect { from, to }, "{text}");
            let json = serde_json::to_string(&probe).unwrap();
            assert_eq!(serde_json::from_str::<Probe>(&json).unwrap(), probe);
        }
        for text in ["99", "20", "'xx'", "'1xx'", "'300-200'", "600", "-200", "'+20'", "true"] {
            let error = probe(&format!("{{ expect = {text} }}")).unwrap_err();
            assert!(error.contains("2xx"), "{text}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for (text, says) in [
            ("{ path = 'healthz' }", "such as `/healthz`"),
            ("{ path = '/a b' }", "percent-encoded"),
            ("{ path = \"/a\\r\\nb\" }", "percent-encoded"),
            ("{ timeout = '2m' }", "1ms to 1m"),
            ("{ timeout = '0s' }", "1ms to 1m"),
            ("{ url = '/' }", "unknown field"),
        ] {
            let error = probe(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
