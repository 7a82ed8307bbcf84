//! Programs that others compiled to WASI preview 1, from `guests/real`: run once, and served as CGI with
//! their scripts and standard libraries in directories that they can only read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::{Host, Setup, cli, repo};
use std::sync::LazyLock;

/// With time to compile on a machine that runs other tests too.
static HOST: LazyLock<Host> =
    LazyLock::new(|| Setup::new().config("[compiler]\ntimeout = '5m'\ncpu = '3m'\n").start());

/// An interpreter's module, if guests/real/fetch.sh has brought it.
#[track_caller]
fn fetched(name: &str, file: &str) -> Option<String> {
    let path = repo::root().join("guests/real").join(name).join(file);
    if !path.is_file() {
        repo::skipped(name, "guests/real/fetch.sh");
        return None;
    }
    Some(path.to_string_lossy().into_owned())
}

/// Runs it once with these arguments; what it prints.
#[track_caller]
fn run(file: &str, args: &[&str]) -> String {
    let limits = ["--memory", "256Mi", "--fuel", "100G", "--timeout", "60s", "--"];
    let all = ["run", file].into_iter().chain(limits).chain(args.iter().copied());
    let output = cli::run(HOST.home(), all);
    output.expect(0, &[]);
    output.stdout
}

/// Deploys its manifest, and sees it greet and count.
#[track_caller]
fn serves(name: &str, greeting: &str) {
    HOST.deploy_guests(&[&format!("real/{name}")]);
    let mut one = HOST.connect();
    let authority = format!("{name}.localhost");
    let answer = one.get(&authority, "/?name=Ada");
    assert!(answer.expect_ok().text().starts_with(greeting), "{}", answer.text());
    assert!(answer.text().contains("Ada"), "{}", answer.text());
    assert!(answer.field("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    let body = b"to and fro".repeat(1_000);
    let counted = one.ask("POST", &authority, "/", &[], Some(&body));
    assert_eq!(counted.expect_ok().text(), "10000 bytes\n");
    assert_eq!(HOST.tenant(name).summary.kind.as_str(), "wasi-p1");
}

/// One after another: each is compiled for tens of seconds, twice.
#[test]
fn interpreters_run_and_serve() {
    if let Some(file) = fetched("php", "php-cgi.wasm") {
        assert!(run(&file, &["-v"]).starts_with("PHP 8.2.0 (cgi-fcgi)"));
        serves("php", "Hello from PHP 8.2.0, Ada!\n");
    }
    if let Some(file) = fetched("python", "python.wasm") {
        assert_eq!(run(&file, &["--version"]), "Python 3.11.3\n");
        serves("python", "Hello from Python 3.11.3, \"Ada\"\n");
    }
    if let Some(file) = fetched("ruby", "ruby.wasm") {
        assert_eq!(run(&file, &["-e", "puts 6 * 7"]), "42\n");
        serves("ruby", "Hello from Ruby 3.2.0, \"name=Ada\"\n");
    }
}
