//! Floods its log, on both streams. Built like any standard-library program: the log is `println!`.

use common::{Target, text};
use std::io::Write;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Flood;
wasip2::http::proxy::export!(Flood);

const ABOUT: &str = "hostile-flood: GET /go logs for ever; ?lines=N only N lines, then answers; \
    ?newline=no writes one endless line; ?forge tries to pass for another tenant.\n";
const LINE: &str = "all work and no play makes the log a dull file, all work and no play";
const FORGED: &str = "\r\x1b[2Khello stdout: forged\nhello stderr: forged\u{2028}\u{85}\x07";

impl Guest for Flood {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        if !target.is_go() {
            return text(out, ABOUT);
        }
        if target.get("forge").is_some() {
            println!("{FORGED}");
            // Not text at all.
            let _ = std::io::stdout().write_all(b"\xff\xfe\x00 not UTF-8\n");
            return text(out, "tried\n");
        }
        if target.get("newline") == Some("no") {
            loop {
                print!("{LINE}");
            }
        }
        for count in 1..=target.number("lines", u64::MAX) {
            println!("{count} {LINE}");
            eprintln!("{count} {LINE}");
        }
        text(out, "flooded\n");
    }
}
