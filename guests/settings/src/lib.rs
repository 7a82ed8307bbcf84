//! Shows what it was given: configuration (`/config`), environment (`/env`) and arguments (`/args`), a
//! line each. `/config?key=K` and `/env?key=K` show one value alone. It shows secrets, too: it is for
//! tests. `bindings.rs` is what `wit-bindgen rust wit --world wasi:config/imports` makes of this
//! repository's `wit/`.

use bindings::wasi::config::store;
use common::{Reply, Target};
use std::io::Write;
use wasip2::cli::environment;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

mod bindings;

struct Settings;
wasip2::http::proxy::export!(Settings);

impl Guest for Settings {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        let answer = match (target.path(), target.get("key")) {
            ("/config", Some(key)) => store::get(key).map_err(|error| format!("{error:?}")),
            ("/env", Some(key)) => Ok(one(environment::get_environment(), key)),
            ("/config", None) => config().map(Some),
            ("/env", None) => Ok(Some(lines(environment::get_environment()))),
            ("/args", _) => Ok(Some(arguments())),
            _ => config().map(|config| {
                let environment = lines(environment::get_environment());
                Some(format!("config\n{config}env\n{environment}args\n{}", arguments()))
            }),
        };
        let (status, text) = match answer {
            Ok(Some(text)) => (200, text),
            Ok(None) => (404, "not set\n".into()),
            Err(why) => (500, why),
        };
        let mut reply = Reply::start(out, status, &[("content-type", b"text/plain")]);
        for piece in text.as_bytes().chunks(4096) {
            if reply.stream().write_all(piece).is_err() {
                break;
            }
        }
        reply.finish();
    }
}

fn config() -> Result<String, String> {
    store::get_all().map(lines).map_err(|error| format!("{error:?}"))
}

fn arguments() -> String {
    environment::get_arguments().into_iter().map(|argument| argument + "\n").collect()
}

fn one(mut pairs: Vec<(String, String)>, key: &str) -> Option<String> {
    let at = pairs.iter().position(|(name, _)| name == key)?;
    Some(pairs.swap_remove(at).1)
}

fn lines(mut pairs: Vec<(String, String)>) -> String {
    pairs.sort();
    pairs.into_iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}
