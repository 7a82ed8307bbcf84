//! Routes: host name and path prefix → tenant, and the normal form of a host name.
//!
//! One normal form serves both sides: what a manifest writes and what a client sends in `Host` or
//! `:authority` go through [`normalise_host`], so they can be compared as bytes.

use crate::grants::outbound::INTERNAL;
use crate::name::is_label;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// The longest host name, in bytes (RFC 1035, section 2.3.4).
pub const HOST_BYTES_MAX: usize = 253;
/// The longest path prefix of a route, in bytes.
pub const PREFIX_BYTES_MAX: usize = 256;

/// A host name, and a path prefix that is `/` or has no trailing slash.
///
/// Prefixes match whole segments: `/v1` matches `/v1` and `/v1/users`, not `/v10`. The longest
/// matching prefix of a host wins. The prefix is not stripped from what the guest sees.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Route {
    host: String,
    prefix: String,
}

/// Why a route was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The host part is not a host name.
    #[error(
        "route `{0}`: `{1}` is not a host name; write `host[/prefix]`, such as `api.example.com/v1`"
    )]
    Host(String, String),
    /// A route carries no scheme.
    #[error(
        "route `{0}`: leave out the scheme; write `host[/prefix]`, such as `api.example.com/v1`"
    )]
    Scheme(String),
    /// A route carries no port.
    #[error("route `{0}`: leave out the port; a route matches its host on every port")]
    Port(String),
    /// The host is one that tenants call each other by.
    #[error(
        "route `{0}`: hosts under `.internal` are for calls from tenant to tenant, which need no route; \
         choose another host name"
    )]
    Internal(String),
    /// The prefix is not a clean path.
    #[error(
        "route `{0}`: the path prefix must be at most 256 bytes of unreserved characters and `/`, \
         without empty, `.` or `..` segments"
    )]
    Prefix(String),
}

impl Route {
    /// The default route of a tenant: `NAME.localhost`, which browsers and curl resolve to loopback
    /// (RFC 6761, section 6.3).
    pub fn default_for(name: &crate::TenantName) -> Self {
        Self { host: format!("{name}.localhost"), prefix: "/".into() }
    }

