//! Does one thing with a file and says how that went: `?op=read&path=/tmp/a`.
//!
//! Files are read and written with the standard library, as any program does it; for what that does
//! not have (links, times, what a name leads to) it calls WASI itself.

use common::{Target, text};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{
    Descriptor, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags,
};
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Files;
wasip2::http::proxy::export!(Files);

impl Guest for Files {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        let answer = match target.get("op") {
            None => Ok(format!("directories: {}\n", roots().join(" "))),
            Some(op) => act(op, &target),
        };
        match answer {
            Ok(answer) => text(out, &answer),
            Err(error) => text(out, &format!("error: {error}\n")),
        }
    }
}

/// A fault of the standard library's, or one of WASI's, as text.
type Answer = Result<String, String>;

fn act(op: &str, target: &Target) -> Answer {
    let path = decoded(target.get("path").unwrap_or("/tmp"));
    let to = decoded(target.get("to").unwrap_or_default());
    let data = target.get("data").unwrap_or("x");
    let n: u64 = target.number("n", 1);
    match op {
        "read" => fs::read_to_string(&path).map_err(explain),
        "write" => fs::write(&path, data).map(done).map_err(explain),
        "append" => {
            let opened = OpenOptions::new().append(true).create(true).open(&path);
            opened.and_then(|mut file| file.write_all(data.as_bytes())).map(done).map_err(explain)
        }
        "fill" => fill(&path, n),
        "list" => list(&path),
        "mkdir" => fs::create_dir(&path).map(done).map_err(explain),
        "rm" => fs::remove_file(&path).map(done).map_err(explain),
        "rmdir" => fs::remove_dir(&path).map(done).map_err(explain),
        "rename" => fs::rename(&path, &to).map(done).map_err(explain),
        "truncate" => {
            let opened = OpenOptions::new().write(true).open(&path);
            opened.and_then(|file| file.set_len(n)).map(done).map_err(explain)
        }
        "make" => make(&path, n),
        "open" => open(&path, n),
        "ghost" => ghost(&path, n),
        _ => beyond_std(op, &path, &to, data).unwrap_or_else(|error| Err(code(error))),
    }
}

/// What the standard library has no stable call for.
fn beyond_std(op: &str, path: &str, to: &str, data: &str) -> Result<Answer, ErrorCode> {
    let (dir, rest) = rooted(path)?;
    let follow = PathFlags::SYMLINK_FOLLOW;
    let now = NewTimestamp::Now;
    Ok(Ok(match op {
        "stat" => {
            let stat = dir.stat_at(follow, &rest)?;
            format!("{:?} {} bytes\n", stat.type_, stat.size)
        }
        "lstat" => format!("{:?}\n", dir.stat_at(PathFlags::empty(), &rest)?.type_),
        "readlink" => format!("{}\n", dir.readlink_at(&rest)?),
        "symlink" => done(dir.symlink_at(to, &rest)?),
        "link" => {
            let (to_dir, to) = rooted(to)?;
            done(dir.link_at(PathFlags::empty(), &rest, &to_dir, &to)?)
        }
        "touch" => done(dir.set_times_at(follow, &rest, now, now)?),
        // Without the standard library's own look at the path.
        "raw" => {
            let file = dir.open_at(follow, &rest, OpenFlags::empty(), DescriptorFlags::READ)?;
            String::from_utf8_lossy(&file.read(64 << 10, 0)?.0).into_owned()
        }
        "raw-write" => {
            let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
            let file = dir.open_at(follow, &rest, OpenFlags::CREATE, flags)?;
            format!("{} bytes\n", file.write(data.as_bytes(), 0)?)
        }
        _ => return Ok(Err(format!("no such op: {op}"))),
    }))
}

/// Writes `n` bytes, a piece at a time, and says how many went in.
fn fill(path: &str, n: u64) -> Answer {
    let piece = vec![b'.'; 16 << 10];
    let mut file = File::create(path).map_err(explain)?;
    let mut written = 0;
    while written < n {
        let length = piece.len().min((n - written) as usize);
        match file.write(&piece[..length]) {
            Ok(more) => written += more as u64,
            Err(error) => return Ok(format!("{written} bytes, then {}\n", explain(error))),
        }
    }
    Ok(format!("{written} bytes\n"))
}

/// The same to a file that has no name any more.
fn ghost(path: &str, n: u64) -> Answer {
    let mut file = File::create(path).map_err(explain)?;
    fs::remove_file(path).map_err(explain)?;
    let piece = vec![b'.'; 16 << 10];
    for at in 0..n.div_ceil(piece.len() as u64) {
        if let Err(error) = file.write_all(&piece) {
            return Ok(format!("{} bytes, then {}\n", at * piece.len() as u64, explain(error)));
        }
    }
    Ok(format!("{n} bytes\n"))
}

/// Makes `n` empty files.
fn make(path: &str, n: u64) -> Answer {
    for at in 0..n {
        if let Err(error) = File::create(format!("{path}/{at}")) {
            return Ok(format!("{at} files, then {}\n", explain(error)));
        }
    }
    Ok(format!("{n} files\n"))
}

/// Holds a file open `n` times.
fn open(path: &str, n: u64) -> Answer {
    let mut held = Vec::new();
    for at in 0..n {
        match File::open(path) {
            Ok(file) => held.push(file),
            Err(error) => return Ok(format!("{at} open, then {}\n", explain(error))),
        }
    }
    Ok(format!("{} open\n", held.len()))
}

fn list(path: &str) -> Answer {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(explain)? {
        names.push(entry.map_err(explain)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(match names.len() {
        0..=100 => format!("{}\n", names.join(" ")),
        many => format!("{many} entries\n"),
    })
}

fn roots() -> Vec<String> {
    get_directories().into_iter().map(|(_, path)| path).collect()
}

/// The directory that a path is in, and the path from there.
fn rooted(path: &str) -> Result<(Descriptor, String), ErrorCode> {
    let inside = |root: &str| path.strip_prefix(root).map(|rest| rest.trim_start_matches('/').to_owned());
    let found = get_directories().into_iter().find_map(|(dir, root)| Some((dir, inside(&root)?)));
    let (dir, rest) = found.ok_or(ErrorCode::NoEntry)?;
    Ok((dir, if rest.is_empty() { ".".into() } else { rest }))
}

fn done((): ()) -> String {
    "done\n".into()
}

fn code(error: ErrorCode) -> String {
    error.name().to_owned()
}

fn explain(error: io::Error) -> String {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "full".into(),
        kind => format!("{kind:?} ({error})"),
    }
}

/// `%2F` and the like.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        let hex = || u8::from_str_radix(std::str::from_utf8(tail.get(..2)?).ok()?, 16).ok();
        match (first, hex()) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => bytes.push(first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
