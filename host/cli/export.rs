//! `insula export`: tenants into a file, while they run.
//!
//! The file appears whole or not at all: it is written beside its place and renamed when its last member
//! has come. Bounded by [`STALL_MS_MAX`] between two pieces.

use crate::archive_tail::Tail;
use crate::failure::{Exit, Failure};
use crate::host_args::HostArgs;
use crate::progress::Progress;
use crate::table::{self, number, text as words};
use crate::{out, secret_input, text};
use anyhow::{Context, Result};
use clap::builder::ValueHint;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use insula_model::api::{ArchiveManifest, ExportRequest, ExportedScratch, ExportedTenant};
use insula_model::grants::secrets::SecretValue;
use insula_model::{Namespace, TenantName};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the host may take for the next piece, in milliseconds.
const STALL_MS_MAX: u64 = 120_000;

const EXAMPLES: &str = "\
Examples:
  insula export shop -o shop.tar
  insula export --all -o backup.tar
  insula export --all --secrets --passphrase-file key.txt -o backup.tar
  insula export shop -o - | ssh other insula import -

The file is a tar: revisions with their manifests, artifacts (each once), whether a tenant is stopped,
key-value stores, namespaces with their quotas. Scratch directories come along of tenants that are
stopped. Secrets stay behind, unless --secrets asks for them: then they are encrypted.";

/// Write tenants, or the whole host, to a file: for moving and for backups, while the host serves.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The tenants
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "namespace"])]
    names: Vec<TenantName>,
    /// Every tenant of the host, and every namespace
    #[arg(long, conflicts_with_all = ["names", "namespace"])]
    all: bool,
    /// Every tenant of this namespace
    #[arg(short, long, value_name = "NS", conflicts_with = "names")]
    namespace: Option<Namespace>,
    /// The file, or `-` for standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: PathBuf,
    /// Secrets too, encrypted under a passphrase: that of --passphrase-file, or else of standard input
    #[arg(long)]
    secrets: bool,
    /// Take the passphrase from this file; a line end at its end is left out
    #[arg(long, value_name = "FILE", requires = "secrets", value_hint = ValueHint::FilePath)]
    passphrase_file: Option<PathBuf>,
    /// Print the archive's own manifest
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Exports, and says what is in the file.
pub(crate) async fn run(args: Args) -> Result<()> {
    let to_stdout = args.output.as_os_str() == "-";
    if to_stdout && args.json {
        let both = "the archive and the JSON cannot both go to standard output";
        return Err(Failure::new(Exit::Usage, both).hint("name a file with --output").into());
    }
    let client = args.host.client()?;
    let passphrase =
        if args.secrets { Some(passphrase(args.passphrase_file.as_deref())?) } else { None };
    let Args { names: tenants, namespace, all, .. } = args;
    let request = ExportRequest { tenants, namespace, all, passphrase };
    let body = client.post_stream("/v1/export", &request).await.context("cannot export")?;
    let lost = || client.lost("in the middle of the archive");
    let manifest = if to_stdout {
        let mut stdout = io::stdout().lock();
        copy(body, &mut stdout, lost).await?
    } else {
        write_file(&args.output, body, lost).await?
    };
    if args.json {
        let json = serde_json::to_vec(&manifest).context("cannot write the manifest as JSON")?;
        return out::json(&json);
    }
    report(&manifest, &args.output, to_stdout)
}

/// A passphrase from a file, or from standard input.
pub(crate) fn passphrase(file: Option<&Path>) -> Result<SecretValue> {
    let mut bytes = match file {
        Some(file) => secret_input::file(file)?,
        None => secret_input::stdin("passphrase (not shown): ")?,
    };
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    let text = str::from_utf8(&bytes).map_err(|_| {
        Failure::new(Exit::Usage, "the passphrase is not UTF-8").hint("write it as text")
    })?;
    Ok(SecretValue::new(text.to_owned()))
}

/// Writes the archive beside its place, and puts it there when it is whole.
async fn write_file(
    path: &Path,
    body: Incoming,
    lost: impl Fn() -> Failure,
) -> Result<ArchiveManifest> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let unwritable = || format!("{} cannot be written", partial.display());
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&partial).with_context(unwritable)?;
    let progress = Progress::spinner(format!("exporting to {}", path.display()));
    let copied = copy(body, &mut file, lost).await;
    drop(progress);
    let done = copied.and_then(|manifest| {
        file.sync_all().with_context(unwritable)?;
        fs::rename(&partial, path).with_context(|| format!("{} cannot be made", path.display()))?;
        // The name is durable with its directory; a file system that cannot say so has no say.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let _ = File::open(parent.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all());
        Ok(manifest)
    });
    if done.is_err() {
        let _ = fs::remove_file(&partial);
    }
    done
}

/// Copies an archive; fails unless it is whole.
async fn copy(
    mut body: Incoming,
    to: &mut impl Write,
    lost: impl Fn() -> Failure,
) -> Result<ArchiveManifest> {
    let mut tail = Tail::default();
    let stall = Duration::from_millis(STALL_MS_MAX);
    loop {
        let frame = tokio::time::timeout(stall, body.frame()).await;
        let frame = frame.map_err(|_| lost())?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| lost().caused_by(error))?;
        if let Ok(data) = frame.into_data() {
            tail.feed(&data);
            to.write_all(&data).context("the archive cannot be written")?;
        }
    }
    to.flush().context("the archive cannot be written")?;
    let json = tail.manifest().ok_or_else(lost)?;
    serde_json::from_slice(json).context("the archive's manifest cannot be read")
}

fn report(manifest: &ArchiveManifest, path: &Path, to_stdout: bool) -> Result<()> {
    let columns =
        [words("NAME"), number("REVISIONS"), number("ENTRIES"), words("SCRATCH"), words("SECRETS")];
    let row = |tenant: &ExportedTenant| {
        let dash = || "-".to_owned();
        let scratch = match tenant.scratch {
            ExportedScratch::None => "-",
            ExportedScratch::Included => "included",
            ExportedScratch::LeftOut => "left out",
        };
        [
            tenant.name.to_string(),
            tenant.revisions.to_string(),
            tenant.keyvalue.map_or_else(dash, |entries| entries.to_string()),
            scratch.to_owned(),
            tenant.secrets.map_or_else(dash, |secrets| secrets.to_string()),
        ]
    };
    let table = table::render(columns, manifest.tenants.iter().map(row).collect());
    let bytes: u64 = manifest.members.iter().map(|member| member.bytes).sum();
    let artifacts = manifest.members.iter().filter(|m| m.name.starts_with("artifacts/")).count();
    let (tenants, artifacts) = (manifest.tenants.len() as u64, artifacts as u64);
    let to = if to_stdout { "standard output".to_owned() } else { path.display().to_string() };
    let sum = format!(
        "exported {tenants} {}, {artifacts} {}, {} to {to}",
        text::plural(tenants, "tenant"),
        text::plural(artifacts, "artifact"),
        text::bytes(bytes)
    );
    let left_out = |tenant: &&ExportedTenant| tenant.scratch == ExportedScratch::LeftOut;
    for tenant in manifest.tenants.iter().filter(left_out) {
        let name = &tenant.name;
        let paint = out::stderr_paint();
        out::note(&format!(
            "{} the scratch directory of {name} was left out, since it may change while {name} runs; \
             to have it: insula stop {name}",
            paint.warn("warning:")
        ));
    }
    if to_stdout {
        out::note(&format!("{table}{sum}"));
        return Ok(());
    }
    out::write(table.as_bytes())?;
    out::line(&sum)
}
