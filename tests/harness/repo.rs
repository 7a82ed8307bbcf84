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
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                left.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
