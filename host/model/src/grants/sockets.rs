//! Raw sockets: `sockets = ["tcp://10.0.0.5:5432"]`.
//!
//! Addresses, not names: at the moment a guest connects, an address is all that the host can see.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// Rules that a manifest may have.
pub const SOCKETS_MAX: usize = 64;

/// The transport of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP, connecting out.
    Tcp,
    /// UDP, connecting or sending out.
    Udp,
}

/// One peer, or a network of them, that a guest may talk to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SocketRule {
    transport: Transport,
    net: IpNet,
    port: u16,
}

/// Not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a socket rule: write `tcp://ADDRESS:PORT` or `udp://NETWORK/BITS:PORT`, such as `tcp://10.0.0.5:5432` or `tcp://[fd00::/8]:53`; names are not possible here, use `outbound` for HTTP"
)]
pub struct SocketRuleError(String);

impl SocketRule {
    /// Whether a guest may talk to `peer`.
    pub fn allows(&self, transport: Transport, peer: SocketAddr) -> bool {
        self.transport == transport
            && self.port == peer.port()
            && self.net.contains(&peer.ip().to_canonical())
    }
}

impl FromStr for SocketRule {
    type Err = SocketRuleError;
    fn from_str(text: &str) -> Result<Self, SocketRuleError> {
        let error = || SocketRuleError(text.chars().take(100).collect());
        let (transport, rest) = text.split_once("://").ok_or_else(error)?;
        let transport = match transport {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return Err(error()),
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(error)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        // Peers are compared in canonical form, so an IPv4 address in IPv6 clothes would match none.
        let net = host
            .parse::<IpNet>()
            .or_else(|_| host.parse::<std::net::IpAddr>().map(|ip| IpNet::from(ip.to_canonical())))
            .map_err(|_| error())?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?;
        Ok(Self { transport, net: net.trunc(), port })
    }
}

impl fmt::Display for SocketRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        let whole = self.net.prefix_len() == self.net.max_prefix_len();
        let host = if whole { self.net.addr().to_string() } else { self.net.to_string() };
        match self.net {
            IpNet::V4(_) => write!(f, "{scheme}://{host}:{}", self.port),
            IpNet::V6(_) => write!(f, "{scheme}://[{host}]:{}", self.port),
        }
    }
}

impl TryFrom<String> for SocketRule {
    type Error = SocketRuleError;
    fn try_from(text: String) -> Result<Self, SocketRuleError> {
        text.parse()
    }
}

impl From<SocketRule> for String {
    fn from(rule: SocketRule) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rules_match_address_port_and_transport() {
        let rule: SocketRule = "tcp://10.0.0.0/8:5432".parse().unwrap();
        assert!(rule.allows(Transport::Tcp, "10.1.2.3:5432".parse().unwrap()));
        assert!(rule.allows(Transport::Tcp, "[::ffff:10.1.2.3]:5432".parse().unwrap()));
        assert!(!rule.allows(Transport::Tcp, "10.1.2.3:5433".parse().unwrap()));
        assert!(!rule.allows(Transport::Udp, "10.1.2.3:5432".parse().unwrap()));
        assert!(!rule.allows(Transport::Tcp, "11.1.2.3:5432".parse().unwrap()));
        let mapped: SocketRule = "tcp://[::ffff:10.1.2.3]:5432".parse().unwrap();
        assert!(mapped.allows(Transport::Tcp, "10.1.2.3:5432".parse().unwrap()));
        assert_eq!(mapped.to_string(), "tcp://10.1.2.3:5432");
        for text in ["tcp://10.0.0.5:5432", "udp://[fd00::/8]:53", "tcp://[::1]:80"] {
            assert_eq!(text.parse::<SocketRule>().unwrap().to_string(), text);
        }
        for bad in ["10.0.0.5:80", "tcp://db:80", "tcp://10.0.0.5", "tcp://10.0.0.5:0", "x://1:1"] {
            assert!(bad.parse::<SocketRule>().is_err(), "{bad}");
        }
    }
}
