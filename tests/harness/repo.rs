//! The repository that is tested.

use std::path::{Path, PathBuf};

/// Its root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// A text file of it, by its path from the root.
#[track_caller]
pub fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The built component of an example guest.
pub fn guest(name: &str) -> PathBuf {
    root().join(format!("guests/{name}/{name}.wasm"))
}

/// Guests that are not committed, for their size: `guests/build.sh --all` builds them.
pub const LARGE_GUESTS: [&str; 2] = ["hello-js", "hello-python"];

/// Whether a guest's component is there. One of the large ones may be missing on a newcomer's machine;
/// whoever sets `INSULA_TEST_ALL_GUESTS`, as `.ci/run` does, has built them, and gets a failure.
#[track_caller]
pub fn is_built(name: &str) -> bool {
    let is_built = guest(name).is_file();
    if !is_built {
        skipped(name, "guests/build.sh --all");
    }
    is_built
}

/// Says that a test does not run here, and how it would; fails where all of them have to.
#[track_caller]
pub fn skipped(test: &str, mend: &str) {
    assert!(
        std::env::var_os("INSULA_TEST_ALL_GUESTS").is_none(),
        "{test}: what it needs is not there; run {mend}"
    );
    untested(test, mend);
}

/// Says that a test does not run here, and how it would, wherever that is.
pub fn untested(test: &str, mend: &str) {
    // Past the test runner, which keeps what a passing test prints to itself.
    let told = format!("\nNOT TESTED: {test}; run {mend} first\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), told.as_bytes());
}

/// libfaketime, which gives a process a wall clock of its own: where distributions put it, or where
/// `INSULA_LIBFAKETIME` says. Says that `test` does not run if it is not there.
pub fn faketime(test: &str) -> Option<PathBuf> {
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
    let named = std::env::var_os("INSULA_LIBFAKETIME").map(PathBuf::from);
    let usual = places.map(|place| Path::new(place).join("faketime/libfaketime.so.1"));
    let found = named.into_iter().chain(usual).find(|path| path.is_file());
    if found.is_none() {
        untested(test, "apt-get install faketime");
    }
    found
}

/// Where `guests/build.sh` keeps the tools of the large guests.
pub fn guest_cache() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    set("INSULA_GUEST_CACHE").unwrap_or_else(|| {
        let cache = set("XDG_CACHE_HOME");
        let home = || set("HOME").unwrap_or_default().join(".cache");
        cache.unwrap_or_else(home).join("insula/guests")
    })
}

/// The directories of `guests/` that hold a built component, sorted.
pub fn guest_names() -> Vec<String> {
    let entries = std::fs::read_dir(root().join("guests")).expect("guests/");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("guests/").file_name().into_string().expect("UTF-8"))
        .filter(|name| {
            let dir = root().join("guests").join(name);
            dir.is_dir() && files(&dir, "wasm").iter().any(|file| file.parent() == Some(&dir))
        })
        .collect();
    names.sort();
    names
}

/// Every file below `dir` whose name ends in `.extension`, leaving out `target/` and hidden
/// directories.
pub fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("directory entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && name != "target" && name != "node_modules" && !name.starts_with('.')
            {
                left.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
