//! Raw sockets: outward, to listed peers, and nothing else. Names are not looked up, nothing listens.

use insula_model::grants::sockets::{SocketRule, Transport};
use std::sync::Arc;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::sockets::SocketAddrUse;

pub(super) fn apply(rules: &Arc<[SocketRule]>, builder: &mut WasiCtxBuilder) {
    if rules.is_empty() {
        return;
    }
    let rules = rules.clone();
    builder.allow_tcp(true).allow_udp(true).socket_addr_check(move |peer, what| {
        let to = |transport| rules.iter().any(|rule| rule.allows(transport, peer));
        let allowed = match what {
            SocketAddrUse::TcpConnect => to(Transport::Tcp),
            SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => to(Transport::Udp),
            // A socket that goes out is bound first, to whatever the kernel chooses.
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => {
                peer.ip().is_unspecified() && peer.port() == 0
            }
            _ => false,
        };
        Box::pin(async move { allowed })
    });
}
