//! Preview 1 programs: core modules that start at `_start` and import `wasi_snapshot_preview1`.

use crate::program::START;
use crate::state::State;
use wasmtime::{Engine, ExternType, Linker, Module};

/// The one module that they may import from.
const WASI: &str = "wasi_snapshot_preview1";

/// All of preview 1, with nothing behind what was not granted.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, State::preview1)?;
    Ok(linker)
}

/// Why a module cannot be run: cause and mend.
pub(crate) fn check(module: &Module, linker: &Linker<State>) -> Result<(), (String, &'static str)> {
    let foreign = module.imports().find(|import| import.module() != WASI);
    if let Some(import) = foreign {
        let (from, name) = (import.module(), import.name());
        return Err((
            format!("the module imports `{from}.{name}`, which this host does not offer"),
            mend(from),
        ));
    }
    match module.get_export(START) {
        Some(ExternType::Func(ty)) if ty.params().len() == 0 && ty.results().len() == 0 => {}
        Some(_) => {
            return Err((
                format!("the module's `{START}` is not a function without parameters and results"),
                "build it as a program, with a `main`",
            ));
        }
        None => return Err(library(module)),
    }
    linker.instantiate_pre(module).map(drop).map_err(|error| {
        (
            format!("the module imports what preview 1 of WASI does not have: {error:#}"),
            "build it with a current toolchain",
        )
    })?;
    if module.imports().len() > 0
        && !matches!(module.get_export("memory"), Some(ExternType::Memory(_)))
    {
        return Err((
            "the module calls WASI and exports no memory named `memory`".into(),
            "export it; linkers of C and Rust do so by themselves",
        ));
    }
    Ok(())
}

fn library(module: &Module) -> (String, &'static str) {
    let names: Vec<&str> = module.exports().map(|export| export.name()).take(8).collect();
    let found = if names.is_empty() { "nothing".into() } else { names.join(", ") };
    (
        format!("this core module is a library, no program: it exports no `{START}`, but {found}"),
        "give it a `main` and build it as a command (for Rust, a binary for wasm32-wasip1); or, if its \
         exports are those of a component, lift it with `wasm-tools component new IN.wasm -o OUT.wasm` \
         or build it for wasm32-wasip2, which makes a component",
    )
}

fn mend(module: &str) -> &'static str {
    match module {
        "wasi_unstable" => {
            "that is WASI before preview 1; build it with a toolchain that is newer than 2020"
        }
        "wasi" => "threads are not offered; build it without them",
        "env" => {
            "in `env` the linker leaves what it did not find: link the library that defines it, or, with \
             Emscripten, build with -sSTANDALONE_WASM"
        }
        "gojs" | "go" => "it was built for browsers; build it with GOOS=wasip1",
        name if name.contains("wbindgen") || name == "wbg" => {
            "it was built for browsers; build it for wasm32-wasip1 and without wasm-bindgen"
        }
        _ => {
            "a preview 1 program may import `wasi_snapshot_preview1` and nothing else; link the rest into it"
        }
    }
}
