//! A CGI program: shows its variables, and answers, or fails to, as its path says.

use std::env::var;
use std::error::Error;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

const HEAD: &str = "Content-Type: text/plain\n\n";

static RUNS: AtomicU32 = AtomicU32::new(0);

fn main() -> Result<(), Box<dyn Error>> {
    let path = var("PATH_INFO").unwrap_or_default();
    let query = var("QUERY_STRING").unwrap_or_default();
    let mut out = io::stdout().lock();
    match path.as_str() {
        // The body, back as it arrives.
        "/echo" => {
            write!(out, "Content-Type: {}\r\n\r\n", var("CONTENT_TYPE").unwrap_or("text/plain".into()))?;
            out.flush()?;
            copy(&mut io::stdin().lock(), &mut out)?;
        }
        // Exactly what the query says, decoded.
        "/raw" => out.write_all(&decoded(&query))?,
        // As many bytes of body.
        "/bytes" => {
            out.write_all(HEAD.as_bytes())?;
            let piece = [b'x'; 4096];
            let mut left: usize = query.parse()?;
            while left > 0 {
                left -= out.write(&piece[..left.min(piece.len())])?;
                if left % (1 << 20) < 4096 {
                    eprintln!("left: {left}");
                }
            }
        }
        // A line at a time, with a rest in between.
        "/slow" => {
            out.write_all(HEAD.as_bytes())?;
            for line in 1..=3 {
                writeln!(out, "line {line}")?;
                out.flush()?;
                std::thread::sleep(Duration::from_millis(query.parse()?));
            }
        }
        "/runs" => write!(out, "{HEAD}{}\n", RUNS.fetch_add(1, Relaxed))?,
        "/trap" => {
            if query == "after" {
                write!(out, "{HEAD}half of ")?;
                out.flush()?;
                std::thread::sleep(Duration::from_millis(50));
            }
            std::process::abort();
        }
        "/exit" => std::process::exit(query.parse()?),
        "/fail" => {
            write!(out, "{HEAD}half of ")?;
            out.flush()?;
            std::thread::sleep(Duration::from_millis(50));
            std::process::exit(query.parse()?);
        }
        "/log" => {
            eprintln!("said: {query}");
            write!(out, "{HEAD}logged\n")?;
        }
        "/spin" => loop {
            black_box(&path);
        },
        "/sleep" => std::thread::sleep(Duration::from_secs(3_600)),
        "/grow" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(black_box(vec![1_u8; 1 << 20]));
            }
        }
        _ => {
            out.write_all(HEAD.as_bytes())?;
            let mut variables: Vec<_> = std::env::vars().collect();
            variables.sort();
            for (name, value) in variables {
                writeln!(out, "{name}={value}")?;
            }
            writeln!(out, "arguments: {:?}", std::env::args().collect::<Vec<_>>())?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Flushes each piece, so that nothing waits for more.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut piece = [0; 8192];
    loop {
        let length = from.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&piece[..length])?;
        to.flush()?;
    }
}

fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}
