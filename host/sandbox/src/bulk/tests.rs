#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use wasmtime::{Config, Engine, Instance, Module, Store, Trap, UpdateDeadline, Val};

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

/// Rewritten, and valid.
#[track_caller]
fn changed(text: &str) -> Vec<u8> {
    let bytes = wat(text);
    assert!(is_valid(&bytes), "the test's own module");
    let new = rewrite(&bytes).unwrap().expect("something to do");
    Validator::new_with_features(WasmFeatures::all()).validate_all(&new).unwrap();
    new
}

const MEMORY: u64 = 11 * 65_536;
const ELEMENTS: u64 = 50_000;

/// Every operation, on two memories and two tables of which one each has 64-bit indices.
fn everything() -> String {
    let data: String = (0..300_000_u64).map(|i| char::from(b'a' + (i * i % 23) as u8)).collect();
    let functions: String =
        (0..40).map(|i| format!("(func $f{i} (result i32) (i32.const {i}))")).collect();
    let elements: String = (0..40_000_u64).map(|i| format!(" $f{}", i * i % 37)).collect();
    let mut text = format!(
        r#"(module
        (memory $a (export "a") 11) (memory $b (export "b") i64 11)
        (table $t {ELEMENTS} funcref) (table $u i64 {ELEMENTS} funcref)
        (data $d "{data}") (elem $e func {elements}) {functions}
        (type $number (func (result i32)))"#
    );
    for (table, ty) in [("t", "i32"), ("u", "i64")] {
        text += &format!(
            r#"(func (export "hash_{table}") (param i64 i64 i64) (result i64)
            (local $i {ty}) (local $hash i64)
            (loop $more
              (local.set $hash (i64.mul (local.get $hash) (i64.const 1000003)))
              (if (i32.eqz (ref.is_null (table.get ${table} (local.get $i))))
                (then (local.set $hash (i64.add (local.get $hash)
                  (i64.extend_i32_u (i32.add (i32.const 1)
                    (call_indirect ${table} (type $number) (local.get $i))))))))
              (local.set $i ({ty}.add (local.get $i) ({ty}.const 1)))
              (br_if $more ({ty}.lt_u (local.get $i) ({ty}.const {ELEMENTS}))))
            (local.get $hash))"#
        );
    }
    let get = |ty: &str, at: u8| match ty {
        "i32" => format!("(i32.wrap_i64 (local.get {at}))"),
        _ => format!("(local.get {at})"),
    };
    let mut function = |name: String, operation: String, types: [&str; 3]| {
        let [to, from, length] = [get(types[0], 0), get(types[1], 1), get(types[2], 2)];
        let from = match types[1] {
            "ref" => {
                "(select (result funcref) (ref.null func) (ref.func $f7)
                (i64.eqz (local.get 1)))"
            }
            _ => &from,
        };
        text += &format!(
            r#"(func (export "{name}") (param i64 i64 i64) ({operation} {to} {from} {length}))"#
        );
    };
    for (what, pair, segment, value) in
        [("memory", ["a", "b"], "$d", "i32"), ("table", ["t", "u"], "$e", "ref")]
    {
        for (to, to_ty) in pair.into_iter().zip(["i32", "i64"]) {
            let operation = format!("{what}.fill ${to}");
            function(format!("fill_{to}"), operation, [to_ty, value, to_ty]);
            let operation = format!("{what}.init ${to} {segment}");
            function(format!("init_{to}"), operation, [to_ty, "i32", "i32"]);
            for (from, ty) in pair.into_iter().zip(["i32", "i64"]) {
                let operation = format!("{what}.copy ${to} ${from}");
                function(format!("copy_{to}{from}"), operation, [to_ty, ty, to_ty.min(ty)]);
            }
        }
    }
    text + r#"(elem declare func $f7))"#
}

const OPERATIONS: [&str; 16] = [
    "fill_a", "fill_b", "init_a", "init_b", "copy_aa", "copy_ab", "copy_ba", "copy_bb", "fill_t",
    "fill_u", "init_t", "init_u", "copy_tt", "copy_tu", "copy_ut", "copy_uu",
];

/// A module, and what it did.
struct Run {
    store: Store<()>,
    instance: Instance,
}

impl Run {
    fn new(engine: &Engine, module: &Module) -> Self {
        let mut store = Store::new(engine, ());
        let instance = Instance::new(&mut store, module, &[]).unwrap();
        for (name, step) in [("a", 7_u32), ("b", 11)] {
            let bytes: Vec<u8> = (0..MEMORY as u32).map(|i| (i * step % 251) as u8).collect();
            let memory = instance.get_memory(&mut store, name).unwrap();
            memory.write(&mut store, 0, &bytes).unwrap();
        }
        Self { store, instance }
    }

