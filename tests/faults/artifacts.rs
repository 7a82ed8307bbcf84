//! Artifacts, keys and compiled code that are damaged.

use super::{doctor, set_secret};
use insula_tests::wait::eventually;
use insula_tests::{Connection, Host, Setup, repo};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;

fn artifact(host: &Host, name: &str) -> PathBuf {
    let hex = host.tenant(name).summary.artifact.hex();
    host.data().join("artifacts").join(format!("{hex}.wasm"))
}

fn code(host: &Host, name: &str) -> Vec<PathBuf> {
    let hex = host.tenant(name).summary.artifact.hex();
    let of = |ending| repo::files(&host.data().join("code"), ending);
    let all = of("code").into_iter().chain(of("seal"));
    all.filter(|path| path.to_string_lossy().contains(&hex)).collect()
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_artifact_is_never_compiled_and_a_deploy_heals_it() {
    let mut host = Host::with_guests(&["hello", "echo"]);
    let (file, code) = (artifact(&host, "hello"), code(&host, "hello"));
    let sound = fs::read(&file).unwrap();
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 4] = [
        ("a bit", flip),
        ("its end", |path| fs::write(path, &fs::read(path).unwrap()[..1_000]).unwrap()),
        ("all bytes", |path| fs::write(path, b"").unwrap()),
        ("the file", |path| fs::remove_file(path).unwrap()),
    ];
    for (what, damage) in damages {
        damage(&file);
        // What is compiled already is not concerned.
        host.get("hello", "/").expect_ok();
        assert!(host.stop(Signal::TERM).success());
        host.restart();
        host.get("hello", "/").expect_ok();
        assert!(host.stop(Signal::TERM).success());
        code.iter().for_each(|file| fs::remove_file(file).unwrap());
        host.restart();
        host.get("hello", "/").expect_fault("code-unavailable");
        host.get("echo", "/").expect_ok();
        let args = ["doctor", "--deep", "--listen", "127.0.0.1:0", "--data"];
        let data = host.data();
        let said = host.cli(args.iter().copied().chain([data.to_str().unwrap()]));
        assert_eq!(said.code, Some(1), "{what}");
        assert!(said.stdout.contains("hello (") && said.stdout.contains("deploy"), "{said:?}");
        host.deploy_guests(&["hello"]);
        host.get("hello", "/").expect_ok();
        assert_eq!(fs::read(&file).unwrap(), sound, "{what}");
        assert_eq!(doctor(&host, "artifacts").0, "ok", "{what}");
    }
}

#[test]
fn code_that_is_damaged_under_many_workers_is_made_again_once_and_all_are_answered() {
    const CLIENTS: usize = 24;
    let mut host = Setup::default().args(["--workers", "4"]).start();
    host.deploy_guests(&["hello", "echo"]);
    let (hello, echo) = (code(&host, "hello"), code(&host, "echo"));
    let swapped = |_: &()| {
        for (one, other) in hello.iter().zip(&echo) {
            let bytes = fs::read(one).unwrap();
            fs::copy(other, one).unwrap();
            fs::write(other, bytes).unwrap();
        }
    };
    type Damage<'a> = (&'a str, Box<dyn Fn(&()) + 'a>);
    let damages: [Damage<'_>; 3] = [
        ("a bit of each", Box::new(|_| hello.iter().chain(&echo).for_each(|file| flip(file)))),
        ("cut short", Box::new(|_| hello.iter().for_each(|file| fs::write(file, b"x").unwrap()))),
        ("swapped", Box::new(swapped)),
    ];
    for (what, damage) in damages {
        assert!(host.stop(Signal::TERM).success());
        damage(&());
        let told = host.log().matches("compiled").count();
        host.restart();
        let start = Barrier::new(CLIENTS);
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (host, start) = (&host, &start);
                scope.spawn(move || {
                    let mut connection = host.connect();
                    start.wait();
                    let (name, other) =
                        if client % 2 == 0 { ("hello", "GET ") } else { ("echo", "Hello") };
                    let answer = connection.get(&format!("{name}.localhost"), "/");
                    assert!(
                        !answer.expect_ok().text().starts_with(other),
                        "{what}: another's code"
                    );
                });
            }
        });
        let compiled = host.log().matches("compiled").count() - told;
        assert!(compiled > 0, "{what}: nothing was made again");
    }
}

#[test]
fn files_without_a_byte_are_told_from_those_that_were_never_there() {
    let mut host = Host::with_guests(&["hello"]);
    set_secret(&host, "hello", "TOKEN", "x").expect(0, &[]);
    host.eventually_serves();
    assert!(host.stop(Signal::TERM).success());
    let emptied = |host: &Host, name: &str| {
        let path = host.data().join(name);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, b"").unwrap();
        (path, bytes)
    };
    let (path, bytes) = emptied(&host, "secrets.key");
    host.refuses_to_start().expect(1, &["secrets.key", "64 hexadecimal digits"]);
    fs::write(path, bytes).unwrap();
    let (path, _) = emptied(&host, "host.key");
    host.refuses_to_start().expect(1, &["host.key", "remove it"]);
    // As the message says: then everything is compiled again.
    fs::remove_file(path).unwrap();
    host.restart();
    host.get("hello", "/").expect_ok();
    assert!(host.stop(Signal::TERM).success());
    emptied(&host, "lock");
    fs::write(host.data().join("control.sock"), b"").unwrap();
    for file in fs::read_dir(host.data().join("logs")).into_iter().flatten().flatten() {
        fs::write(file.path(), b"").unwrap();
    }
    host.restart();
    host.get("hello", "/").expect_ok();
    host.must(["logs", "hello"]);
    assert_eq!(host.must(["ps", "-q"]).stdout, "hello\n");
    let names = Connection::open(host.addr()).get("hello.localhost", "/");
    names.expect_ok();
    eventually("ready", || (host.api("GET", "/readyz", None).0 == 200).then_some(()));
}
