//! Upgrades in place: another binary takes the host over, and nobody notices.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::{HostInfo, JobResult, JobRun};
use insula_tests::h2::Http2;
use insula_tests::http::{Framing, is_timeout};
use insula_tests::process::{children, is_alive, signal};
use insula_tests::wait::eventually;
use insula_tests::{Connection, Host, Setup, binary, repo, wasm};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The binary under test by another name.
fn copy(host: &Host, name: &str) -> PathBuf {
    let path = host.home().join(name);
    if fs::hard_link(binary::insula(), &path).is_err() {
        fs::copy(binary::insula(), &path).unwrap();
    }
    path
}

/// A program that is not what it should be.
fn script(host: &Host, name: &str, text: &str) -> PathBuf {
    let path = host.file(name, text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// What the supervisor's process is now.
fn program(host: &Host) -> PathBuf {
    fs::read_link(format!("/proc/{}/exe", host.pid())).unwrap()
}

#[track_caller]
fn upgrade(host: &Host, to: &Path) -> HostInfo {
    let output = host.must(["upgrade".as_ref(), "--binary".as_ref(), to.as_os_str()]);
    assert!(output.stdout.contains("upgraded from"), "{output:?}");
    assert_eq!(program(host), to);
    let info = host.info();
    assert_eq!(info.pid, host.pid());
    info
}

/// What clients met with while `load` ran.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    done: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Load {
    fn record(&self, what: &str, result: Result<u16, String>) {
        match result {
            Ok(200) => drop(self.done.fetch_add(1, Relaxed)),
            other => self.failures.lock().unwrap().push(format!("{what}: {other:?}")),
        }
    }

    /// One connection for as long as the host lets it be; then the next.
    fn keep_alive(&self, host: &Host, pause: Duration) {
        let mut connection = host.connect();
        while !self.over.load(Relaxed) {
            let answer = connection.try_ask("GET", "hello.localhost", "/", &[], None);
            self.record("keep-alive", answer.map(|a| a.status()).map_err(|e| e.to_string()));
            std::thread::sleep(pause);
        }
    }

    /// A connection for each request.
    fn anew(&self, host: &Host) {
        while !self.over.load(Relaxed) {
            let answer = Connection::try_open(host.addr())
                .and_then(|mut c| c.try_ask("POST", "echo.localhost", "/", &[], Some(b"x")));
            self.record("new connection", answer.map(|a| a.status()).map_err(|e| e.to_string()));
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Requests one after the other on HTTP/2.
    fn http2(&self, host: &Host) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut connection = Http2::open(host.addr()).await;
            while !self.over.load(Relaxed) {
                self.record("HTTP/2", connection.get_on(host.addr(), "hello.localhost").await);
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        });
    }

    /// The control API.
    fn control(&self, host: &Host) {
        let socket = host.data().join("control.sock");
        while !self.over.load(Relaxed) {
            let answer = UnixStream::connect(&socket).and_then(|stream| {
                Connection::over(stream).try_ask(
                    "GET",
                    "insula",
                    "/v1/host",
                    &[("connection", "close")],
                    None,
                )
            });
            self.record("control", answer.map(|a| a.status()).map_err(|e| e.to_string()));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Runs `work` while clients of every kind ask all the time; none of them may fail.
fn under_load<T>(host: &Host, work: impl FnOnce(&Load) -> T) -> T {
    let load = Load::default();
    let result = std::thread::scope(|scope| {
        for pause_ms in [1, 4, 40, 300] {
            let load = &load;
            scope.spawn(move || load.keep_alive(host, Duration::from_millis(pause_ms)));
        }
        scope.spawn(|| load.anew(host));
        scope.spawn(|| load.http2(host));
        scope.spawn(|| load.control(host));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&load)));
        load.over.store(true, Relaxed);
        result
    });
    let failures = load.failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {}: {failures:#?}",
        failures.len(),
        load.done.load(Relaxed)
    );
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Asks for events for `n` times 100 ms, and reads the head.
fn events(host: &Host, n: u32) -> Connection {
    let mut connection = host.connect();
    connection.send(format!("GET /?n={n}&ms=100 HTTP/1.1\r\nhost: sse.localhost\r\n\r\n"));
    assert_eq!(connection.head().unwrap().status, 200);
    connection
}

/// How many events come, if they end as they should.
fn rest(mut connection: Connection) -> String {
    let (mut framing, mut text) = (Framing::Chunked, String::new());
    loop {
        match connection.piece(&mut framing) {
            Ok(Some(piece)) => text.push_str(&String::from_utf8_lossy(&piece)),
            Ok(None) => return text,
            Err(error) => panic!("cut off (late: {}): {error}; so far {text}", is_timeout(&error)),
        }
    }
}

#[test]
fn upgrades_in_a_row_under_load_fail_no_request() {
    let host = Host::with_guests(&["hello", "echo", "sse"]);
    let binaries = [copy(&host, "insula-a"), copy(&host, "insula-b")];
    let files = [repo::guest("hello"), repo::guest("echo")];
    let started_at = host.info().started_at;
    under_load(&host, |load| {
        let (mut requests, mut done) = (0, 0);
        for turn in 0..6_usize {
            let streaming = events(&host, 30);
            let old = host.worker_pids();
            host.deploy("before", &files[turn % 2], &[]);
            let info = upgrade(&host, &binaries[turn % 2]);
            host.deploy("after", &files[(turn + 1) % 2], &[]);
            for _ in 0..4 {
                // Whichever generation of workers answers: what was deployed is what runs.
                let is_echo =
                    |name: &str| host.get(name, "/").expect_ok().text().starts_with("GET ");
                assert_eq!((is_echo("before"), is_echo("after")), (turn % 2 == 1, turn % 2 == 0));
            }
            assert_eq!(info.started_at, started_at);
            let last = info.upgrade.unwrap();
            assert_eq!((last.number, last.error), (turn as u64 + 1, None));
            assert!(info.workers.iter().all(|worker| !old.contains(&worker.pid.unwrap())));
            let counted = host.counters("hello").requests;
            assert!(counted >= requests, "counters went back from {requests} to {counted}");
            requests = counted;
            assert!(rest(streaming).contains("event 30 of 30"));
            eventually("the old workers are gone", || {
                old.iter().all(|pid| !is_alive(*pid)).then_some(())
            });
            let so_far = load.done.load(Relaxed);
            assert!(so_far > done + 50, "hardly any load: {so_far} after {done}");
            done = so_far;
        }
    });
    let served = host.counters("hello");
    assert_eq!((served.running, served.requests), (0, served.responses), "{served:?}");
    let retiring = || host.info().retiring.is_empty().then_some(());
    eventually("nobody retires any more", retiring);
}

#[test]
fn a_hangup_takes_what_lies_where_the_binary_lay() {
    let home = tempfile::tempdir().unwrap();
    let place = home.path().join("insula");
    fs::copy(binary::insula(), &place).unwrap();
    let host = Setup::new().program([&place]).start();
    host.deploy_guests(&["hello", "echo", "sse"]);
    under_load(&host, |_| {
        // As a package manager does it: the file that runs is replaced by another of that name.
        fs::copy(binary::insula(), home.path().join("new")).unwrap();
        fs::rename(home.path().join("new"), &place).unwrap();
        assert!(program(&host).to_string_lossy().ends_with("(deleted)"));
        signal(host.pid(), Signal::HUP);
        eventually("it runs the new file", || {
            (program(&host) == place && host.info().upgrade.is_some()).then_some(())
        });
        let asked = host.must(["audit", "--json", "--action", "upgrade"]).stdout;
        assert!(asked.contains("SIGHUP") && asked.contains("\"ok\""), "{asked}");
        // The same again, by the verb, without a word about where.
        host.must(["upgrade"]);
        assert_eq!(host.info().upgrade.unwrap().number, 2);
    });
}

#[test]
fn what_is_no_sound_binary_is_refused_and_why_is_said() {
    let host = Host::with_guests(&["hello", "echo", "sse"]);
    let before = program(&host);
    let plain = host.file("plain", "#!/bin/sh\nexit 0\n");
    let wrong = [
        (host.home().join("missing"), "is not there"),
        (plain, "not executable"),
        (script(&host, "garbage", "\u{1}\u{2}garbage"), "cannot be run"),
        (
            script(&host, "ends", "#!/bin/sh\necho 'no such library' >&2\nexit 3\n"),
            "no such library",
        ),
        (script(&host, "other", "#!/bin/sh\necho hello\nsleep 60\n"), "not an Insula"),
        (script(&host, "hangs", "#!/bin/sh\nexec sleep 600\n"), "said nothing for 10 s"),
        (
            script(
                &host,
                "later",
                "#!/bin/sh\necho '{\"hello\":{\"version\":\"9.9.9\",\"formats\":[99]}}'\nsleep 60\n",
            ),
            "is Insula 9.9.9, which cannot take over",
        ),
    ];
    under_load(&host, |_| {
        for (path, why) in &wrong {
            let output = host.cli(["upgrade".as_ref(), "--binary".as_ref(), path.as_os_str()]);
            output.expect(3, &["not upgraded", why, "this version serves on"]);
            assert_eq!(program(&host), before);
        }
    });
    assert_eq!(host.info().upgrade, None, "nothing was begun");
    // A second one waits for none: it is refused.
    let hangs = serde_json::json!({"binary": wrong[5].0});
    std::thread::scope(|scope| {
        let first = scope.spawn(|| host.api("POST", "/v1/host/upgrade", Some(&hangs)));
        std::thread::sleep(Duration::from_secs(1));
        host.cli(["upgrade"]).expect(3, &["under way already"]);
        assert_eq!(first.join().unwrap().0, 422);
    });
}

/// A program that is sound when it is tried, and does this when it is to take over.
fn broken(host: &Host, name: &str, then: &str) -> PathBuf {
    let real = binary::insula().display().to_string();
    let then = then.replace("REAL", &real);
    let text =
        format!("#!/bin/sh\nif [ \"$1\" = __preflight ]; then exec {real} \"$@\"; fi\n{then}\n");
    script(host, name, &text)
}

#[test]
fn a_version_that_does_not_start_gives_the_host_back() {
    let mut host = Host::with_guests(&["hello", "echo", "sse"]);
    let elsewhere = host.home().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("lock"), "").unwrap();
    // It is told of another data directory, and cannot go on there.
    let then = format!("exec REAL serve --listen 127.0.0.1:0 --data {}", elsewhere.display());
    let broken = broken(&host, "broken", &then);
    let streaming = events(&host, 40);
    under_load(&host, |_| {
        let output = host.cli(["upgrade".as_ref(), "--binary".as_ref(), broken.as_os_str()]);
        output.expect(1, &["not upgraded", "elsewhere", "serves on"]);
    });
    assert!(rest(streaming).contains("event 40 of 40"));
    assert_eq!(program(&host), binary::insula());
    let info = host.info();
    assert_eq!(info.pid, host.pid());
    assert!(info.upgrade.unwrap().error.unwrap().contains("elsewhere"));
    host.must(["ps", "--workers"]).expect(0, &["the last upgrade failed", "elsewhere"]);
    // It can still be upgraded, and stops as it should.
    let good = copy(&host, "insula-good");
    upgrade(&host, &good);
    assert!(host.stop(Signal::TERM).success(), "{}", host.log());
    assert!(!host.data().join("control.sock").exists());
}

/// Ends a host that is not the process that was started.
struct Other(u32);

impl Drop for Other {
    fn drop(&mut self) {
        for pid in children(self.0).into_iter().chain([self.0]) {
            signal(pid, Signal::KILL);
        }
    }
}

#[test]
fn a_version_that_ends_or_hangs_is_replaced_by_the_one_before() {
    for (then, why) in [("exit 7", "ended at once"), ("exec sleep 600", "hung at once")] {
        let mut host = Host::with_guests(&["hello", "echo", "sse"]);
        let broken = broken(&host, "broken", then);
        let streaming = events(&host, 100);
        let other = under_load(&host, |_| {
            let output = host.cli(["upgrade".as_ref(), "--binary".as_ref(), broken.as_os_str()]);
            let other = Other(host.info().pid);
            output.expect(1, &["not upgraded", "broken", why, "serves on"]);
            other
        });
        assert_ne!(other.0, host.pid(), "nobody else can be left");
        assert!(host.ended().code() != Some(0));
        assert!(rest(streaming).contains("event 100 of 100"));
        // It is a host as any other.
        host.deploy("after", &repo::guest("echo"), &[]);
        assert!(host.get("after", "/").expect_ok().text().starts_with("GET "));
        host.must(["upgrade"]);
        assert_eq!(host.info().pid, other.0);
        signal(other.0, Signal::TERM);
        eventually("it stops", || (!is_alive(other.0)).then_some(()));
        assert!(!host.data().join("control.sock").exists(), "{}", host.log());
    }
}

/// A preview 1 program that sleeps.
fn sleeping(ms: u64) -> Vec<u8> {
    wasm::binary(&format!(
        r#"(module
          (import "wasi_snapshot_preview1" "poll_oneoff"
            (func $poll (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (func (export "_start")
            (i32.store (i32.const 80) (i32.const 1))
            (i64.store (i32.const 88) (i64.const {}))
            (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 200)))))"#,
        ms * 1_000_000
    ))
}

fn runs(host: &Host, name: &str) -> Vec<JobRun> {
    serde_json::from_value(host.must(["runs", name, "--json"]).json()).unwrap()
}

#[test]
fn jobs_go_on_and_none_is_left_out() {
    let host = Host::start();
    for (name, ms, schedule) in [("long", 4_000, "0 0 1 1 *"), ("ticker", 1, "* * * * * *")] {
        let component = host.file(&format!("{name}.wasm"), sleeping(ms));
        let text = format!("name = '{name}'\ncomponent = {component:?}\nschedule = '{schedule}'\n");
        let manifest = host.file(&format!("{name}.toml"), text);
        host.must(["deploy".as_ref(), "-f".as_ref(), manifest.as_os_str()]);
    }
    host.must(["trigger", "long"]);
    eventually("it ticks", || (!runs(&host, "ticker").is_empty()).then_some(()));
    let binaries = [copy(&host, "insula-a"), copy(&host, "insula-b")];
    upgrade(&host, &binaries[0]);
    // It runs in an old worker, is seen, and its end is recorded.
    assert!(host.tenant("long").summary.job.unwrap().running.is_some());
    assert_eq!(host.api("POST", "/v1/tenants/long/runs", None).0, 409, "it runs once at a time");
    let run = eventually("the run ends", || {
        runs(&host, "long").into_iter().find(|run| run.result.is_some())
    });
    assert_eq!((run.run, run.result), (1, Some(JobResult::Exited { code: 0 })));
    upgrade(&host, &binaries[1]);
    let ticked = runs(&host, "ticker").len();
    eventually("it ticks on", || (runs(&host, "ticker").len() > ticked + 2).then_some(()));
    let all = runs(&host, "ticker");
    let mut seconds: Vec<u64> =
        all.iter().map(|run| run.started_at[17..19].parse().unwrap()).collect();
    seconds.reverse();
    for pair in seconds.windows(2) {
        // A loaded machine may start one late, into the next second.
        assert!((pair[1] + 60 - pair[0]) % 60 <= 2, "a run was left out: {seconds:?}");
    }
    assert!(!host.records("ticker").iter().any(|record| record.text.contains("host was down")));
    let ended = all.iter().filter(|run| run.result.is_some());
    assert!(
        ended.into_iter().all(|run| run.result == Some(JobResult::Exited { code: 0 })),
        "{all:?}"
    );
}

#[test]
fn the_code_of_canaries_is_made_ready_as_well() {
    let host = Host::start();
    host.deploy("shop", &repo::guest("hello"), &[]);
    host.deploy("shop", &repo::guest("echo"), &["--canary", "50%"]);
    let artifact = host.tenant("shop").summary.canary.unwrap().artifact.to_string();
    let digest = artifact.trim_start_matches("sha256:").to_owned();
    let code = || -> Vec<PathBuf> {
        let all = repo::files(&host.data().join("code"), "code").into_iter();
        all.filter(|file| file.to_string_lossy().contains(&digest)).collect()
    };
    // As a version with another engine would find it.
    assert_eq!(code().len(), 1);
    code().iter().for_each(|file| fs::remove_file(file).unwrap());
    let asked = serde_json::json!({"binary": copy(&host, "insula-a")});
    let (status, plan) = host.api("POST", "/v1/host/upgrade", Some(&asked));
    assert_eq!((status, plan["compiled"].as_u64()), (202, Some(1)), "{plan}");
    assert_eq!(code().len(), 1);
    eventually("it is upgraded", || host.info().upgrade);
    let echoes = |_: &u32| host.get("shop", "/").expect_ok().text().starts_with("GET ");
    let echoed = (0..20).filter(echoes).count();
    assert!((8..=12).contains(&echoed), "{echoed} of 20");
}

#[test]
fn secrets_and_their_key_are_there_afterwards() {
    use insula_tests::respond::{Canned, responder};
    let key = "8f3c1f7e5bb0a4d2c6e9017a2b4d6f80a1c3e5079b2d4f6081a3c5e7092b4d6f";
    let host = Setup::new().env("INSULA_SECRETS_KEY", key).start();
    let teller =
        host.file("teller.wasm", responder(&Canned { environment: true, ..Canned::default() }));
    let put = host.api_raw("PUT", "/v1/tenants/shop/secrets/API_KEY", Some(b"first"));
    assert_eq!(put.status(), 204, "{}", put.text());
    host.deploy("shop", &teller, &["--secret", "API_KEY"]);
    upgrade(&host, &copy(&host, "insula-a"));
    assert_eq!(host.get("shop", "/").expect_ok().text(), "API_KEY=first\n");
    host.api_raw("PUT", "/v1/tenants/shop/secrets/API_KEY", Some(b"second"));
    assert_eq!(host.get("shop", "/").expect_ok().text(), "API_KEY=second\n");
}
