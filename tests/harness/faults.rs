//! What README.md promises about the ends that a request can have.

use crate::{Answer, repo};
use std::collections::BTreeMap;

/// The table "How a request can end": word of `insula-fault` → status.
#[track_caller]
pub fn documented() -> BTreeMap<String, u16> {
    let readme = repo::text("README.md");
    let (_, section) = readme.split_once("## How a request can end").expect("README's section");
    let rows = section.lines().skip_while(|line| !line.starts_with("| ---"));
    rows.skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let status = cells[2].split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            let word = cells[3].trim_matches('`').to_owned();
            (word, status.parse().unwrap_or_else(|_| panic!("README's row {row:?}")))
        })
        .collect()
}

impl Answer {
    /// Fails unless this is the documented end `word`, whole, with nothing internal in it.
    #[track_caller]
    pub fn expect_fault(&self, word: &str) -> &Self {
        assert_eq!(self.fault(), Some(word), "{} {}", self.status(), self.text());
        assert_eq!(Some(&self.status()), documented().get(word), "{word}");
        assert!(self.whole, "{word}: the answer itself broke off");
        if self.status() == 503 {
            assert!(self.field("retry-after").is_some(), "{word}: no Retry-After");
        }
        let text = self.text();
        for internal in ["wasm", "trap", "0x", "panicked", ".rs:"] {
            assert!(!text.contains(internal), "{word} tells a client about {internal:?}: {text}");
        }
        self
    }

    /// Fails unless this is a guest's own whole answer with status 200.
    #[track_caller]
    pub fn expect_ok(&self) -> &Self {
        assert_eq!((self.status(), self.fault()), (200, None), "{}", self.text());
        assert!(self.whole, "the answer broke off after {} bytes", self.body.len());
        self
    }

    /// The id that names this request in logs.
    #[track_caller]
    pub fn request_id(&self) -> &str {
        self.field("x-request-id").expect("x-request-id")
    }
}
