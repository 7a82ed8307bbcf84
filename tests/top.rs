//! `insula top`, on a terminal and for scripts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::wait::{eventually, within};
use insula_tests::{Host, Setup, binary, cli, repo};
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::unix::net::UnixListener;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// `insula top` in a pseudo-terminal, and what is on its screen.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    /// `script` gives a program a terminal; its size is set before the program starts.
    fn open(host: &Host, args: &str, (columns, lines): (u16, u16)) -> Self {
        let run = format!(
            "tty > '{home}/tty'; stty cols {columns} rows {lines}; exec '{insula}' top {args}",
            home = host.home().display(),
            insula = binary::insula().display(),
        );
        let mut command = Command::new("script");
        cli::surroundings(&mut command, host.home());
        let mut child = command
            .args(["-qefc", &run, "/dev/null"])
            .env("INSULA_DATA", host.data())
            .env("TERM", "xterm-256color")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script, of util-linux");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(cells(lines), cells(columns), 0)));
        let mut output = child.stdout.take().unwrap();
        let to = screen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut bytes) {
                to.lock().unwrap().process(&bytes[..n]);
            }
        });
        let keys = child.stdin.take().unwrap();
        Self { child, keys, screen }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until the screen is as it should be.
    #[track_caller]
    fn shows<T>(&self, what: &str, look: impl Fn(&str) -> Option<T>) -> T {
        let found = within(Duration::from_secs(30), what, || look(&self.text()));
        if let Some(dir) = std::env::var_os("INSULA_TEST_SCREENS") {
            let name = what.replace(' ', "-");
            std::fs::write(std::path::Path::new(&dir).join(name), self.text()).unwrap();
        }
        found
    }

    fn resize(&mut self, host: &Host, columns: u16, lines: u16) {
        self.screen.lock().unwrap().screen_mut().set_size(cells(lines), cells(columns));
        let tty = std::fs::read_to_string(host.home().join("tty")).unwrap();
        let size = ["cols", &columns.to_string(), "rows", &lines.to_string()].map(str::to_owned);
        let set = Command::new("stty").args(["-F", tty.trim()]).args(size).status();
        assert!(set.unwrap().success());
    }

    /// The exit code.
    fn ended(&mut self) -> Option<i32> {
        within(Duration::from_secs(10), "it ends", || {
            self.child.try_wait().unwrap().map(|status| status.code())
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cells(n: u16) -> NonZeroU16 {
    NonZeroU16::new(n).unwrap()
}

/// The names of tenants on the screen, from top to bottom.
fn names(screen: &str) -> Vec<String> {
    let rows = screen.lines().skip_while(|line| !line.starts_with("NAME")).skip(1);
    let names = rows.filter_map(|line| line.split_whitespace().next());
    names.take_while(|name| !name.starts_with(['↑', '/'])).map(str::to_owned).collect()
}

/// Requests to a tenant, one after another, until dropped.
struct Load(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Load {
    fn start(host: &Host, tenant: &str, target: &str, pause: Duration) -> Self {
        let (over, addr) = (Arc::new(AtomicBool::new(false)), host.addr());
        let (end, tenant, target) =
            (over.clone(), format!("{tenant}.localhost"), target.to_owned());
        let thread = std::thread::spawn(move || {
            let mut connection = insula_tests::Connection::open(addr);
            while !end.load(Ordering::Relaxed) {
                connection.get(&tenant, &target);
                std::thread::sleep(pause);
            }
        });
        Self(over, Some(thread))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_live_view_sorts_filters_shows_one_and_ends() {
    let host = Host::with_guests(&["hello", "hostile-trap", "residue"]);
    let _fast = Load::start(&host, "hello", "/", Duration::from_millis(2));
    let _bad = Load::start(&host, "hostile-trap", "/go", Duration::from_millis(20));
    host.get("residue", "/").expect_ok();
    let mut top = Terminal::open(&host, "--interval 300ms", (80, 24));
    let row = top.shows("rates", |screen| {
        let row = screen.lines().find(|line| line.starts_with("hello "))?.to_owned();
        let rate: f64 = row.split_whitespace().nth(1)?.parse().ok()?;
        (rate > 5.0).then_some(row)
    });
    // NAME, REQ/S, P50, P99, CPU%, MEM, FUEL/S, ERR/S, SHED/S, STATE
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!((cells.len(), cells[7], cells[9]), (10, "0", "active"), "{row}");
    let (p50, p99): (f64, f64) = (cells[2].parse().unwrap(), cells[3].parse().unwrap());
    assert!(p50 > 0.0 && p50 <= p99, "{row}");
    let screen = top.text();
    for line in screen.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for part in ["workers 2/2", "tenants 3", "connections", "memory", "req/s", "CPU%", "q quit"] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let errors = top.shows("errors", |screen| {
        let row = screen.lines().find(|line| line.starts_with("hostile-trap "))?;
        row.split_whitespace().nth(7)?.parse::<f64>().ok().filter(|errors| *errors > 0.0)
    });
    assert!(errors < 100.0);
    // By name, and the other way round.
    top.press("n");
    let by_name = ["hello", "hostile-trap", "residue"].map(str::to_owned);
    top.shows("by name", |screen| (names(screen) == by_name).then_some(()));
    top.press("n");
    let reversed: Vec<String> = by_name.iter().rev().cloned().collect();
    top.shows("reversed", |screen| (names(screen) == reversed).then_some(()));
    // Most errors first.
    top.press("e");
    top.shows("by errors", |screen| (names(screen)[0] == "hostile-trap").then_some(()));
    // Filtered, then closer; the trap's last words are in its log.
    top.press("/trap\r");
    top.shows("filtered", |screen| (names(screen) == ["hostile-trap"]).then_some(()));
    top.press("\r");
    let screen = top.shows("one tenant", |screen| {
        let all = ["concurrency", "revisions", "memory", "trap: "];
        let all = all.iter().filter(|part| **part != "concurrency");
        all.into_iter().all(|part| screen.contains(part)).then(|| screen.to_owned())
    });
    assert!(screen.contains("1, deployed") && screen.contains("of 1.0G"), "{screen}");
    assert!(screen.contains("hostile-trap.localhost"), "{screen}");
    // Back, all of them, on a larger terminal.
    top.press("\x1b");
    top.shows("back", |screen| (names(screen) == ["hostile-trap"]).then_some(()));
    top.press("\x1b");
    top.shows("all again", |screen| (names(screen).len() == 3).then_some(()));
    top.resize(&host, 120, 40);
    top.shows("resized", |screen| {
        let lines: Vec<&str> = screen.lines().collect();
        let header = lines.iter().find(|line| line.starts_with("NAME"))?;
        (header.trim_end().chars().count() > 110 && lines.len() == 40).then_some(())
    });
    top.press("q");
    assert_eq!(top.ended(), Some(0));
}

#[test]
fn a_host_that_goes_away_is_said_to_be_gone() {
    let mut host = Host::with_guests(&["hello"]);
    host.get("hello", "/").expect_ok();
    let mut top = Terminal::open(&host, "--interval 200ms", (160, 10));
    top.shows("it runs", |screen| screen.contains("hello").then_some(()));
    host.stop(rustix::process::Signal::TERM);
    top.shows("gone", |screen| screen.contains("control.sock").then_some(()));
    host.restart();
    top.shows("no tenant had a request", |screen| {
        (screen.contains("no tenant has had a request yet") && !screen.contains("control.sock"))
            .then_some(())
    });
    top.press("\x03");
    assert_eq!(top.ended(), Some(0));
}

#[test]
fn scripts_get_tables_or_json() {
    let host = Setup::new().start();
    let output = host.must(["top", "--no-stream", "--interval", "100ms"]);
    assert!(output.stderr.contains("no tenant has had a request"), "{output:?}");
    host.must(["namespace", "set", "team"]);
    for (name, namespace) in [("one", "default"), ("two", "team"), ("three", "team")] {
        host.deploy(name, &repo::guest("hello"), &["--namespace", namespace]);
        host.get(name, "/").expect_ok();
    }
    let _load = Load::start(&host, "two", "/", Duration::from_millis(5));
    eventually("two is first", || {
        let table = host.must(["top", "--no-stream", "--interval", "300ms"]).stdout;
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{table}");
        for title in ["NAME", "NAMESPACE", "REQ/S", "P50", "P99", "CPU%", "MEM", "STATE"] {
            assert!(lines[0].contains(title), "{table}");
        }
        (lines[1].starts_with("two ") && lines[1].contains("active")).then_some(())
    });
    let args = ["top", "--json", "--count", "2", "-n", "team", "--sort", "name", "--limit", "1"];
    let output = host.must(args.into_iter().chain(["--interval", "300ms"]));
    let lines: Vec<serde_json::Value> =
        output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for line in lines {
        let tenants = line["tenants"].as_array().unwrap();
        assert_eq!((tenants.len(), &tenants[0]["name"]), (1, &"three".into()));
        assert_eq!(tenants[0]["state"], "idle");
        assert_eq!(tenants[0]["requests_per_s"], 0.0);
        let interval_s = line["interval_s"].as_f64().unwrap();
        assert!((0.2..5.0).contains(&interval_s), "{interval_s}");
    }
    host.cli(["top", "--interval", "1ms"]).expect(2, &["100ms"]);
    host.cli(["top", "--sort", "size"]).expect(2, &["memory"]);
}

/// A host that says it has so many tenants, each of which did more since it was last asked.
fn crowd(host: &Host, tenants: usize) -> std::path::PathBuf {
    host.get("hello", "/").expect_ok();
    let (_, template) = eventually("it is active", || {
        let (status, activity) = host.api("GET", "/v1/activity", None);
        (activity["tenants"][0]["latency"]["sum_us"].as_u64()? > 0).then_some((status, activity))
    });
    let path = host.home().join("crowd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for (asked, stream) in (1u64..).zip(listener.incoming()) {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let mut activity = template.clone();
            activity["at_us"] = (template["at_us"].as_u64().unwrap() + asked * 1_000_000).into();
            let one = &template["tenants"][0];
            activity["tenants"] = (0..tenants)
                .map(|n| {
                    let mut tenant = one.clone();
                    tenant["name"] = format!("tenant-{n:05}").into();
                    tenant["counters"]["requests"] = (asked * n as u64).into();
                    tenant
                })
                .collect();
            let body = activity.to_string();
            let length = body.len();
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            // A client that has ended reads no more.
            let _ =
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        }
    });
    path
}

#[test]
fn ten_thousand_tenants_are_sorted_and_scrolled_at_once() {
    let host = Host::with_guests(&["hello"]);
    let socket = crowd(&host, 10_000);
    let socket = socket.to_str().unwrap();
    let args = ["top", "--no-stream", "--interval", "100ms", "--limit", "3", "--host", socket];
    let table = host.must(args).stdout;
    let rows: Vec<&str> =
        table.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(rows, ["tenant-09999", "tenant-09998", "tenant-09997"]);
    let mut top = Terminal::open(&host, &format!("--host '{socket}' --interval 60s"), (80, 24));
    top.shows("many by rate", |screen| (names(screen).first()? == "tenant-09999").then_some(()));
    let since = Instant::now();
    top.press("n");
    top.shows("many by name", |screen| (names(screen)[0] == "tenant-00000").then_some(()));
    // 100 single steps, then to the end, and a filter that leaves one.
    top.press(&"j".repeat(100));
    top.shows("many scrolled", |screen| {
        names(screen).iter().any(|name| name == "tenant-00100").then_some(())
    });
    top.press("\x1b[F");
    top.shows("many at the end", |screen| (names(screen).last()? == "tenant-09999").then_some(()));
    top.press("/04321\r");
    top.shows("one of many", |screen| (names(screen) == ["tenant-04321"]).then_some(()));
    // Some 50 ms where nothing else runs; a frame that formatted all rows would make it minutes.
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    top.press("q");
    assert_eq!(top.ended(), Some(0));
}