    /// The host in normal form.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path prefix: `/`, or `/a/b` without a trailing slash.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// Whether `path` lies under `prefix`, by whole segments.
pub fn prefix_matches(prefix: &str, path: &str) -> bool {
    prefix == "/"
        || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The normal form of a `Host` or `:authority` value: lower case, no port, no trailing dot, addresses as
/// RFC 5952 writes them. `None` if it is not a host name or address. Allocates only for IPv6 and for
/// upper-case letters.
pub fn normalise_host(authority: &str) -> Option<Cow<'_, str>> {
    // User information has no place in `Host` (RFC 9110, section 4.2.4), and would hide the host.
    if authority.len() > HOST_BYTES_MAX + 6 || authority.contains('@') {
        return None;
    }
    let host = if authority.starts_with('[') {
        let (address, rest) = authority.split_once(']')?;
        if !(rest.is_empty() || is_port(rest)) {
            return None;
        }
        let address = &address[1..];
        // An address can be spelled in many ways (RFC 5952); browsers send only this one.
        let canonical = address.parse::<std::net::Ipv6Addr>().ok()?.to_string();
        if canonical != address {
            return Some(Cow::Owned(canonical));
        }
        address
    } else {
        let host = match authority.find(':') {
            Some(at) if is_port(&authority[at..]) => &authority[..at],
            Some(_) => return None,
            None => authority,
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let valid = host.len() <= HOST_BYTES_MAX
            && host.split('.').all(|label| {
                !label.is_empty()
                    && label.len() <= 63
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            });
        if !valid {
            return None;
        }
        host
    };
    Some(if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

/// `:` and up to five digits, or a bare `:`, which RFC 3986 allows.
fn is_port(text: &str) -> bool {
    text.strip_prefix(':')
        .is_some_and(|digits| digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()))
}

impl FromStr for Route {
    type Err = RouteError;
    fn from_str(text: &str) -> Result<Self, RouteError> {
        let shown: String = text.chars().take(300).collect();
        if text.contains("://") {
            return Err(RouteError::Scheme(shown));
        }
        let (host, prefix) = match text.find('/') {
            Some(at) => text.split_at(at),
            None => (text, "/"),
        };
        let bad_host = || RouteError::Host(shown.clone(), host.chars().take(300).collect());
        // A colon outside the brackets of an address, if it has any.
        let outside = host.strip_prefix('[').and_then(|host| host.split_once(']'));
        if outside.map_or(host, |(_, rest)| rest).contains(':') {
            return Err(RouteError::Port(shown));
        }
        let normal = normalise_host(host).ok_or_else(bad_host)?;
        let is_address = normal.parse::<std::net::IpAddr>().is_ok();
        if !is_address && !normal.split('.').all(is_label) {
            return Err(bad_host());
        }
        if normal.strip_suffix(INTERNAL).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        {
            return Err(RouteError::Internal(shown));
        }
        let clean = prefix.strip_suffix('/').unwrap_or(prefix);
        let segments_ok = clean.is_empty()
            || clean[1..].split('/').all(|s| !s.is_empty() && s != "." && s != "..");
        let bytes_ok = clean.len() <= PREFIX_BYTES_MAX
            && clean.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/".contains(&b));
        if !segments_ok || !bytes_ok {
            return Err(RouteError::Prefix(shown));
        }
        let prefix = if clean.is_empty() { "/" } else { clean };
        Ok(Self { host: normal.into_owned(), prefix: prefix.into() })
    }
}

impl TryFrom<String> for Route {
    type Error = RouteError;
    fn try_from(text: String) -> Result<Self, RouteError> {
        text.parse()
    }
}

impl From<Route> for String {
    fn from(route: Route) -> String {
        route.to_string()
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if self.prefix != "/" {
            f.write_str(&self.prefix)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_are_compared_in_one_form() {
        for (sent, normal) in [
            ("Hello.LOCALHOST:8080", Some("hello.localhost")),
            ("hello.localhost.", Some("hello.localhost")),
            ("hello.localhost:", Some("hello.localhost")),
            ("[::1]:8080", Some("::1")),
            ("[0:0::0:1]", Some("::1")),
            ("[2001:DB8::A]", Some("2001:db8::a")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("a@b", None),
            ("hello..localhost", None),
            ("hello.localhost:80:80", None),
            ("hello.localhost:x", None),
            ("[::1", None),
            ("", None),
            ("a b", None),
        ] {
            assert_eq!(normalise_host(sent).as_deref(), normal, "{sent}");
        }
    }

    #[test]
    fn prefixes_match_whole_segments() {
        assert!(prefix_matches("/v1", "/v1"));
        assert!(prefix_matches("/v1", "/v1/users"));
        assert!(!prefix_matches("/v1", "/v10"));
        assert!(prefix_matches("/", "/anything"));
    }

    #[test]
    fn what_is_not_a_route_is_refused_with_its_mend() {
        for (text, says) in [
            ("http://a.b/", "scheme"),
            ("a.b:80", "port"),
            ("[::1]:80", "port"),
            ("[::1]:/a", "port"),
            ("a_b.example", "not a host name"),
            ("a.b/../c", "`..` segments"),
            ("hello.internal", "tenant to tenant"),
            ("Hello.INTERNAL./x", "tenant to tenant"),
            ("internal", "tenant to tenant"),
            ("a.b//c", "empty"),
            ("a.b/%41", "unreserved"),
            ("", "not a host name"),
        ] {
            let error = text.parse::<Route>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert_eq!(
            "API.example.com/v1/".parse::<Route>().unwrap().to_string(),
            "api.example.com/v1"
        );
    }

    proptest! {
        #[test]
        fn a_route_that_is_accepted_prints_and_reads_back(text in "[a-zA-Z0-9.:/_~\\[\\]-]{0,40}") {
            if let Ok(route) = text.parse::<Route>() {
                prop_assert_eq!(&route.to_string().parse::<Route>().unwrap(), &route);
                prop_assert!(route.prefix() == "/" || !route.prefix().ends_with('/'));
            }
        }

        #[test]
        fn normalising_is_idempotent(text in "\\PC{0,60}") {
            if let Some(host) = normalise_host(&text)
                && !host.contains(':')
            {
                prop_assert_eq!(normalise_host(&host).unwrap(), host.clone());
            }
        }
    }
}