    fn call(&mut self, name: &str, operands: [u64; 3], results: &mut [Val]) -> Result<(), Trap> {
        let function = self.instance.get_func(&mut self.store, name).unwrap();
        let operands = operands.map(|operand| Val::I64(operand.cast_signed()));
        let called = function.call(&mut self.store, &operands, results);
        called.map_err(|error| error.downcast::<Trap>().unwrap())
    }

    fn hash(&mut self, name: &str) -> i64 {
        let mut results = [Val::I64(0)];
        self.call(name, [0; 3], &mut results).unwrap();
        results[0].unwrap_i64()
    }

    fn memory(&mut self, name: &str) -> &[u8] {
        self.instance.get_memory(&mut self.store, name).unwrap().data(&self.store)
    }
}

fn same(before: &mut Run, after: &mut Run, name: &str, operands: [u64; 3]) {
    let ends = [&mut *before, &mut *after].map(|run| run.call(name, operands, &mut []));
    assert_eq!(ends[0], ends[1], "{name} {operands:?}");
    let on_tables = name.ends_with(['t', 'u']);
    for memory in ["a", "b"].iter().filter(|_| !on_tables) {
        // Not `assert_eq`: it would print a megabyte.
        assert!(before.memory(memory) == after.memory(memory), "{name} {operands:?}: {memory}");
    }
    for hash in ["hash_t", "hash_u"].iter().filter(|_| on_tables) {
        assert_eq!(before.hash(hash), after.hash(hash), "{name} {operands:?}: {hash}");
    }
}

/// A length or an address, in units of a place of `size`, of which `piece` are done at once.
#[derive(Debug, Clone)]
enum Number {
    Anywhere(f64),
    /// So many pieces, and a few more or less.
    Pieces(u64, i64),
    /// So far from the end.
    End(i64),
    /// So far from the last address.
    Last(u64),
}

impl Number {
    fn of(&self, size: u64, piece: u64) -> u64 {
        match *self {
            Self::Anywhere(part) => (size as f64 * part) as u64,
            Self::Pieces(count, more) => (count * piece).saturating_add_signed(more),
            Self::End(more) => size.saturating_add_signed(more),
            Self::Last(less) => u64::MAX - less,
        }
    }
}

fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        3 => (0.0..1.1).prop_map(Number::Anywhere),
        4 => (0_u64..6, -2_i64..3).prop_map(|(count, more)| Number::Pieces(count, more)),
        1 => (-3_i64..3).prop_map(Number::End),
        1 => (0_u64..200_000).prop_map(Number::Last),
    ]
}

#[test]
fn a_guest_cannot_tell() {
    let bytes = wat(&everything());
    let engine = Engine::new(Config::new().wasm_memory64(true).wasm_multi_memory(true)).unwrap();
    let module = |bytes: &[u8]| Module::new(&engine, bytes).unwrap();
    let new = rewrite(&bytes).unwrap().unwrap();
    let (before, after) = (module(&bytes), module(&new));
    let step = (0..OPERATIONS.len(), number(), number(), number(), 0_u8..4);
    let steps = proptest::collection::vec(step, 1..8);
    let seen: [AtomicU64; 2] = Default::default();
    proptest!(ProptestConfig::with_cases(64), |(steps in steps)| {
        let mut before = Run::new(&engine, &before);
        let mut after = Run::new(&engine, &after);
        for (operation, to, from, length, fitting) in steps {
            let name = OPERATIONS[operation];
            let (size, piece) = if operation < 8 {
                (MEMORY, u64::from(PIECE))
            } else {
                (ELEMENTS, u64::from(PIECE_ELEMENTS))
            };
            let [mut to, mut from, length] = [to, from, length].map(|it| it.of(size, piece));
            // Many would be out of bounds otherwise.
            if fitting > 0 {
                to %= size.saturating_sub(length).max(1);
                from %= size.saturating_sub(length).max(1);
            }
            // And the last one that fits, or the first one that does not.
            if fitting > 1 {
                to = size.saturating_sub(length) + u64::from(fitting == 3);
            }
            same(&mut before, &mut after, name, [to, from, length]);
            seen[usize::from(length > piece)].fetch_add(1, Relaxed);
        }
    });
    assert!(seen.iter().all(|seen| seen.load(Relaxed) > 20), "{seen:?}");
}

