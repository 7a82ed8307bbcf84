//! What tenants have used: exact to the request, over restarts and deaths, and what it costs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::{UsageReport, UsageRow};
use insula_tests::wait::eventually;
use insula_tests::{Host, repo};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

fn report(host: &Host, args: &[&str]) -> UsageReport {
    let output = host.must(["usage", "--json"].iter().chain(args));
    serde_json::from_value(output.json()).expect("a report")
}

fn row(host: &Host, tenant: &str) -> UsageRow {
    let rows = report(host, &[tenant]).rows;
    assert!(rows.len() < 2, "{rows:?}");
    rows.into_iter().next().unwrap_or_default()
}

/// Waits until so many requests are in the bill: each is counted when it has ended.
#[track_caller]
fn counted(host: &Host, tenant: &str, requests: u64) -> UsageRow {
    eventually(&format!("{requests} requests of {tenant} are counted"), || {
        let row = row(host, tenant);
        assert!(row.requests <= requests, "{} are too many", row.requests);
        (row.requests == requests).then_some(row)
    })
}

#[test]
fn every_request_is_counted_once_over_restarts_and_deaths() {
    let mut host = Host::with_guests(&["hello", "hostile-trap"]);
    for _ in 0..23 {
        host.get("hello", "/").expect_ok();
    }
    for _ in 0..4 {
        host.get("hostile-trap", "/go");
    }
    let first = counted(&host, "hello", 23);
    let length = host.get("hello", "/").expect_ok().body.len() as u64;
    let first_24 = counted(&host, "hello", 24);
    assert_eq!(first.bytes_out, 23 * length);
    assert_eq!((first_24.responses, first_24.bytes_out), (24, 24 * length));
    assert!(first.fuel > 0 && first.fuel.is_multiple_of(23), "{first:?}");
    assert!(first.cpu_us > 0, "{first:?}");
    // A worker that dies takes nothing along.
    insula_tests::process::signal(host.worker_pids()[0], Signal::KILL);
    host.eventually_serves();
    counted(&host, "hello", 24);
    // A clean end writes what nobody has asked for yet.
    for _ in 0..11 {
        host.get("hello", "/").expect_ok();
    }
    host.stop(Signal::TERM);
    host.restart();
    counted(&host, "hello", 35);
    for _ in 0..7 {
        host.get("hello", "/").expect_ok();
    }
    counted(&host, "hello", 42);
    host.kill();
    host.restart();
    let whole = counted(&host, "hello", 42);
    assert_eq!((whole.responses, whole.bytes_out), (42, 42 * length));
    assert_eq!(whole.fuel, first.fuel / 23 * 42, "the same work costs the same");
    let trapped = row(&host, "hostile-trap");
    assert_eq!((trapped.requests, trapped.guest_faults, trapped.responses), (4, 4, 0));
    // Without being asked it is written within seconds.
    for _ in 0..5 {
        host.get("hello", "/").expect_ok();
    }
    std::thread::sleep(Duration::from_secs(13));
    host.kill();
    host.restart();
    counted(&host, "hello", 47);
}

#[test]
fn a_removed_tenant_stays_on_the_bill_and_its_slot_does_not() {
    let host = Host::start();
    let hello = repo::guest("hello");
    host.deploy("gone", &hello, &[]);
    for _ in 0..6 {
        host.get("gone", "/").expect_ok();
    }
    host.must(["rm", "gone"]);
    counted(&host, "gone", 6);
    // The next one in that slot begins with nothing.
    eventually("the slot is free", || {
        host.deploy("next", &hello, &[]);
        let slot_is_new = host.counters("next").requests == 0;
        slot_is_new.then_some(())
    });
    host.get("next", "/").expect_ok();
    counted(&host, "next", 1);
    // The same name again goes on with its own.
    host.deploy("gone", &hello, &[]);
    host.get("gone", "/").expect_ok();
    counted(&host, "gone", 7);
    host.must(["rm", "gone", "next"]);
    counted(&host, "gone", 7);
}

