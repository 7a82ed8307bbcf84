//! `insula bench languages`: the same handler in several languages, as guests and as plain processes:
//! first answer, CPU time and memory.

use crate::containers::{Containers, Limits};
use crate::embedded;
use crate::first;
use crate::host::root;
use crate::machine::says;
use crate::native;
use crate::process::{Server, resident};
use crate::results::Bench;
use crate::samples::{Figure, add, ratio};
use crate::session::Session;
use crate::subject::{Subject, limits, limits_with_reuse};
use anyhow::{Context, Result};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
/// How long a process may take to become calm before it is weighed.
const SETTLE: Duration = Duration::from_millis(500);
/// Guests that are not part of this program, since they are large: `guests/build.sh` makes them.
const BUILT: [&str; 2] = ["hello-js", "hello-python"];
const FIRST: Figure = Figure::less("first answer", "ms");
const MEMORY: Figure = Figure::less("memory", "KiB");

const METHOD: &str = "The same handler in several languages. Insula: a tenant that is deployed and was not loaded since the host \
started (warm disk), from the request to the answer, one worker, the host restarted for each round; memory is what a live instance \
and its loaded code add to the host. Plain processes: from fork to the answer, and what the process holds \
once it has answered; Python with http.server, JavaScript with node's http module, Rust the static hyper server. \
Memory is proportional pages, those of mapped files too, and page tables. Containers: the same interpreters under \
crun, with this machine's /usr and /lib mounted read-only, from the command to the answer; what the kernel holds for a \
container beside its processes is in density.";

