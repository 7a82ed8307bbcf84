//! How long a tenant's first request takes after a restart of the host: its compiled code is on disk,
//! and nothing of it is mapped yet.
//!
//! ```text
//! guests/build.sh hello-js hello-python
//! cargo bench -p insula-benches --bench first_answer
//! ```
//! Two hosts take turns: one as it is, and one whose code files were copied, so that their marks do not
//! fit and every byte is hashed (`host/sandbox/src/seal.rs`). `INSULA_TEST_BINARY` names a binary to
//! measure in place of a release build.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use insula_benches::host::{Host, binary, root};
use insula_benches::spread;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const ROUNDS: usize = 11;
/// A host that has just started still has things to do; a first request an hour later is no different.
const SETTLED: Duration = Duration::from_millis(500);
const GUESTS: [&str; 3] = ["hello", "hello-js", "hello-python"];

fn main() -> Result<()> {
    let binary = match std::env::var_os("INSULA_TEST_BINARY") {
        Some(given) => PathBuf::from(given),
        None => binary()?,
    };
    let dirs = [TempDir::new()?, TempDir::new()?];
    for dir in &dirs {
        let host = Host::start_in(&binary, 1, dir.path())?;
        for guest in GUESTS {
            let component = root().join(format!("guests/{guest}/{guest}.wasm"));
            ensure!(component.is_file(), "{guest} is not built; guests/build.sh {guest}");
            host.cli(&["deploy", guest, &component.to_string_lossy()])?;
        }
    }
    copy_code(dirs[1].path())?;

    let mut figures = vec![[Vec::new(), Vec::new(), Vec::new()]; GUESTS.len()];
    for round in 0..ROUNDS {
        for turn in 0..2 {
            let which = (turn + round) % 2;
            let host = Host::start_in(&binary, 1, dirs[which].path())?;
            std::thread::sleep(SETTLED);
            for (guest, figures) in GUESTS.iter().zip(&mut figures) {
                figures[which].push(ask(&host, guest)?);
                if which == 0 {
                    figures[2].push(ask(&host, guest)?);
                }
            }
        }
    }
    println!("{:<14} {:>22} {:>22} {:>22}", "ms", "first", "first, hashed", "second");
    for (guest, [marked, hashed, second]) in GUESTS.iter().zip(&figures) {
        let [marked, hashed, second] = [marked, hashed, second].map(|ms| spread(ms, 1));
        println!("{guest:<14} {marked:>22} {hashed:>22} {second:>22}");
    }
    Ok(())
}

/// Milliseconds of one request, on a connection of its own.
fn ask(host: &Host, guest: &str) -> Result<f64> {
    let start = Instant::now();
    let status = host.get(guest)?;
    ensure!(status == 200, "{guest} answered {status}");
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Gives every code file another inode and time.
fn copy_code(data: &Path) -> Result<()> {
    for engine in fs::read_dir(data.join("code"))? {
        for file in fs::read_dir(engine?.path())? {
            let file = file?.path();
            if file.extension().is_some_and(|ending| ending == "code") {
                let copy = file.with_extension("copy");
                fs::copy(&file, &copy).context("copying code")?;
                fs::rename(&copy, &file)?;
            }
        }
    }
    Ok(())
}
