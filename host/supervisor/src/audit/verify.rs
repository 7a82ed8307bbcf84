//! Whether the log is as it was written. Blocks; reads all of it, a line at a time.

use super::chain::{GENESIS, Head, Link, files, hash_of, split};
use insula_model::api::AuditCheck;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

#[derive(Deserialize)]
struct Place {
    seq: u64,
    prev: String,
}

/// Checks the records up to number `last`, whose hash is known to be `hash`.
pub(super) fn verify(dir: &Path, last: u64, hash: &str) -> io::Result<AuditCheck> {
    let head = Head::load(dir)?;
    let before = head.dropped.clone().unwrap_or(Link { seq: 0, hash: GENESIS.into() });
    let mut check = AuditCheck {
        records: 0,
        first: before.seq + 1,
        last: before.seq,
        hash: before.hash,
        problem: None,
    };
    for (_, path) in files(dir)? {
        for line in BufReader::new(File::open(&path)?).lines() {
            if check.last >= last {
                break;
            }
            check.problem = wrong(&mut check, &line?, &head);
            if let Some(problem) = &mut check.problem {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                problem.push_str(&format!(" (in {name})"));
                return Ok(check);
            }
        }
    }
    if check.last != last || check.hash != hash {
        let found = check.last;
        let problem = format!("the newest record is number {last}, but the files end with {found}");
        check.problem = Some(problem);
    }
    Ok(check)
}

/// What is wrong with the next line, if anything is; else it is counted.
fn wrong(check: &mut AuditCheck, line: &str, head: &Head) -> Option<String> {
    let next = check.last + 1;
    let Some((body, claimed)) = split(line) else {
        return Some(format!("record {next} is not a record"));
    };
    let hash = hash_of(&body);
    let place = serde_json::from_str::<Place>(&body).ok();
    let (Some(place), true) = (place, hash == claimed) else {
        return Some(format!("record {next} was changed: it does not have the hash that it says"));
    };
    if place.seq != next {
        return Some(format!("record {next} is missing: number {} follows", place.seq));
    }
    if place.prev != check.hash {
        return Some(format!("record {next} does not follow the one before it"));
    }
    if head.ended.as_ref().is_some_and(|ended| ended.seq == next && ended.hash != hash) {
        return Some(format!("record {next} is not the one that the host ended with"));
    }
    check.records += 1;
    check.last = next;
    check.hash = hash;
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::chain::{Book, Bounds};
    use super::super::of_host;
    use super::*;

    #[test]
    fn a_chain_goes_on_over_restarts_and_rotation_and_shows_every_change() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = Book::open(dir.path(), Bounds::default()).unwrap();
        for _ in 0..3 {
            book.append(&of_host("host-start", "ok")).unwrap();
        }
        drop(book);
        let mut book = Book::open(dir.path(), Bounds::default()).unwrap();
        book.append(&of_host("host-stop", "ok")).unwrap();
        let check = |book: &Book| verify(dir.path(), book.seq(), book.hash()).unwrap();
        let whole = check(&book);
        assert_eq!((whole.records, whole.first, whole.last, &whole.problem), (4, 1, 4, &None));

        let path = files(dir.path()).unwrap()[0].1.clone();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let spoilt = |text: String, says: &str| {
            std::fs::write(&path, text).unwrap();
            let problem = check(&book).problem.unwrap();
            assert!(problem.contains(says), "{problem}");
        };
        spoilt(text.replacen("host-start", "host-other", 1), "record 1 was changed");
        spoilt([lines[0], lines[2], lines[3], ""].join("\n"), "record 2 is missing");
        spoilt([lines[1], lines[2], lines[3], ""].join("\n"), "record 1 is missing");
        spoilt([lines[0], lines[1], lines[2], ""].join("\n"), "end with 3");
        std::fs::write(&path, text).unwrap();
        assert_eq!(check(&book), whole);
    }

    #[test]
    fn the_oldest_file_goes_and_what_is_left_still_holds() {
        let dir = tempfile::tempdir().unwrap();
        let bounds = Bounds { file_bytes: 1_000, files: 3 };
        let mut book = Book::open(dir.path(), bounds).unwrap();
        for _ in 0..40 {
            book.append(&of_host("host-start", "ok")).unwrap();
        }
        let kept = files(dir.path()).unwrap();
        assert_eq!(kept.len(), 3);
        let check = verify(dir.path(), book.seq(), book.hash()).unwrap();
        assert_eq!(check.problem, None);
        assert!(check.first > 30 && check.last == 40, "{check:?}");
        // It goes on from there.
        let mut book = Book::open(dir.path(), bounds).unwrap();
        book.append(&of_host("host-start", "ok")).unwrap();
        assert_eq!(verify(dir.path(), 41, book.hash()).unwrap().problem, None);
        // What was dropped by hand is missed.
        std::fs::remove_file(&kept[0].1).unwrap();
        assert!(verify(dir.path(), book.seq(), book.hash()).unwrap().problem.is_some());
    }
}
