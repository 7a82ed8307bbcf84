//! `insula completions`: what a shell needs to complete our command lines.

use crate::out;
use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  insula completions bash > ~/.local/share/bash-completion/completions/insula
  insula completions zsh > ~/.zfunc/_insula          with ~/.zfunc in $fpath, before compinit
  insula completions fish > ~/.config/fish/completions/insula.fish";

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "insula", &mut script);
    out::write(&script)
}
