//! What a core module has, as far as its bulk operations need to know.

use super::helper::{Helper, Index, Operands, Operation};
use std::ops::Range;
use wasm_encoder::ValType;
use wasmparser::{
    CompositeInnerType, ElementItems, FunctionBody, MemoryType, Operator, Parser, Payload, RefType,
    TableType, TypeRef,
};

/// Sections whose offsets into code are wrong after it was changed: hints, which may be missing.
const CODE_METADATA: &str = "metadata.code.";

/// A section, and where its content is.
pub(super) struct Section {
    pub(super) id: u8,
    pub(super) range: Range<usize>,
    /// It speaks of offsets into code.
    pub(super) is_code_metadata: bool,
}

/// The entries of a section.
#[derive(Default)]
pub(super) struct Entries {
    pub(super) count: u32,
    pub(super) range: Range<usize>,
}

/// A memory or a table.
struct Place {
    index: Index,
    /// What it can hold at most, in bytes or elements.
    most: u64,
    /// What a table's elements are, as far as it can be said in a helper's type.
    element: Option<ValType>,
}

/// A core module.
#[derive(Default)]
pub(super) struct Module<'a> {
    pub(super) sections: Vec<Section>,
    /// The type section, as groups.
    pub(super) types: Entries,
    pub(super) functions: Entries,
    pub(super) bodies: Vec<FunctionBody<'a>>,
    /// Of each type, how many parameters it has.
    params: Vec<u32>,
    /// Of each function, imported ones first, its type.
    signatures: Vec<u32>,
    memories: Vec<Place>,
    tables: Vec<Place>,
    /// Of each data segment, its bytes; of each element segment, its elements.
    data: Vec<u64>,
    elements: Vec<u64>,
}

