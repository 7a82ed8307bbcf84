//! The head of a CGI program's answer (RFC 3875, section 6): fields, one a line, then a blank line.
//!
//! Lines end in LF or CRLF. `Status` becomes the status, `Location` alone a redirect, everything else
//! a field of the response. Bounds: [`HEAD_BYTES_MAX`], [`HEAD_FIELDS_MAX`].

use super::{HEAD_BYTES_MAX, HEAD_FIELDS_MAX};

/// Bytes of a line that an error quotes.
const SHOWN_BYTES_MAX: usize = 80;

/// A head that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// From `Status`; else 302 where there is a `Location`; else 200.
    pub status: u16,
    /// All other fields in their order, names as they were written.
    pub fields: Vec<(String, Vec<u8>)>,
}

/// Why an answer's head is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The program ended, and had written nothing.
    #[error("the program wrote nothing: a CGI answer begins with its header fields")]
    Empty,
    /// The program ended in the middle of its head.
    #[error("the header is not complete: the blank line after the fields is missing")]
    NoBlankLine,
    /// Longer than [`HEAD_BYTES_MAX`].
    #[error(
        "the header is longer than {HEAD_BYTES_MAX} bytes; is the blank line after it missing?"
    )]
    TooLong,
    /// More fields than [`HEAD_FIELDS_MAX`].
    #[error("the header has more than {HEAD_FIELDS_MAX} fields")]
    TooManyFields,
    /// A status line instead of fields.
    #[error(
        "the header begins with a status line, `{0}`: a program that speaks HTTP itself (NPH) is not \
         supported; write `Status: 200 OK` instead"
    )]
    StatusLine(String),
    /// Not `name: value`.
    #[error("not a header field: `{0}`; is the blank line before the body missing?")]
    Field(String),
    /// `Status` without a status.
    #[error(
        "`Status: {0}` is not a status; write a number from 200 to 599, and a reason if you like"
    )]
    Status(String),
    /// One of the fields that mean something here, twice.
    #[error("the header has `{0}` more than once")]
    Twice(&'static str),
    /// None of the three that RFC 3875 asks for.
    #[error(
        "the header has none of `Content-Type`, `Location` and `Status`; a CGI answer needs one"
    )]
    NoCgiField,
}

/// A head as it arrives, in whatever pieces. Holds at most [`HEAD_BYTES_MAX`] bytes and one piece.
#[derive(Debug, Default)]
pub struct Incoming {
    bytes: Vec<u8>,
    /// How much was searched for the blank line.
    searched: usize,
}

impl Incoming {
    /// Takes the next piece. None while the head is not complete; then the head, and what of this piece
    /// is behind it. Neither depends on where the pieces were cut. Nothing is to be pushed after that.
    pub fn push(&mut self, written: &[u8]) -> Option<Result<(Head, Vec<u8>), HeadError>> {
        self.bytes.extend_from_slice(written);
        match end(&self.bytes, self.searched) {
            None if self.bytes.len() > HEAD_BYTES_MAX => Some(Err(HeadError::TooLong)),
            None => {
                self.searched = self.bytes.len();
                None
            }
            Some(end) => {
                let rest = self.bytes.split_off(end);
                Some(parse(&std::mem::take(&mut self.bytes)).map(|head| (head, rest)))
            }
        }
    }

    /// Why there is no head, if nothing more comes.
    pub fn cut_short(&self) -> HeadError {
        if self.bytes.is_empty() { HeadError::Empty } else { HeadError::NoBlankLine }
    }
}

/// Where a head ends in `bytes`: the offset after its blank line. `from` is an offset that was looked
/// at before, so that a head which arrives in pieces is read once.
pub fn end(bytes: &[u8], from: usize) -> Option<usize> {
    // The blank line may begin up to two bytes before what is new, or be the very first.
    let mut at = from.saturating_sub(2);
    loop {
        let line_starts = at == 0 || bytes.get(at - 1) == Some(&b'\n');
        if line_starts {
            match bytes.get(at..)? {
                [b'\n', ..] => return Some(at + 1),
                [b'\r', b'\n', ..] => return Some(at + 2),
                _ => {}
            }
        }
        at += bytes.get(at..)?.iter().position(|byte| *byte == b'\n')? + 1;
    }
}

