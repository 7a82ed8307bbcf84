//! `insula new`: a folder to start from, in the language that one has.
//!
//! The templates are the example guests themselves, so what is written here is what the tests build
//! and run.

use crate::failure::{Exit, Failure};
use crate::out;
use crate::text::{program, shell_word};
use anyhow::{Context, Result};
use clap::ValueEnum;
use clap::builder::ValueHint;
use insula_model::TenantName;
use std::fs;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  insula new --lang rust hello
  insula new --lang python shop ./services/shop
  insula new --list";

/// Write the folder of a new tenant.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The tenant's name: lower-case letters, digits and hyphens
    #[arg(required_unless_present = "list")]
    name: Option<TenantName>,
    /// Where to write it [default: a directory of that name]
    #[arg(value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// The language
    #[arg(long, short, value_enum, required_unless_present = "list")]
    lang: Option<Language>,
    /// List the languages, and what each needs to be installed
    #[arg(long, conflicts_with_all = ["name", "dir", "lang"])]
    list: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    C,
    #[value(alias = "javascript")]
    Js,
    #[value(alias = "py")]
    Python,
}

/// One language's example guest.
struct Template {
    /// Its name there, which becomes the new tenant's.
    example: &'static str,
    /// What has to be installed.
    needs: &'static str,
    /// What it becomes.
    kind: &'static str,
    /// The file to start reading.
    source: &'static str,
    /// Every file, by its path in the folder.
    files: &'static [(&'static str, &'static str)],
}

macro_rules! example {
    ($name:literal: $($file:literal),*) => {
        &[$(($file, include_str!(concat!("../../guests/", $name, "/", $file)))),*]
    };
}

const RUST: Template = Template {
    example: "hello",
    needs: "Rust 1.91 with `rustup target add wasm32-wasip2`",
    kind: "wasi:http 0.2 component",
    source: "src/lib.rs",
    files: example!("hello": "insula.toml", "Cargo.toml", "src/lib.rs"),
};

const C: Template = Template {
    example: "cgi-c",
    needs: "wasi-sdk, its path in WASI_SDK_PATH; or any other compiler for WASI in CC, such as \
            `python3 -m ziglang cc -target wasm32-wasi`",
    kind: "WASI preview 1 program, served as CGI",
    source: "cgi.c",
    files: example!("cgi-c": "insula.toml", "cgi.c"),
};

const JS: Template = Template {
    example: "hello-js",
    needs: "Node.js 20 with npm; the first build fetches componentize-js into node_modules",
    kind: "wasi:http 0.2 component with a JavaScript engine inside, 13 MB",
    source: "hello.js",
    files: example!("hello-js": "insula.toml", "package.json", "hello.js", "wit/hello.wit"),
};

const PYTHON: Template = Template {
    example: "hello-python",
    needs: "Python 3.9 with venv; the first build fetches componentize-py into .venv",
    kind: "wasi:http 0.2 component with CPython inside, 18 MB",
    source: "hello.py",
    files: example!(
        "hello-python": "insula.toml", "build.sh", "requirements.txt", "hello.py", "wit/hello.wit"
    ),
};

const IGNORED: &str = "/target\n/node_modules\n/.venv\n__pycache__\n*.wasm\n";

impl Language {
    fn template(self) -> &'static Template {
        match self {
            Self::Rust => &RUST,
            Self::C => &C,
            Self::Js => &JS,
            Self::Python => &PYTHON,
        }
    }
}

/// Writes it, or lists what could be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (Some(name), Some(lang)) = (&args.name, args.lang) else { return list() };
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(name.as_str()));
    let template = lang.template();
    write(template, name, &dir)?;
    let shown = dir.to_string_lossy();
    let paint = out::stdout_paint();
    let steps = [
        (format!("cd {}", shell_word(&shown)), String::new()),
        (format!("{} dev", program()), "builds, deploys, and again on each save".to_owned()),
    ];
    let mut lines = format!(
        "wrote {shown}: {}, a {}\n  needs     {}\n  read      {}",
        name,
        template.kind,
        template.needs,
        dir.join(template.source).display()
    );
    for (command, what) in steps {
        let command = paint.copy(&command);
        lines.push_str(format!("\n  next      {command}   {what}").trim_end());
    }
    out::line(&lines)
}

fn list() -> Result<()> {
    let mut lines = Vec::new();
    for lang in Language::value_variants() {
        let template = lang.template();
        let name = lang.to_possible_value().map(|value| value.get_name().to_owned());
        let name = name.unwrap_or_default();
        lines.push(format!("{name:<8} {}\n         needs {}", template.kind, template.needs));
    }
    out::line(&lines.join("\n"))
}

fn write(template: &Template, name: &TenantName, dir: &Path) -> Result<()> {
    let shown = dir.display();
    let is_taken = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    if is_taken {
        return Err(Failure::new(Exit::Usage, format!("{shown} is there already, and not empty"))
            .hint(format!("name another directory: {} new {name} DIR …", program()))
            .into());
    }
    for (file, contents) in template.files {
        let path = dir.join(file);
        let parent = path.parent().unwrap_or(dir);
        fs::create_dir_all(parent)
            .with_context(|| format!("{} cannot be made", parent.display()))?;
        let contents = renamed(contents, template.example, name.as_str());
        fs::write(&path, contents)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    let ignore = dir.join(".gitignore");
    fs::write(&ignore, IGNORED).with_context(|| format!("{} cannot be written", ignore.display()))
}

/// The example's text with its name replaced, wherever it names the tenant, its package or its file.
/// `hello.js`, `hello.py` and the world `hello` keep their names: only whole words in quotes, file names
/// of components, and WIT packages are the tenant's.
fn renamed(text: &str, example: &str, name: &str) -> String {
    // Cargo refuses packages that start with a digit, and makes the file's name an identifier.
    let package = match name.starts_with(|first: char| first.is_ascii_digit()) {
        true => format!("app-{name}"),
        false => name.to_owned(),
    };
    let file = package.replace('-', "_");
    text.replace(&format!("release/{example}.wasm"), &format!("release/{file}.wasm"))
        .replace(
            &format!("[package]\nname = \"{example}\""),
            &format!("[package]\nname = \"{package}\""),
        )
        .replace(&format!("\"{example}\""), &format!("\"{name}\""))
        .replace(&format!("package insula:{example};"), &format!("package app:{};", wit(name)))
        .replace(&format!("{example}.wasm"), &format!("{name}.wasm"))
}

/// A WIT identifier: each of its words starts with a letter.
fn wit(name: &str) -> String {
    let word = |word: &str| match word.starts_with(|first: char| first.is_ascii_alphabetic()) {
        true => word.to_owned(),
        false => format!("n{word}"),
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}
