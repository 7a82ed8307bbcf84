//! `insula secret`: values that tenants are granted by name.

use crate::client::{ANSWER_MS_MAX, Client, no_body};
use crate::failure::{self, Exit};
use crate::host_args::HostArgs;
use crate::table::{self, text as words};
use crate::{out, secret_input, text};
use anyhow::{Context, Result};
use clap::Subcommand;
use clap::builder::ValueHint;
use http_body_util::{BodyExt, Full};
use hyper::Method;
use insula_model::TenantName;
use insula_model::api::SecretInfo;
use insula_model::grants::secrets::{SecretKey, SecretVia};
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  insula secret set hello API_KEY                     asks for the value
  printf %s \"$VALUE\" | insula secret set hello API_KEY
  insula secret set hello TLS_KEY --from-file key.pem
  insula secret ls hello
  insula secret rm hello API_KEY

A tenant gets a secret that its manifest names: secrets = { API_KEY = \"env\" }, or \"config\", or
`insula deploy --secret API_KEY`. A new value needs no deploy: the next instance gets it.";

/// Set, list and remove secrets; values are encrypted on disk and never shown.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Set(Set),
    Ls(Ls),
    Rm(Rm),
}

/// Set a secret, from standard input or a file, never from an argument.
///
/// One line end at the end of standard input is left out; a file is taken as it is. At most 32 KiB of UTF-8. When it returns, every instance that starts gets the new value.
#[derive(Debug, clap::Args)]
struct Set {
    /// The tenant, deployed or not yet
    name: TenantName,
    /// The secret: letters, digits and underscores
    key: SecretKey,
    /// Take the value from this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    from_file: Option<PathBuf>,
    #[command(flatten)]
    host: HostArgs,
}

/// List a tenant's secrets, without their values.
#[derive(Debug, clap::Args)]
struct Ls {
    /// The tenant
    name: TenantName,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Remove secrets that the active revision does not get.
#[derive(Debug, clap::Args)]
struct Rm {
    /// The tenant
    name: TenantName,
    /// The secrets
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<SecretKey>,
    #[command(flatten)]
    host: HostArgs,
}

/// Does one of the three.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    match args.verb {
        Verb::Set(args) => set(args).await?,
        Verb::Ls(args) => ls(args).await?,
        Verb::Rm(args) => return rm(args).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn path(name: &TenantName) -> String {
    format!("/v1/tenants/{name}/secrets")
}

async fn listed(client: &Client, name: &TenantName) -> Result<Vec<SecretInfo>> {
    client.get(&path(name)).await?.read()
}

async fn set(args: Set) -> Result<()> {
    let Set { name, key, from_file, host } = args;
    let client = host.client()?;
    let prompt = format!("value of {key} for {name} (not shown): ");
    let value = match from_file {
        Some(file) => secret_input::file(&file)?,
        None => secret_input::stdin(&prompt)?,
    };
    // A copy that the HTTP client frees without wiping; this process ends in a moment.
    let body = Full::from(value.to_vec()).map_err(|never| match never {}).boxed_unsync();
    let one = format!("{}/{key}", path(&name));
    client
        .send(Method::PUT, &one, Some("application/octet-stream"), body, ANSWER_MS_MAX)
        .await
        .with_context(|| format!("cannot set `{key}` of `{name}`"))?;
    let via = listed(&client, &name).await?.into_iter().find(|info| info.key == key);
    let then = match via.and_then(|info| info.via) {
        Some(SecretVia::Env) => "every new instance has it in its environment".to_owned(),
        Some(SecretVia::Config) => "every new instance reads it from wasi:config".to_owned(),
        None => format!("nothing gets it yet: deploy with `--secret {key}`"),
    };
    out::line(&format!("set {key} of {name}; {then}"))
}

async fn ls(args: Ls) -> Result<()> {
    let client = args.host.client()?;
    let answer = client.get(&path(&args.name)).await?;
    if args.json {
        return out::json(answer.json());
    }
    let secrets: Vec<SecretInfo> = answer.read()?;
    if secrets.is_empty() {
        let set = format!("insula secret set {} KEY", args.name);
        out::note(&format!("{} has no secrets; set one: {set}", args.name));
        return Ok(());
    }
    let row = |info: &SecretInfo| {
        let via = info.via.map_or("not granted", via_word);
        [info.key.to_string(), text::age(&info.set_at), via.to_owned()]
    };
    let columns = [words("KEY"), words("SET"), words("REACHES IT BY")];
    out::write(table::render(columns, secrets.iter().map(row).collect()).as_bytes())
}

/// How a secret is delivered, in one word.
pub(crate) fn via_word(via: SecretVia) -> &'static str {
    match via {
        SecretVia::Env => "environment",
        SecretVia::Config => "wasi:config",
    }
}

async fn rm(args: Rm) -> Result<ExitCode> {
    let client = args.host.client()?;
    let mut first_failure = None;
    for key in args.keys {
        let one = format!("{}/{key}", path(&args.name));
        let removed = client.send(Method::DELETE, &one, None, no_body(), ANSWER_MS_MAX).await;
        match removed.with_context(|| format!("cannot remove `{key}` of `{}`", args.name)) {
            Ok(_) => out::line(&format!("removed {key} of {}", args.name))?,
            Err(error) if failure::exit_of(&error) == Exit::Unreachable => return Err(error),
            Err(error) => {
                failure::explain(&error);
                first_failure.get_or_insert(failure::exit_of(&error));
            }
        }
    }
    Ok(first_failure.map_or(ExitCode::SUCCESS, ExitCode::from))
}
