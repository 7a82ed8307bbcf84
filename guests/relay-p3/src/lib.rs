//! `relay` as a service of WASI 0.3: calls the URL in `?url=` (by default the tenant `hello`) with the
//! method, fields and body of its own request, and hands the answer on. A call that fails is answered
//! with 502 and the name of the error.

use wasip3::exports::http::handler::Guest;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Relay;
wasip3::http::service::export!(Relay);

const DEFAULT_URL: &str = "http://hello.internal/";

impl Guest for Relay {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        match relay(request).await {
            Ok(answer) => Ok(answer),
            Err(error) => Ok(text(502, format!("{error:?}\n"))),
        }
    }
}

async fn relay(request: Request) -> Result<Response, ErrorCode> {
    let target = request.get_path_with_query().unwrap_or_default();
    let url = target.split_once("url=").map_or(DEFAULT_URL, |(_, url)| url);
    let (scheme, rest) = match url.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        _ => (Scheme::Https, url.trim_start_matches("https://")),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (method, fields) = (request.get_method(), request.get_headers().clone());

    // What went wrong on the way in ends the call as well.
    let (_, received) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, received);
    let (call, _sent) = Request::new(fields, Some(body), trailers, None);
    let invalid = |()| ErrorCode::HttpRequestUriInvalid;
    call.set_method(&method).map_err(invalid)?;
    call.set_scheme(Some(&scheme)).map_err(invalid)?;
    call.set_authority(Some(authority)).map_err(invalid)?;
    call.set_path_with_query(Some(if path.is_empty() { "/" } else { path })).map_err(invalid)?;
    client::send(call).await
}

fn text(status: u16, text: String) -> Response {
    let (mut body, contents) = wit_stream::new();
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(contents), trailers);
    let _ = response.set_status_code(status);
    wit_bindgen::spawn_local(async move {
        let _unread = body.write_all(text.into_bytes()).await;
    });
    response
}
