//! Doors to other machines, to this one, and to other tenants.

use crate::{Door, said};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, OutgoingRequest, Scheme};

pub fn tcp(addr: &str) -> Door {
    said(TcpStream::connect(addr))
}

pub fn listen() -> Door {
    said(TcpListener::bind("0.0.0.0:0"))
}

pub fn udp() -> Door {
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(|why| why.to_string())?;
    said(socket.send_to(b"hello", "127.0.0.1:53"))
}

pub fn look_up(name: &str) -> Door {
    let found: Vec<_> = (name, 80).to_socket_addrs().map_err(|why| why.to_string())?.collect();
    Ok(format!("{found:?}"))
}

pub fn http(authority: &str) -> Door {
    let request = OutgoingRequest::new(Fields::new());
    let set = request.set_scheme(Some(&Scheme::Http)).and(request.set_authority(Some(authority)));
    set.and(request.set_path_with_query(Some("/"))).map_err(|()| "no such URL".to_owned())?;
    let response = outgoing_handler::handle(request, None).map_err(|why| format!("{why:?}"))?;
    response.subscribe().block();
    match response.get() {
        Some(Ok(Ok(response))) => Ok(format!("status {}", response.status())),
        Some(Ok(Err(why))) => Err(format!("{why:?}")),
        other => Err(format!("{:?}", other.map(|got| got.is_ok()))),
    }
}
