//! The small texts within manifests: rules of grants, quantities, names, schedules. Each is stored as it
//! displays, so what displays must be what was read.
#![no_main]

use insula_model::grants::outbound::{CallScheme, Outbound, OutboundRule, Target};
use insula_model::grants::schedule::Schedule;
use insula_model::grants::secrets::SecretKey;
use insula_model::grants::sockets::{SocketRule, Transport};
use insula_model::{ByteSize, Count, Digest, DurationMs, MilliCpu, TenantName};
use libfuzzer_sys::fuzz_target;
use std::fmt::{Debug, Display};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

fn reads_back<T>(text: &str) -> Option<T>
where
    T: FromStr<Err: Debug> + Display + PartialEq + Debug,
{
    let value: T = text.parse().ok()?;
    let shown = value.to_string();
    let again: T = shown
        .parse()
        .unwrap_or_else(|error| panic!("{text} is shown as {shown}, which is refused: {error:?}"));
    assert_eq!(again, value, "{text} is shown as {shown}");
    assert_eq!(again.to_string(), shown);
    Some(value)
}

fn outbound(text: &str) {
    let Some(rule) = reads_back::<OutboundRule>(text) else { return };
    let shown = rule.to_string();
    let colons = |text: &str| {
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        rest.rsplit_once(']').map_or(rest, |(_, rest)| rest).matches(':').count()
    };
    assert!(colons(text) <= 1, "{text}: two ports, and one was dropped");
    let granted = Outbound {
        hosts: vec![rule],
        private: Vec::new(),
        concurrency: 1,
        timeout_ms: 1,
        request_bytes: 0,
        response_bytes: 0,
    };
    let caller: TenantName = "caller".parse().expect("a name");
    let may = |host: &str, scheme, port| granted.allows(&caller, scheme, &Target::of(host), port);
    // Only rules that say so let a tenant call tenants, or by plain HTTP.
    let says_tenant = shown == "self" || shown.ends_with(".internal");
    assert!(says_tenant || !may("other.internal", CallScheme::Http, 80), "{shown}");
    assert!(!shown.starts_with("https://") || !may("a.example", CallScheme::Http, 443), "{shown}");
    assert!(!may("other.internal", CallScheme::Https, 443), "tenants have no TLS");
}

fn socket(text: &str) {
    let Some(rule) = reads_back::<SocketRule>(text) else { return };
    let shown = rule.to_string();
    let (transport, peer) = shown.split_once("://").expect("a rule has a transport");
    let (transport, other) = match transport {
        "tcp" => (Transport::Tcp, Transport::Udp),
        _ => (Transport::Udp, Transport::Tcp),
    };
    // A rule for one address allows that address, however a guest spells it, and nothing beside it.
    let Ok(peer) = peer.parse::<SocketAddr>() else { return };
    let beside = SocketAddr::new(peer.ip(), peer.port() ^ 1);
    let mapped = match peer.ip() {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        v6 => v6,
    };
    assert!(rule.allows(transport, peer), "{shown} does not allow {peer}");
    assert!(rule.allows(transport, SocketAddr::new(mapped, peer.port())), "{shown}");
    assert!(!rule.allows(other, peer) && !rule.allows(transport, beside), "{shown}");
}

fuzz_target!(|text: &str| {
    outbound(text);
    socket(text);
    reads_back::<ByteSize>(text);
    reads_back::<Count>(text);
    reads_back::<DurationMs>(text);
    reads_back::<MilliCpu>(text);
    reads_back::<Digest>(text);
    reads_back::<TenantName>(text);
    reads_back::<SecretKey>(text);
    if let Some(schedule) = reads_back::<Schedule>(text) {
        for now in [0, 1_709_164_799_999] {
            if let Some(next) = schedule.next_after(now) {
                assert!(next > now, "{schedule}: {next} is not after {now}");
            }
        }
    }
});