/// Reads a head, which ends with its blank line or without.
///
/// # Errors
/// [`HeadError`], in words for whoever wrote the program.
pub fn parse(head: &[u8]) -> Result<Head, HeadError> {
    if head.len() > HEAD_BYTES_MAX {
        return Err(HeadError::TooLong);
    }
    let mut fields: Vec<(String, Vec<u8>)> = Vec::new();
    let (mut status, mut has_location, mut has_type) = (None, false, false);
    for (index, line) in head.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        if index == 0 && line.starts_with(b"HTTP/") {
            return Err(HeadError::StatusLine(shown(line)));
        }
        let (name, value) = field(line).ok_or_else(|| HeadError::Field(shown(line)))?;
        let once = |seen: &mut bool, field| match std::mem::replace(seen, true) {
            true => Err(HeadError::Twice(field)),
            false => Ok(()),
        };
        if name.eq_ignore_ascii_case("status") {
            let code = code(value).ok_or_else(|| HeadError::Status(shown(value)))?;
            if status.replace(code).is_some() {
                return Err(HeadError::Twice("Status"));
            }
            continue;
        } else if name.eq_ignore_ascii_case("location") {
            once(&mut has_location, "Location")?;
        } else if name.eq_ignore_ascii_case("content-type") {
            once(&mut has_type, "Content-Type")?;
        }
        if fields.len() == HEAD_FIELDS_MAX {
            return Err(HeadError::TooManyFields);
        }
        fields.push((name.to_owned(), value.to_vec()));
    }
    if status.is_none() && !has_location && !has_type {
        return Err(HeadError::NoCgiField);
    }
    let status = status.unwrap_or(if has_location { 302 } else { 200 });
    Ok(Head { status, fields })
}

/// `name: value` (RFC 9110, section 5): a token, and a value without control characters but tabs.
fn field(line: &[u8]) -> Option<(&str, &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
    let is_token = !name.is_empty()
        && name.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b));
    let is_value = value.iter().all(|b| *b == b'\t' || !b.is_ascii_control());
    // A token is ASCII, so this never fails where the first holds.
    if is_token && is_value { Some((std::str::from_utf8(name).ok()?, value)) } else { None }
}

/// Without the spaces and tabs around it: all other white space is refused, not dropped.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Three digits, and a reason or nothing.
fn code(value: &[u8]) -> Option<u16> {
    let (digits, rest) = value.split_at_checked(3)?;
    let is_apart = rest.first().is_none_or(|byte| matches!(byte, b' ' | b'\t'));
    let code = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (is_apart && digits.iter().all(u8::is_ascii_digit) && (200..600).contains(&code))
        .then_some(code)
}

