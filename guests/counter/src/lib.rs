//! Counts its visits in a key-value store, and offers the rest of `wasi:keyvalue` under paths of its
//! own. `bindings.rs` is what `wit-bindgen rust wit --world wasi:keyvalue/imports` makes of this
//! repository's `wit/`, `older.rs` the same of `wit/older/keyvalue`.

use bindings::wasi::keyvalue::atomics::{self, Cas, CasError};
use bindings::wasi::keyvalue::batch;
use bindings::wasi::keyvalue::store::{self, Bucket, Error};
use common::{Reply, Target};
use std::io::Write;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

mod bindings;
/// The version before, which wasmtime itself offers.
mod older;

struct Counter;
wasip2::http::proxy::export!(Counter);

/// Where visits are counted.
const VISITS: &str = "visits";

impl Guest for Counter {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        let (status, text) = match answer(&target) {
            Ok(text) => (200, text),
            Err(Error::AccessDenied) => (403, b"access denied\n".to_vec()),
            Err(Error::NoSuchStore) => (404, b"no such store\n".to_vec()),
            Err(Error::Other(why)) => (500, (why + "\n").into_bytes()),
        };
        let mut reply = Reply::start(out, status, &[("content-type", b"text/plain")]);
        for piece in text.chunks(4096) {
            if reply.stream().write_all(piece).is_err() {
                break;
            }
        }
        reply.finish();
    }
}

fn answer(target: &Target) -> Result<Vec<u8>, Error> {
    let bucket = store::open(target.get("store").unwrap_or("default"))?;
    let key = target.get("key").unwrap_or(VISITS);
    match target.path() {
        "/get" => Ok(bucket.get(key)?.unwrap_or_else(|| b"nothing".to_vec())),
        "/set" => bucket.set(key, &value(target)).map(done),
        "/delete" => bucket.delete(key).map(done),
        "/exists" => line(bucket.exists(key)?),
        "/add" => line(atomics::increment(&bucket, key, target.number("n", 1))?),
        "/list" => list(&bucket),
        "/batch" => many(&bucket, target.number("n", 10)),
        "/swap" => swap(&bucket, key, &value(target), target.get("stale").is_some()),
        "/older" => count_in_the_older_way(key),
        _ => line(atomics::increment(&bucket, VISITS, 1)?),
    }
}

/// `?value=TEXT`, or `?bytes=N` for so many.
fn value(target: &Target) -> Vec<u8> {
    let text = target.get("value").map(|text| text.as_bytes().to_vec());
    text.unwrap_or_else(|| vec![b'x'; target.number("bytes", 0)])
}

fn line(value: impl ToString) -> Result<Vec<u8>, Error> {
    Ok((value.to_string() + "\n").into_bytes())
}

fn done(_: ()) -> Vec<u8> {
    b"done\n".to_vec()
}

fn list(bucket: &Bucket) -> Result<Vec<u8>, Error> {
    let (mut text, mut cursor) = (String::new(), None);
    loop {
        let page = bucket.list_keys(cursor.as_deref())?;
        for key in page.keys {
            text += &key;
            text.push('\n');
        }
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(text.into_bytes());
        }
    }
}

/// Sets `n` keys at once, reads them and one more, deletes all but the first.
fn many(bucket: &Bucket, n: usize) -> Result<Vec<u8>, Error> {
    let mut keys: Vec<String> = (0..n).map(|i| format!("batch-{i:04}")).collect();
    let pairs: Vec<_> = keys.iter().map(|key| (key.clone(), key.clone().into_bytes())).collect();
    batch::set_many(bucket, &pairs)?;
    keys.push("batch-none".into());
    let found = batch::get_many(bucket, &keys)?;
    let right = found
        .iter()
        .filter(|(key, value)| value.as_ref().is_some_and(|value| value == key.as_bytes()))
        .count();
    let absent = found.iter().filter(|(_, value)| value.is_none()).count();
    batch::delete_many(bucket, &keys[1..])?;
    line(format!("{right} right, {absent} absent"))
}

/// Puts `value` in place of what is there; `stale` changes that in between, so that the first attempt
/// must fail.
fn swap(bucket: &Bucket, key: &str, value: &[u8], stale: bool) -> Result<Vec<u8>, Error> {
    let mut cas = Cas::new(bucket, key)?;
    let old = cas.current()?.unwrap_or_default();
    if stale {
        bucket.set(key, b"somebody else's")?;
    }
    let mut attempts = 1;
    loop {
        match atomics::swap(cas, value) {
            Ok(()) => break,
            Err(CasError::StoreError(error)) => return Err(error),
            Err(CasError::CasFailed(next)) => cas = next,
        }
        attempts += 1;
    }
    line(format!("{} in {attempts}", String::from_utf8_lossy(&old)))
}

fn count_in_the_older_way(key: &str) -> Result<Vec<u8>, Error> {
    use older::wasi::keyvalue::{atomics, batch, store};
    let failed = |error: store::Error| match error {
        store::Error::AccessDenied => Error::AccessDenied,
        store::Error::NoSuchStore => Error::NoSuchStore,
        store::Error::Other(why) => Error::Other(why),
    };
    let bucket = store::open("default").map_err(failed)?;
    let sum = atomics::increment(&bucket, key, 1).map_err(failed)?;
    let (mut keys, mut cursor) = (0, None);
    loop {
        let page = bucket.list_keys(cursor).map_err(failed)?;
        keys += page.keys.len();
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    let found = batch::get_many(&bucket, &[key.to_owned(), "none".to_owned()]).map_err(failed)?;
    line(format!("{sum}, {} of 2, {keys} keys", found.iter().flatten().count()))
}
