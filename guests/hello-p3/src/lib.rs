//! `hello` as a service of WASI 0.3: an async handler whose body is a stream.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Hello;
wasip3::http::service::export!(Hello);

const GREETING: &[u8] = b"Hello from Insula!\n";

impl Guest for Hello {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        let headers = Fields::new();
        headers.append("content-type", b"text/plain").unwrap();
        headers.append("content-length", b"19").unwrap();

        let (mut body, contents) = wit_stream::new();
        // Dropping the sender sends the default: no trailers.
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(headers, Some(contents), trailers);
        // The body is read only after the response has been returned. What a client that has gone
        // away left unread is let go.
        wit_bindgen::spawn_local(async move {
            let _unread = body.write_all(GREETING.to_vec()).await;
        });
        Ok(response)
    }
}
