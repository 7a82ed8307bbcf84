//! Tries every door that a guest could find, and says of each whether it opened:
//! `NAME: refused (why)` or `NAME: REACHED what`. With an empty manifest all of them must be refused.
//!
//! Parameters name what a manifest may have granted: `file=PATH`, `tcp=ADDR`, `url=AUTHORITY`.

mod net;
mod stores;

use common::Target;
use std::fmt::Display;
use std::fs;
use std::io::Read;
use std::time::{Duration, Instant, SystemTime};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Prowler;
wasip2::http::proxy::export!(Prowler);

/// What a door was found to be: what is behind it, or why it did not open.
type Door = Result<String, String>;

/// Clocks are looked at until they have stepped this often, or this many times.
const STEPS: usize = 5;
const LOOKS_MAX: usize = 200_000;
/// A clock that steps less often does not tell one neighbour from another.
const COARSE: Duration = Duration::from_millis(1);

impl Guest for Prowler {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        let file = target.get("file").unwrap_or("/etc/passwd").to_owned();
        let tcp = target.get("tcp").unwrap_or("127.0.0.1:22").to_owned();
        let url = target.get("url").unwrap_or("127.0.0.1:80").to_owned();
        drop(request);

        let doors: Vec<(&str, Door)> = vec![
            ("arguments", several(std::env::args().skip(1))),
            (
                "environment",
                several(std::env::vars().map(|(name, value)| format!("{name}={value}"))),
            ),
            ("preopened directories", preopens()),
            ("file", read(&file)),
            ("file by a relative path", read("etc/passwd")),
            ("file by ..", read("../../../../etc/passwd")),
            ("file of another process", read("/proc/self/environ")),
            ("host key", read("../../host.key")),
            ("listing /", list("/")),
            ("listing .", list(".")),
            ("writing a file", said(fs::write("/tmp/prowler", b"was here"))),
            ("making a directory", said(fs::create_dir("prowler"))),
            ("standard input", stdin()),
            ("terminal", terminal()),
            ("TCP connection", net::tcp(&tcp)),
            ("TCP connection to the metadata service", net::tcp("169.254.169.254:80")),
            ("TCP connection by IPv6", net::tcp("[::1]:80")),
            ("TCP listener", net::listen()),
            ("UDP socket", net::udp()),
            ("name look-up", net::look_up("localhost")),
            ("HTTP", net::http(&url)),
            ("HTTP to this machine", net::http("localhost:8080")),
            ("HTTP to the metadata service", net::http("169.254.169.254")),
            ("HTTP to a public name", net::http("example.com")),
            ("HTTP to another tenant", net::http("hello.internal")),
            ("HTTP to itself", net::http("prowler.internal")),
            ("configuration", stores::configuration()),
            ("configuration of one key", stores::key("greeting")),
            ("key-value store", stores::open("default")),
            ("key-value store by another name", stores::open("counter")),
            ("fine monotonic clock", clock(Instant::now, |now, then| now.duration_since(then))),
            (
                "fine wall clock",
                clock(SystemTime::now, |now, then| now.duration_since(then).unwrap_or_default()),
            ),
            ("predictable randomness", randomness()),
        ];
        let mut told = String::new();
        for (name, door) in doors {
            told.push_str(&match door {
                Ok(what) => format!("{name}: REACHED {}\n", what.escape_debug()),
                Err(why) => format!("{name}: refused ({})\n", why.escape_debug()),
            });
        }
        // Not a door: the same in two requests only where a seed was granted.
        told.push_str(&format!("drawn: {:016x}\n", wasip2::random::random::get_random_u64()));
        common::text(out, &told);
    }
}

fn several(all: impl Iterator<Item = String>) -> Door {
    let all: Vec<String> = all.collect();
    if all.is_empty() { Err("there are none".into()) } else { Ok(all.join(" ")) }
}

fn said<T>(result: Result<T, impl Display>) -> Door {
    result.map(|_| "it".into()).map_err(|why| why.to_string())
}

fn preopens() -> Door {
    let all = wasip2::filesystem::preopens::get_directories();
    several(all.into_iter().map(|(_, name)| name))
}

fn read(path: &str) -> Door {
    let mut start = [0; 64];
    let mut file = fs::File::open(path).map_err(|why| why.to_string())?;
    let read = file.read(&mut start).map_err(|why| why.to_string())?;
    Ok(String::from_utf8_lossy(&start[..read]).into_owned())
}

fn list(path: &str) -> Door {
    let entries = fs::read_dir(path).map_err(|why| why.to_string())?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

fn stdin() -> Door {
    let mut byte = [0];
    match std::io::stdin().read(&mut byte) {
        Ok(0) => Err("it is empty".into()),
        Ok(_) => Ok(format!("byte {}", byte[0])),
        Err(why) => Err(why.to_string()),
    }
}

fn terminal() -> Door {
    use wasip2::cli::{terminal_stderr, terminal_stdin, terminal_stdout};
    let found = [
        terminal_stdin::get_terminal_stdin().is_some(),
        terminal_stdout::get_terminal_stdout().is_some(),
        terminal_stderr::get_terminal_stderr().is_some(),
    ];
    if found.contains(&true) { Ok("one".into()) } else { Err("there is none".into()) }
}

/// The smallest step that a clock makes.
fn clock<T: Copy>(now: impl Fn() -> T, since: impl Fn(T, T) -> Duration) -> Door {
    let (mut last, mut smallest, mut steps) = (now(), Duration::MAX, 0);
    for _ in 0..LOOKS_MAX {
        let this = now();
        let step = since(this, last);
        last = this;
        if !step.is_zero() {
            smallest = smallest.min(step);
            steps += 1;
        }
        if steps == STEPS {
            break;
        }
    }
    match smallest {
        Duration::MAX => Err("it stands still".into()),
        step if step < COARSE => Ok(format!("steps of {step:?}")),
        _ => Err("steps of a millisecond or more".into()),
    }
}

/// Whether draws repeat within an instance.
fn randomness() -> Door {
    let draws: Vec<u64> = (0..8).map(|_| wasip2::random::random::get_random_u64()).collect();
    let all_differ = draws.iter().enumerate().all(|(at, draw)| !draws[..at].contains(draw));
    if all_differ { Err("no two draws are alike".into()) } else { Ok("draws that repeat".into()) }
}
