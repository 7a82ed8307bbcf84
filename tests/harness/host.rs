//! A host of a test's own.

use crate::disk::{Disk, Kind};
use crate::process::Server;
use crate::wait::{eventually, within};
use crate::{Answer, Connection, Output, binary, cli, repo};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;
use tempfile::TempDir;

/// How long a host may take until it serves.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a host may take to end after a signal.
const STOP_MAX: Duration = Duration::from_secs(40);

/// How to start a host.
#[derive(Debug, Clone)]
pub struct Setup {
    verb: Vec<OsString>,
    listen: Option<String>,
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    config: Option<String>,
    disk: Option<(Kind, u64)>,
    program: Option<Vec<OsString>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            verb: vec!["serve".into()],
            listen: Some("127.0.0.1:0".into()),
            args: Vec::new(),
            env: Vec::new(),
            config: None,
            disk: None,
            program: None,
        }
    }
}

impl Setup {
    /// `insula serve` with two workers, whatever the machine has.
    pub fn new() -> Self {
        Self::default().args(["--workers", "2"])
    }

    /// `insula up DIR` in place of `insula serve`.
    pub fn up(mut self, dir: &Path) -> Self {
        self.verb = vec!["up".into(), dir.into()];
        self
    }

    /// `insula dev DIR` in place of `insula serve`.
    pub fn dev(mut self, dir: &Path) -> Self {
        self.verb = vec!["dev".into(), dir.into()];
        self
    }

