//! What a guest can reach: nothing without a grant, and with one exactly what was granted.
//! `guests/prowler` tries every door and says which ones open.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::{Host, repo};
use std::net::TcpListener;
use std::sync::LazyLock;

static HOST: LazyLock<Host> = LazyLock::new(|| Host::with_guests(&["hello", "prowler"]));

/// Doors that `guests/prowler` tries.
const DOORS: usize = 33;

/// Deploys the prowler with these lines in its manifest, and asks for `target`; what it says.
#[track_caller]
fn prowl(name: &str, grant: &str, target: &str) -> String {
    let component = repo::guest("prowler");
    let manifest = format!("name = \"{name}\"\ncomponent = {component:?}\n{grant}\n");
    let file = HOST.file(&format!("{name}.toml"), manifest);
    HOST.must(["deploy".as_ref(), "-f".as_ref(), file.as_os_str()]);
    HOST.get(name, target).expect_ok().text()
}

/// The doors that opened.
#[track_caller]
fn open(told: &str) -> Vec<&str> {
    let tried = told.lines().filter(|line| !line.starts_with("drawn: "));
    let mut open = Vec::new();
    let mut doors = 0;
    for line in tried {
        let (door, end) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
        let is_refused = end.starts_with("refused (");
        assert!(is_refused || end.starts_with("REACHED "), "{line}");
        doors += 1;
        if !is_refused {
            open.push(door);
        }
    }
    assert_eq!(doors, DOORS, "{told}");
    open
}

fn drawn(told: &str) -> String {
    told.lines().find_map(|line| line.strip_prefix("drawn: ")).expect("drawn").to_owned()
}

#[test]
fn without_a_grant_every_door_is_shut() {
    // Doors that lead somewhere, if only they opened: a file, a listener, and this host itself.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = HOST.file("secret", "secret");
    let target = format!(
        "/?file={}&tcp={}&url={}",
        file.display(),
        listener.local_addr().unwrap(),
        HOST.addr()
    );
    for name in ["nothing", "nothing-again"] {
        let told = prowl(name, "", &target);
        assert_eq!(open(&told), [""; 0], "{told}");
    }
    let told = HOST.get("prowler", &target).expect_ok().text();
    assert_eq!(open(&told), [""; 0], "the manifest in guests/prowler grants nothing: {told}");
    assert_ne!(drawn(&told), drawn(&HOST.get("prowler", "/").expect_ok().text()));
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "somebody knocked");
}

#[test]
fn each_grant_opens_its_own_doors_and_no_other() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let tcp = format!("/?tcp={addr}");
    let sockets = format!("sockets = [\"tcp://{addr}\"]");
    let url = format!("/?url=localhost:{}", HOST.addr().port());
    let outbound = format!(
        "[outbound]\nhosts = [\"http://localhost:{}\"]\nprivate = [\"127.0.0.0/8\"]",
        HOST.addr().port()
    );
    let dir = HOST.home().join("mounted");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("file"), "inside").unwrap();
    let mount = format!("mounts = [{{ host = {dir:?}, guest = \"/data\" }}]");
    let matrix: [(&str, &str, &str, &[&str]); 16] = [
        ("mount", &mount, "/?file=/data/file", &["preopened directories", "file"]),
        ("escape", &mount, "/?file=/data/../../../etc/passwd", &["preopened directories"]),
        ("scratch", "scratch = {}", "/", &["preopened directories", "writing a file"]),
        (
            "config",
            "config = { greeting = \"hello\" }",
            "/",
            &["configuration", "configuration of one key"],
        ),
        ("config-other", "config = { other = \"1\" }", "/", &["configuration"]),
        ("keyvalue", "keyvalue = {}", "/", &["key-value store"]),
        (
            "keyvalue-named",
            "keyvalue = { stores = [\"counter\"] }",
            "/",
            &["key-value store by another name"],
        ),
        ("outbound", &outbound, &url, &["HTTP"]),
        (
            "tenant",
            "outbound = { hosts = [\"http://hello.internal\"] }",
            "/",
            &["HTTP to another tenant"],
        ),
        // Listed, but what it resolves to is this machine.
        (
            "inward",
            &format!("[outbound]\nhosts = [\"http://localhost:{}\"]", HOST.addr().port()),
            &url,
            &[],
        ),
        ("args", "args = [\"--quiet\"]", "/", &["arguments"]),
        ("env", "env = { MODE = \"test\" }", "/", &["environment"]),
        (
            "clock",
            "clock = { precision = \"exact\" }",
            "/",
            &["fine monotonic clock", "fine wall clock"],
        ),
        ("coarse", "clock = { precision = \"20ms\" }", "/", &[]),
        ("fixed", "clock = { fixed = \"2020-01-02T03:04:05Z\" }", "/", &[]),
        ("sockets", &sockets, &tcp, &["TCP connection"]),
    ];
    for (name, grant, target, doors) in matrix {
        let told = prowl(name, grant, target);
        assert_eq!(open(&told), doors, "{grant}\n{told}");
    }
    let told = prowl("fixed", "clock = { fixed = \"2020-01-02T03:04:05Z\" }", "/");
    assert_eq!(told.matches("it stands still").count(), 2, "{told}");
}

#[test]
fn a_seed_repeats_in_every_instance_and_nothing_else_does() {
    let told = prowl("seeded", "seed = 7", "/");
    assert_eq!(open(&told), [""; 0], "{told}");
    assert_eq!(drawn(&told), drawn(&HOST.get("seeded", "/").expect_ok().text()));
    let other = prowl("seeded-otherwise", "seed = 8", "/");
    assert_ne!(drawn(&told), drawn(&other));
}
