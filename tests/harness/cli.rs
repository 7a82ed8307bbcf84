//! The command line, run to its end.

use crate::binary;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The longest that any verb may take which does not serve.
const VERB_MAX: Duration = Duration::from_secs(240);

/// What a command did.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Output {
    /// Fails unless it exited with `code`, and said each of `words` on standard error.
    #[track_caller]
    pub fn expect(&self, code: i32, words: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not said: {self:#?}");
        }
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        self.expect(0, &[]);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// `insula` in `home`.
pub fn insula(home: &Path) -> Command {
    let mut command = Command::new(binary::insula());
    surroundings(&mut command, home);
    command
}

/// An environment that holds nothing of the caller's but a home directory, and the variable that makes
/// error values expensive: neither may change what anybody sees.
pub fn surroundings(command: &mut Command, home: &Path) {
    command
        .env_clear()
        .env("HOME", home)
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .env("RUST_BACKTRACE", "1")
        .current_dir(home);
}

/// Runs `insula` with `args` in `home`.
#[track_caller]
pub fn run(home: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    finish(insula(home).args(args), b"")
}

/// Runs a command to its end with `input` on standard input. One that does not end is killed.
#[track_caller]
pub fn finish(command: &mut Command, input: &[u8]) -> Output {
    let since = Instant::now();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("insula");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // A command that does not read its input is none the worse for it.
    std::thread::spawn(move || stdin.write_all(&input));
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let status = loop {
        if let Some(status) = child.try_wait().expect("child") {
            break status;
        }
        if since.elapsed() > VERB_MAX {
            child.kill().expect("kill");
            panic!("{command:?} did not end within {VERB_MAX:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let text = |thread: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().expect("reader")).into_owned()
    };
    Output {
        code: status.code(),
        stdout: text(stdout),
        stderr: text(stderr),
        took: since.elapsed(),
    }
}

fn collect(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        all
    })
}
