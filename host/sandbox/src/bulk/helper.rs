//! The functions that do a long bulk operation piece by piece.
//!
//! Each is called with the operands of the operation in whose place it stands, and only when there is
//! more to do than [`PIECE`]. It begins with what finds out whether all of it is in bounds, so that
//! one that is not traps before anything is written, as the operation itself would.

use wasm_encoder::{BlockType, Encode, Function, InstructionSink, MemArg, ValType};

/// What is done at once, in bytes of memory: a quarter of a millisecond if each page has to be made.
pub(crate) const PIECE: u32 = 128 << 10;
/// The same in elements of a table, 8 bytes each.
pub(crate) const PIECE_ELEMENTS: u32 = PIECE / 8;

/// The type of an address or a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Index {
    Bits32,
    Bits64,
}

impl Index {
    pub(super) fn of(wide: bool) -> Self {
        if wide { Self::Bits64 } else { Self::Bits32 }
    }

    pub(super) fn ty(self) -> ValType {
        match self {
            Self::Bits32 => ValType::I32,
            Self::Bits64 => ValType::I64,
        }
    }

    pub(super) fn constant(self, code: &mut InstructionSink<'_>, value: u32) {
        match self {
            Self::Bits32 => code.i32_const(value.cast_signed()),
            Self::Bits64 => code.i64_const(i64::from(value)),
        };
    }

    pub(super) fn at_most(self, code: &mut InstructionSink<'_>) {
        match self {
            Self::Bits32 => code.i32_le_u(),
            Self::Bits64 => code.i64_le_u(),
        };
    }

    fn less(self, code: &mut InstructionSink<'_>) {
        match self {
            Self::Bits32 => code.i32_lt_u(),
            Self::Bits64 => code.i64_lt_u(),
        };
    }

    fn add(self, code: &mut InstructionSink<'_>) {
        match self {
            Self::Bits32 => code.i32_add(),
            Self::Bits64 => code.i64_add(),
        };
    }

    fn subtract(self, code: &mut InstructionSink<'_>) {
        match self {
            Self::Bits32 => code.i32_sub(),
            Self::Bits64 => code.i64_sub(),
        };
    }
}

/// A bulk operation, by its immediates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    MemoryFill { memory: u32 },
    MemoryCopy { to: u32, from: u32 },
    MemoryInit { memory: u32, data: u32 },
    TableFill { table: u32 },
    TableCopy { to: u32, from: u32 },
    TableInit { table: u32, elements: u32 },
}

impl Operation {
    /// How much of it is done at once, in its own units.
    pub(super) fn piece(self) -> u32 {
        match self {
            Self::MemoryFill { .. } | Self::MemoryCopy { .. } | Self::MemoryInit { .. } => PIECE,
            Self::TableFill { .. } | Self::TableCopy { .. } | Self::TableInit { .. } => {
                PIECE_ELEMENTS
            }
        }
    }

    pub(super) fn emit(self, code: &mut InstructionSink<'_>) {
        match self {
            Self::MemoryFill { memory } => code.memory_fill(memory),
            Self::MemoryCopy { to, from } => code.memory_copy(to, from),
            Self::MemoryInit { memory, data } => code.memory_init(memory, data),
            Self::TableFill { table } => code.table_fill(table),
            Self::TableCopy { to, from } => code.table_copy(to, from),
            Self::TableInit { table, elements } => code.table_init(table, elements),
        };
    }

    /// Whether the order matters: one piece may be written over another that is yet to be read.
    fn overlaps(self) -> bool {
        match self {
            Self::MemoryCopy { to, from } | Self::TableCopy { to, from } => to == from,
            _ => false,
        }
    }

    /// Takes an index into what is copied from, and traps if there is nothing.
    fn probe(self, code: &mut InstructionSink<'_>) {
        match self {
            Self::TableCopy { from, .. } => code.table_get(from),
            Self::MemoryCopy { from: memory_index, .. }
            | Self::MemoryFill { memory: memory_index }
            | Self::MemoryInit { memory: memory_index, .. } => {
                code.i32_load8_u(MemArg { offset: 0, align: 0, memory_index })
            }
            Self::TableFill { table } | Self::TableInit { table, .. } => code.table_get(table),
        };
        code.drop();
    }
}

/// Types of an operation's operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operands {
    /// Where to, the value, how many.
    Fill { to: Index, value: ValType },
    /// Where to, where from, how many.
    Copy { to: Index, from: Index },
}

impl Operands {
    /// The type of the last one: how many.
    pub(super) fn length(self) -> Index {
        match self {
            Self::Fill { to, .. } => to,
            Self::Copy { to: Index::Bits64, from: Index::Bits64 } => Index::Bits64,
            Self::Copy { .. } => Index::Bits32,
        }
    }
}

/// A function to be added to a module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Helper {
    pub(super) operation: Operation,
    pub(super) operands: Operands,
}

/// Parameters and locals of each helper.
const TO: u32 = 0;
const FROM: u32 = 1;
const VALUE: u32 = 1;
const LENGTH: u32 = 2;
const LEFT: u32 = 3;

