//! Artifacts that are malformed, gigantic, slow to compile or larger when they are compiled: deployed
//! beside an innocent tenant.

use crate::beside::{GROWTH_MAX, alone, beside, settle};
use insula_tests::{Host, Setup, repo, wasm};
use std::fmt::Write;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let host = Setup::new().config("[compiler]\ncpu = '3s'\ntimeout = '6s'\n").start();
    settle(&host);
    host
});

/// A deploy may take as long as its compiler may, and some more for what stands around that.
const DEPLOY_MAX: Duration = Duration::from_secs(20);

/// Each is refused, or deployed and then answers like any other tenant; in time, and with nothing left.
#[track_caller]
fn deployed(what: &str, artifacts: &[Vec<u8>]) -> Vec<i32> {
    let codes = Mutex::new(Vec::new());
    beside(what, &HOST, GROWTH_MAX, |attack| {
        // Each once, and then again for as long as the others' time lasts.
        for (turn, bytes) in artifacts.iter().cycle().enumerate() {
            if turn >= artifacts.len() && !attack.goes_on() {
                break;
            }
            let file = HOST.file("artifact.wasm", bytes);
            let output = HOST.cli(["deploy", "bomb", file.to_str().unwrap()]);
            assert!(output.took < DEPLOY_MAX, "{what}: {output:?}");
            let code = output.code.unwrap_or(-1);
            assert!([0, 1, 3].contains(&code), "{what}: {output:?}");
            if code == 0 {
                let answer = HOST.get("bomb", "/");
                assert!(answer.fault().is_some_and(|word| word != "internal"), "{answer:?}");
                HOST.must(["rm", "bomb"]);
            } else {
                output.expect(code, &["error:"]);
            }
            codes.lock().unwrap().push(code);
            attack.struck();
        }
    });
    let left = repo::files(&HOST.data(), "tmp");
    assert!(left.is_empty(), "{what}: {left:?}");
    let mut codes = codes.into_inner().unwrap();
    codes.truncate(artifacts.len());
    eprintln!("{what}: {codes:?}");
    codes
}

const HANDLE: &str = r#"(func (export "handle") (param i32 i32))"#;

fn repeated(count: usize, each: impl Fn(usize) -> String) -> String {
    (0..count).map(each).collect()
}

