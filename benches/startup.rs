//! `insula bench startup`: from the command, or the request that needs it, to a tenant's first answer.

use crate::clients::Clients;
use crate::embedded::{HELLO, distinct};
use crate::first;
use crate::peers::{self, Peer, RUNTIMES, Tenant};
use crate::process::Server;
use crate::results::Bench;
use crate::samples::{Figure, add, at_most, paired, ratio};
use crate::session::Session;
use crate::subject::{Subject, limits, limits_with_reuse};
use crate::{cold, native, wire};
use anyhow::{Context, Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const ROUNDS: usize = 20;
const SEED: u64 = 0x6f72_6465_7200;
const PAUSE: Duration = Duration::from_millis(20);
const AWAKE: Duration = Duration::from_millis(1);
const FIRST: Figure = Figure::less("first answer", "ms");
const CPU: Figure = Figure::less("cpu to create and remove", "us");
const METHOD: &str = "Milliseconds to the first answer with status 200, on a new connection. \
For containers and processes from the moment at which the command (or the API call) is given; the port is \
asked every 100 µs meanwhile, so an answer counts although its runtime has not yet said that it started. \
For Insula from the request that needs the tenant, or from the start of `insula deploy`. One worker; each \
tenant has its own bytes, so that nothing of it was loaded before, and the host was restarted after they \
were deployed. A plain server that runs already shows what a request on a new connection takes at least. Cases take turns with 20 ms between, the last of which the measuring core is kept awake, in an order that is drawn anew for each round. The disk is warm unless said \
otherwise; with a cold disk the pages of Insula's compiled code, or of the static binary, were put out of \
the page cache first, and nothing else, so the runtimes themselves are always warm. \
CPU time is that of the subject's control group, daemons included, from the start of a tenant to its removal, \
its one request included; for Insula that of a fresh instance's whole request, from 16 connections in a \
closed loop, and, for the instance alone, that less what the same request takes of an instance that is there already.";

const WARM: &str = "deployed, warm disk";
const COLD: &str = "deployed, cold disk";
const LOADED: &str = "loaded";
const LIVE: &str = "live";
const NEW: &str = "deploy of new bytes";
const KNOWN: &str = "deploy of known bytes";
const FRESH: &str = "fresh instance and its request";
const ALONE: &str = "fresh instance alone";
const RUNNING: &str = "runs already";
const COLD_BINARY: &str = "cold disk";

/// One thing that is measured once in each round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// A peer, by its place in the list; with a cold disk or not.
    Peer(usize, bool),
    Warm,
    /// The same as [`Case::Warm`], for the control.
    Again,
    /// A plain server that runs already: what a request on a new connection takes at least.
    Running,
    Cold,
    Loaded,
    Live,
    New,
    Known,
    Cpu,
}

/// Runs it.
pub fn run(session: &mut Session, bench: &mut Bench) -> Result<()> {
    let rounds = session.options.rounds.unwrap_or(ROUNDS);
    bench.method = METHOD.into();
    bench.settings.insert("rounds".into(), rounds.to_string());
    bench.settings.insert("workers".into(), "1".into());
    let launched = peers::launch_all(session, "startup")?;
    let subject = prepare(session, rounds)?;
    let mut cases = vec![
        Case::Warm,
        Case::Again,
        Case::Cold,
        Case::Loaded,
        Case::Live,
        Case::New,
        Case::Known,
        Case::Cpu,
    ];
    let floor = floor(session)?;
    if floor.is_some() {
        cases.push(Case::Running);
    }
    for (at, (_, peer)) in launched.iter().enumerate() {
        cases.push(Case::Peer(at, false));
        if peer.binary().is_some() {
            cases.push(Case::Peer(at, true));
        }
    }
    let field = Field { launched, subject, floor };
    let (mut again, mut broken) = (Vec::new(), Vec::new());
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    for round in 0..rounds {
        for (turn, place) in order(&mut random, cases.len()).into_iter().enumerate() {
            let Some(case) = cases.get(place).copied() else { continue };
            session.step("startup", round * cases.len() + turn, rounds * cases.len())?;
            if broken.contains(&case) {
                continue;
            }
            let done = cool(case, &field, round).and_then(|()| {
                calm();
                one(session, bench, case, round, &field, &mut again)
            });
            let what = match case {
                Case::Peer(at, _) => field.launched.get(at).map_or("", |(id, _)| id),
                _ => case.name(),
            };
            // The others are measured all the same.
            if !session.survive(bench, what, done)? {
                broken.push(case);
            }
        }
        compare(bench, &again);
    }
    Ok(())
}