impl Helper {
    /// Appends the function's type, as an entry of a type section.
    pub(super) fn encode_type(&self, sink: &mut Vec<u8>) {
        let (first, second) = match self.operands {
            Operands::Fill { to, value } => (to.ty(), value),
            Operands::Copy { to, from } => (to.ty(), from.ty()),
        };
        sink.extend([0x60, 3]);
        for ty in [first, second, self.operands.length().ty()] {
            ty.encode(sink);
        }
        sink.push(0);
    }

    /// The function, as an entry of a code section without its length.
    pub(super) fn body(&self) -> Vec<u8> {
        let mut function = Function::new([(1, self.operands.length().ty())]);
        let mut code = function.instructions();
        // All but one piece.
        code.local_get(LENGTH);
        self.less_a_piece(&mut code);
        code.local_set(LEFT);
        match self.operands {
            Operands::Fill { to, .. } => self.fill(&mut code, to),
            Operands::Copy { to, from } => self.copy(&mut code, to, from),
        }
        code.end();
        function.into_raw_body()
    }

    /// Takes a piece off the length on the stack.
    fn less_a_piece(&self, code: &mut InstructionSink<'_>) {
        let length = self.operands.length();
        length.constant(code, self.operation.piece());
        length.subtract(code);
    }

    /// `local += piece`
    fn advance(&self, code: &mut InstructionSink<'_>, local: u32, ty: Index) {
        code.local_get(local);
        ty.constant(code, self.operation.piece());
        ty.add(code);
        code.local_set(local);
    }

    /// `length` as a `ty`.
    fn length_as(&self, code: &mut InstructionSink<'_>, length: u32, ty: Index) {
        code.local_get(length);
        if self.operands.length() == Index::Bits32 && ty == Index::Bits64 {
            code.i64_extend_i32_u();
        }
    }

    /// `start + length`, which the caller knows to fit.
    fn end(&self, code: &mut InstructionSink<'_>, start: u32, length: u32, ty: Index) {
        code.local_get(start);
        self.length_as(code, length, ty);
        ty.add(code);
    }

    /// A range whose last element has no index is out of bounds: the operation itself says so.
    fn trap_if_too_long(&self, code: &mut InstructionSink<'_>, start: u32, ty: Index) {
        self.end(code, start, LENGTH, ty);
        ty.constant(code, 1);
        ty.subtract(code);
        code.local_get(start);
        ty.less(code);
        code.if_(BlockType::Empty);
        code.local_get(TO).local_get(FROM).local_get(LENGTH);
        self.operation.emit(code);
        code.unreachable();
        code.end();
    }

    /// Does `step` for as long as `length` is more than a piece.
    fn while_long(
        &self,
        code: &mut InstructionSink<'_>,
        length: u32,
        step: impl FnOnce(&mut InstructionSink<'_>),
    ) {
        code.loop_(BlockType::Empty);
        self.operands.length().constant(code, self.operation.piece());
        code.local_get(length);
        self.operands.length().less(code);
        code.if_(BlockType::Empty);
        step(code);
        code.br(1);
        code.end();
        code.end();
    }

    fn piece(&self, code: &mut InstructionSink<'_>) {
        self.operands.length().constant(code, self.operation.piece());
        self.operation.emit(code);
    }

    fn fill(&self, code: &mut InstructionSink<'_>, to: Index) {
        self.trap_if_too_long(code, TO, to);
        // The last piece first: it knows the bounds.
        self.end(code, TO, LEFT, to);
        code.local_get(VALUE);
        self.piece(code);
        self.while_long(code, LEFT, |code| {
            code.local_get(TO).local_get(VALUE);
            self.piece(code);
            self.advance(code, TO, to);
            code.local_get(LEFT);
            self.less_a_piece(code);
            code.local_set(LEFT);
        });
        code.local_get(TO).local_get(VALUE).local_get(LEFT);
        self.operation.emit(code);
    }

    fn copy(&self, code: &mut InstructionSink<'_>, to: Index, from: Index) {
        self.trap_if_too_long(code, TO, to);
        self.trap_if_too_long(code, FROM, from);
        if self.operation.overlaps() {
            code.local_get(TO).local_get(FROM);
            to.at_most(code);
            code.if_(BlockType::Empty);
            self.copy_upwards(code, to);
            code.return_();
            code.end();
        }
        // From the end, whose first piece knows the bounds of both.
        let last = |code: &mut InstructionSink<'_>| {
            self.end(code, TO, LEFT, to);
            self.end(code, FROM, LEFT, from);
            self.piece(code);
        };
        last(code);
        self.while_long(code, LEFT, |code| {
            code.local_get(LEFT);
            self.less_a_piece(code);
            code.local_set(LEFT);
            last(code);
        });
        code.local_get(TO).local_get(FROM).local_get(LEFT);
        self.operation.emit(code);
    }

    /// Where the target is not behind the source, of the same memory or table: the source ends last.
    fn copy_upwards(&self, code: &mut InstructionSink<'_>, ty: Index) {
        self.end(code, FROM, LENGTH, ty);
        ty.constant(code, 1);
        ty.subtract(code);
        self.operation.probe(code);
        self.while_long(code, LENGTH, |code| {
            code.local_get(TO).local_get(FROM);
            self.piece(code);
            self.advance(code, TO, ty);
            self.advance(code, FROM, ty);
            code.local_get(LENGTH);
            self.less_a_piece(code);
            code.local_set(LENGTH);
        });
        code.local_get(TO).local_get(FROM).local_get(LENGTH);
        self.operation.emit(code);
    }
}
