//! Records that come as they are written, for as long as the user likes: over an upgrade of the host, too.
//!
//! ```text
//! ask ──▶ records ──▶ the end: the tenant is removed, or the host has stopped
//!  ▲         │ the connection breaks off: the host is upgraded, or was killed
//!  └─────────┘ again, from where it was; bounded by [`AGAIN_MAX`]
//! ```

use crate::client::Client;
use crate::failure::{Exit, Failure, exit_of, is_gone};
use crate::logs::RECORD_BYTES_MAX;
use crate::out;
use anyhow::Result;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::time::Duration;
use tokio::time::Instant;

/// How long the host may take to come back: as long as `insula upgrade` gives it.
const AGAIN_MAX: Duration = Duration::from_secs(180);
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(200);

/// How far a reader has come.
pub(crate) trait Place {
    /// What to ask for, as more of a query: at first from the begin, later from here on.
    fn query(&self) -> String;
    /// A record as it came, without its end of line; whether it is to be shown.
    fn takes(&mut self, record: &[u8]) -> bool;
    /// The connection broke off.
    fn broke_off(&mut self);
}

/// What is asked for.
pub(crate) struct Wanted<'a> {
    /// Path and query.
    pub(crate) path: &'a str,
    /// Whether the connection is to be taken up again.
    pub(crate) follow: bool,
    /// What it is, in errors.
    pub(crate) what: &'static str,
}

/// Why no more records come.
enum Stopped {
    /// The connection.
    Lost(Failure),
    /// Anything else.
    Other(anyhow::Error),
}

/// Hands over records, whole lines, as they come; returns when the host has ended them.
pub(crate) async fn records(
    client: &Client,
    wanted: Wanted<'_>,
    place: &mut impl Place,
    mut print: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut body = client.stream(&format!("{}{}", wanted.path, place.query())).await?;
    loop {
        match pour(client, body, wanted.what, place, &mut print).await {
            Ok(()) => return Ok(()),
            Err(Stopped::Lost(lost)) if wanted.follow => {
                place.broke_off();
                body = again(client, wanted.path, &*place, lost).await?;
            }
            Err(Stopped::Lost(lost)) => return Err(lost.into()),
            Err(Stopped::Other(error)) => return Err(error),
        }
    }
}

/// Hands over what one answer holds.
async fn pour(
    client: &Client,
    mut body: Incoming,
    what: &str,
    place: &mut impl Place,
    print: &mut impl FnMut(&[u8]) -> Result<()>,
) -> Result<(), Stopped> {
    let mut pending = Vec::new();
    // While following, silence is no error: only the user, or the end of the host, ends the wait.
    while let Some(frame) = body.frame().await {
        let lost =
            |error: hyper::Error| client.lost(&format!("while it sent {what}")).caused_by(error);
        let frame = frame.map_err(|error| Stopped::Lost(lost(error)))?;
        let Ok(data) = frame.into_data() else { continue };
        pending.extend_from_slice(&data);
        let Some(end) = pending.iter().rposition(|byte| *byte == b'\n') else {
            if pending.len() > RECORD_BYTES_MAX {
                let message = format!("the host sent a record of {what} without an end");
                return Err(Stopped::Other(Failure::new(Exit::Failure, message).into()));
            }
            continue;
        };
        let rest = pending.split_off(end + 1);
        show(&pending, place, print).map_err(Stopped::Other)?;
        pending = rest;
    }
    show(&pending, place, print).map_err(Stopped::Other)
}

fn show(
    records: &[u8],
    place: &mut impl Place,
    print: &mut impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut shown = Vec::with_capacity(records.len());
    for record in records.split_inclusive(|byte| *byte == b'\n') {
        if place.takes(record.strip_suffix(b"\n").unwrap_or(record)) {
            shown.extend_from_slice(record);
        }
    }
    if shown.is_empty() { Ok(()) } else { print(&shown) }
}

/// The rest of the records, from a host that has broken off: the one that goes on from it, if it is upgraded.
pub(crate) async fn again(
    client: &Client,
    path: &str,
    place: &impl Place,
    lost: Failure,
) -> Result<Incoming> {
    let path = format!("{path}{}", place.query());
    patiently(Some(lost), || client.stream(&path)).await
}

