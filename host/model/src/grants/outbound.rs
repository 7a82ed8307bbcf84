//! HTTP calls: which hosts, ports and schemes a tenant may call, and within which bounds.

use crate::TenantName;
use crate::quantity::{ByteSize, DurationMs};
use crate::route::normalise_host;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use utoipa::ToSchema;

/// Rules that a manifest may have.
pub const RULES_MAX: usize = 64;
/// The ending of a tenant's name inside its host: `http://NAME.internal/`.
pub const INTERNAL: &str = "internal";
/// Calls from tenant to tenant in one chain, the first request not counted.
pub const HOPS_MAX: u32 = 8;

/// `[outbound]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutboundSpec {
    /// `https://api.example.com`, `http://*.example.com:8080`, `https://*`, `http://NAME.internal`
    /// (another tenant), `self`.
    #[schema(value_type = Vec<String>)]
    pub hosts: Vec<OutboundRule>,
    /// Networks that names may resolve to although they are private, loopback or link-local.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub private: Option<Vec<IpNet>>,
    /// Calls at once, in each worker. Default 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Time for one call, from start to the last byte. Default: the request's own `timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub timeout: Option<DurationMs>,
    /// Bytes of one call's request body. Default 10Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub request: Option<ByteSize>,
    /// Bytes of one call's response body. Default 10Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub response: Option<ByteSize>,
}

/// HTTP calls, granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Outbound {
    /// What may be called; everything else is refused.
    #[schema(value_type = Vec<String>)]
    pub hosts: Vec<OutboundRule>,
    /// Private networks that may be reached.
    #[schema(value_type = Vec<String>)]
    pub private: Vec<IpNet>,
    /// Calls at once, in each worker.
    pub concurrency: u32,
    /// Milliseconds for one call.
    pub timeout_ms: u64,
    /// Bytes of a call's request body.
    pub request_bytes: u64,
    /// Bytes of a call's response body.
    pub response_bytes: u64,
}

/// What a call is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target<'a> {
    /// A tenant of this host, by name: no socket.
    Tenant(&'a str),
    /// A host by name; what it resolves to is checked as well.
    Name(&'a str),
    /// A host by address.
    Address(IpAddr),
}

impl<'a> Target<'a> {
    /// Reads a host in normal form ([`normalise_host`]).
    pub fn of(host: &'a str) -> Self {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Self::Address(address);
        }
        match host.strip_suffix(INTERNAL).and_then(|rest| rest.strip_suffix('.')) {
            Some(name) => Self::Tenant(name),
            None => Self::Name(host),
        }
    }
}

/// Whether TLS is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallScheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl CallScheme {
    /// The port of a URL without one.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Outbound {
    /// Whether the tenant `caller` may make this call. For names, each address they resolve to must
    /// pass [`Outbound::may_connect`] as well.
    pub fn allows(
        &self,
        caller: &TenantName,
        scheme: CallScheme,
        target: &Target<'_>,
        port: u16,
    ) -> bool {
        self.hosts.iter().any(|rule| rule.allows(caller, scheme, target, port))
    }

    /// Whether a connection to this address may be made on behalf of `target`: a public one always,
    /// another only if its network is listed, or the address itself was called and a rule that allows
    /// this scheme and port names it.
    pub fn may_connect(
        &self,
        scheme: CallScheme,
        target: &Target<'_>,
        port: u16,
        address: IpAddr,
    ) -> bool {
        let address = address.to_canonical();
        is_public(address)
            || self.private.iter().any(|net| net.contains(&address))
            || (matches!(target, Target::Address(called) if called.to_canonical() == address)
                && self.hosts.iter().any(|rule| {
                    rule.host == HostPattern::Address(address) && rule.covers(scheme, port)
                }))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    /// `*`: every host that is not a tenant.
    Any,
    /// `*.example.com`: everything under it, not itself.
    Under(String),
    Name(String),
    Address(IpAddr),
    Tenant(String),
    AnyTenant,
    /// `self`
    Caller,
}

/// One entry of `outbound.hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OutboundRule {
    /// None is any.
    scheme: Option<CallScheme>,
    host: HostPattern,
    /// None is any.
    port: Option<u16>,
}