    /// More arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// A variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// `--config` with a file that says this.
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.into());
        self
    }

    /// `--listen` with this; none leaves the flag out.
    pub fn listen(mut self, listen: Option<&str>) -> Self {
        self.listen = listen.map(str::to_owned);
        self
    }

    /// With the data directory on a disk of its own, of this size. Needs a kernel that lets users
    /// mount; see [`can_mount`].
    pub fn disk(self, bytes: u64) -> Self {
        self.disk_of(Kind::Tmpfs, bytes)
    }

    /// The same, with a disk of this kind. Starting fails where it cannot be had.
    pub fn disk_of(mut self, kind: Kind, bytes: u64) -> Self {
        self.disk = Some((kind, bytes));
        self
    }

    /// Another program in place of the binary under test: a copy of it, or one that starts it.
    pub fn program(mut self, words: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.program = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// The command that starts a host on `home/data`.
    pub fn command(&self, home: &Path) -> Command {
        self.command_on(None, home)
    }

    fn command_on(&self, disk: Option<&Disk>, home: &Path) -> Command {
        let data = home.join("data");
        let mut command = match disk {
            None => match &self.program {
                None => cli::insula(home),
                Some(words) => {
                    let mut command = Command::new(&words[0]);
                    command.args(&words[1..]);
                    cli::surroundings(&mut command, home);
                    command
                }
            },
            Some(disk) => {
                let mut command = disk.enter();
                command.arg(binary::insula());
                cli::surroundings(&mut command, home);
                command
            }
        };
        command.args(&self.verb).arg("--data").arg(data);
        if let Some(listen) = &self.listen {
            command.args(["--listen", listen]);
        }
        if let Some(text) = &self.config {
            let file = home.join("host.toml");
            fs::write(&file, text).expect("host.toml");
            command.arg("--config").arg(file);
        }
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a host in a directory of its own.
    #[track_caller]
    pub fn start(self) -> Host {
        // Built first: whoever interrupts the build leaves no directory behind.
        binary::insula();
        let dir = tempfile::Builder::new().prefix("insula-test-").tempdir().expect("directory");
        let disk = self.disk.map(|(kind, bytes)| {
            let data = dir.path().join("data");
            fs::create_dir_all(&data).expect("data");
            Disk::mount(kind, bytes, &data).expect("a disk of its own")
        });
        let server = launch(&self, disk.as_ref(), dir.path());
        let mut host = Host { server, addr: ([0, 0, 0, 0], 0).into(), disk, dir, setup: self };
        host.ready();
        host
    }
}

/// Whether hosts can have a disk of their own here: some containers forbid it.
pub fn can_mount(kind: Kind) -> bool {
    let dir = tempfile::tempdir().expect("directory");
    let data = dir.path().join("data");
    fs::create_dir(&data).expect("data");
    Disk::mount(kind, 32 << 20, &data).is_some()
}

fn launch(setup: &Setup, disk: Option<&Disk>, home: &Path) -> Server {
    let log = File::options().create(true).append(true).open(home.join("host.log"));
    Server::start(setup.command_on(disk, home).stderr(log.expect("host.log")), home)
}

/// A running host, and its client.
#[derive(Debug)]
pub struct Host {
    server: Server,
    addr: SocketAddr,
    /// Before its directory: what is mounted there cannot be removed.
    disk: Option<Disk>,
    dir: TempDir,
    setup: Setup,
}

impl Host {
    /// Starts one with two workers and no tenants.
    #[track_caller]
    pub fn start() -> Self {
        Setup::new().start()
    }

    /// Starts one and deploys these example guests, by their manifests.
    #[track_caller]
    pub fn with_guests(guests: &[&str]) -> Self {
        let host = Self::start();
        host.deploy_guests(guests);
        host
    }

    /// Waits for the first lines that a host prints when it serves.
    #[track_caller]
    fn ready(&mut self) {
        let found = within(START_MAX, "the host serves", || {
            assert!(self.server.is_running(), "the host ended at once: {}", self.log());
            let printed = self.server.printed();
            let at = printed.split("http://").nth(1)?.split_whitespace().next()?.to_owned();
            Some(at)
        });
        self.addr = found.parse().expect("address");
    }

    /// Where tenants are served.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The supervisor.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// A directory for the test's files; `data` in it is the host's.
    pub fn home(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory, as it is seen from here.
    pub fn data(&self) -> PathBuf {
        self.disk.as_ref().map_or_else(|| self.dir.path().join("data"), Disk::path)
    }

    /// The disk of its own.
    #[track_caller]
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("a host with a disk of its own")
    }

    /// What the host has logged on standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("host.log")).unwrap_or_default()
    }

    /// What the host has printed on standard output.
    pub fn printed(&self) -> String {
        self.server.printed()
    }

    /// Waits until the host's log says `words`.
    #[track_caller]
    pub fn eventually_logs(&self, words: &str) {
        let found = || self.log().contains(words).then_some(());
        eventually(&format!("the host's log says `{words}`"), found);
    }

    /// Writes a file for the test.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        path
    }

    /// Runs a client verb against this host.
    #[track_caller]
    pub fn cli(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        cli::finish(cli::insula(self.home()).env("INSULA_DATA", self.data()).args(args), b"")
    }

    /// Runs a client verb that must succeed.
    #[track_caller]
    pub fn must(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        let output = self.cli(args);
        output.expect(0, &[]);
        output
    }

    /// Deploys `file` as `name` with these flags; it must succeed.
    #[track_caller]
    pub fn deploy(&self, name: &str, file: &Path, flags: &[&str]) -> Output {
        let args = [OsStr::new("deploy"), OsStr::new(name), file.as_os_str()];
        self.must(args.into_iter().chain(flags.iter().map(OsStr::new)))
    }

    /// Deploys example guests by their manifests.
    #[track_caller]
    pub fn deploy_guests(&self, guests: &[&str]) {
        let mut args = vec![OsString::from("deploy")];
        for guest in guests {
            args.push("-f".into());
            args.push(repo::root().join("guests").join(guest).into());
        }
        self.must(args);
    }

    /// Opens a connection.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::open(self.addr)
    }

    /// GET on a connection of its own, from the tenant `name` under its default route.
    #[track_caller]
    pub fn get(&self, name: &str, target: &str) -> Answer {
        self.connect().get(&format!("{name}.localhost"), target)
    }

    /// Sends a signal to the supervisor and waits for its end.
    #[track_caller]
    pub fn stop(&mut self, signal: rustix::process::Signal) -> ExitStatus {
        crate::process::signal(self.pid(), signal);
        self.ended()
    }

    /// Waits for the supervisor's end.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let ended = self.server.wait(STOP_MAX);
        ended.unwrap_or_else(|| panic!("the host did not end within {STOP_MAX:?}: {}", self.log()))
    }

    /// SIGKILL for the supervisor.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// SIGKILL for the supervisor, its workers and its compilers, as when the machine loses power; only
    /// the kernel lives on. May be called while others still use the host.
    pub fn kill_everything(&self) {
        let children = crate::process::children(self.pid());
        for pid in [self.pid()].into_iter().chain(children) {
            crate::process::signal(pid, rustix::process::Signal::KILL);
        }
    }

    /// Has the next start listen here.
    pub fn relisten(&mut self, listen: &str) {
        self.setup.listen = Some(listen.to_owned());
    }

    /// Starts a host again that has ended, on the same data.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(!self.server.is_running(), "the host still runs");
        self.server = launch(&self.setup, self.disk.as_ref(), self.dir.path());
        self.ready();
    }

    /// Tries to start a host again that must not start; what it says, once it has given up.
    #[track_caller]
    pub fn refuses_to_start(&mut self) -> Output {
        assert!(!self.server.is_running(), "the host still runs");
        let mut command = self.setup.command_on(self.disk.as_ref(), self.dir.path());
        let output = cli::finish(&mut command, b"");
        assert!(output.code.is_some_and(|code| code != 0), "it ended well: {output:?}");
        output
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.char_indices().rev().nth(8_000).map_or(0, |(at, _)| at);
            eprintln!("--- the host's log\n{}---", &log[tail..]);
        }
    }
}