#[test]
fn modules_that_explode() {
    let _alone = alone();
    // A byte or two each, and many more in the compiler.
    let elements = format!("(elem funcref {}) {HANDLE}", "(ref.null func) ".repeat(300_000));
    let bytes = wasm::handler(&elements);
    assert!(bytes.len() < 1 << 20, "{}", bytes.len());
    deployed("null elements", &[bytes]);
    // An image of a memory with one byte at each end, and of one that a page in each MiB is written to.
    let sparse = format!(
        r#"(memory 15000) (data (i32.const 0) "a") (data (i32.const 983000000) "z") {HANDLE}"#
    );
    let dotted = format!(
        r#"(memory 15000) {} {HANDLE}"#,
        repeated(900, |i| format!(r#"(data (i32.const {}) "x")"#, i << 20))
    );
    let table =
        format!(r#"(table 200000 funcref) (func $f) (elem (i32.const 199999) $f) {HANDLE}"#);
    // Of a size that no address space has.
    let endless = [
        r"(table i64 0x10000000000000 funcref)",
        r"(table 0xffffffff funcref)",
        r"(memory i64 0x1000000000000)",
        r"(memory 65536)",
    ];
    let endless = endless.map(|first| wasm::handler(&format!("{first} {HANDLE}")));
    // The last is as large as a memory may be, and more than its tenant may have: the probe's to say.
    assert_eq!(deployed("endless tables and memories", &endless), [3, 3, 3, 3]);
    deployed(
        "sparse images",
        &[wasm::handler(&sparse), wasm::handler(&dotted), wasm::handler(&table)],
    );
}

#[test]
fn modules_that_are_slow_to_compile() {
    let _alone = alone();
    let codes = deployed("nested loops", &[wasm::compile_bomb()]);
    assert_eq!(codes, [3]);
    let switch = format!(
        r#"(func (export "handle") (param i32 i32) (block $b (br_table {} (local.get 0))))"#,
        "$b ".repeat(400_000)
    );
    let locals = format!(
        r#"{} {HANDLE}"#,
        repeated(100, |_| format!("(func (local {}))", "i64 ".repeat(10_000)))
    );
    let functions = format!("{} {HANDLE}", "(func) ".repeat(60_000));
    let long = format!(
        r#"(func (export "handle") (param i32 i32) {})"#,
        "(local.set 0 (i32.add (local.get 0) (local.get 1))) ".repeat(100_000)
    );
    deployed("a large switch", &[wasm::handler(&switch)]);
    deployed("many locals", &[wasm::handler(&locals)]);
    deployed("many functions", &[wasm::handler(&functions)]);
    deployed("a long function", &[wasm::handler(&long)]);
}

#[test]
fn components_with_thousands_of_everything() {
    let _alone = alone();
    let handler = |before: &str| {
        let cores = "(core module $m (func (export \"handle\") (param i32 i32)))
            (core instance $i (instantiate $m))";
        wasm::component(before, "", cores)
    };
    let types = repeated(60_000, |i| format!("(type (func (param \"p{i}\" u32)))"));
    deployed("component types", &[handler(&types)]);
    let core_types = repeated(60_000, |i| {
        format!("(type (func (param {}{}{})))", pick(i), pick(i / 4), "i64 ".repeat(i / 16 % 60))
    });
    deployed("core types", &[wasm::handler(&format!("{core_types} {HANDLE}"))]);
    let imports =
        repeated(5_000, |i| format!(r#"(import "a:b/c{i}@0.1.0" (instance (export "f" (func))))"#));
    let codes = deployed("imports", &[handler(&imports)]);
    assert_eq!(codes, [3], "nobody has those imports");
    let core_imports = repeated(5_000, |i| format!(r#"(import "m" "f{i}" (func))"#));
    deployed(
        "core imports",
        &[wasm::binary(&format!("(module {core_imports} (func (export \"_start\")))"))],
    );
    let instances = format!(
        "(core module $e) {}",
        repeated(5_000, |_| "(core instance (instantiate $e))".into())
    );
    deployed("core instances", &[handler(&instances)]);
    let modules = repeated(3_000, |_| "(core module (func))".into());
    deployed("core modules", &[handler(&modules)]);
    deployed("nested components", &[nested(90), nested(900), nested(9_000)]);
    // Each instantiates the one before it twice: forty lines for a million million instances.
    let mut doubled =
        String::from("(component $c0 (core module $m) (core instance (instantiate $m)))");
    for i in 1..40 {
        let below = i - 1;
        write!(
            doubled,
            "(component $c{i} (alias outer 1 $c{below} (component $c))
            (instance (instantiate $c)) (instance (instantiate $c)))"
        )
        .unwrap();
    }
    deployed(
        "instances in instances",
        &[handler(&format!("{doubled} (instance (instantiate $c39))"))],
    );
    // The same with types: each holds the one before it eight times.
    let mut tuples = String::from("(type $t0 (tuple u8 u8))");
    for i in 1..20 {
        let below = i - 1;
        write!(tuples, "(type $t{i} (tuple {}))", format!("$t{below} ").repeat(8)).unwrap();
    }
    deployed("types in types", &[handler(&tuples)]);
}

fn pick(i: usize) -> &'static str {
    ["i32 ", "i64 ", "f32 ", "f64 "][i % 4]
}

/// Components in components; the text format does not go that deep.
fn nested(depth: usize) -> Vec<u8> {
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";
    let mut bytes = EMPTY.to_vec();
    for _ in 0..depth {
        let mut outer = EMPTY.to_vec();
        outer.push(4);
        leb(&mut outer, bytes.len());
        outer.extend(bytes);
        bytes = outer;
    }
    bytes
}

#[test]
fn components_that_are_malformed_or_gigantic() {
    let _alone = alone();
    let hello = std::fs::read(repo::guest("hello")).unwrap();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let damaged: Vec<Vec<u8>> = (0..24)
        .map(|turn| {
            let mut bytes = hello.clone();
            for _ in 0..=turn % 4 {
                let at = 8 + random(bytes.len() - 8);
                match turn % 3 {
                    0 => bytes[at] ^= 1 << random(8),
                    1 => bytes[at] = 0xff,
                    _ => drop(bytes.drain(at..(at + 4).min(hello.len() - 8))),
                }
            }
            bytes
        })
        .collect();
    // What is damaged may still be a component, which is then served; what counts is that nothing breaks.
    let file = HOST.file("damaged.wasm", b"");
    beside("damaged components", &HOST, GROWTH_MAX, |attack| {
        for bytes in &damaged {
            std::fs::write(&file, bytes).unwrap();
            let output = HOST.cli(["deploy", "damaged", file.to_str().unwrap()]);
            assert!([Some(0), Some(3)].contains(&output.code), "{output:?}");
            if output.code == Some(0) {
                HOST.get("damaged", "/");
            }
            attack.struck();
        }
    });
    // A section whose length is more than all there is, and one that takes all that is allowed.
    let liar = [&b"\0asm\x0d\0\x01\0\x07"[..], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[0; 64]].concat();
    let counts = [&b"\0asm\x0d\0\x01\0\x07\x05"[..], &[0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
    let mut gigantic = hello.clone();
    let size = 100_usize << 20;
    gigantic.push(0);
    leb(&mut gigantic, size);
    gigantic.push(1);
    gigantic.push(b'x');
    gigantic.resize(gigantic.len() + size - 2, 0);
    deployed("lengths that lie", &[liar, counts]);
    let file = HOST.file("gigantic.wasm", &gigantic);
    gigantic.resize(129 << 20, 0);
    let over = HOST.file("over.wasm", &gigantic);
    beside("a hundred megabytes", &HOST, GROWTH_MAX, |attack| {
        while attack.goes_on() {
            HOST.deploy("gigantic", &file, &[]);
            HOST.get("gigantic", "/").expect_ok();
            HOST.cli(["deploy", "gigantic", over.to_str().unwrap()]).expect(3, &["128Mi"]);
            attack.struck();
        }
    });
}

fn leb(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
}