/// Not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an outbound host: {1}; write `https://api.example.com`, `http://*.example.com:8080`, `http://NAME.internal` for another tenant, or `self`"
)]
pub struct OutboundRuleError(String, &'static str);

impl OutboundRule {
    fn allows(
        &self,
        caller: &TenantName,
        scheme: CallScheme,
        target: &Target<'_>,
        port: u16,
    ) -> bool {
        let host = match (&self.host, target) {
            (HostPattern::Caller, Target::Tenant(name)) => *name == caller.as_str(),
            (HostPattern::AnyTenant, Target::Tenant(_)) => true,
            (HostPattern::Tenant(allowed), Target::Tenant(name)) => allowed == name,
            (HostPattern::Any, Target::Name(_) | Target::Address(_)) => true,
            (HostPattern::Under(parent), Target::Name(name)) => name
                .strip_suffix(parent.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            (HostPattern::Name(allowed), Target::Name(name)) => allowed == name,
            (HostPattern::Address(allowed), Target::Address(address)) => {
                *allowed == address.to_canonical()
            }
            _ => false,
        };
        host && self.covers(scheme, port)
    }

    fn covers(&self, scheme: CallScheme, port: u16) -> bool {
        self.scheme.is_none_or(|allowed| allowed == scheme)
            && self.port.is_none_or(|allowed| allowed == port)
    }
}

impl FromStr for OutboundRule {
    type Err = OutboundRuleError;
    fn from_str(text: &str) -> Result<Self, OutboundRuleError> {
        let error = |why| OutboundRuleError(text.chars().take(300).collect(), why);
        if text == "self" {
            let scheme = Some(CallScheme::Http);
            return Ok(Self { scheme, host: HostPattern::Caller, port: Some(80) });
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| error("it has no scheme"))?;
        let scheme = match scheme {
            "http" => Some(CallScheme::Http),
            "https" => Some(CallScheme::Https),
            "*" => None,
            _ => return Err(error("its scheme is neither http, https nor `*`")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('/') {
            return Err(error("paths cannot be restricted; leave the path out"));
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let port = match (port, scheme) {
            (Some("*"), _) => None,
            (Some(port), _) => {
                let port = port.parse().ok().filter(|port| *port != 0);
                Some(port.ok_or_else(|| error("its port is neither 1 to 65535 nor `*`"))?)
            }
            (None, Some(scheme)) => Some(scheme.default_port()),
            (None, None) => return Err(error("with any scheme, name the port or `:*`")),
        };
        let host = HostPattern::parse(host).map_err(error)?;
        let internal = matches!(host, HostPattern::Tenant(_) | HostPattern::AnyTenant);
        if internal && (scheme != Some(CallScheme::Http) || port != Some(80)) {
            return Err(error("tenants are called as `http://NAME.internal`, without a port"));
        }
        Ok(Self { scheme, host, port })
    }
}

impl HostPattern {
    fn parse(host: &str) -> Result<Self, &'static str> {
        if host == "*" {
            return Ok(Self::Any);
        }
        let (under, name) = match host.strip_prefix("*.") {
            Some(parent) => (true, parent),
            None => (false, host),
        };
        // `normalise_host` would drop what stands there, and the rule would cover another port.
        if name.rsplit_once(']').map_or(name, |(_, rest)| rest).contains(':') {
            return Err("it has more than one port");
        }
        let name = normalise_host(name).ok_or("that is not a host name")?;
        if under && name == INTERNAL {
            return Ok(Self::AnyTenant);
        }
        match (Target::of(&name), under) {
            (Target::Name(name), true) => Ok(Self::Under(name.into())),
            (Target::Name(name), false) => Ok(Self::Name(name.into())),
            (Target::Address(address), false) => Ok(Self::Address(address.to_canonical())),
            (Target::Tenant(name), false) if name.parse::<TenantName>().is_ok() => {
                Ok(Self::Tenant(name.into()))
            }
            (Target::Tenant(_), _) => Err("`.internal` is for tenants"),
            (Target::Address(_), true) => Err("an address has nothing under it"),
        }
    }
}

impl fmt::Display for OutboundRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            None => "*",
            Some(CallScheme::Http) => "http",
            Some(CallScheme::Https) => "https",
        };
        match &self.host {
            HostPattern::Caller => return f.write_str("self"),
            HostPattern::Any => write!(f, "{scheme}://*")?,
            HostPattern::Under(parent) => write!(f, "{scheme}://*.{parent}")?,
            HostPattern::Name(name) => write!(f, "{scheme}://{name}")?,
            HostPattern::Address(IpAddr::V6(address)) => write!(f, "{scheme}://[{address}]")?,
            HostPattern::Address(address) => write!(f, "{scheme}://{address}")?,
            HostPattern::Tenant(name) => return write!(f, "{scheme}://{name}.{INTERNAL}"),
            HostPattern::AnyTenant => return write!(f, "{scheme}://*.{INTERNAL}"),
        }
        match (self.port, self.scheme) {
            (None, _) => f.write_str(":*"),
            (Some(port), Some(scheme)) if scheme.default_port() == port => Ok(()),
            (Some(port), _) => write!(f, ":{port}"),
        }
    }
}

impl TryFrom<String> for OutboundRule {
    type Error = OutboundRuleError;
    fn try_from(text: String) -> Result<Self, OutboundRuleError> {
        text.parse()
    }
}

impl From<OutboundRule> for String {
    fn from(rule: OutboundRule) -> Self {
        rule.to_string()
    }
}

/// Whether an address is one of the public internet's: not private, loopback, link-local, multicast,
/// documentation, or one that smuggles such an IPv4 address inside an IPv6 one (IANA's special-purpose
/// registries, RFC 6890).
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let shared = a == 100 && (64..128).contains(&b); // RFC 6598
    let protocol = (a, b, c) == (192, 0, 0) || (a, b, c) == (192, 88, 99);
    let benchmark = a == 198 && (18..20).contains(&b);
    !(a == 0
        || a >= 240
        || shared
        || protocol
        || benchmark
        || v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_documentation()
        || v4.is_multicast())
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    let s = v6.segments();
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_public_v4(v4(high, low)), // NAT64, RFC 6052
        [0x2002, high, low, ..] => is_public_v4(v4(high, low)),               // 6to4, RFC 3056
        // Global unicast is 2000::/3; within it 2001::/23 is for protocols, the rest documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn outbound(hosts: &[&str]) -> Outbound {
        Outbound {
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            private: vec!["10.0.0.0/8".parse().unwrap()],
            concurrency: 1,
            timeout_ms: 1,
            request_bytes: 1,
            response_bytes: 1,
        }
    }

    fn allowed(rules: &[&str], scheme: CallScheme, host: &str, port: u16) -> bool {
        let caller = "caller".parse().unwrap();
        outbound(rules).allows(&caller, scheme, &Target::of(host), port)
    }

    #[test]
    fn rules_match_scheme_host_and_port() {
        use CallScheme::{Http, Https};
        let rules = ["https://api.example.com", "http://*.example.org:8080", "self"];
        assert!(allowed(&rules, Https, "api.example.com", 443));
        assert!(!allowed(&rules, Http, "api.example.com", 80));
        assert!(!allowed(&rules, Https, "api.example.com", 8443));
        assert!(!allowed(&rules, Https, "evil-api.example.com", 443));
        assert!(allowed(&rules, Http, "a.b.example.org", 8080));
        assert!(!allowed(&rules, Http, "example.org", 8080));
        assert!(!allowed(&rules, Http, "evilexample.org", 8080));
        assert!(allowed(&rules, Http, "caller.internal", 80));
        assert!(!allowed(&rules, Http, "other.internal", 80));
        assert!(!allowed(&["https://*", "http://*"], Http, "other.internal", 80));
        assert!(allowed(&["http://*.internal"], Http, "other.internal", 80));
        assert!(allowed(&["*://x.com:*"], Https, "x.com", 9));
    }

    #[test]
    fn rules_print_as_they_are_written() {
        for text in [
            "https://api.example.com",
            "http://*.example.com:8080",
            "https://*",
            "http://billing.internal",
            "http://*.internal",
            "self",
            "*://x.com:*",
            "http://127.0.0.1:9000",
            "http://[::1]:9000",
        ] {
            assert_eq!(text.parse::<OutboundRule>().unwrap().to_string(), text);
        }
        for bad in [
            "api.example.com",
            "ftp://a",
            "https://a/b",
            "*://a",
            "https://a:0",
            "https://*.1.2.3.4",
            "http://a.example:80:90",
            "http://[::1]:80:90",
            "https://*.INTERNAL:8080",
            "https://*.internal.",
        ] {
            assert!(bad.parse::<OutboundRule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn how_a_rule_is_spelled_changes_nothing() {
        for (written, shown) in [
            ("http://*.INTERNAL", "http://*.internal"),
            ("http://*.internal.", "http://*.internal"),
            ("http://Billing.Internal.", "http://billing.internal"),
            ("https://[0:0::1]", "https://[::1]"),
        ] {
            let rule = written.parse::<OutboundRule>().unwrap();
            assert_eq!(rule.to_string(), shown);
            assert_eq!(shown.parse::<OutboundRule>().unwrap(), rule, "{written}");
        }
    }

    #[test]
    fn private_addresses_need_to_be_listed() {
        let out = outbound(&["*://*:*", "http://127.0.0.1:9000"]);
        let may = |target: &str, port, address: &str| {
            let address = address.parse().unwrap();
            out.may_connect(CallScheme::Http, &Target::of(target), port, address)
        };
        let name = "rebinding.example";
        for address in ["127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "192.168.0.1"] {
            assert!(!may(name, 9000, address), "{address}");
        }
        assert!(may(name, 9000, "10.1.2.3"));
        assert!(may(name, 9000, "93.184.216.34"));
        assert!(may("127.0.0.1", 9000, "127.0.0.1"));
        assert!(!may("127.0.0.2", 9000, "127.0.0.2"));
        // An address that is named with a port is named with that port only.
        assert!(!may("127.0.0.1", 9001, "127.0.0.1"));
    }

    #[test]
    fn special_addresses_are_not_public() {
        for address in [
            "0.0.0.0",
            "100.64.0.1",
            "192.0.0.1",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    proptest! {
        #[test]
        fn rules_survive_a_round_trip(text in "(http|https|\\*)://(\\*\\.)?[a-z0-9.-]{1,20}(:[0-9*]{1,5})?") {
            if let Ok(rule) = text.parse::<OutboundRule>() {
                prop_assert_eq!(rule.to_string().parse::<OutboundRule>().unwrap(), rule);
            }
        }
    }
}
