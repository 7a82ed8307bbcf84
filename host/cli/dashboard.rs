//! `insula dashboard`: the host's web page, for a browser on this machine.

use crate::failure::{Exit, Failure};
use crate::gate::{Gate, Token};
use crate::host_args::HostArgs;
use crate::out;
use anyhow::{Context, Result};
use insula_model::api::HostInfo;
use std::net::SocketAddr;
use tokio::net::TcpListener;

const LISTEN_DEFAULT: &str = "127.0.0.1:0";

const EXAMPLES: &str = "\
Examples:
  insula dashboard                             prints a URL; open it in a browser
  insula dashboard --listen 127.0.0.1:8081
  ssh -L 8081:127.0.0.1:8081 HOST insula dashboard --listen 127.0.0.1:8081
                                               the dashboard of another machine

It runs until Ctrl-C; the host does not need it and goes on. The URL holds a key that is made anew each
time: whoever has it can see tenants, their logs and the host, roll tenants back and run jobs, and nothing
else: no deploys, no removal, no secrets. It listens on a loopback address only.";

/// Open the host's dashboard to a browser on this machine.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Loopback address and port to listen on; port 0 takes any
    #[arg(long, value_name = "ADDR", default_value = LISTEN_DEFAULT, value_parser = parse_listen)]
    listen: SocketAddr,
    #[command(flatten)]
    host: HostArgs,
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let addr: SocketAddr = text
        .parse()
        .map_err(|_| format!("`{text}` is no address with a port; one is `127.0.0.1:8081`"))?;
    if addr.ip().is_loopback() {
        return Ok(addr);
    }
    Err(format!(
        "{} is not a loopback address: the dashboard changes what the host does, and speaks without TLS; \
         from another machine use `ssh -L`",
        addr.ip()
    ))
}

/// Serves until a signal.
pub(crate) async fn run(args: Args) -> Result<()> {
    let client = args.host.client()?;
    let host: HostInfo = client.get("/v1/host").await?.read()?;
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        Failure::new(Exit::Failure, format!("cannot listen on {}", args.listen))
            .hint("name another address with --listen; 127.0.0.1:0 takes any free port")
            .caused_by(error)
    })?;
    let addr = listener.local_addr().context("the listening socket has no address")?;
    let token = Token::new().context("no key could be made")?;
    let paint = out::stdout_paint();
    let url = paint.copy(&format!("http://{addr}/#token={}", token.text()));
    out::line(&format!(
        "The dashboard of the host that serves {}\n  open      {url}\n  stop      Ctrl-C; the host goes on",
        host.listen
    ))?;
    tokio::select! {
        () = Gate::new(client, token).serve(listener) => {}
        signal = tokio::signal::ctrl_c() => signal.context("cannot wait for Ctrl-C")?,
    }
    Ok(())
}
