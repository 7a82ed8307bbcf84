//! One function's code, with what stands in for its bulk operations.

use super::helper::{Helper, Operation};
use super::module::Module;
use super::{Odd, odd};
use std::collections::BTreeMap;
use wasm_encoder::{BlockType, Encode, InstructionSink, ValType};
use wasmparser::{FunctionBody, Operator};

/// What is added to a module.
#[derive(Default)]
pub(super) struct Added {
    pub(super) helpers: Vec<Helper>,
    by_operation: BTreeMap<Operation, u32>,
}

impl Added {
    /// The helper's number.
    fn number(&mut self, helper: Helper) -> Result<u32, Odd> {
        let next = u32::try_from(self.helpers.len()).map_err(odd)?;
        Ok(*self.by_operation.entry(helper.operation).or_insert_with(|| {
            self.helpers.push(helper);
            next
        }))
    }
}

/// Two more locals, one of each type that lengths have; each exists if it was asked for.
struct Scratch {
    first: u32,
    added: Vec<ValType>,
}

impl Scratch {
    fn local(&mut self, ty: ValType) -> Result<u32, Odd> {
        let at = self.added.iter().position(|added| *added == ty).unwrap_or_else(|| {
            self.added.push(ty);
            self.added.len() - 1
        });
        self.first.checked_add(u32::try_from(at).map_err(odd)?).ok_or_else(|| odd("many locals"))
    }
}

/// The body `at` of `module`, in `bytes`: `None` if it can stay as it is.
pub(super) fn rewrite(
    bytes: &[u8],
    module: &Module<'_>,
    at: usize,
    body: &FunctionBody<'_>,
    added: &mut Added,
) -> Result<Option<Vec<u8>>, Odd> {
    let mut operators = body.get_operators_reader()?;
    let start = operators.original_position();
    let mut copied = start;
    let mut code = Vec::new();
    let mut scratch = None;
    // What the operator before leaves on top, if that is a constant.
    let mut constant = None;
    while !operators.eof() {
        let (operator, offset) = operators.read_with_offset()?;
        let end = operators.original_position();
        if let Some(helper) = module.helper(&operator)
            && constant.is_none_or(|length| length > u64::from(helper.operation.piece()))
        {
            let scratch = match &mut scratch {
                Some(scratch) => scratch,
                none => none.insert(Scratch { first: locals(module, at, body)?, added: vec![] }),
            };
            code.extend_from_slice(bytes.get(copied..offset).ok_or_else(|| odd("offsets"))?);
            stand_in(&mut code, module, helper, scratch, added)?;
            copied = end;
        }
        constant = match operator {
            Operator::I32Const { value } => Some(u64::from(value.cast_unsigned())),
            Operator::I64Const { value } => Some(value.cast_unsigned()),
            _ => None,
        };
    }
    let Some(scratch) = scratch else { return Ok(None) };
    let locals = body.get_locals_reader()?;
    let (groups, from) = (locals.get_count(), locals.original_position());
    let more = u32::try_from(scratch.added.len()).map_err(odd)?;
    let mut new = Vec::with_capacity(code.len() + body.as_bytes().len());
    groups.checked_add(more).ok_or_else(|| odd("many locals"))?.encode(&mut new);
    new.extend_from_slice(bytes.get(from..start).ok_or_else(|| odd("offsets"))?);
    for ty in scratch.added {
        1_u32.encode(&mut new);
        ty.encode(&mut new);
    }
    new.append(&mut code);
    let rest = bytes.get(copied..operators.original_position()).ok_or_else(|| odd("offsets"))?;
    new.extend_from_slice(rest);
    Ok(Some(new))
}

/// Parameters and locals of a function: the index of the first that is added.
fn locals(module: &Module<'_>, at: usize, body: &FunctionBody<'_>) -> Result<u32, Odd> {
    let mut count = module.params(at).ok_or_else(|| odd("a function without a type"))?;
    for group in body.get_locals_reader()? {
        count = count.checked_add(group?.0).ok_or_else(|| odd("many locals"))?;
    }
    Ok(count)
}

/// The operation itself if there is little to do, which costs a comparison; else its helper.
fn stand_in(
    code: &mut Vec<u8>,
    module: &Module<'_>,
    helper: Helper,
    scratch: &mut Scratch,
    added: &mut Added,
) -> Result<(), Odd> {
    let number = added.number(helper)?;
    let index = |count: usize| u32::try_from(count).ok()?.checked_add(number);
    let ty = index(module.type_count()).ok_or_else(|| odd("many types"))?;
    let function = index(module.function_count()).ok_or_else(|| odd("many functions"))?;
    let length = helper.operands.length();
    let local = scratch.local(length.ty())?;
    let mut code = InstructionSink::new(code);
    code.local_tee(local).local_get(local);
    length.constant(&mut code, helper.operation.piece());
    length.at_most(&mut code);
    code.if_(BlockType::FunctionType(ty));
    helper.operation.emit(&mut code);
    code.else_().call(function).end();
    Ok(())
}