#[test]
fn ranges_that_end_at_the_last_address_are_in_bounds() {
    let text = r#"(module (memory (export "a") 65536)
        (func (export "go") (param i64 i64 i64)
          (memory.fill (i32.const 0xfffc0000) (i32.const 7) (i32.const 0x40000))
          (memory.copy (i32.const 0xfff90000) (i32.const 0xfffa0000) (i32.const 0x60000))
          (memory.copy (i32.const 0xfffa0000) (i32.const 0xfff90000) (i32.const 0x60000))))"#;
    let engine = Engine::default();
    let after = Module::new(&engine, changed(text)).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &after, &[]).unwrap();
    let mut run = Run { store, instance };
    run.call("go", [0; 3], &mut []).unwrap();
    let memory = run.memory("a");
    assert!(memory[memory.len() - 0x4_0000..].iter().all(|byte| *byte == 7));
}

#[test]
fn the_clock_is_looked_at_between_two_pieces() {
    const PIECES: u64 = 32;
    let bytes = wat(&format!(
        r#"(module (memory 65) (table $t 262144 funcref)
        (func (export "go")
          (memory.fill (i32.const 0) (i32.const 7) (i32.const {length}))
          (memory.copy (i32.const 0) (i32.const 65536) (i32.const {length}))
          (memory.copy (i32.const 65536) (i32.const 0) (i32.const {length}))
          (table.fill $t (i32.const 0) (ref.null func) (i32.const 262144))))"#,
        length = PIECES * u64::from(PIECE),
    ));
    let engine = Engine::new(Config::new().epoch_interruption(true)).unwrap();
    let looks = |bytes: &[u8]| {
        let mut store = Store::new(&engine, ());
        let count = Arc::new(AtomicU64::new(0));
        let counted = count.clone();
        store.set_epoch_deadline(0);
        store.epoch_deadline_callback(move |_| {
            counted.fetch_add(1, Relaxed);
            Ok(UpdateDeadline::Continue(0))
        });
        let instance =
            Instance::new(&mut store, &Module::new(&engine, bytes).unwrap(), &[]).unwrap();
        instance.get_typed_func::<(), ()>(&mut store, "go").unwrap().call(&mut store, ()).unwrap();
        count.load(Relaxed)
    };
    assert!(looks(&bytes) < 20);
    let table = 262_144 / u64::from(PIECE_ELEMENTS);
    assert!(looks(&rewrite(&bytes).unwrap().unwrap()) >= 3 * PIECES + table);
}

#[test]
fn what_cannot_be_long_stays_byte_for_byte() {
    for text in [
        "(module)",
        "(module (memory 1) (func (i32.store (i32.const 0) (i32.const 1))))",
        "(component)",
        "(component (core module (func)))",
        // Short by a constant, by the place's bound, by the segment's length.
        "(module (memory 99) (func (memory.fill (i32.const 0) (i32.const 1) (i32.const 131072))))",
        "(module (memory 1 2) (func (param i32)
          (memory.fill (i32.const 0) (i32.const 1) (local.get 0))))",
        "(module (table 9 9 funcref) (func (param i32)
          (table.fill 0 (i32.const 0) (ref.null func) (local.get 0))))",
        "(module (memory 99) (data $d \"abc\") (func (param i32)
          (memory.init $d (i32.const 0) (i32.const 1) (local.get 0))))",
        "(module (table 99999 funcref) (elem $e func 0) (func (param i32)
          (table.init $e (i32.const 0) (i32.const 1) (local.get 0))))",
    ] {
        assert!(rewrite(&wat(text)).unwrap().is_none(), "{text}");
    }
}

const FILL: &str = "(memory.fill (i32.const 0) (i32.const 1) (local.get 0))";

#[test]
fn indices_stay_what_they_were() {
    // Groups of types, imports of each kind, code that is never reached, and a data count.
    changed(
        r#"(module
        (rec (type $x (func)) (type $y (struct (field (ref null $x)))) (type (array i32)))
        (type $f (func (param i32) (result i64)))
        (import "m" "f" (func $imported (type $f))) (import "m" "m" (memory i64 3))
        (import "m" "t" (table $t 3 externref)) (import "m" "g" (global i32))
        (memory $m 1) (data $d "x") (start $s) (func $s) (export "f" (func $last))
        (elem declare func $last)
        (func $last (type $f) (local f32 f32) (local $v v128)
          unreachable
          memory.fill $m
          memory.copy $m 0
          data.drop $d
          (local.set $v (v128.const i64x2 1 2))
          (memory.copy 0 0 (i64.const 0) (i64.const 0) (i64.extend_i32_u (local.get 0)))
          (memory.fill $m (i32.const 0) (i32.const 1) (local.get 0))
          (table.fill $t (i32.const 0) (ref.null extern) (local.get 0))
          (drop (ref.func $last))
          (call $imported (local.get 0))))"#,
    );
    changed(&format!(
        "(module (memory 1) (func (param i32) {FILL} {FILL}) (func (param i32) {FILL}))"
    ));
}

