//! The head of a CGI answer, in pieces. The first byte of an input chooses where they are cut.
#![no_main]

use http::{HeaderName, HeaderValue, StatusCode};
use insula_model::cgi::head::{Head, HeadError, Incoming};
use insula_model::cgi::{HEAD_BYTES_MAX, HEAD_FIELDS_MAX};
use libfuzzer_sys::fuzz_target;

/// The head and what of the body came with it.
type Answer = Result<(Head, Vec<u8>), HeadError>;

fn in_pieces(mut bytes: &[u8], mut length: impl FnMut() -> usize) -> Answer {
    let mut incoming = Incoming::default();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(length().clamp(1, bytes.len()));
        bytes = rest;
        if let Some(answer) = incoming.push(piece) {
            return answer.map(|(head, body)| (head, [body.as_slice(), rest].concat()));
        }
    }
    Err(incoming.cut_short())
}

/// As HTTP's own types see it: nothing in a field that could end it, or begin another.
fn is_clean(head: &Head) {
    StatusCode::from_u16(head.status).expect("a status");
    assert!((200..600).contains(&head.status));
    assert!(head.fields.len() <= HEAD_FIELDS_MAX);
    for (name, value) in &head.fields {
        assert!(!name.eq_ignore_ascii_case("status"), "Status is no field of a response");
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | b'\0')));
        HeaderName::try_from(name.as_str()).expect("a field's name");
        HeaderValue::from_bytes(value).expect("a field's value");
    }
}

/// The head, written down again.
fn written(head: &Head) -> Vec<u8> {
    let mut bytes = format!("Status: {}\r\n", head.status).into_bytes();
    for (name, value) in &head.fields {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fuzz_target!(|input: (u8, &[u8])| {
    let (seed, bytes) = input;
    let whole = in_pieces(bytes, || usize::MAX);
    assert_eq!(in_pieces(bytes, || 1), whole, "byte by byte");
    let mut state = usize::from(seed);
    let pieces = in_pieces(bytes, || {
        state = (state * 5 + 3) % 256;
        state % 19
    });
    assert_eq!(pieces, whole, "cut by {seed}");

    let Ok((head, body)) = whole else { return };
    is_clean(&head);
    let head_bytes = bytes.len() - body.len();
    assert!(head_bytes <= HEAD_BYTES_MAX && bytes.ends_with(&body));
    // A control character that is dropped in silence is one that another reader may act on.
    let read = &bytes[..head_bytes];
    let lines =
        read.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    for byte in lines.flatten() {
        assert!(*byte == b'\t' || !byte.is_ascii_control(), "{byte:#x} was read over");
    }
    let again = in_pieces(&[written(&head).as_slice(), &body].concat(), || usize::MAX);
    assert_eq!(again, Ok((head, body)), "written and read again");
});