#[test]
fn namespaces_csv_and_costs_add_up() {
    let host = Host::start();
    let hello = repo::guest("hello");
    host.must(["namespace", "set", "team"]);
    for (name, namespace, requests) in [("a", "team", 30), ("b", "team", 12), ("c", "default", 7)] {
        host.deploy(name, &hello, &["-n", namespace]);
        for _ in 0..requests {
            host.get(name, "/").expect_ok();
        }
        counted(&host, name, requests);
    }
    let spaces = report(&host, &["--by", "namespace"]).rows;
    let of = |name: &str| spaces.iter().find(|row| row.namespace == name).unwrap();
    assert_eq!((of("team").requests, of("default").requests), (42, 7));
    assert!(of("team").tenant.is_none(), "{spaces:?}");

    let prices = host.file(
        "prices.toml",
        "currency = 'EUR'\nper_million_requests = 1155.5\nper_cpu_second = 0.5\nper_gib_egress = 9.0\n",
    );
    let prices = prices.to_str().unwrap();
    let csv = host.must(["usage", "--csv", "--prices", prices]).stdout;
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let rows: Vec<Vec<&str>> = lines.collect();
    assert_eq!(rows.len(), 3, "{csv}");
    let at = |name: &str| header.iter().position(|title| *title == name).unwrap();
    for row in &rows {
        assert_eq!(row.len(), header.len(), "{csv}");
        assert_eq!(row[at("currency")], "EUR");
        for title in &header[4..header.len() - 2] {
            row[at(title)].parse::<u64>().expect(title);
        }
    }
    let requests: u64 = rows.iter().map(|row| row[at("requests")].parse::<u64>().unwrap()).sum();
    assert_eq!(requests, 49);
    // To the cent: 30 requests are 3.4665 cents, beside a little CPU.
    let cents = |cost: &str| cost.replace('.', "").parse::<u64>().unwrap();
    let a = rows.iter().find(|row| row[at("tenant")] == "a").unwrap();
    assert!((3..=5).contains(&cents(a[at("cost")])), "{csv}");
    let json = host.must(["usage", "--json", "--prices", prices]).json();
    let costs = json["rows"].as_array().unwrap().iter().map(|row| row["cost"].as_str().unwrap());
    assert_eq!(costs.map(cents).sum::<u64>(), cents(json["total"].as_str().unwrap()), "{json}");
    assert_eq!(json["currency"], "EUR");
    let page = host.must(["usage", "--prices", prices]).stdout;
    assert!(page.contains("TOTAL") && page.contains("49") && page.contains(" EUR"), "{page}");
    // What is wrong is told before anything is asked.
    let wrong = host.file("wrong.toml", "currency = 'EUR'\nper_request = 1\n");
    host.cli(["usage", "--prices", wrong.to_str().unwrap()]).expect(2, &["per_request", "hint:"]);
    host.cli(["usage", "--csv", "--json"]).expect(2, &[]);
    // Hours: everything is in this one, or in the one before.
    assert_eq!(report(&host, &["--since", "1h"]).rows.len(), 3);
    assert_eq!(report(&host, &["--until", "2h"]).rows, []);
}

#[test]
fn memory_is_counted_for_as_long_as_it_is_held() {
    let host = Host::start();
    let hello = repo::guest("hello");
    // Kept for the next request, an instance holds what it has.
    let manifest = format!(
        "name = 'keeper'\ncomponent = '{}'\nreuse = {{ requests = 10, idle = '30s' }}\n",
        hello.display()
    );
    let file = host.file("keeper.toml", manifest);
    host.must(["deploy", "-f", file.to_str().unwrap()]);
    let begun = Instant::now();
    host.get("keeper", "/").expect_ok();
    counted(&host, "keeper", 1);
    let held = host.counters("keeper").memory_bytes;
    assert!(held >= 64 << 10, "{held}");
    std::thread::sleep(Duration::from_secs(3));
    let counted_s = |row: &UsageRow| row.memory_byte_seconds as f64 / held as f64;
    let before = counted_s(&row(&host, "keeper"));
    let longest = begun.elapsed().as_secs_f64();
    assert!(before >= 2.9 && before <= longest, "{before} s of {longest}");
    // Nobody asks, nothing runs, and it is counted all the same.
    let from = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let grown = counted_s(&row(&host, "keeper")) - before;
    assert!(grown >= 1.9 && grown <= from.elapsed().as_secs_f64() + 0.5, "{grown}");
    // What is gone costs nothing more.
    host.must(["rm", "keeper"]);
    eventually("nothing more comes", || {
        let before = row(&host, "keeper");
        std::thread::sleep(Duration::from_millis(300));
        (row(&host, "keeper") == before).then_some(())
    });
}

