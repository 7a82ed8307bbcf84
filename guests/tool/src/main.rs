//! A command for `insula run`: shows what it was given, and does what its flags say, in order.

use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

const USAGE: &str = "\
usage: tool [FLAG...] [ARG...]
  --cat          copy standard input to standard output
  --ls PATH      list a directory
  --write PATH   write a file
  --time         show the wall clock, in milliseconds since 1970
  --random       show a number that the host draws
  --connect PEER open a TCP connection to ADDRESS:PORT, and show what comes
  --alloc BYTES  allocate and touch that many bytes
  --spin         spin for ever
  --exit N       exit at once; WASI 0.2 tells the host only whether N is 0
";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(cause) => {
            eprintln!("tool: {cause}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, String> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut rest = args.iter();
    // Bytes on standard output must be only the input's where it is copied.
    if !args.iter().any(|arg| arg == "--cat") {
        println!("args: {}", args.join(" "));
        println!("environment: {} variables", std::env::vars_os().count());
    }
    while let Some(arg) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--help" => print!("{USAGE}"),
            "--cat" => drop(io::copy(&mut io::stdin(), &mut io::stdout()).map_err(text)?),
            "--ls" => list(value()?)?,
            "--write" => {
                let path = value()?;
                std::fs::write(path, "written").map_err(|cause| format!("{path}: {cause}"))?;
            }
            "--time" => println!("time: {}", UNIX_EPOCH.elapsed().map_err(text)?.as_millis()),
            // Each map is keyed by what the host draws.
            "--random" => println!("random: {}", RandomState::new().hash_one(0)),
            "--connect" => connect(value()?)?,
            "--alloc" => allocate(number(value()?)?)?,
            "--spin" => spin(),
            "--exit" => return Ok(ExitCode::from(number::<u8>(value()?)?)),
            _ => {}
        }
    }
    io::stdout().flush().map_err(text)?;
    Ok(ExitCode::SUCCESS)
}

fn list(path: &str) -> Result<(), String> {
    let entries = std::fs::read_dir(path).map_err(|cause| format!("{path}: {cause}"))?;
    for entry in entries {
        println!("{}", entry.map_err(text)?.file_name().to_string_lossy());
    }
    Ok(())
}

fn connect(peer: &str) -> Result<(), String> {
    let mut stream = TcpStream::connect(peer).map_err(|cause| format!("{peer}: {cause}"))?;
    let mut told = String::new();
    stream.read_to_string(&mut told).map_err(text)?;
    println!("peer: {told}");
    Ok(())
}

fn allocate(bytes: usize) -> Result<(), String> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(bytes).map_err(text)?;
    memory.resize(bytes, 1_u8);
    println!("allocated: {} bytes", black_box(memory).len());
    Ok(())
}

fn spin() -> ! {
    let mut turns: u64 = 0;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{value} is not a number in range"))
}

fn text(cause: impl std::fmt::Display) -> String {
    cause.to_string()
}
