//! From an empty directory to a tenant that follows its sources: `new`, `build`, `dev`, and what `up`
//! makes of components that nobody has built.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::process::Server;
use insula_tests::wait::eventually;
use insula_tests::{Host, Output, Setup, cli, repo};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tenant whose source names the component that its build copies; `broken` fails it.
fn project(dir: &Path, name: &str, source: &Path) -> PathBuf {
    let dir = dir.join(name);
    fs::create_dir_all(&dir).unwrap();
    let command =
        "! grep -q broken source || { echo no such luck >&2; exit 7; }; cp $(cat source) it.wasm";
    let manifest = format!(
        "name = \"{name}\"\ncomponent = \"it.wasm\"\n\n[build]\ncommand = \"{command}\"\nwatch = [\"source\"]\n"
    );
    fs::write(dir.join("insula.toml"), manifest).unwrap();
    write_source(&dir, &source.to_string_lossy());
    dir
}

/// As most editors save: a new file takes the old one's name.
fn write_source(dir: &Path, text: &str) {
    fs::write(dir.join("source.new"), text).unwrap();
    fs::rename(dir.join("source.new"), dir.join("source")).unwrap();
}

fn is_hello(host: &Host, name: &str) -> Option<()> {
    let answer = host.get(name, "/");
    (answer.status() == 200 && answer.text() == "Hello from Insula!\n").then_some(())
}

#[test]
fn dev_rebuilds_on_save_keeps_what_ran_and_shows_the_log() {
    let home = tempfile::tempdir().unwrap();
    let dir = project(home.path(), "dev", &repo::guest("hello"));
    let mut host = Setup::new().dev(&dir).start();
    eventually("the first build is served", || is_hello(&host, "dev"));
    // Served a moment before it is said.
    eventually("its URL is shown", || {
        host.printed().contains("http://dev.localhost:").then_some(())
    });

    write_source(&dir, &repo::guest("hostile-flood").to_string_lossy());
    eventually("the second build is served", || {
        (host.get("dev", "/go?lines=2").text() == "flooded\n").then_some(())
    });
    eventually("its log is shown", || host.printed().contains(" stdout ").then_some(()));

    write_source(&dir, "broken");
    host.eventually_logs("the build of `dev` failed (exit status: 7)");
    assert!(host.log().contains("no such luck"), "{}", host.log());
    assert_eq!(host.get("dev", "/go?lines=1").text(), "flooded\n");

    // A build that works but whose component does not.
    write_source(&dir, &repo::root().join("README.md").to_string_lossy());
    host.eventually_logs("cannot deploy `dev`");
    assert_eq!(host.get("dev", "/go?lines=1").text(), "flooded\n");

    // The manifest is one of the sources.
    let manifest = fs::read_to_string(dir.join("insula.toml")).unwrap();
    fs::write(dir.join("insula.toml"), manifest.replace("name = ", "nmae = ")).unwrap();
    host.eventually_logs("nmae");
    write_source(&dir, &repo::guest("hello").to_string_lossy());
    fs::write(dir.join("insula.toml"), format!("routes = [\"dev.example\"]\n{manifest}")).unwrap();
    eventually("it is mended", || {
        let answer = host.connect().get("dev.example", "/");
        (answer.status() == 200 && answer.text() == "Hello from Insula!\n").then_some(())
    });
    assert!(host.stop(Signal::INT).success(), "{}", host.log());
}

#[test]
fn dev_uses_the_host_that_runs_and_leaves_it_running() {
    let host = Host::start();
    let dir = project(host.home(), "guest", &repo::guest("hello"));
    let work = tempfile::tempdir().unwrap();
    let mut command = cli::insula(work.path());
    command.arg("dev").arg(&dir).env("INSULA_DATA", host.data());
    let mut dev = Server::start(&mut command, work.path());
    eventually("it is deployed", || is_hello(&host, "guest"));
    eventually("its URL is shown", || {
        dev.printed().contains("http://guest.localhost").then_some(())
    });
    insula_tests::process::signal(dev.pid(), Signal::INT);
    eventually("dev ends", || (!dev.is_running()).then_some(()));
    is_hello(&host, "guest").expect("the host and the tenant stay");
}

#[test]
fn up_passes_by_what_is_not_built_and_build_builds_it() {
    let home = tempfile::tempdir().unwrap();
    let there = project(home.path(), "there", &repo::guest("hello"));
    let yet_to_be = project(home.path(), "later", &repo::guest("hello"));
    fs::copy(repo::guest("hello"), there.join("it.wasm")).unwrap();
    let host = Setup::new().up(home.path()).start();
    eventually("what is built is served", || is_hello(&host, "there"));
    host.eventually_logs("1 manifest not built yet");
    let log = host.log();
    assert!(log.contains(&format!("build {}", yet_to_be.display())), "{log}");
    assert!(!log.contains("error"), "{log}");
    host.get("later", "/").expect_fault("no-route");

    let build = |dir: &Path| cli::run(home.path(), ["build".as_ref(), dir.as_os_str()]);
    build(&yet_to_be).expect(0, &["built later in"]);
    host.must(["deploy".as_ref(), "-f".as_ref(), yet_to_be.as_os_str()]);
    host.get("later", "/").expect_ok();

    write_source(&yet_to_be, "broken");
    build(&yet_to_be).expect(1, &["the build of `later` failed", "no such luck", "hint:"]);
    fs::write(there.join("insula.toml"), "name = \"there\"\ncomponent = \"it.wasm\"\n").unwrap();
    build(&there).expect(2, &["no manifest here says how to build", "hint:"]);
}