impl<'a> Module<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> wasmparser::Result<Self> {
        let mut module = Self::default();
        for payload in Parser::new(0).parse_all(bytes) {
            module.payload(payload?)?;
        }
        Ok(module)
    }

    fn payload(&mut self, payload: Payload<'a>) -> wasmparser::Result<()> {
        if let Some((id, range)) = payload.as_section() {
            let is_code_metadata = matches!(&payload,
                Payload::CustomSection(custom) if custom.name().starts_with(CODE_METADATA));
            self.sections.push(Section { id, range, is_code_metadata });
        }
        match payload {
            Payload::TypeSection(groups) => {
                let range = groups.original_position()..groups.range().end;
                self.types = Entries { count: groups.count(), range };
                for group in groups {
                    for ty in group?.types() {
                        self.params.push(match &ty.composite_type.inner {
                            CompositeInnerType::Func(ty) => {
                                u32::try_from(ty.params().len()).unwrap_or(u32::MAX)
                            }
                            _ => 0,
                        });
                    }
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    match import?.ty {
                        TypeRef::Func(ty) | TypeRef::FuncExact(ty) => self.signatures.push(ty),
                        TypeRef::Memory(ty) => self.memories.push(memory(&ty)),
                        TypeRef::Table(ty) => self.tables.push(table(&ty)),
                        TypeRef::Global(_) | TypeRef::Tag(_) => {}
                    }
                }
            }
            Payload::FunctionSection(functions) => {
                let range = functions.original_position()..functions.range().end;
                self.functions = Entries { count: functions.count(), range };
                for ty in functions {
                    self.signatures.push(ty?);
                }
            }
            Payload::TableSection(tables) => {
                for ty in tables {
                    self.tables.push(table(&ty?.ty));
                }
            }
            Payload::MemorySection(memories) => {
                for ty in memories {
                    self.memories.push(memory(&ty?));
                }
            }
            Payload::ElementSection(segments) => {
                for segment in segments {
                    self.elements.push(u64::from(match segment?.items {
                        ElementItems::Functions(items) => items.count(),
                        ElementItems::Expressions(_, items) => items.count(),
                    }));
                }
            }
            Payload::DataSection(segments) => {
                for segment in segments {
                    self.data.push(segment?.data.len() as u64);
                }
            }
            Payload::CodeSectionEntry(body) => self.bodies.push(body),
            _ => {}
        }
        Ok(())
    }

    /// How many types there are: a group has several.
    pub(super) fn type_count(&self) -> usize {
        self.params.len()
    }

    /// How many functions there are, imported ones included.
    pub(super) fn function_count(&self) -> usize {
        self.signatures.len()
    }

    /// Parameters of the function with the body `at`.
    pub(super) fn params(&self, at: usize) -> Option<u32> {
        let imported = self.signatures.len().checked_sub(self.bodies.len())?;
        let ty = *self.signatures.get(imported.checked_add(at)?)?;
        self.params.get(usize::try_from(ty).ok()?).copied()
    }

    /// What has to stand in for the operator: `None` if it is no bulk operation, or one that cannot be
    /// long, or if what it works on does not exist.
    pub(super) fn helper(&self, operator: &Operator<'_>) -> Option<Helper> {
        let memory = |index| at(&self.memories, index);
        let table = |index| at(&self.tables, index);
        let (operation, operands, most) = match *operator {
            Operator::MemoryFill { mem } => {
                let to = memory(mem)?;
                let operands = Operands::Fill { to: to.index, value: ValType::I32 };
                (Operation::MemoryFill { memory: mem }, operands, to.most)
            }
            Operator::MemoryCopy { dst_mem, src_mem } => {
                let (to, from) = (memory(dst_mem)?, memory(src_mem)?);
                let operation = Operation::MemoryCopy { to: dst_mem, from: src_mem };
                (operation, copying(to, from.index), to.most.min(from.most))
            }
            Operator::MemoryInit { data_index: data, mem } => {
                let (to, bytes) = (memory(mem)?, *at(&self.data, data)?);
                let operation = Operation::MemoryInit { memory: mem, data };
                (operation, copying(to, Index::Bits32), to.most.min(bytes))
            }
            // `table.grow` stays as it is: half of it cannot be taken back. It makes at most 2 MiB of
            // pages (`TABLE_ELEMENTS_MAX`), 4 ms where they are slowest, once for each of few tables.
            Operator::TableFill { table: index } => {
                let to = table(index)?;
                let operands = Operands::Fill { to: to.index, value: to.element? };
                (Operation::TableFill { table: index }, operands, to.most)
            }
            Operator::TableCopy { dst_table, src_table } => {
                let (to, from) = (table(dst_table)?, table(src_table)?);
                let operation = Operation::TableCopy { to: dst_table, from: src_table };
                (operation, copying(to, from.index), to.most.min(from.most))
            }
            Operator::TableInit { elem_index: elements, table: index } => {
                let (to, count) = (table(index)?, *at(&self.elements, elements)?);
                let operation = Operation::TableInit { table: index, elements };
                (operation, copying(to, Index::Bits32), to.most.min(count))
            }
            _ => return None,
        };
        (most > u64::from(operation.piece())).then_some(Helper { operation, operands })
    }
}

fn at<T>(list: &[T], index: u32) -> Option<&T> {
    list.get(usize::try_from(index).ok()?)
}

fn copying(to: &Place, from: Index) -> Operands {
    Operands::Copy { to: to.index, from }
}

fn memory(ty: &MemoryType) -> Place {
    let page = 1_u64.checked_shl(ty.page_size_log2.unwrap_or(16)).unwrap_or(u64::MAX);
    let most = ty.maximum.map_or(u64::MAX, |pages| pages.saturating_mul(page));
    Place { index: Index::of(ty.memory64), most, element: None }
}

fn table(ty: &TableType) -> Place {
    // Others need proposals that the engine is built without.
    let element = match ty.element_type {
        RefType::FUNCREF => Some(ValType::FUNCREF),
        RefType::EXTERNREF => Some(ValType::EXTERNREF),
        _ => None,
    };
    Place { index: Index::of(ty.table64), most: ty.maximum.unwrap_or(u64::MAX), element }
}
