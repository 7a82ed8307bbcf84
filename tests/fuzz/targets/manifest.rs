//! `insula.toml`: what is read can be written, stored and sent, and is the same wherever it arrives.
#![no_main]

use insula_fuzz::manifest_holds;
use insula_model::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(manifest) = Manifest::from_toml(text) else { return };
    let written = toml::to_string(&manifest).expect("what was read can be written");
    let read: Manifest = toml::from_str(&written)
        .unwrap_or_else(|error| panic!("{written}\ndoes not read back: {error}"));
    assert_eq!(read, manifest);
    manifest_holds(&manifest);
});
