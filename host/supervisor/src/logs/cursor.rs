//! Places in a log that a reader can come back to, with another supervisor too: files keep their identity when
//! they are rotated and when the host is upgraded.
//!
//! A reader that asks for cursors is told one before its first line, after every [`MARK_BYTES`] or so of what is
//! there already, and whenever it has all that there is; each is a line of its own, `{"cursor":"…"}`. One whose
//! file is gone stands for everything that is kept.

use super::tail::{inode, open_both};
use super::{Filter, Kind};
use insula_model::TenantName;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

/// Bytes between two cursors among lines that are there already.
const MARK_BYTES: usize = 64 << 10;
/// Bytes of a file's begin by which it is known again: a line's time and request, at least.
const HEAD_BYTES: usize = 128;

/// The begin of a line in one of a log's files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Cursor {
    inode: u64,
    /// Of the file's first bytes, as far as they lie before the offset: a file that is gone leaves its number
    /// to the next one, often at once.
    head: u64,
    offset: u64,
}

/// Not a cursor.
#[derive(Debug, thiserror::Error)]
#[error("not a cursor; write one that this host has sent")]
pub(crate) struct NotACursor;

impl Cursor {
    /// Where `file` is, less what was read ahead.
    pub(super) fn of(file: &mut File, ahead: usize) -> io::Result<Self> {
        let offset = file.stream_position()?.saturating_sub(ahead as u64);
        Ok(Self { inode: inode(file)?.1, head: print_of(&head(file)?, offset), offset })
    }

    /// As its reader gets it.
    pub(super) fn line(self) -> Vec<u8> {
        format!("{{\"cursor\":\"{self}\"}}\n").into_bytes()
    }

    /// Whether it is a place in this file.
    fn is_in(self, file: &File) -> io::Result<bool> {
        Ok(self.inode == inode(file)?.1
            && self.offset <= file.metadata()?.len()
            && self.head == print_of(&head(file)?, self.offset))
    }
}

/// The first bytes of a file. Files only grow, so they stay.
fn head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = vec![0; HEAD_BYTES];
    let read = file.read_at(&mut head, 0)?;
    head.truncate(read);
    Ok(head)
}

/// What stands for as much of a file's head as lies before an offset.
fn print_of(head: &[u8], offset: u64) -> u64 {
    let before = usize::try_from(offset).unwrap_or(usize::MAX).min(head.len());
    let digest = Sha256::digest(&head[..before]);
    digest.iter().take(8).fold(0, |print, byte| print << 8 | u64::from(*byte))
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}.{:x}", self.inode, self.head, self.offset)
    }
}

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let mut parts = text.split('.').map(|part| u64::from_str_radix(part, 16).ok());
        let mut next = || parts.next().flatten().ok_or(NotACursor);
        let cursor = Self { inode: next()?, head: next()?, offset: next()? };
        if parts.next().is_some() { Err(NotACursor) } else { Ok(cursor) }
    }
}

impl TryFrom<String> for Cursor {
    type Error = NotACursor;

    fn try_from(text: String) -> Result<Self, NotACursor> {
        text.parse()
    }
}

/// What is kept of a log from a place on.
pub(super) struct Kept {
    pieces: Vec<Piece>,
    /// The current file, if there is one, positioned behind the last piece.
    pub(super) file: Option<File>,
}

/// Of one file.
struct Piece {
    inode: u64,
    head: Vec<u8>,
    from: u64,
    bytes: Vec<u8>,
}

impl Piece {
    fn cursor(&self, offset: u64) -> Cursor {
        Cursor { inode: self.inode, head: print_of(&self.head, offset), offset }
    }
}

impl Kept {
    /// Reads it; everything, if no place is named or its file is gone. Blocks.
    pub(super) fn read(
        dir: &Path,
        name: &TenantName,
        kind: Kind,
        after: Option<Cursor>,
    ) -> io::Result<Self> {
        let (mut older, mut current) = open_both(dir, name, kind)?;
        let stands_in = |file: &Option<File>| match (after, file) {
            (Some(after), Some(file)) => after.is_in(file),
            _ => Ok(false),
        };
        let (in_current, in_older) = (stands_in(&current)?, stands_in(&older)?);
        if in_current {
            older = None;
        }
        let mut pieces = Vec::new();
        for (file, is_here) in [(&mut older, in_older), (&mut current, in_current)] {
            let Some(file) = file else { continue };
            let from = after.filter(|_| is_here).map_or(0, |after| after.offset);
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.take(kind.file_bytes_max()).read_to_end(&mut bytes)?;
            // After what follows it, which may be longer by now.
            let (inode, head) = (inode(file)?.1, head(file)?);
            pieces.push(Piece { inode, head, from, bytes });
        }
        Ok(Self { pieces, file: current })
    }