fn new(home: &Path, lang: &str, name: &str) -> Output {
    cli::run(home, ["new", "--lang", lang, name])
}

/// The files of a new folder are the example's, but for the names.
#[test]
fn new_writes_a_folder_for_every_language() {
    let home = tempfile::tempdir().unwrap();
    for (lang, example) in
        [("rust", "hello"), ("c", "cgi-c"), ("js", "hello-js"), ("python", "hello-python")]
    {
        let name = format!("my-{lang}");
        let output = new(home.path(), lang, &name);
        output.expect(0, &[]);
        assert!(output.stdout.contains(" dev"), "{}", output.stdout);
        let dir = home.path().join(&name);
        let manifest = fs::read_to_string(dir.join("insula.toml")).unwrap();
        assert!(manifest.starts_with(&format!("name = \"{name}\"\ncomponent = \"{name}.wasm\"\n")));
        assert!(manifest.contains("[build]"), "{manifest}");
        let mut compared = 0;
        for file in ["src/lib.rs", "cgi.c", "hello.js", "hello.py", "requirements.txt"] {
            let theirs = repo::root().join("guests").join(example).join(file);
            if let Ok(theirs) = fs::read_to_string(&theirs) {
                assert_eq!(fs::read_to_string(dir.join(file)).unwrap(), theirs, "{file}");
                compared += 1;
            }
        }
        assert!(compared > 0, "{lang}");
    }
    // Names that a package manager would not have.
    new(home.path(), "rust", "1st").expect(0, &[]);
    let cargo = fs::read_to_string(home.path().join("1st/Cargo.toml")).unwrap();
    assert!(cargo.contains("name = \"app-1st\""), "{cargo}");

    new(home.path(), "js", "my-js").expect(2, &["my-js is there already, and not empty", "hint:"]);
    new(home.path(), "js", "My_App").expect(2, &["is not a tenant name"]);
    new(home.path(), "cobol", "app").expect(2, &["rust", "js", "python"]);
    let listed = cli::run(home.path(), ["new", "--list"]);
    assert!(listed.stdout.contains("npm") && listed.stdout.contains("rustup"), "{}", listed.stdout);
}

/// `insula build` with the caller's tools on the path.
#[track_caller]
fn build(dir: &Path, adjust: impl FnOnce(&mut Command)) {
    let mut command = Command::new(insula_tests::binary::insula());
    command.arg("build").arg(dir);
    adjust(&mut command);
    cli::finish(&mut command, b"").expect(0, &["built "]);
}

#[test]
fn a_new_rust_folder_builds_by_itself_and_answers() {
    let Some(flags) = wasip2_flags() else {
        // Debian's packages for it come and go, so not even CI can insist.
        repo::untested("a_new_rust_folder_builds_by_itself_and_answers", "guests/sysroot.sh");
        return;
    };
    let host = Host::start();
    new(host.home(), "rust", "my-app").expect(0, &[]);
    let dir = host.home().join("my-app");
    build(&dir, |command| {
        command.env_remove("CARGO_TARGET_DIR").env("CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS", flags);
    });
    host.must(["deploy".as_ref(), "-f".as_ref(), dir.as_os_str()]);
    is_hello(&host, "my-app").expect("an answer");
}

/// Compiler flags for wasm32-wasip2: none with rustup's target, guests/sysroot.sh's otherwise.
fn wasip2_flags() -> Option<String> {
    let target = "lib/rustlib/wasm32-wasip2";
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    if Path::new(String::from_utf8(output.stdout).ok()?.trim()).join(target).is_dir() {
        return Some(String::new());
    }
    let ours = std::env::var("INSULA_GUEST_TOOLS").unwrap_or("/var/tmp/insula-guest-tools".into());
    Path::new(&ours).join(target).is_dir().then(|| format!("--sysroot={ours}"))
}

/// With the tools that guests/build.sh has fetched, so that this fetches nothing.
#[test]
fn new_js_and_python_folders_build_by_themselves() {
    for (lang, tools) in [("js", "node_modules"), ("python", ".venv")] {
        let tools_dir = repo::guest_cache().join(format!("hello-{lang}")).join(tools);
        if !tools_dir.is_dir() {
            repo::skipped("new_js_and_python_folders_build_by_themselves", "guests/build.sh --all");
            continue;
        }
        let home = tempfile::tempdir().unwrap();
        new(home.path(), lang, "app").expect(0, &[]);
        let dir = home.path().join("app");
        std::os::unix::fs::symlink(&tools_dir, dir.join(tools)).unwrap();
        build(&dir, |_| {});
        assert!(fs::metadata(dir.join("app.wasm")).unwrap().len() > 1 << 20);
    }
}