#[test]
fn modules_inside_components_are_reached() {
    let new = changed(&format!(
        r#"(component
        (core module $plain (func (export "x")))
        (component $inner
          (component (core module (memory 1) (func (param i32) {FILL})))
          (core module $m (memory 1) (func (export "f") (param i32) {FILL}))
          (core instance $i (instantiate $m))
          (func (export "f") (param "x" u32) (canon lift (core func $i "f"))))
        (core module $m (memory 1) (func (export "f") (param i32) {FILL}))
        (instance $i (instantiate $inner))
        (export "f" (func $i "f")))"#
    ));
    // Three helpers, each with three operations; and three where they stood.
    assert_eq!(new.windows(3).filter(|window| window == &[0xfc, 0x0b, 0]).count(), 3 * 5);
    let mut deep = wat(&format!("(module (memory 1) (func (param i32) {FILL}))"));
    for at in 0..=DEPTH_MAX {
        let mut outer = b"\0asm\x0d\0\x01\0".to_vec();
        let id = if at == 0 { 1 } else { 4 };
        Section::append_to(&RawSection { id, data: &deep }, &mut outer);
        deep = outer;
        assert_eq!(rewrite(&deep).is_ok(), at < DEPTH_MAX, "{at}");
    }
}

#[test]
fn hints_about_code_that_moved_are_dropped() {
    let hint = "(if (local.get 0) (then (nop)))";
    let text = format!(
        "(module (memory 1) (func (param i32) {FILL} (@metadata.code.branch_hint \"\\00\") {hint}))"
    );
    let has = |bytes: &[u8]| bytes.windows(13).any(|window| window == b"metadata.code");
    assert!(has(&wat(&text)));
    assert!(!has(&changed(&text)));
}

#[test]
fn what_is_wrong_is_said_of_the_bytes_as_they_are() {
    let engine = Engine::default();
    let bytes = wat(&format!(
        "(module (memory 1) (func (param i32 i32 i32) {FILL}
          (call 0 (local.get 0) (local.get 0) (local.get 0))))"
    ));
    // The function of that index would be the helper.
    let call = bytes.windows(2).rposition(|window| window == [0x10, 0]).unwrap();
    let mut wrong = bytes.clone();
    wrong[call + 1] = 1;
    assert!(is_valid(&rewrite(&wrong).unwrap().unwrap()));
    let cut = (0..bytes.len()).map(|length| bytes[..length].to_vec());
    for bytes in cut.chain([wrong]) {
        // The first bytes alone are a module.
        let Err(plain) = Module::new(&engine, &bytes) else { continue };
        let divided = compile(&bytes, |bytes| Module::new(&engine, bytes)).unwrap_err();
        assert_eq!(format!("{plain:#}"), format!("{divided:#}"));
    }
    assert!(compile(&bytes, |bytes| Module::new(&engine, bytes)).is_ok());
    // Hardly anything but operations: refused, since it would be many times as large.
    let dense = "memory.fill ".repeat(50_000);
    let dense = wat(&format!("(module (memory 1) (func unreachable {dense}))"));
    let refused = compile(&dense, |bytes| Module::new(&engine, bytes)).unwrap_err();
    assert!(format!("{refused:#}").contains("cannot be divided"), "{refused:#}");
}

#[test]
fn damaged_bytes_are_no_harm() {
    let module = wat(&format!(
        "(module (memory 1) (data $d \"x\") (func (param i32) (local i64) {FILL} {FILL}))"
    ));
    let component = wat(&format!("(component (core module (memory 1) (func (param i32) {FILL})))"));
    let change = (any::<proptest::sample::Index>(), any::<u8>());
    let changes = proptest::collection::vec(change, 1..4);
    proptest!(ProptestConfig::with_cases(20_000), |(changes in changes, inner in any::<bool>())| {
        let mut bytes = if inner { component.clone() } else { module.clone() };
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(Some(new)) = rewrite(&bytes) && is_valid(&bytes) {
            assert!(is_valid(&new));
        }
    });
}