    /// The lines that pass, of these the last `lines`, with cursors; and the part of a line that follows.
    pub(super) fn marked(
        &self,
        filter: Option<&Filter>,
        lines: Option<usize>,
    ) -> (Vec<u8>, Vec<u8>) {
        let mut passing: Vec<(&Piece, u64, &[u8])> = Vec::new();
        let (mut end, mut part) = (Cursor::default(), &[][..]);
        for piece in &self.pieces {
            let mut at = piece.from;
            part = &[];
            for line in piece.bytes.split_inclusive(|byte| *byte == b'\n') {
                if !line.ends_with(b"\n") {
                    part = line;
                    break;
                }
                if filter.is_none_or(|filter| filter.passes(line)) {
                    passing.push((piece, at, line));
                }
                at += line.len() as u64;
            }
            end = piece.cursor(at);
        }
        let from = lines.map_or(0, |lines| passing.len().saturating_sub(lines));
        let (mut marked, mut unmarked) = (Vec::new(), MARK_BYTES);
        if lines.is_none() {
            // Its reader sees whether this is the place that it has asked for.
            let start = self.pieces.first().map(|piece| piece.cursor(piece.from));
            marked.extend(start.unwrap_or_default().line());
            unmarked = 0;
        }
        for (piece, at, line) in &passing[from..] {
            if unmarked >= MARK_BYTES {
                marked.extend(piece.cursor(*at).line());
                unmarked = 0;
            }
            marked.extend_from_slice(line);
            unmarked += line.len();
        }
        marked.extend(end.line());
        (marked, part.to_vec())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::file;
    use super::*;

    fn lines_of(kept: &Kept, lines: Option<usize>) -> (Vec<String>, Cursor) {
        let (marked, _) = kept.marked(None, lines);
        let text = String::from_utf8(marked).unwrap();
        let is_cursor = |line: &&str| line.starts_with("{\"cursor\"");
        let last = text.lines().rfind(is_cursor).unwrap().split('"').nth(3).unwrap();
        let lines = text.lines().filter(|line| !is_cursor(line)).map(str::to_owned).collect();
        (lines, last.parse().unwrap())
    }

    #[test]
    fn a_reader_comes_back_to_where_it_was_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let name: TenantName = "a".parse().unwrap();
        let kept = |after| Kept::read(dir.path(), &name, Kind::Lines, after).unwrap();
        let current = file::current(dir.path(), &name, Kind::Lines);
        let rotate = || {
            std::fs::rename(&current, file::older(dir.path(), &name, Kind::Lines)).unwrap();
        };
        // Before there is anything, any place is the begin.
        let (lines, start) = lines_of(&kept(None), None);
        assert!(lines.is_empty() && start == Cursor::default());
        std::fs::write(&current, "1\n2\n3\n4").unwrap();
        assert_eq!(lines_of(&kept(Some(start)), None).0, ["1", "2", "3"]);
        let (lines, third) = lines_of(&kept(None), Some(2));
        assert_eq!(lines, ["2", "3"]);
        std::fs::write(&current, "1\n2\n3\n4\n").unwrap();
        assert_eq!(lines_of(&kept(Some(third)), None).0, ["4"]);
        rotate();
        std::fs::write(&current, "5\n").unwrap();
        let (lines, fifth) = lines_of(&kept(Some(third)), None);
        assert_eq!(lines, ["4", "5"]);
        assert!(lines_of(&kept(Some(fifth)), None).0.is_empty());
        // What it stood in is gone: all that is kept.
        rotate();
        std::fs::write(&current, "6\n").unwrap();
        assert_eq!(lines_of(&kept(Some(third)), None).0, ["5", "6"]);
        // And a longer file may have the number of the one that is gone.
        std::fs::write(&current, "6\n7\n8\n9\n10\n").unwrap();
        let lines = lines_of(&kept(Some(third)), None).0;
        assert_eq!(lines, ["5", "6", "7", "8", "9", "10"]);
    }

    #[test]
    fn what_is_no_cursor_is_none() {
        assert_eq!("a.B.0".parse::<Cursor>().unwrap().to_string(), "a.b.0");
        for text in ["", "1", "1.2", "1.2.3.4", "x.1.1", "1.2.-3", "1.2.11111111111111111"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
