//! The command line as its users meet it: words, exit codes, JSON, and commands run once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::cli::{finish, insula, run};
use insula_tests::{Host, Output, Setup, repo};
use std::sync::LazyLock;

static HOST: LazyLock<Host> = LazyLock::new(|| Host::with_guests(&["hello", "sse"]));

/// Columns of the narrowest terminal that tables must fit.
const COLUMNS: &str = "80";

#[test]
fn exit_codes_tell_what_went_wrong() {
    HOST.cli(["ps"]).expect(0, &[]);
    HOST.cli(["inspect", "nobody"]).expect(4, &["nobody", "hint:"]);
    HOST.cli(["rm", "nobody"]).expect(4, &["nobody"]);
    HOST.cli(["logs", "nobody"]).expect(4, &["nobody"]);
    HOST.cli(["rollback", "hello", "99"]).expect(4, &["99"]);
    HOST.cli(["ps", "--no-such-flag"]).expect(2, &["--no-such-flag"]);
    HOST.cli(["deploy", "Bad_Name", "x.wasm"]).expect(2, &["Bad_Name", "lower-case"]);
    HOST.cli(["deploy", "x", "/no/such/file.wasm"]).expect(1, &["/no/such/file.wasm"]);
    let text = HOST.file("text.wasm", "hello");
    HOST.cli(["deploy".as_ref(), "x".as_ref(), text.as_os_str()]).expect(3, &["not WebAssembly"]);
}

#[test]
fn an_absent_host_is_said_to_be_absent_and_how_to_start_one() {
    let home = tempfile::tempdir().unwrap();
    let nowhere = home.path().join("nowhere");
    let output = run(home.path(), ["ps".as_ref(), "--data".as_ref(), nowhere.as_os_str()]);
    output.expect(5, &["control.sock", "insula serve"]);
    // A socket file that nobody listens on.
    std::fs::create_dir(&nowhere).unwrap();
    drop(std::os::unix::net::UnixListener::bind(nowhere.join("control.sock")).unwrap());
    let output = run(home.path(), ["ps".as_ref(), "--data".as_ref(), nowhere.as_os_str()]);
    output.expect(5, &["control.sock"]);
}

