//! Asks for what a machine has beside files: the time, chance, the network.
//!
//! `/time`, `/sleep?ms=N`, `/random`, `/tcp?to=ADDRESS`, `/udp?to=ADDRESS`, `/listen`, `/resolve?name=NAME`.

use common::{Target, text};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};
use wasip2::random::{insecure, insecure_seed, random};

struct Machine;
wasip2::http::proxy::export!(Machine);

impl Guest for Machine {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        let to = target.get("to").unwrap_or("127.0.0.1:1");
        let answer = match target.path() {
            "/time" => Ok(time()),
            "/sleep" => Ok(sleep(target.number("ms", 10))),
            "/random" => Ok(chance()),
            "/tcp" => tcp(to),
            "/udp" => udp(to),
            "/listen" => TcpListener::bind(to).map(|at| format!("{at:?}\n")),
            "/resolve" => resolve(target.get("name").unwrap_or("localhost")),
            _ => Ok("/time /sleep?ms=N /random /tcp?to=A /udp?to=A /listen?to=A /resolve?name=N\n".into()),
        };
        match answer {
            Ok(answer) => text(out, &answer),
            Err(error) => text(out, &format!("error: {:?} ({error})\n", error.kind())),
        }
    }
}

fn time() -> String {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let resolution = wall_clock::resolution();
    let resolution = u64::from(resolution.nanoseconds) + resolution.seconds * 1_000_000_000;
    format!(
        "wall {} ns, in steps of {resolution}\nmonotonic {} ns, in steps of {}\n",
        wall.as_nanos(),
        monotonic_clock::now(),
        monotonic_clock::resolution(),
    )
}

/// How long a sleep takes by the guest's own clock; the caller sees how long it takes by theirs.
fn sleep(ms: u64) -> String {
    let before = monotonic_clock::now();
    std::thread::sleep(Duration::from_millis(ms));
    // The other way to wait: until an instant.
    monotonic_clock::subscribe_instant(monotonic_clock::now() + ms * 1_000_000).block();
    format!("{} ns\n", monotonic_clock::now() - before)
}

fn chance() -> String {
    let hash = RandomState::new().hash_one("a name");
    let map: HashMap<u32, ()> = (0..8).map(|n| (n, ())).collect();
    let order: Vec<_> = map.keys().collect();
    format!(
        "random {:x?}\ninsecure {:x}\nseed {:x?}\nhash {hash:x}\norder {order:?}\n",
        random::get_random_bytes(16),
        insecure::get_insecure_random_u64(),
        insecure_seed::insecure_seed(),
    )
}

fn tcp(to: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.write_all(b"ping\n")?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn udp(to: &str) -> io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.send_to(b"ping\n", to)?;
    let mut answer = [0; 64];
    let (length, _) = socket.recv_from(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn resolve(name: &str) -> io::Result<String> {
    Ok(format!("{:?}\n", (name, 80).to_socket_addrs()?.collect::<Vec<_>>()))
}
