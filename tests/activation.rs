//! What a service manager passes to a host, and hears from it: sd_listen_fds(3), sd_notify(3).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::{Setup, binary, repo};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

/// What a host says to its service manager.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(dir: &Path) -> Self {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(insula_tests::wait::PATIENCE)).unwrap();
        Self { socket, path }
    }

    /// Waits until it says this.
    #[track_caller]
    fn hears(&self, words: &str) -> String {
        loop {
            let mut said = [0; 4_096];
            let length = self.socket.recv(&mut said).unwrap_or_else(|e| panic!("`{words}`: {e}"));
            let said = String::from_utf8_lossy(&said[..length]).into_owned();
            if said.contains(words) {
                return said;
            }
        }
    }
}

/// Starts `insula` as a service manager does: with these sockets, of these names, from number 3 on.
fn activated(sockets: &[(BorrowedFd<'_>, &str)]) -> Vec<OsString> {
    let mut redirections = String::new();
    for (to, (from, _)) in (3..).zip(sockets) {
        // Kept open for the shell, which moves it to where it belongs.
        fcntl_setfd(from, FdFlags::empty()).unwrap();
        redirections.push_str(&format!(" {to}<&{}", from.as_raw_fd()));
    }
    let names: Vec<&str> = sockets.iter().map(|(_, name)| *name).collect();
    let script = format!(
        "exec{redirections}; export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={}; exec \"$0\" \"$@\"",
        sockets.len(),
        names.join(":")
    );
    let words = ["bash", "-c", &script].map(OsString::from);
    words.into_iter().chain([binary::insula().as_os_str().to_owned()]).collect()
}

#[test]
fn a_service_manager_holds_the_sockets_and_hears_how_the_host_fares() {
    let home = tempfile::tempdir().unwrap();
    let manager = Manager::new(home.path());
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let control = UnixListener::bind(home.path().join("api.sock")).unwrap();
    let sockets = [(http.as_fd(), "http"), (control.as_fd(), "control")];
    let mut host = Setup::new()
        .listen(None)
        .program(activated(&sockets))
        .env("NOTIFY_SOCKET", manager.path.to_str().unwrap())
        .env("WATCHDOG_USEC", "200000")
        .start();
    assert_eq!(host.addr(), http.local_addr().unwrap());
    let ready = manager.hears("READY=1");
    assert!(ready.contains(&format!("MAINPID={}", host.pid())), "{ready}");
    manager.hears("WATCHDOG=1");
    // The control API is where the manager has it, and only there.
    assert!(!host.data().join("control.sock").exists());
    let socket = home.path().join("api.sock");
    let cli = |args: &[&str]| {
        let mut command = insula_tests::cli::insula(host.home());
        insula_tests::cli::finish(command.env("INSULA_HOST", &socket).args(args), b"")
    };
    let hello = repo::guest("hello");
    cli(&["deploy", "hello", hello.to_str().unwrap()]).expect(0, &[]);
    host.get("hello", "/").expect_ok();
    cli(&["upgrade"]).expect(0, &[]);
    let reloading = manager.hears("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.hears("READY=1");
    host.get("hello", "/").expect_ok();
    cli(&["ps"]).expect(0, &[]);
    assert!(host.stop(Signal::TERM).success());
    manager.hears("STOPPING=1");
    assert!(socket.exists(), "the file is the manager's");
    // The manager still listens: who comes now is served by the next host.
    let mut early = host.connect();
    early.send("GET / HTTP/1.1\r\nhost: hello.localhost\r\n\r\n");
    host.restart();
    early.answer().expect_ok();
}

#[test]
fn sockets_that_do_not_fit_are_refused_and_why_is_said() {
    let home = tempfile::tempdir().unwrap();
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let second = TcpListener::bind("127.0.0.1:0").unwrap();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let unix = UnixListener::bind(home.path().join("a.sock")).unwrap();
    let file = fs::File::open("/dev/null").unwrap();
    let wrong: [(&[(BorrowedFd<'_>, &str)], &str); 5] = [
        (&[(first.as_fd(), "web"), (second.as_fd(), "more")], "a second `http` socket"),
        (&[(datagrams.as_fd(), "http")], "a socket for datagrams"),
        (&[(unix.as_fd(), "http")], "(http) is a Unix socket"),
        (&[(first.as_fd(), "control")], "(control) is a TCP socket"),
        (&[(file.as_fd(), "http")], "not a socket"),
    ];
    for (sockets, why) in wrong {
        let mut command =
            Setup::new().listen(None).program(activated(sockets)).command(home.path());
        let output = insula_tests::cli::finish(&mut command, b"");
        output.expect(1, &["socket activation", why]);
    }
}