#[test]
fn an_idle_host_writes_nothing() {
    let host = Host::with_guests(&["hello"]);
    host.get("hello", "/").expect_ok();
    counted(&host, "hello", 1);
    let changed = || {
        let of = |name: &str| std::fs::metadata(host.data().join(name)).unwrap();
        ["usage.db", "usage.db-wal"].map(|name| (of(name).len(), of(name).modified().unwrap()))
    };
    let before = changed();
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(changed(), before);
    assert_eq!(host.api("GET", "/v1/usage?by=day", None).0, 400);
    let (status, answer) = host.api("GET", "/v1/usage?since=then", None);
    assert_eq!((status, &answer["code"]), (400, &Value::from("bad-request")));
}

/// A server that counts every byte it gets, and answers `ok` to each request.
struct Scale {
    port: u16,
    bytes: Arc<AtomicU64>,
}

impl Scale {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, bytes) = (listener.local_addr().unwrap().port(), Arc::<AtomicU64>::default());
        let scale = Arc::clone(&bytes);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let scale = Arc::clone(&scale);
                std::thread::spawn(move || weigh(stream, &scale));
            }
        });
        Self { port, bytes }
    }
}

fn weigh(mut stream: TcpStream, scale: &AtomicU64) -> Option<()> {
    let (mut request, mut piece) = (Vec::new(), [0; 4_096]);
    loop {
        let read = stream.read(&mut piece).ok().filter(|read| *read > 0)?;
        scale.fetch_add(read as u64, Relaxed);
        request.extend_from_slice(&piece[..read]);
        let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
        let declared = head.split("content-length: ").nth(1);
        let declared = declared.map(|rest| rest.lines().next().unwrap().parse::<usize>().unwrap());
        let whole = match declared {
            Some(length) => request.len() >= end + 4 + length,
            None => !head.contains("chunked") || request[end + 4..].ends_with(b"0\r\n\r\n"),
        };
        if whole {
            request.clear();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").ok()?;
        }
    }
}

