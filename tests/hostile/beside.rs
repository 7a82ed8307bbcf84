//! An innocent tenant that is asked steadily while somebody attacks.

use insula_tests::process::{is_alive, resident_bytes};
use insula_tests::{Answer, Connection, Host, Setup, repo};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long an attack lasts at least: longer than any attacker's deadline here.
const SPAN: Duration = Duration::from_millis(2_500);
/// Connections that ask the innocent tenant; the last makes a new one for each request.
const ASKING: u32 = 4;
/// Between two requests of one connection, whether the last was answered or not.
const EVERY: Duration = Duration::from_millis(20);
/// What nine of ten innocent requests may take, counted from when they were due.
const P90_MAX: Duration = Duration::from_millis(100);
/// What 99 of 100 may take. The machine is shared with whoever attacks, and with the tests' own clients.
const P99_MAX: Duration = Duration::from_millis(250);
const TRIES: usize = 3;
/// What supervisor and workers may grow by together, unless a test says otherwise.
pub(crate) const GROWTH_MAX: u64 = 256 << 20;

/// A host with `hello`, the innocent.
///
/// Circuits stay closed, or attacks would be refused after a hundred failures.
pub(crate) fn victim() -> Host {
    let host = Setup::new().config("[ceilings]\nbreaker_time = '1ms'").start();
    settle(&host);
    host
}

/// Deploys the innocent, and has every worker load it.
pub(crate) fn settle(host: &Host) {
    host.deploy("hello", &repo::guest("hello"), &[]);
    for _ in 0..16 {
        host.get("hello", "/").expect_ok();
    }
}

/// These tests measure, so each has the machine to itself.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an attack works with.
#[derive(Debug)]
pub(crate) struct Attack<'a> {
    /// Whom it attacks.
    pub(crate) host: &'a Host,
    until: Instant,
    over: AtomicBool,
    asked: AtomicU64,
}

impl Attack<'_> {
    /// Whether there is time left.
    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.until && !self.over.load(Relaxed)
    }

    /// Counts one blow.
    pub(crate) fn struck(&self) {
        self.asked.fetch_add(1, Relaxed);
    }

    /// Each of `threads` strikes until time is up.
    pub(crate) fn in_threads(&self, threads: usize, strike: impl Fn(usize) + Sync) {
        thread::scope(|scope| {
            for number in 0..threads {
                let strike = &strike;
                scope.spawn(move || {
                    while self.goes_on() {
                        strike(number);
                        self.struck();
                    }
                });
            }
        });
    }

    /// Asks a tenant on so many connections at once until time is up; `judge` sees what came of it.
    pub(crate) fn ask(
        &self,
        name: &str,
        target: &str,
        connections: usize,
        judge: impl Fn(&io::Result<Answer>) + Sync,
    ) {
        self.in_threads(connections, |_| {
            let answer =
                self.host.connect().try_ask("GET", &format!("{name}.localhost"), target, &[], None);
            judge(&answer);
        });
    }
}

/// The attack ends in a fault of the attacker's, by one of these names, or breaks off.
pub(crate) fn ends_in(words: &[&'static str]) -> impl Fn(&io::Result<Answer>) + Sync {
    let words = words.to_vec();
    move |answer| {
        if let Ok(answer) = answer
            && answer.whole
        {
            let word = answer.fault().unwrap_or("no fault");
            assert!(words.contains(&word), "{word} in place of {words:?}: {answer:?}");
        }
    }
}

/// Asks the innocent tenant while `attack` runs. Every answer must be right, no worker may die, and the
/// host may not grow by more than `growth_max` bytes. Answers must be in time, too; since the whole
/// machine stands still for a moment now and then, that must fail in every one of three tries.
#[track_caller]
pub(crate) fn beside(
    what: &str,
    host: &Host,
    growth_max: u64,
    attack: impl Fn(&Attack<'_>) + Sync,
) {
    let mut late = Vec::new();
    for _ in 0..TRIES {
        let (p90, p99) = once(what, host, growth_max, &attack);
        if p90 < P90_MAX && p99 < P99_MAX {
            return;
        }
        late.push((p90, p99));
    }
    panic!("{what}: late each time, p90 and p99: {late:?}");
}

/// One try: what 90 and 99 of 100 innocent requests took at most.
#[track_caller]
fn once(
    what: &str,
    host: &Host,
    growth_max: u64,
    attack: &(impl Fn(&Attack<'_>) + Sync),
) -> (Duration, Duration) {
    let mut pids = host.worker_pids();
    let restarts = restarts(host);
    pids.push(host.pid());
    let held = || -> u64 {
        let alive = pids.iter().filter(|pid| is_alive(**pid));
        alive.map(|pid| resident_bytes(*pid)).sum()
    };
    let before = held();
    let (over, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let state = Attack {
        host,
        until: Instant::now() + SPAN,
        over: AtomicBool::new(false),
        asked: AtomicU64::new(0),
    };
    let mut took: Vec<Duration> = thread::scope(|scope| {
        let asking: Vec<_> = (0..ASKING)
            .map(|number| {
                let over = &over;
                scope.spawn(move || ask_steadily(host, number, over))
            })
            .collect();
        scope.spawn(|| {
            while !over.load(Relaxed) {
                let now = held();
                peak.fetch_max(now, Relaxed);
                if now > before + growth_max {
                    // The machine has other users: this attack has shown what it can do.
                    state.over.store(true, Relaxed);
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
        let attacked = scope.spawn(|| attack(&state)).join();
        over.store(true, Relaxed);
        let took = asking.into_iter().flat_map(|asking| asking.join().expect("innocent"));
        let took = took.collect();
        if let Err(panic) = attacked {
            std::panic::resume_unwind(panic);
        }
        took
    });
    took.sort();
    let at = |percent: usize| took[took.len() * percent / 100];
    let growth = peak.load(Relaxed).saturating_sub(before);
    let blows = state.asked.load(Relaxed);
    eprintln!(
        "{what}: {blows} blows; {} innocent requests: p50 {:?} p90 {:?} p99 {:?} max {:?}; \
         {} MiB more held",
        took.len(),
        at(50),
        at(90),
        at(99),
        took[took.len() - 1],
        growth >> 20
    );
    assert!(blows > 0, "{what}: nobody attacked");
    assert!(took.len() >= 100, "{what}: only {} innocent requests", took.len());
    assert!(growth <= growth_max, "{what}: {growth} bytes more are held");
    assert_eq!(self::restarts(host), restarts, "{what}: a worker died: {}", tail(host));
    let hello = host.counters("hello");
    assert_eq!((hello.guest_faults, hello.host_faults, hello.shed), (0, 0, 0), "{what}");
    (at(90), at(99))
}

fn restarts(host: &Host) -> u64 {
    host.workers().iter().map(|worker| worker.restarts).sum()
}

fn tail(host: &Host) -> String {
    let log = host.log();
    let lines: Vec<&str> = log.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

fn ask_steadily(host: &Host, number: u32, over: &AtomicBool) -> Vec<Duration> {
    let mut due = Instant::now() + EVERY * number / ASKING;
    let mut kept = host.connect();
    let mut took = Vec::new();
    while !over.load(Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if number == ASKING - 1 {
            kept = host.connect();
        }
        greet(&mut kept);
        took.push(due.elapsed());
        due += EVERY;
    }
    took
}

#[track_caller]
fn greet(connection: &mut Connection) {
    let answer = connection.get("hello.localhost", "/");
    assert_eq!(answer.expect_ok().text(), "Hello from Insula!\n");
}
