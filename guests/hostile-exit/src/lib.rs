//! Asks the host to end the process.

use common::{Target, text};
use wasip2::cli::exit::exit;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Exit;
wasip2::http::proxy::export!(Exit);

const ABOUT: &str = "hostile-exit: GET /go calls exit with success; ?status=err with failure.\n";

impl Guest for Exit {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        if !target.is_go() {
            return text(out, ABOUT);
        }
        match target.get("status") {
            Some("err") => exit(Err(())),
            _ => exit(Ok(())),
        }
        text(out, "still here\n");
    }
}
