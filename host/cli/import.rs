//! `insula import`: tenants out of a file that `insula export` wrote.

use crate::client::{Body, DEPLOY_MS_MAX};
use crate::export::passphrase;
use crate::failure::Exit;
use crate::host_args::HostArgs;
use crate::progress::Progress;
use crate::table::{self, number, text as words};
use crate::{out, text};
use anyhow::{Context, Result};
use bytes::Bytes;
use clap::builder::ValueHint;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use insula_model::TenantName;
use insula_model::api::{ImportResponse, ImportResult, ImportedTenant};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context as Task, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes that are sent at once.
const PIECE_BYTES: usize = 256 << 10;

const EXAMPLES: &str = "\
Examples:
  insula import shop.tar
  insula import shop.tar --name shop-2
  insula import backup.tar --replace --passphrase-file key.txt
  ssh other insula export --all -o - | insula import -

A file that is not whole, was changed, or is of a later version changes nothing. Each tenant is imported
whole, or refused with the reason, such as that its active revision fails its probe; one that is there
already with the same revisions is left as it is, so that an import may be repeated. Namespaces that are missing are made with the quotas they had.";

/// Take tenants, or a whole host, from a file that `insula export` wrote.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The file, or `-` for standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Give the one tenant of the file this name; routes that follow from its name change with it
    #[arg(long, value_name = "NEW")]
    name: Option<TenantName>,
    /// Make tenants that are there as the file has them, what they store included
    #[arg(long)]
    replace: bool,
    /// Take tenants whose active revision does not answer as its probe expects, or cannot be instantiated
    #[arg(long)]
    no_probe: bool,
    /// Take the passphrase for its secrets from this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    passphrase_file: Option<PathBuf>,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Imports, and says what became of each tenant. The code is that of a refusal if one was refused.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let client = args.host.client()?;
    let secret = args.passphrase_file.as_deref().map(|file| passphrase(Some(file))).transpose()?;
    let hex = |value: &str| value.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let secret = secret.map(|secret| hex(secret.reveal()));
    let mut path = format!("/v1/import?replace={}&probe={}", args.replace, !args.no_probe);
    if let Some(name) = &args.name {
        path.push_str(&format!("&name={name}"));
    }
    let body = body(&args.file).await?;
    let progress = Progress::spinner(format!("importing {}", args.file.display()));
    let answer = client.post_archive(&path, secret.as_deref(), body, DEPLOY_MS_MAX).await;
    drop(progress);
    let answer = answer.with_context(|| format!("cannot import {}", args.file.display()))?;
    let done: ImportResponse = answer.read()?;
    if args.json {
        out::json(answer.json())?;
    } else {
        report(&done)?;
    }
    let refused = done.tenants.iter().any(|tenant| tenant.result == ImportResult::Refused);
    Ok(if refused { Exit::Refused.into() } else { ExitCode::SUCCESS })
}

async fn body(path: &Path) -> Result<Body> {
    let piece = vec![0; PIECE_BYTES].into_boxed_slice();
    if path.as_os_str() == "-" {
        return Ok(Reading { from: tokio::io::stdin(), bytes: None, piece }.boxed_unsync());
    }
    let unreadable = || format!("{} cannot be read", path.display());
    let from = tokio::fs::File::open(path).await.with_context(unreadable)?;
    let meta = from.metadata().await.with_context(unreadable)?;
    let bytes = meta.is_file().then_some(meta.len());
    Ok(Reading { from, bytes, piece }.boxed_unsync())
}

/// What is read, as a request's body.
struct Reading<R> {
    from: R,
    /// How much is left, if that is known.
    bytes: Option<u64>,
    piece: Box<[u8]>,
}

impl<R: AsyncRead + Unpin> hyper::body::Body for Reading<R> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Self { from, bytes, piece } = &mut *self;
        let mut buffer = ReadBuf::new(piece);
        ready!(Pin::new(from).poll_read(task, &mut buffer))?;
        let most = bytes.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        let read = &buffer.filled()[..buffer.filled().len().min(most)];
        if let Some(left) = bytes {
            *left -= read.len() as u64;
        }
        Poll::Ready((!read.is_empty()).then(|| Ok(Frame::data(Bytes::copy_from_slice(read)))))
    }

    fn size_hint(&self) -> SizeHint {
        self.bytes.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn report(done: &ImportResponse) -> Result<()> {
    for name in &done.namespaces {
        out::line(&format!("made namespace {name}"))?;
    }
    let columns = [
        words("NAME"),
        words("RESULT"),
        number("REV"),
        number("REVISIONS"),
        number("ENTRIES"),
        words("SCRATCH"),
        number("SECRETS"),
        words("STATE").optional(),
    ];
    let row = |tenant: &ImportedTenant| {
        [
            tenant.name.to_string(),
            tenant.result.as_str().to_owned(),
            tenant.revision.map_or("-".into(), |revision| revision.to_string()),
            tenant.revisions.to_string(),
            tenant.keyvalue.to_string(),
            if tenant.scratch { "imported".into() } else { "-".to_owned() },
            tenant.secrets.to_string(),
            if tenant.stopped { "stopped".into() } else { String::new() },
        ]
    };
    out::write(table::render(columns, done.tenants.iter().map(row).collect()).as_bytes())?;
    let paint = out::stderr_paint();
    for tenant in &done.tenants {
        let Some(error) = &tenant.error else { continue };
        let message = text::printable_lines(&error.message);
        let mut told =
            format!("{} {} was not imported: {message}", paint.error("error:"), tenant.name);
        if let Some(hint) = &error.hint {
            told.push_str(&format!("\n  {} {}", paint.hint("hint:"), text::printable_lines(hint)));
        }
        out::note(&told);
    }
    Ok(())
}
