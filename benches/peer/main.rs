//! What runs in the containers of the victim test: a small server, and neighbours that do natively what
//! the aggressors' guests do.
#![forbid(unsafe_code)]

mod kernels;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;
use tokio::net::TcpListener;

type Body = Either<Incoming, Full<Bytes>>;

/// Nothing of a benchmark that was killed stays longer.
const LIFE: Duration = Duration::from_secs(3600);

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let role = words.next().context("a role")?;
    let number: usize = words.next().map_or(Ok(0), |text| text.parse())?;
    if role != "nothing" {
        std::thread::spawn(|| {
            std::thread::sleep(LIFE);
            std::process::exit(0);
        });
    }
    match role.as_str() {
        "serve" => serve(number),
        "spin" => {
            let mut turns = 0u64;
            loop {
                turns = black_box(turns.wrapping_add(1));
            }
        }
        // As `hostile-grow`: a byte in each page up to the limit, then from the start.
        "grow" => loop {
            let mut memory = vec![0u8; number << 20];
            memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
            drop(black_box(memory));
        },
        "fill" => {
            let mut memory = vec![0u8; number << 20];
            loop {
                black_box(&mut memory).fill(90);
            }
        }
        // A process for each request is what a fresh instance for each would be.
        "churn" => loop {
            Command::new("/proc/self/exe").arg("nothing").status()?;
        },
        "kernel" => kernels::run(number),
        "nothing" => Ok(()),
        _ => bail!("{role}: no such role"),
    }
}

fn serve(port: usize) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, u16::try_from(port)?)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let service = service_fn(answer);
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // A client that goes away is nobody's error.
                let _ = connection.await;
            });
        }
    })
}

/// As `guests/hello` answers a GET, and `guests/echo` a POST.
async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let mut response = if request.method() == Method::POST {
        Response::new(Either::Left(request.into_body()))
    } else {
        Response::new(Either::Right(Full::new(Bytes::from_static(b"Hello from Insula!\n"))))
    };
    let kind = header::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
