//! Bulk operations in pieces.
//!
//! The engine looks at the clock and the fuel between a guest's operations, and `memory.fill` is one
//! operation, whatever its length: 64 MiB of new pages take a tenth of a second, on the event loop of
//! everybody else. So before a module is compiled, each operation of its that may be long gets a
//! length check, and beyond [`PIECE`] a function of our own, which does it in a loop. What a guest can
//! see stays the same: results, traps, and that nothing is written where the whole is out of bounds.
//!
//! Only what changes is encoded anew. Types and functions are appended, so that no index moves, and a
//! function's bytes are copied but for the operators that are replaced.
//!
//! Not reached: what the engine does in one call of its own, as passing a text between the components
//! of a composition.

mod body;
mod helper;
mod module;
#[cfg(test)]
mod tests;

use body::Added;
pub(crate) use helper::{PIECE, PIECE_ELEMENTS};
use module::{Entries, Module};
use std::borrow::Cow;
use wasm_encoder::{CodeSection, Encode, RawSection, Section, SectionId};
use wasmparser::{Chunk, Parser, Payload, Validator, WasmFeatures};

/// What is made of a module; to be counted up with every change, so that code is compiled again.
pub(crate) const VERSION: u32 = 1;
/// Components within components, beyond which none is looked at.
const DEPTH_MAX: usize = 100;
/// Bytes that a small module may gain; a larger one may double.
const GAIN_BYTES_MIN: usize = 64 << 10;
/// The first bytes: magic, version and layer.
const PREAMBLE_BYTES: usize = 8;

/// Why an artifact cannot be rewritten: it is not valid, or near one of the format's bounds.
#[derive(Debug, thiserror::Error)]
#[error("its bulk operations cannot be divided: {0}")]
pub(crate) struct Odd(String);

impl From<wasmparser::Error> for Odd {
    fn from(error: wasmparser::Error) -> Self {
        odd(error)
    }
}

fn odd(error: impl ToString) -> Odd {
    Odd(error.to_string())
}

/// Has `make` compile `bytes` with bulk operations in pieces. What is wrong with them it says of the
/// bytes as they are.
pub(crate) fn compile<T>(
    bytes: &[u8],
    make: impl Fn(&[u8]) -> wasmtime::Result<T>,
) -> wasmtime::Result<T> {
    match rewrite(bytes) {
        Ok(None) => make(bytes),
        // Added functions could make good an index that had none, so only what is valid is changed.
        Ok(Some(_)) if !is_valid(bytes) => make(bytes),
        Ok(Some(new)) => make(&new).map_err(|error| make(bytes).err().unwrap_or(error)),
        Err(odd) => match make(bytes) {
            Ok(_) => Err(wasmtime::Error::new(odd)),
            Err(error) => Err(error),
        },
    }
}

/// By any proposal: the engine knows which of them it takes.
fn is_valid(bytes: &[u8]) -> bool {
    Validator::new_with_features(WasmFeatures::all()).validate_all(bytes).is_ok()
}

/// The module or component with its bulk operations in pieces: `None` if it has none.
pub(crate) fn rewrite(bytes: &[u8]) -> Result<Option<Vec<u8>>, Odd> {
    if Parser::is_component(bytes) { component(bytes, 0) } else { core(bytes) }
}

fn component(bytes: &[u8], depth: usize) -> Result<Option<Vec<u8>>, Odd> {
    if depth >= DEPTH_MAX {
        return Err(odd("components are nested too deep"));
    }
    let mut parser = Parser::new(0);
    let mut sections: Vec<(u8, Cow<'_, [u8]>)> = Vec::new();
    let mut changed = false;
    let mut at = 0;
    loop {
        let left = bytes.get(at..).unwrap_or_default();
        let Chunk::Parsed { consumed, payload } = parser.parse(left, true)? else {
            return Err(odd("unexpected end"));
        };
        at += consumed;
        if matches!(payload, Payload::End(_)) {
            break;
        }
        let Some((id, range)) = payload.as_section() else { continue };
        let content = bytes.get(range.clone()).ok_or_else(|| odd("unexpected end"))?;
        let new = match payload {
            Payload::ModuleSection { .. } => {
                at = range.end;
                core(content)?
            }
            Payload::ComponentSection { .. } => {
                at = range.end;
                component(content, depth + 1)?
            }
            _ => None,
        };
        changed |= new.is_some();
        sections.push((id, new.map_or(Cow::Borrowed(content), Cow::Owned)));
    }
    if !changed {
        return Ok(None);
    }
    let mut new = preamble(bytes)?;
    for (id, data) in &sections {
        Section::append_to(&RawSection { id: *id, data }, &mut new);
    }
    Ok(Some(new))
}

fn preamble(bytes: &[u8]) -> Result<Vec<u8>, Odd> {
    Ok(bytes.get(..PREAMBLE_BYTES).ok_or_else(|| odd("unexpected end"))?.to_vec())
}

fn core(bytes: &[u8]) -> Result<Option<Vec<u8>>, Odd> {
    let module = Module::read(bytes)?;
    let mut added = Added::default();
    let mut bodies = Vec::with_capacity(module.bodies.len());
    let mut gain = bytes.len().max(GAIN_BYTES_MIN);
    for (at, body) in module.bodies.iter().enumerate() {
        let new = body::rewrite(bytes, &module, at, body, &mut added)?;
        let grown = new.as_ref().map_or(0, |new| new.len().saturating_sub(body.as_bytes().len()));
        gain = gain.checked_sub(grown).ok_or_else(|| odd("there is hardly anything else"))?;
        bodies.push(new.map_or(Cow::Borrowed(body.as_bytes()), Cow::Owned));
    }
    if added.helpers.is_empty() {
        return Ok(None);
    }
    let mut new = preamble(bytes)?;
    for section in &module.sections {
        if section.is_code_metadata {
            continue;
        }
        let id = section.id;
        if id == SectionId::Type as u8 {
            let mut data = more(bytes, &module.types, &added)?;
            added.helpers.iter().for_each(|helper| helper.encode_type(&mut data));
            RawSection { id, data: &data }.append_to(&mut new);
        } else if id == SectionId::Function as u8 {
            let mut data = more(bytes, &module.functions, &added)?;
            let first = u32::try_from(module.type_count()).map_err(odd)?;
            for (ty, _) in (first..).zip(&added.helpers) {
                ty.encode(&mut data);
            }
            RawSection { id, data: &data }.append_to(&mut new);
        } else if id == SectionId::Code as u8 {
            let mut code = CodeSection::new();
            for body in &bodies {
                code.raw(body);
            }
            for helper in &added.helpers {
                code.raw(&helper.body());
            }
            code.append_to(&mut new);
        } else {
            let data = bytes.get(section.range.clone()).ok_or_else(|| odd("unexpected end"))?;
            RawSection { id, data }.append_to(&mut new);
        }
    }
    Ok(Some(new))
}

/// A section's content with room for a helper's entry each: the count, and the entries so far.
fn more(bytes: &[u8], entries: &Entries, added: &Added) -> Result<Vec<u8>, Odd> {
    let helpers = u32::try_from(added.helpers.len()).map_err(odd)?;
    let count = entries.count.checked_add(helpers).ok_or_else(|| odd("too many entries"))?;
    let mut data = Vec::new();
    count.encode(&mut data);
    data.extend_from_slice(bytes.get(entries.range.clone()).ok_or_else(|| odd("offsets"))?);
    Ok(data)
}