const PYTHON: &str = "
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Hello(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        body = b'Hello from Insula!\\n'
        self.send_response(200)
        self.send_header('content-type', 'text/plain')
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
HTTPServer(('127.0.0.1', int(sys.argv[1])), Hello).serve_forever()
";

const JAVASCRIPT: &str = "
require('http').createServer((_, response) => {
  response.setHeader('content-type', 'text/plain');
  response.end('Hello from Insula!\\n');
}).listen(Number(process.argv[1]), '127.0.0.1');
";

/// What a container of an interpreter may take.
const CONTAINED: Limits = Limits { shares: 1_024, memory: 512 << 20 };
/// What an interpreter needs of this machine beside the directory that it is in.
const SYSTEM: [&str; 4] = ["/usr", "/lib", "/lib64", "/bin"];

/// A guest.
struct Guest {
    case: &'static str,
    name: &'static str,
    bytes: Cow<'static, [u8]>,
}

/// Runs it.
pub fn run(session: &mut Session, bench: &mut Bench) -> Result<()> {
    let rounds = session.options.rounds.unwrap_or(ROUNDS);
    bench.method = METHOD.into();
    bench.settings.insert("rounds".into(), rounds.to_string());
    session.step("languages: deploying guests", 0, 0)?;
    let guests = guests(bench);
    let mut subject = Subject::start(&session.options.binary, 1, "insula-languages")?;
    for guest in &guests {
        let digest = subject.host()?.upload(&guest.bytes)?;
        subject.host()?.deploy(guest.name, &digest, &limits_with_reuse())?;
    }
    subject.deploy_distinct("first", &limits())?;
    let processes = processes(session, bench)?;
    let contained = contained(session, bench)?;
    for round in 0..rounds {
        session.step("languages: guests", round, rounds)?;
        subject.stop();
        subject.begin(&session.options.binary)?;
        std::thread::sleep(SETTLE);
        first::answer(subject.host()?.port, "first", Instant::now())?;
        for turn in 0..guests.len() {
            let Some(guest) = guests.get((turn + round) % guests.len()) else { continue };
            let before = held(subject.host()?.server.pid());
            let port = subject.host()?.port;
            add(
                bench,
                FIRST,
                "insula",
                guest.case,
                None,
                first::answer(port, guest.name, Instant::now())?,
            );
            std::thread::sleep(SETTLE);
            let after = held(subject.host()?.server.pid());
            add(bench, MEMORY, "insula", guest.case, None, (after - before) / 1024.0);
        }
        for (case, words) in &processes {
            session.step("languages: processes", round, rounds)?;
            process(bench, case, words)?;
        }
        for (case, words) in processes.iter().filter(|(case, _)| *case != "Rust") {
            let Some(twin) = &contained else { continue };
            session.step("languages: containers", round, rounds)?;
            let done = container(bench, twin, case, words);
            session.survive(bench, &format!("crun {case}"), done)?;
        }
    }
    for figure in [FIRST, MEMORY] {
        for case in ["Rust", "C", "JavaScript", "Python"] {
            let native = if case == "C" { "Rust" } else { case };
            for other in [("exec", native), ("crun", case)] {
                bench.ratios.extend(ratio(bench, figure, ("insula", case), other, None, None));
            }
        }
    }
    Ok(())
}

fn guests(bench: &mut Bench) -> Vec<Guest> {
    let mut all = vec![
        Guest { case: "Rust", name: "hello", bytes: Cow::Borrowed(embedded::HELLO) },
        Guest { case: "C", name: "hello-c", bytes: Cow::Borrowed(embedded::HELLO_C) },
    ];
    for (case, name) in ["JavaScript", "Python"].into_iter().zip(BUILT) {
        let file = root().join(format!("guests/{name}/{name}.wasm"));
        match std::fs::read(&file) {
            Ok(bytes) => all.push(Guest { case, name, bytes: Cow::Owned(bytes) }),
            Err(_) => bench.notes.push(format!(
                "{case} as a guest is not measured: guests/build.sh {name} makes {}",
                file.display()
            )),
        }
    }
    all
}

/// What is run, by language; the port is the last word.
fn processes(session: &mut Session, bench: &mut Bench) -> Result<Vec<(&'static str, Vec<String>)>> {
    let mut all = Vec::new();
    if session.peers(&["exec"])?.is_empty() {
        return Ok(all);
    }
    match native::twin() {
        Ok(twin) => all.push(("Rust", vec![twin.to_string_lossy().into_owned(), "serve".into()])),
        Err(error) => session.lost("exec", &error),
    }
    for (case, program, flag, script) in
        [("JavaScript", "node", "-e", JAVASCRIPT), ("Python", "python3", "-c", PYTHON)]
    {
        match says(program, &["--version"]) {
            Some(version) => {
                bench.settings.insert(program.into(), version);
                // Not by way of whatever chooses one of several.
                let file = place(program)?.to_string_lossy().into_owned();
                all.push((case, vec![file, flag.to_owned(), script.to_owned()]));
            }
            None => bench.notes.push(format!("{case} as a process is not measured: no {program}")),
        }
    }
    Ok(all)
}

fn process(bench: &mut Bench, case: &str, words: &[String]) -> Result<()> {
    let port = first::free_port()?;
    let (program, rest) = words.split_first().context("a program")?;
    let mut command = Command::new(program);
    command.args(rest).arg(port.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let server = Server::start(&mut command)?;
    let took = first::answer(port, "hello", began)?;
    add(bench, FIRST, "exec", case, None, took);
    std::thread::sleep(SETTLE);
    add(bench, MEMORY, "exec", case, None, held(server.pid()) / 1024.0);
    Ok(())
}

/// What stands in every container's root, if containers can be run.
fn contained(session: &mut Session, bench: &mut Bench) -> Result<Option<PathBuf>> {
    if session.peers(&["crun"])?.is_empty() {
        return Ok(None);
    }
    let twin = native::twin();
    if let Err(error) = &twin {
        bench.notes.push(format!("interpreters in containers are not measured: {error:#}"));
    }
    Ok(twin.ok())
}

fn container(bench: &mut Bench, twin: &Path, case: &str, words: &[String]) -> Result<()> {
    let port = first::free_port()?.to_string();
    let (program, rest) = words.split_first().context("a program")?;
    let directory = Path::new(program).parent().and_then(Path::parent).context("a directory")?;
    let directories: Vec<PathBuf> = SYSTEM
        .into_iter()
        .map(PathBuf::from)
        .chain([directory.to_path_buf()])
        .filter(|directory| directory.is_dir())
        .collect();
    let mut all = vec![program.as_str()];
    all.extend(rest.iter().map(String::as_str).chain([port.as_str()]));
    let mut containers = Containers::new(twin)?;
    let began = Instant::now();
    containers.run(&all, &directories, CONTAINED)?;
    let took = first::answer(port.parse()?, "hello", began)?;
    add(bench, FIRST, "crun", case, None, took);
    std::thread::sleep(SETTLE);
    let pid = containers.running().first().context("a container")?.pid();
    add(bench, MEMORY, "crun", case, None, held(pid) / 1024.0);
    Ok(())
}

/// Where an interpreter really is.
fn place(program: &str) -> Result<PathBuf> {
    let question: [&str; 2] = match program {
        "node" => ["-p", "process.execPath"],
        _ => ["-c", "import sys; print(sys.executable)"],
    };
    let output = Command::new(program).args(question).output()?;
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()).canonicalize()?)
}

/// Bytes of a process and its descendants.
fn held(pid: u32) -> f64 {
    let (pages, tables) = resident(&crate::process::family(pid));
    (pages + tables) as f64
}