#[test]
fn every_listing_has_json() {
    let names = |json: &serde_json::Value| -> Vec<String> {
        let all = json.as_array().unwrap().iter();
        all.map(|tenant| tenant["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&HOST.must(["ps", "--json"]).json()), ["hello", "sse"]);
    let hello = HOST.must(["inspect", "hello", "--json"]).json();
    assert_eq!(hello["limits"]["memory_bytes"], 64 << 20);
    let revisions = HOST.must(["revisions", "hello", "--json"]).json();
    assert_eq!(revisions[0]["revision"], 1);
    assert_eq!(revisions[0]["active"], true);
    HOST.get("hello", "/").expect_ok();
    let schema = HOST.must(["openapi"]).json();
    for path in ["/v1/host", "/v1/tenants", "/v1/tenants/{name}", "/v1/tenants/{name}/logs"] {
        assert!(schema["paths"][path].is_object(), "{path} is not in the schema");
    }
}

#[test]
fn tables_fit_a_narrow_terminal_and_lose_nothing_in_a_pipe() {
    let wide = HOST.must(["ps"]).stdout;
    assert!(wide.contains("hello.localhost") && wide.contains("http-0.2"), "{wide}");
    // `script` gives the verb a terminal of its own.
    let mut command = std::process::Command::new("script");
    let data = HOST.data().display().to_string();
    let binary = insula(HOST.home());
    let verb = format!("stty cols {COLUMNS}; {} ps --data {data}", binary.get_program().display());
    command.args(["-qec", &verb, "/dev/null"]);
    let narrow: Output = finish(&mut command, b"");
    assert!(narrow.stdout.contains("hello"), "{narrow:?}");
    for line in narrow.stdout.lines() {
        let shown = line.trim_end_matches(['\r', '\n']).chars().count();
        assert!(shown <= 80, "{shown} columns: {line}");
    }
}

#[test]
fn flag_wins_over_variable_over_file() {
    let listen = |host: &Host| host.info().listen;
    let config = "listen = '127.0.0.3:0'\nworkers = 1\n";
    let file = Setup::new().listen(None).config(config).start();
    assert!(listen(&file).starts_with("127.0.0.3:"), "{}", listen(&file));
    let variable =
        Setup::new().listen(None).config(config).env("INSULA_LISTEN", "127.0.0.4:0").start();
    assert!(listen(&variable).starts_with("127.0.0.4:"), "{}", listen(&variable));
    let flag = Setup::new()
        .listen(Some("127.0.0.5:0"))
        .config(config)
        .env("INSULA_LISTEN", "127.0.0.4:0")
        .start();
    assert!(listen(&flag).starts_with("127.0.0.5:"), "{}", listen(&flag));
}

#[test]
fn a_wrong_configuration_file_is_pointed_at() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("host.toml");
    std::fs::write(&file, "workers = 2\nlisten_on = '127.0.0.1:0'\n").unwrap();
    let output = run(home.path(), ["serve".as_ref(), "--config".as_ref(), file.as_os_str()]);
    output.expect(2, &["line 2", "listen_on"]);
}

#[test]
fn more_instances_than_the_kernel_has_mappings_for_are_refused_with_the_mend() {
    let most: u64 =
        std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
    let fit = (most - 3_000) / 6;
    if fit >= 16_384 {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), ["serve", "--instances", &(fit + 1).to_string()]);
    output.expect(2, &["vm.max_map_count", "sysctl -w", &format!("--instances {fit}")]);
}

fn tool(args: &[&str], input: &[u8]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = insula(home.path());
    command.arg("run");
    let (flags, guest): (Vec<&str>, Vec<&str>) = args.iter().partition(|arg| {
        arg.starts_with("--memory=") || arg.starts_with("--timeout=") || arg.starts_with("--fuel=")
    });
    command.args(flags).arg(repo::guest("tool")).arg("--").args(guest);
    finish(&mut command, input)
}

#[test]
fn a_command_runs_once_with_its_arguments_and_streams() {
    let output = tool(&["a", "b c"], b"");
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(output.stdout.contains("args: a b c"), "{}", output.stdout);
    assert!(output.stdout.contains("environment: 0 variables"), "{}", output.stdout);
    let output = tool(&["--cat"], b"through the sandbox\n");
    assert!(output.stdout.contains("through the sandbox"), "{}", output.stdout);
    assert_eq!(tool(&["--exit", "1"], b"").code, Some(1));
}

#[test]
fn a_command_is_held_to_its_limits() {
    tool(&["--spin", "--timeout=500ms", "--fuel=1T"], b"").expect(125, &["deadline", "--timeout"]);
    tool(&["--spin", "--fuel=10M"], b"").expect(125, &["fuel", "--fuel"]);
    // What a denied allocation ends in is the command's own affair; this one says so and gives up.
    tool(&["--alloc", "100000000", "--memory=16Mi"], b"").expect(1, &["memory allocation failed"]);
    let served = {
        let home = tempfile::tempdir().unwrap();
        finish(insula(home.path()).arg("run").arg(repo::guest("hello")), b"")
    };
    served.expect(125, &["insula deploy"]);
}

#[test]
fn help_and_completions_are_there_for_every_verb() {
    let home = tempfile::tempdir().unwrap();
    let help = run(home.path(), ["--help"]);
    assert_eq!(help.code, Some(0));
    for verb in
        ["serve", "up", "deploy", "ps", "inspect", "rm", "revisions", "rollback", "logs", "run"]
    {
        assert!(help.stdout.contains(verb), "{verb} is not in --help");
        let own = run(home.path(), [verb, "--help"]);
        assert!(own.stdout.contains("Example"), "{verb} --help shows no example");
    }
    for shell in ["bash", "zsh", "fish"] {
        let completions = run(home.path(), ["completions", shell]);
        assert!(completions.stdout.contains("rollback"), "{shell}");
    }
}