/// A plain server that runs all the time.
struct Floor {
    // Dropped in this order.
    _server: Server,
    _dir: TempDir,
    port: u16,
}

/// Starts it, if it is asked for. It runs a copy of the twin: the pages of a file that runs stay.
fn floor(session: &mut Session) -> Result<Option<Floor>> {
    if session.peers(&["hyper"])?.is_empty() {
        return Ok(None);
    }
    let twin = match native::twin() {
        Ok(twin) => twin,
        Err(error) => {
            session.lost("hyper", &error);
            return Ok(None);
        }
    };
    let dir = tempfile::Builder::new().prefix("insula-").tempdir()?;
    let (copy, port) = (dir.path().join("server"), first::free_port()?);
    std::fs::copy(twin, &copy)?;
    let mut command = Command::new(copy);
    command.args(["serve", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Server::start(&mut command)?;
    first::answer(port, "hello", Instant::now())?;
    Ok(Some(Floor { _server: server, _dir: dir, port }))
}

/// Puts out of the page cache what a case is to read from the disk.
fn cool(case: Case, field: &Field, round: usize) -> Result<()> {
    match case {
        Case::Peer(at, true) => {
            let binary = field.launched.get(at).and_then(|(_, peer)| peer.binary());
            cold::forget(&binary.context("a binary")?)
        }
        Case::Cold => {
            let digest = Subject::digest(&distinct(HELLO, &format!("cold-{round:04}")));
            let count = cold::forget_named(field.subject.data(), &digest)?;
            ensure!(count > 0, "no compiled code of that tenant");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// All start from a machine on which nothing else goes on, whoever came before, and from a core that is
/// awake: waking one takes a virtual machine longer than a request.
fn calm() {
    std::thread::sleep(PAUSE);
    let awake = Instant::now();
    while awake.elapsed() < AWAKE {
        std::hint::spin_loop();
    }
}

/// All who take part.
struct Field {
    launched: Vec<(String, Box<dyn Peer>)>,
    subject: Subject,
    floor: Option<Floor>,
}

/// One sample of one case.
fn one(
    session: &Session,
    bench: &mut Bench,
    case: Case,
    round: usize,
    field: &Field,
    again: &mut Vec<f64>,
) -> Result<()> {
    match case {
        Case::Peer(at, is_cold) => {
            let (id, peer) = field.launched.get(at).context("a peer")?;
            of_peer(bench, id, peer.as_ref(), round, is_cold)?;
        }
        Case::Running => {
            let port = field.floor.as_ref().context("a server")?.port;
            let sample = first::answer(port, "hello", Instant::now())?;
            add(bench, FIRST, "hyper", RUNNING, None, sample);
        }
        Case::Again => again.push(of_insula(session, &field.subject, case, round)?),
        Case::Cpu => {
            let fresh = cpu(&field.subject, "loaded")?;
            add(bench, CPU, "insula", FRESH, None, fresh);
            add(bench, CPU, "insula", ALONE, None, fresh - cpu(&field.subject, "live")?);
        }
        _ => {
            let sample = of_insula(session, &field.subject, case, round)?;
            add(bench, FIRST, "insula", case.name(), None, sample);
        }
    }
    Ok(())
}

/// In which order a round takes so many cases: drawn anew for each, always the same draws. In any fixed order, and
/// turned round as well, one case comes after a daemon's more often than another, and finds colder caches.
fn order(random: &mut ChaCha8Rng, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, random.next_u64() as usize % (last + 1));
    }
    order
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Peer(_, false) => "",
            Self::Peer(_, true) => COLD_BINARY,
            Self::Warm | Self::Again => WARM,
            Self::Cold => COLD,
            Self::Loaded => LOADED,
            Self::Live => LIVE,
            Self::New => NEW,
            Self::Known => KNOWN,
            Self::Cpu => FRESH,
            Self::Running => RUNNING,
        }
    }
}

fn of_peer(
    bench: &mut Bench,
    id: &str,
    peer: &dyn Peer,
    round: usize,
    is_cold: bool,
) -> Result<()> {
    let kind = if is_cold { 'c' } else { 'w' };
    let tenant = Tenant { name: format!("insula-{kind}{round:04}"), port: first::free_port()? };
    let before = peer.group().map(|group| group.cpu_us()).transpose()?;
    let took = first::of_peer(peer, &tenant);
    peer.remove(&tenant)?;
    let took = took?;
    let case = if is_cold { COLD_BINARY } else { "" };
    add(bench, FIRST, id, case, None, took);
    if let (Some(before), Some(group), false) = (before, peer.group(), is_cold) {
        add(bench, CPU, id, "", None, group.cpu_us()? - before);
    }
    Ok(())
}

/// Deploys what the rounds need, and restarts the host, so that nothing is loaded.
fn prepare(session: &Session, rounds: usize) -> Result<Subject> {
    let binary = &session.options.binary;
    let mut subject = Subject::start(binary, 1, "insula")?;
    for round in 0..rounds {
        session.step("startup: deploying tenants", round, rounds)?;
        for kind in ["warm", "again", "cold", "old"] {
            subject.deploy_distinct(&format!("{kind}-{round:04}"), &limits())?;
        }
    }
    for name in ["loaded", "first"] {
        subject.deploy_distinct(name, &limits())?;
    }
    subject.deploy_distinct("live", &limits_with_reuse())?;
    subject.stop();
    subject.begin(binary)?;
    // A host that has just started has things to do yet.
    std::thread::sleep(Duration::from_millis(500));
    for tenant in ["first", "loaded", "loaded", "live", "live"] {
        first::answer(subject.host()?.port, tenant, Instant::now())?;
    }
    Ok(subject)
}

/// Milliseconds.
fn of_insula(session: &Session, subject: &Subject, case: Case, round: usize) -> Result<f64> {
    let host = subject.host()?;
    let tenant = match case {
        Case::Warm => format!("warm-{round:04}"),
        Case::Again => format!("again-{round:04}"),
        Case::Loaded => "loaded".into(),
        Case::Live => "live".into(),
        Case::Cold => format!("cold-{round:04}"),
        _ => {
            let name = format!("{}-{round:04}", if case == Case::New { "new" } else { "known" });
            // Known are the bytes of a tenant that was deployed before, and never asked.
            let text = if case == Case::New { name.clone() } else { format!("old-{round:04}") };
            let file = subject.data().join("bench.wasm");
            std::fs::write(&file, distinct(HELLO, &text))?;
            let began = Instant::now();
            let output = Command::new(&session.options.binary)
                .args(["deploy", &name, &file.to_string_lossy(), "--cpu-limit", "1", "--data"])
                .arg(subject.data())
                .output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            return first::answer(host.port, &name, began);
        }
    };
    first::answer(host.port, &tenant, Instant::now())
}

/// Microseconds of CPU for one request.
fn cpu(subject: &Subject, tenant: &str) -> Result<f64> {
    let request = wire::get(tenant, "/");
    let before = subject.cpu_us()?;
    let clients = Clients::closed_loop(subject.host()?.port, vec![request; 16], &[])?;
    std::thread::sleep(Duration::from_millis(300));
    let answers = clients.end()?.answers;
    let used = subject.cpu_us()? - before;
    let good = answers.get(&200).copied().unwrap_or(0);
    ensure!(good > 0 && answers.len() == 1, "not all is well: {answers:?}");
    Ok(used / good as f64)
}

fn compare(bench: &mut Bench, again: &[f64]) {
    let warm = ("insula", WARM);
    let bars = [("crun", 1.0 / 40.0), ("docker", 1.0 / 200.0), ("exec", 1.0 / 3.0)];
    let mut ratios = Vec::new();
    for id in RUNTIMES {
        let bar = bars.iter().find(|(of, _)| *of == id).and_then(|(_, limit)| at_most(*limit));
        ratios.push(ratio(bench, FIRST, warm, (id, ""), None, bar));
        ratios.push(ratio(bench, FIRST, ("insula", COLD), (id, COLD_BINARY), None, None));
    }
    ratios.push(ratio(bench, FIRST, ("insula", LOADED), ("exec", ""), None, at_most(1.0 / 20.0)));
    for case in [LOADED, LIVE] {
        ratios.push(ratio(bench, FIRST, ("insula", case), ("hyper", RUNNING), None, None));
    }
    for case in [LIVE, NEW, KNOWN] {
        for id in ["exec", "crun", "docker"] {
            ratios.push(ratio(bench, FIRST, ("insula", case), (id, ""), None, None));
        }
    }
    for id in RUNTIMES {
        let bar = if id == "crun" { at_most(1.0 / 500.0) } else { None };
        ratios.push(ratio(bench, CPU, ("insula", ALONE), (id, ""), None, bar));
        ratios.push(ratio(bench, CPU, ("insula", FRESH), (id, ""), None, None));
    }
    bench.control = {
        let first = crate::samples::of(bench, FIRST, "insula", WARM, None);
        paired(FIRST.name, (first, warm), (again, warm), None, None)
    };
    bench.ratios = ratios.into_iter().flatten().collect();
}