/// An answer of a host that may be away for a moment, because it is being upgraded. `lost` says that it is.
pub(crate) async fn patiently<T, F: Future<Output = Result<T>>>(
    mut lost: Option<Failure>,
    mut ask: impl FnMut() -> F,
) -> Result<T> {
    let until = Instant::now() + AGAIN_MAX;
    let mut told = false;
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            // It answers, and says no.
            Err(error) if exit_of(&error) != Exit::Unreachable => return Err(error),
            Err(error) => error,
        };
        if is_gone(&error) {
            return Err(lost.take().map_or(error, Into::into));
        }
        let what = lost.as_ref().map_or_else(|| error.to_string(), ToString::to_string);
        if Instant::now() >= until {
            let message = format!("{what}, and did not come back within {} s", AGAIN_MAX.as_secs());
            return Err(Failure::new(Exit::Unreachable, message)
                .hint("its log says why; `insula ps` shows whether it is back")
                .into());
        }
        if !std::mem::replace(&mut told, true) {
            out::note(&format!("{what}; waiting for it to come back"));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// A place in a tenant's log, by the cursors that the host sends in between.
#[derive(Debug, Default)]
pub(crate) struct LogPlace {
    /// So many of the last records at first; none for all.
    tail: Option<u32>,
    follow: bool,
    cursor: Option<String>,
    /// Records since the cursor.
    since: usize,
    /// Records to come that were shown already.
    skip: usize,
    /// The cursor to come says whether the host still has what was asked for.
    is_back: bool,
}

/// What a cursor is that stands for a log that is not there yet.
const NOWHERE: &str = "0.0.0";

impl LogPlace {
    pub(crate) fn new(tail: Option<u32>, follow: bool) -> Self {
        Self { tail, follow, ..Self::default() }
    }

    pub(crate) fn follows(&self) -> bool {
        self.follow
    }
}

impl Place for LogPlace {
    fn query(&self) -> String {
        let mut query = format!("&follow={}", self.follow);
        if self.follow {
            query.push_str("&cursors=true");
        }
        match (&self.cursor, self.tail) {
            (Some(cursor), _) => query.push_str(&format!("&after={cursor}")),
            (None, Some(tail)) => query.push_str(&format!("&tail={tail}")),
            (None, None) => {}
        }
        query
    }

    fn takes(&mut self, record: &[u8]) -> bool {
        let cursor = record.strip_prefix(b"{\"cursor\":\"").and_then(|r| r.strip_suffix(b"\"}"));
        if let Some(cursor) = cursor {
            let cursor = String::from_utf8_lossy(cursor).into_owned();
            let asked = self.cursor.as_deref().unwrap_or(NOWHERE);
            if std::mem::take(&mut self.is_back) && asked != NOWHERE && cursor != asked {
                out::note("some lines may be missing here: the log was rotated away meanwhile");
                self.skip = 0;
            }
            self.cursor = Some(cursor);
            self.since = 0;
            return false;
        }
        self.since += 1;
        let is_new = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        is_new
    }

    fn broke_off(&mut self) {
        // Those that were to be skipped and have not come yet were shown, too.
        self.skip += self.since;
        self.since = 0;
        self.is_back = true;
    }
}

/// A place in the audit log: records are numbered.
#[derive(Debug)]
pub(crate) struct AuditPlace {
    tail: Option<u32>,
    follow: bool,
    after: Option<u64>,
}

impl AuditPlace {
    pub(crate) fn new(tail: Option<u32>, follow: bool, after: Option<u64>) -> Self {
        Self { tail, follow, after }
    }

    /// The number of a record.
    pub(crate) fn number(record: &[u8]) -> Option<u64> {
        #[derive(serde::Deserialize)]
        struct Numbered {
            seq: u64,
        }
        serde_json::from_slice::<Numbered>(record).ok().map(|record| record.seq)
    }
}

impl Place for AuditPlace {
    fn query(&self) -> String {
        let mut query = format!("&follow={}", self.follow);
        match (self.after, self.tail) {
            (Some(after), _) => query.push_str(&format!("&after={after}")),
            (None, Some(tail)) => query.push_str(&format!("&tail={tail}")),
            (None, None) => {}
        }
        query
    }

    fn takes(&mut self, record: &[u8]) -> bool {
        let number = Self::number(record);
        self.after = number.or(self.after);
        true
    }

    fn broke_off(&mut self) {
        // Nothing was there that passes, or it would have been shown.
        self.tail = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(place: &mut LogPlace, records: &[&str]) -> Vec<String> {
        let mut shown = Vec::new();
        for record in records {
            if place.takes(record.as_bytes()) {
                shown.push((*record).to_owned());
            }
        }
        shown
    }

    fn cursor(at: &str) -> String {
        format!("{{\"cursor\":\"{at}\"}}")
    }

    #[test]
    fn what_was_shown_is_not_shown_again() {
        let mut place = LogPlace::new(Some(2), true);
        assert_eq!(place.query(), "&follow=true&cursors=true&tail=2");
        let c1 = cursor("1.1.1");
        assert_eq!(shown(&mut place, &[&c1, "a", "b", "c"]), ["a", "b", "c"]);
        place.broke_off();
        assert_eq!(place.query(), "&follow=true&cursors=true&after=1.1.1");
        // It breaks off again before it has come that far.
        assert!(shown(&mut place, &[&c1, "a", "b"]).is_empty());
        place.broke_off();
        assert_eq!(shown(&mut place, &[&c1, "a", "b", "c", "d"]), ["d"]);
        let c2 = cursor("1.1.9");
        assert_eq!(shown(&mut place, &[&c2, "e"]), ["e"]);
        place.broke_off();
        // The file is gone: all that is kept is new.
        assert_eq!(shown(&mut place, &[&cursor("1.7.0"), "x", "y"]), ["x", "y"]);
    }
}
