//! Waiting until the files that a build is made of have changed.
//!
//! What counts is their contents: [`Watch::changed`] compares a digest over all of them, and the
//! kernel's notifications only say when to look. So a build that writes into a watched directory does
//! not start itself again and again, and a change during a build is not lost.
//! Bounded by: [`FILES_MAX`] files, and a look at most every [`SETTLE`].

use crate::manifests::Loaded;
use anyhow::{Context, Result};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;

/// Files and directories that are watched at most.
const FILES_MAX: usize = 10_000;
/// Of a larger file, size and time stand for its contents.
const READ_BYTES_MAX: u64 = 4 << 20;
/// An editor may write a file in several steps: this long without any, and it is done.
const SETTLE: Duration = Duration::from_millis(100);
/// Made by builds and package managers; never sources.
const NEVER_WATCHED: [&str; 4] = ["target", "node_modules", "__pycache__", "Cargo.lock"];

/// The sources of one tenant, as they were when this was made.
pub(crate) struct Watch {
    roots: Vec<PathBuf>,
    component: PathBuf,
    then: [u8; 32],
    signal: watch::Receiver<()>,
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Looks at the sources now, and watches them from now on. The manifest is one of them. Without a
    /// `[build]`, so is the component.
    pub(crate) fn new(of: &Loaded) -> Result<Self> {
        let (roots, component) = roots(of);
        let (events, signal) = watch::channel(());
        let mut watcher = notify::recommended_watcher(move |_| {
            // Whatever it was: those who wait look for themselves.
            let _ = events.send(());
        })
        .context("files cannot be watched")?;
        let mut dirs = BTreeSet::new();
        let files = sources(&roots, &component, &mut dirs);
        for dir in dirs {
            watcher
                .watch(&dir, RecursiveMode::NonRecursive)
                .with_context(|| format!("{} cannot be watched", dir.display()))?;
        }
        let then = digest(&files);
        Ok(Self { roots, component, then, signal, _watcher: watcher })
    }

    /// Whether these are the same sources, by name.
    pub(crate) fn is_for(&self, of: &Loaded) -> bool {
        roots(of) == (self.roots.clone(), self.component.clone())
    }

    /// Whether the sources are no longer what they were.
    fn is_changed(&self) -> bool {
        digest(&sources(&self.roots, &self.component, &mut BTreeSet::new())) != self.then
    }

    /// Waits until the sources are no longer what they were, and whoever changes them has done so.
    pub(crate) async fn changed(&mut self) {
        loop {
            self.signal.borrow_and_update();
            if self.is_changed() {
                while tokio::time::timeout(SETTLE, self.signal.changed()).await.is_ok() {}
                return;
            }
            if self.signal.changed().await.is_err() {
                // The watcher has died; looking still works.
                tokio::time::sleep(SETTLE).await;
            }
            tokio::time::sleep(SETTLE).await;
        }
    }
}

/// The files and directories to watch, and the file among them that the build writes.
fn roots(of: &Loaded) -> (Vec<PathBuf>, PathBuf) {
    let dir = match of.path.parent() {
        Some(dir) if dir != Path::new("") => dir.to_owned(),
        _ => PathBuf::from("."),
    };
    let roots = match &of.manifest.build {
        None => vec![of.path.clone(), of.component.clone()],
        Some(build) => match &build.watch {
            None => vec![dir.clone()],
            Some(names) => {
                let named = names.iter().map(|name| dir.join(name));
                named.chain([of.path.clone()]).collect()
            }
        },
    };
    let component = match &of.manifest.build {
        Some(_) => of.component.clone(),
        None => PathBuf::new(),
    };
    (roots, component)
}

/// The files below `roots`, sorted, and the directories to watch for them: a file's own directory,
/// since many editors replace a file and a watch would stay with the old one.
fn sources(roots: &[PathBuf], component: &Path, dirs: &mut BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let mut left = Vec::new();
    for root in roots {
        if root.is_dir() {
            left.push(root.clone());
            continue;
        }
        let dir = root.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
        if dir.is_dir() {
            dirs.insert(dir.to_owned());
        }
        files.insert(root.clone());
    }
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let path = entry.path();
            if name.starts_with('.') || NEVER_WATCHED.contains(&&*name) || path == component {
                continue;
            }
            // Links to directories are not followed: they could lead in circles.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(path),
                Ok(_) if files.len() < FILES_MAX => _ = files.insert(path),
                _ => {}
            }
        }
        if dirs.len() < FILES_MAX {
            dirs.insert(dir);
        }
    }
    files
}

fn digest(files: &BTreeSet<PathBuf>) -> [u8; 32] {
    let mut all = Sha256::new();
    for path in files {
        all.update(path.as_os_str().as_encoded_bytes());
        all.update([0]);
        let Ok(meta) = fs::metadata(path) else { continue };
        all.update(meta.len().to_le_bytes());
        let contents = if meta.len() <= READ_BYTES_MAX { fs::read(path).ok() } else { None };
        match contents {
            Some(contents) => all.update(Sha256::digest(contents)),
            None => all.update(format!("{:?}", meta.modified().ok())),
        }
    }
    all.finalize().into()
}
