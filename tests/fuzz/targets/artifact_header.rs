//! The first bytes of an artifact, and the seal beside compiled code. Both files are the sandbox's own,
//! taken in here because the sandbox links an engine.
#![no_main]

#[allow(dead_code, missing_docs)]
#[path = "../../../host/sandbox/src/preamble.rs"]
mod preamble;
#[allow(dead_code, missing_docs)]
#[path = "../../../host/sandbox/src/seal.rs"]
mod seal;

use insula_model::api::GuestKind;
use insula_model::{CodeId, Digest, Metering};
use libfuzzer_sys::fuzz_target;
use preamble::Layer;
use seal::{SEAL_BYTES_MAX, Seal};

const KEY: [u8; 32] = [7; 32];
const ENGINE: &str = "engine";
const CODE: &[u8] = b"code";
const ID: CodeId = CodeId { artifact: Digest([1; 32]), metering: Metering::Fuel };

fn artifact(bytes: &[u8]) {
    let read = preamble::read(bytes);
    // By the specifications: magic, version, layer.
    let expected = match bytes {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Some(Layer::Module),
        [0, b'a', b's', b'm', 13, 0, 1, 0, ..] => Some(Layer::Component),
        _ => None,
    };
    assert_eq!(read.as_ref().ok(), expected.as_ref(), "{:?}", bytes.get(..8));
    if let Err((cause, mend)) = &read {
        assert!(!mend.is_empty() && !cause.contains(char::is_control), "{cause:?}");
    }
    if let Some(start) = bytes.get(..8) {
        assert_eq!(preamble::read(start), read, "what follows does not matter");
    }
}

fn sealed(line: &str) {
    let Some(read) = Seal::parse(line) else { return };
    let written = read.to_line();
    assert!(written.len() <= SEAL_BYTES_MAX);
    assert_eq!(Seal::parse(&written).as_ref(), Some(&read), "{written}");
    // Whatever a line says, only one that this key made holds.
    let kinds = GuestKind::ALL;
    let made = kinds.map(|kind| Seal::new(&KEY, &ID, ENGINE, kind, CODE).to_line());
    let unmarked = written.split(' ').take(5).collect::<Vec<_>>().join(" ");
    let is_ours = made.iter().any(|line| line.trim_end() == unmarked.trim_end());
    assert_eq!(read.holds(&KEY, &ID, ENGINE, CODE), is_ours, "{line}");
    assert!(!read.holds(&KEY, &ID, ENGINE, b"edoc"), "of other code");
    let other = CodeId { metering: Metering::Time, ..ID };
    assert!(!read.holds(&KEY, &other, ENGINE, CODE), "of another metering");
    assert!(!read.holds(&[8; 32], &ID, ENGINE, CODE), "of another host");
    let meta = std::fs::metadata("/dev/null").expect("a file that nobody marked");
    assert!(!read.is_marked(&KEY, &meta));
}

fuzz_target!(|bytes: &[u8]| {
    artifact(bytes);
    if let Ok(line) = std::str::from_utf8(bytes) {
        sealed(line);
    }
    // Again with the valid start that a fuzzer would need long to guess.
    if let Some((kind, rest)) = bytes.split_first() {
        let kind = GuestKind::ALL[usize::from(*kind) % GuestKind::ALL.len()];
        let seal = Seal::new(&KEY, &ID, ENGINE, kind, CODE).to_line();
        let keep = rest.first().map_or(0, |byte| usize::from(*byte) % (seal.len() + 1));
        let tail = String::from_utf8_lossy(rest.get(1..).unwrap_or_default());
        sealed(&format!("{}{tail}", &seal[..keep]));
        sealed(&format!("{}{tail}\n", seal.trim_end()));
    }
});