#[test]
fn what_calls_send_is_on_the_bill_byte_by_byte() {
    let mut host = Host::with_guests(&["hello"]);
    let scale = Scale::start();
    let origin = format!("http://127.0.0.1:{}", scale.port);
    let url = format!("{origin}/weigh");
    let manifest = format!(
        "name = 'caller'\ncomponent = {:?}\n[outbound]\nhosts = ['{origin}', 'http://hello.internal']\n\
         private = ['127.0.0.0/8']\n",
        repo::guest("relay")
    );
    let file = host.file("caller.toml", manifest);
    host.must(["deploy", "-f", file.to_str().unwrap()]);
    let call = |host: &Host, method: &str, url: &str, body: Option<&[u8]>| {
        host.connect().ask(method, "caller.localhost", &format!("/?url={url}"), &[], body)
    };
    let body = vec![b'x'; 100_000];
    for _ in 0..5 {
        assert_eq!(call(&host, "GET", &url, None).expect_ok().text(), "ok");
        assert_eq!(call(&host, "POST", &url, Some(&body)).expect_ok().text(), "ok");
    }
    let sent = scale.bytes.load(Relaxed);
    assert!(sent > 500_000 + 10 * 30, "{sent}");
    let billed = counted(&host, "caller", 10);
    assert_eq!(billed.bytes_outbound, sent);
    assert_eq!(host.counters("caller").bytes_outbound, sent);
    // A call to another tenant, one that is refused and one that nobody takes send nothing.
    assert_eq!(call(&host, "GET", "http://hello.internal/", None).expect_ok().status(), 200);
    assert_eq!(call(&host, "GET", "http://example.com/", None).status(), 502);
    assert_eq!(counted(&host, "caller", 12).bytes_outbound, sent);
    assert_eq!(row(&host, "hello").bytes_outbound, 0);
    // It is egress, as answers are.
    let prices = "currency = 'EUR'\ndecimals = 6\nper_gib_egress = 1000\n";
    let prices = host.file("prices.toml", prices);
    let priced = ["usage", "caller", "--json", "--prices", prices.to_str().unwrap()];
    let cost = |host: &Host| host.must(priced).json()["total"].as_str().unwrap().to_owned();
    let row = counted(&host, "caller", 12);
    let millionths = (u128::from(row.bytes_out + sent) * 1_000 * 1_000_000 + (1 << 29)) >> 30;
    let expected = format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000);
    assert_eq!(cost(&host), expected);
    let csv = host.must(["usage", "caller", "--csv"]).stdout;
    let last = csv.lines().map(|line| line.rsplit(',').next().unwrap()).collect::<Vec<_>>();
    assert_eq!(last, ["bytes_outbound", &sent.to_string()], "{csv}");
    let page = host.must(["usage"]).stdout;
    assert!(page.contains("OUTBOUND") && page.contains("KiB"), "{page}");
    assert!(!host.must(["usage", "hello"]).stdout.contains("OUTBOUND"));
    // A canary's are its tenant's, and nothing is lost with the host that counted it.
    host.must(["deploy", "-f", file.to_str().unwrap(), "--canary", "50%", "--env", "NEW=1"]);
    for _ in 0..20 {
        call(&host, "GET", &url, None).expect_ok();
    }
    host.must(["promote", "caller"]);
    assert_eq!(counted(&host, "caller", 32).bytes_outbound, scale.bytes.load(Relaxed));
    host.must(["upgrade"]);
    call(&host, "GET", &url, None).expect_ok();
    assert_eq!(counted(&host, "caller", 33).bytes_outbound, scale.bytes.load(Relaxed));
    assert!(host.stop(Signal::TERM).success());
    host.restart();
    assert_eq!(counted(&host, "caller", 33).bytes_outbound, scale.bytes.load(Relaxed));
}

#[test]
fn usage_is_exact_over_the_end_of_a_canary_and_an_upgrade_in_place() {
    let mut host = Host::start();
    let [hello, echo] = ["hello", "echo"].map(repo::guest);
    host.deploy("shop", &hello, &[]);
    let (over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let ask = |host: &Host, requests: u64| {
        for _ in 0..requests {
            host.get("shop", "/").expect_ok();
        }
        asked.fetch_add(requests, Relaxed);
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    ask(&host, 1);
                }
            });
        }
        let work = || {
            // Promoted, rolled back; then the same around an upgrade, whose old workers still have requests.
            for (verb, upgrades) in
                [("promote", 0), ("rollback", 0), ("promote", 1), ("rollback", 2)]
            {
                let next =
                    if host.tenant("shop").summary.revision % 2 == 1 { &echo } else { &hello };
                host.deploy(
                    "shop",
                    next,
                    &["--canary", "40%", "--env", &format!("V={verb}{upgrades}")],
                );
                ask(&host, 50);
                for _ in 0..upgrades {
                    host.must(["upgrade"]);
                    ask(&host, 10);
                }
                host.must([verb, "shop"]);
                ask(&host, 20);
            }
            host.must(["upgrade"]);
            ask(&host, 20);
        };
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Relaxed);
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let all = asked.load(Relaxed);
    assert!(all > 500, "only {all} requests");
    let whole = counted(&host, "shop", all);
    assert_eq!((whole.responses, whole.shed), (all, 0));
    // Whatever is folded, quarantined or drained later changes nothing any more.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(counted(&host, "shop", all).fuel, whole.fuel);
    assert!(host.stop(Signal::TERM).success());
    host.restart();
    assert_eq!(counted(&host, "shop", all).bytes_out, whole.bytes_out);
    let rows = report(&host, &[]).rows;
    assert_eq!(rows.len(), 1, "somebody else is billed: {rows:?}");
}