/// The beginning of what a program wrote, fit for a log.
fn shown(bytes: &[u8]) -> String {
    let part = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    let mut text: String = String::from_utf8_lossy(part).escape_debug().collect();
    if part.len() < bytes.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<(u16, Vec<(String, String)>), HeadError> {
        let text_of = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        parse(text.as_bytes()).map(|head| {
            (head.status, head.fields.into_iter().map(|(n, v)| (n, text_of(v))).collect())
        })
    }

    fn fields(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn documents_and_redirects() {
        let html = fields(&[("Content-Type", "text/html"), ("X-A", "b: c")]);
        assert_eq!(read("Content-Type: text/html\nX-A:b: c \n\n"), Ok((200, html.clone())));
        assert_eq!(read("Content-Type: text/html\r\nX-A:\tb: c\r\n\r\n"), Ok((200, html)));
        assert_eq!(read("STATUS: 404 Not Found\n\n"), Ok((404, vec![])));
        assert_eq!(read("status:204\n\n"), Ok((204, vec![])));
        let to = fields(&[("Location", "/else")]);
        assert_eq!(read("Location: /else\n\n"), Ok((302, to.clone())));
        assert_eq!(read("Location: /else\nStatus: 301 Moved\n\n"), Ok((301, to)));
        let cookies = fields(&[("Content-Type", "a/b"), ("Set-Cookie", "a"), ("Set-Cookie", "b")]);
        assert_eq!(read("Content-Type: a/b\nSet-Cookie: a\nSet-Cookie: b\n\n"), Ok((200, cookies)));
    }

    #[test]
    fn what_is_no_head_is_refused_in_its_own_words() {
        for (text, says) in [
            ("\n", "none of `Content-Type`"),
            ("X-A: b\n\n", "none of `Content-Type`"),
            ("HTTP/1.0 200 OK\nContent-Type: a/b\n\n", "NPH"),
            ("Hello, world\n\n", "not a header field: `Hello, world`"),
            ("Content-Type: a/b\n folded\n\n", "not a header field"),
            ("Content-Type : a/b\n\n", "not a header field"),
            (": a\n\n", "not a header field"),
            ("Content-Type: a\0b\n\n", "not a header field"),
            ("Content-Type: a\rb\n\n", "not a header field"),
            ("Content-Type: a\r\r\n\n", "not a header field"),
            ("Content-Type: \u{c}a\n\n", "not a header field"),
            ("Status: OK\n\n", "`Status: OK`"),
            ("Status: 100\n\n", "200 to 599"),
            ("Status: 600\n\n", "200 to 599"),
            ("Status: 2000\n\n", "200 to 599"),
            ("Status: +20\n\n", "200 to 599"),
            ("Status: 200\nStatus: 200\n\n", "`Status` more than once"),
            ("Location: /\nlocation: /\n\n", "`Location` more than once"),
            ("Content-Type: a\ncontent-type: a\n\n", "`Content-Type` more than once"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
        let many = "X: y\n".repeat(HEAD_FIELDS_MAX + 1);
        assert_eq!(read(&many), Err(HeadError::TooManyFields));
        let long = format!("X: {}\n\n", "y".repeat(HEAD_BYTES_MAX));
        assert_eq!(read(&long), Err(HeadError::TooLong));
        let line = format!("{}\n\n", "\u{7}é".repeat(1_000));
        assert!(read(&line).unwrap_err().to_string().len() < 800);
    }

    #[test]
    fn a_head_ends_at_its_first_blank_line() {
        for (bytes, ends) in [
            (&b""[..], None),
            (b"\n", Some(1)),
            (b"\r\n", Some(2)),
            (b"\r", None),
            (b"a: b\n", None),
            (b"a: b\n\r", None),
            (b"a: b\n\nbody\n\n", Some(6)),
            (b"a: b\r\n\r\nbody", Some(8)),
            (b"a: b\n\r\nbody", Some(7)),
            (b"a: b\r\n\nbody", Some(7)),
        ] {
            assert_eq!(end(bytes, 0), ends, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_program_writes_breaks_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(head) = parse(&bytes) {
                prop_assert!((200..600).contains(&head.status));
                prop_assert!(head.fields.iter().all(|(_, value)| !value.contains(&b'\n') && !value.contains(&b'\r')));
            }
        }

        #[test]
        fn where_a_head_ends_does_not_depend_on_its_pieces(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a')], 0..24),
            cuts in proptest::collection::vec(0_usize..24, 0..6),
        ) {
            let whole = end(&bytes, 0);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let (mut seen, mut found) = (0, None);
            for cut in cuts {
                found = found.or_else(|| end(&bytes[..cut], seen));
                seen = cut;
            }
            prop_assert_eq!(found, whole);
        }

        #[test]
        fn fields_come_back_as_they_were_written(
            written in proptest::collection::vec(("X-[a-z]{1,8}", "[!-~][ -~]{0,30}[!-~]"), 0..20),
            ending in prop_oneof![Just("\n"), Just("\r\n")],
        ) {
            let mut text = format!("Content-Type: text/plain{ending}");
            for (name, value) in &written {
                text.push_str(&format!("{name}: {value}{ending}"));
            }
            text.push_str(ending);
            prop_assert_eq!(end(text.as_bytes(), 0), Some(text.len()));
            let (status, mut read) = read(&text).unwrap();
            prop_assert_eq!(status, 200);
            prop_assert_eq!(read.remove(0).0, "Content-Type");
            prop_assert_eq!(read, written);
        }
    }
}
