//! Writes the C bindings of a world: `bindgen WIT-DIRECTORY WORLD OUTPUT-DIRECTORY`.
//!
//! The generator is the one behind `wit-bindgen c`, used as a library so that Cargo.lock pins it.

use std::path::Path;
use std::process::ExitCode;
use wit_bindgen_core::{Files, wit_parser::Resolve};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [wit, world, out] = args.as_slice() else {
        eprintln!("usage: bindgen WIT-DIRECTORY WORLD OUTPUT-DIRECTORY");
        return ExitCode::from(2);
    };
    match generate(Path::new(wit), world, Path::new(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("bindgen: {cause}");
            ExitCode::FAILURE
        }
    }
}

fn generate(wit: &Path, world: &str, out: &Path) -> Result<(), String> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit).map_err(|e| format!("{e:#}"))?;
    let world = resolve.select_world(&[package], Some(world)).map_err(|e| format!("{e:#}"))?;
    let mut files = Files::default();
    wit_bindgen_c::Opts::default()
        .build()
        .generate(&mut resolve, world, &mut files)
        .map_err(|e| format!("{e:#}"))?;
    for (name, contents) in files.iter() {
        let path = out.join(name);
        std::fs::write(&path, contents).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}
