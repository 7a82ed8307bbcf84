//! What a manifest says, and what it may not.
#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

#[test]
fn an_empty_manifest_gets_every_default() {
    let manifest = Manifest::from_toml("name = 'hello'").unwrap();
    let resolved = manifest.resolve(&Ceilings::default()).unwrap();
    assert_eq!(resolved.routes[0].to_string(), "hello.localhost");
    assert_eq!(resolved.limits.memory_bytes, 64 << 20);
    assert_eq!(resolved.limits.timeout_ms, 10_000);
}

#[test]
fn errors_point_at_line_and_column() {
    for (text, says) in [
        ("name = 'hello'\nmemroy = '64Mi'", "line 2, column 1"),
        ("name = 'hello'\nmemory = '64MB'", "line 2, column 10"),
        ("name = 'Hello'", "line 1, column 8"),
        ("name = 'hello'\nroutes = ['http://a']", "scheme"),
        ("memory = '1Mi'", "missing field `name`"),
        ("name = 'hello'\ntimeout = 2", "such as `2s`"),
    ] {
        let error = Manifest::from_toml(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn more_than_the_host_allows_is_refused_with_the_ceiling() {
    let manifest = Manifest::from_toml("name = 'hello'\nmemory = '2Gi'").unwrap();
    let error = manifest.resolve(&Ceilings::default()).unwrap_err().to_string();
    assert!(error.contains("ceiling of 1Gi"), "{error}");
    let manifest = Manifest::from_toml("name = 'hello'\nfuel = 1").unwrap();
    assert!(manifest.resolve(&Ceilings::default()).is_err());
    let manifest = Manifest::from_toml("name = 'hello'\nroutes = ['a.b', 'A.b/']").unwrap();
    assert!(manifest.resolve(&Ceilings::default()).is_err());
}

#[test]
fn fuel_is_refused_where_it_is_not_counted() {
    let resolve = |text: &str| {
        Manifest::from_toml(text).map(|manifest| manifest.resolve(&Ceilings::default()))
    };
    let limits = resolve("name = 'a'\nmetering = 'time'").unwrap().unwrap().limits;
    assert_eq!((limits.metering, limits.fuel, limits.fuel_counted()), (Metering::Time, 0, None));
    let error = resolve("name = 'a'\nmetering = 'time'\nfuel = '1M'").unwrap().unwrap_err();
    assert!(error.to_string().contains("leave out `metering`"), "{error}");
    let limits = resolve("name = 'a'\nmetering = 'fuel'\nfuel = '1M'").unwrap().unwrap().limits;
    assert_eq!(limits.fuel_counted(), Some(1_000_000));
    let error = resolve("name = 'a'\nmetering = 'none'").unwrap_err();
    assert!(error.to_string().contains("expected `fuel` or `time`"), "{error}");
}

#[test]
fn a_low_ceiling_lowers_the_default() {
    let low = Ceilings { memory: ByteSize(1 << 20), ..Ceilings::default() };
    let manifest = Manifest::from_toml("name = 'hello'").unwrap();
    assert_eq!(manifest.resolve(&low).unwrap().limits.memory_bytes, 1 << 20);
}

proptest! {
    #[test]
    fn no_manifest_panics(text in "\\PC{0,200}") {
        if let Ok(manifest) = Manifest::from_toml(&text) {
            let _ = manifest.resolve(&Ceilings::default());
        }
    }

    #[test]
    fn what_resolves_is_within_the_ceilings(memory: u64, fuel: u64, concurrency: u32) {
        let mut manifest = Manifest::named("a".parse().unwrap());
        manifest.memory = Some(MemorySpec { instance: Some(ByteSize(memory)), ..Default::default() });
        manifest.fuel = Some(Count(fuel));
        manifest.concurrency = Some(concurrency);
        let c = Ceilings::default();
        if let Ok(resolved) = manifest.resolve(&c) {
            prop_assert!(resolved.limits.memory_bytes <= c.memory.0);
            prop_assert!(resolved.limits.fuel <= c.fuel.0);
            prop_assert!((1..=c.concurrency).contains(&resolved.limits.concurrency));
        }
    }
}
